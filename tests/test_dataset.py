"""Data: formats, names, mistakes and where they are, digests, the seeded split."""

from __future__ import annotations

import csv
import itertools
import json
import math
import random
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genopt.dataset import Dataset, example_digest, load, one_sided, require_references, split
from genopt.errors import MissingExtra, SpecError
from genopt.types import Example

ROWS = [
    {"question": 'Say "hi",\nthen go', "answer": "hi"},
    {"question": "naïve café 日本 😀", "answer": "a,b"},
    {"question": "tab\there", "answer": ""},
]


def write(folder: Path, name: str, text: str | bytes) -> str:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return name


def lines(folder: Path, rows: Sequence[Any], name: str = "data.jsonl") -> str:
    return write(folder, name, "".join(json.dumps(row) + "\n" for row in rows))


def problems(folder: Path, path: str, **options: Any) -> tuple[str, ...]:
    with pytest.raises(SpecError) as caught:
        load(path=path, folder=folder, **options)
    return caught.value.problems


def bodies(data: Dataset) -> list[Mapping[str, Any]]:
    return [dict(example.fields) for example in data.examples]


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(("name", "delimiter"), [("data.csv", ","), ("data.tsv", "\t")])
def test_delimited_round_trip(tmp_path: Path, name: str, delimiter: str, newline: str, bom: str) -> None:
    with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
        file.write(bom)
        writer = csv.DictWriter(file, ["question", "answer"], delimiter=delimiter, lineterminator=newline)
        writer.writeheader()
        writer.writerows(ROWS)
    data = load(path=name, folder=tmp_path)
    assert bodies(data) == ROWS
    assert [example.references for example in data.examples] == [("hi",), ("a,b",), ()]
    assert [data.lines[example.id] for example in data.examples] == [2, 4, 5]  # the first row takes two lines
    assert data.unit == "line"


@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_json_shapes_agree(tmp_path: Path, bom: str) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ("question", "answer")}
    by_index = {name: {str(i): cell for i, cell in enumerate(cells)} for name, cells in columns.items()}
    shapes: dict[str, Any] = {
        "list": ROWS,
        "data": {"version": 1, "data": ROWS},
        "columns": columns,
        "pandas": by_index,
    }
    digests = set()
    for name, shape in shapes.items():
        data = load(path=write(tmp_path, f"{name}.json", bom + json.dumps(shape)), folder=tmp_path)
        assert bodies(data) == ROWS, name
        digests.add(data.digest)
    jsonl = write(tmp_path, "x.ndjson", bom + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS))
    digests.add(load(path=jsonl, folder=tmp_path).digest)
    digests.add(load(rows=ROWS, folder=tmp_path).digest)
    assert len(digests) == 1


def test_parquet_keeps_types(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table(
        {
            "q": ["a", "b", None],
            "n": [1, None, 3],
            "x": [0.5, math.nan, None],
            "references": [["p", "q"], [], ["r"]],
            "raw": [b"bytes", b"\xff", b""],
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    data = load(path="t.parquet", folder=tmp_path)
    assert [example.fields["n"] for example in data.examples] == [1, "", 3]
    assert all(isinstance(example.fields["n"], int) for example in data.examples[::2])
    assert [example.fields["x"] for example in data.examples] == [0.5, "", ""]
    assert [example.fields["raw"] for example in data.examples] == ["bytes", "\\xff", ""]
    assert [example.references for example in data.examples] == [("p", "q"), (), ("r",)]
    assert data.unit == "row"
    write(tmp_path, "bad.parquet", "no parquet")
    assert "bad.parquet: not a readable Parquet file" in problems(tmp_path, "bad.parquet")[0]


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "t.parquet", "x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"genopt\[parquet\]"):
        load(path="t.parquet", folder=tmp_path)


def test_values_stay_what_they_are(tmp_path: Path) -> None:
    row = {"a": 1, "b": 1.5, "c": True, "d": [1, "x"], "e": {"k": None}, "f": None, "g": "NA", "h": "\x00\x0b\u2028"}
    (example,) = load(path=lines(tmp_path, [row]), folder=tmp_path).examples
    assert example.fields == {**row, "f": ""}
    assert example.fields["c"] is True and isinstance(example.fields["a"], int)
    write(tmp_path, "t.csv", "n,m,k\n007,NA,\n1.0,null,nan\n\x00,x,\u2028\n")
    assert bodies(load(path="t.csv", folder=tmp_path)) == [
        {"n": "007", "m": "NA", "k": ""},
        {"n": "1.0", "m": "null", "k": "nan"},
        {"n": "\x00", "m": "x", "k": "\u2028"},
    ]


def test_cells_that_are_lists(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["q", "tags", "answer"])
        writer.writerow(["see [1]", '["x", "y"]', '["one", 2]'])
        writer.writerow(["[3,1,2]", "[not json", "[1, 2]"])
    first, second = load(path="t.csv", folder=tmp_path).examples
    assert (first.fields["tags"], first.references) == (["x", "y"], ("one", "2"))
    assert (second.fields["q"], second.fields["tags"], second.references) == ("[3,1,2]", "[not json", ("1", "2"))


def test_long_cells(tmp_path: Path) -> None:
    text = "word " * 200_000
    write(tmp_path, "t.csv", f"q,a\n{text},b\n")
    assert load(path="t.csv", folder=tmp_path).examples[0].fields["q"] == text


def test_values_from_python(tmp_path: Path) -> None:
    import numpy as np

    rows = [{"q": np.float64(2.5), "n": np.int64(3), "v": np.array([1, 2]), "t": ("a", "b"), "answer": math.nan, 5: 1}]
    (example,) = load(rows=rows, folder=tmp_path).examples
    assert example.fields == {"q": 2.5, "n": 3, "v": [1, 2], "t": ["a", "b"], "answer": "", "5": 1}
    assert json.loads(json.dumps(example.fields)) == example.fields
    with pytest.raises(SpecError, match="rows: row 2: a number where an object was expected"):
        load(rows=[{"q": "a"}, 5], folder=tmp_path)  # type: ignore[list-item]


def test_format_overrides_suffix(tmp_path: Path) -> None:
    lines(tmp_path, ROWS, "data.txt")
    assert len(load(path="data.txt", folder=tmp_path, format="jsonl").examples) == 3
    assert "data.txt: the suffix does not tell the format" in problems(tmp_path, "data.txt")[0]
    assert 'unknown format "xml"' in problems(tmp_path, "data.txt", format="xml")[0]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["reference", "references", "target", "answer", "expected", "ideal", "output", "completion", "label"]
)
def test_reference_aliases(tmp_path: Path, name: str) -> None:
    (example,) = load(rows=[{"q": "x", name: 7}], folder=tmp_path).examples
    assert example.references == ("7",)


def test_reference_precedence_and_forms(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"q": "a", "output": "no", "target": ["x", "", " ", 2, True, None]},
        {"q": "b", "output": "no", "target": ""},
        {"q": "c", "output": "no"},
        {"q": "d", "output": "no", "target": False},
    ]
    data = load(rows=rows, folder=tmp_path)
    assert [example.references for example in data.examples] == [("x", "2", "true"), (), (), ("false",)]
    assert data.warnings == ("rows: 2 of 4 rows have no reference",)
    assert load(rows=rows, folder=tmp_path, reference="output").examples[2].references == ("no",)
    assert load(rows=[{"q": "x"}], folder=tmp_path).examples[0].references == ()


def test_ids_and_groups(tmp_path: Path) -> None:
    rows = [{"_id": 7, "q": "a", "group": "g", "doc": 1}, {"_id": "x", "q": "b", "group": "", "doc": 2}]
    first, second = load(rows=rows, folder=tmp_path).examples
    assert [(e.id, e.group) for e in (first, second)] == [("7", "g"), ("x", None)]
    named = load(rows=rows, folder=tmp_path, id="q", group="doc").examples
    assert [(e.id, e.group) for e in named] == [("a", "1"), ("b", "2")]
    plain = load(path=write(tmp_path, "t.jsonl", '\n{"q": "a"}\n\n{"q": "b"}\n'), folder=tmp_path)
    assert [example.id for example in plain.examples] == ["1", "2"]
    assert dict(plain.lines) == {"1": 2, "2": 4}


def test_map_renames(tmp_path: Path) -> None:
    rows = [{"input": "a", "gold": {"text": ["x", "y"]}, "b": 1}]
    data = load(rows=rows, folder=tmp_path, map={"question": "input", "answer": "gold.text"})
    assert data.examples[0].fields == {"question": "a", "answer": ["x", "y"], "gold": {"text": ["x", "y"]}, "b": 1}
    assert data.examples[0].references == ("x", "y")
    # either name of a renamed column, and a path into an object
    assert load(rows=rows, folder=tmp_path, map={"q": "b"}, reference="b").examples[0].references == ("1",)
    assert load(rows=rows, folder=tmp_path, reference="gold.text").examples[0].references == ("x", "y")
    swapped = load(rows=[{"a": 1, "b": 2}], folder=tmp_path, map={"a": "b", "b": "a"})
    assert swapped.examples[0].fields == {"a": 2, "b": 1}


def test_messages(tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    reply = {"role": "assistant", "content": "r"}
    rows = [{"messages": [*talk, reply]}, {"messages": talk}, {"messages": [*talk, reply, {**talk[1], "content": "v"}]}]
    first, second, third = load(path=lines(tmp_path, rows), folder=tmp_path).examples
    assert (first.fields["messages"], first.references) == (talk, ("r",))
    assert (second.fields["messages"], second.references) == (talk, ())
    assert third.fields["messages"][-1]["content"] == "v" and third.references == ()
    (named,) = load(rows=[{**rows[0], "answer": "gold"}], folder=tmp_path).examples
    assert (named.fields["messages"], named.references) == (talk, ("gold",))
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert load(rows=[{"messages": parts}], folder=tmp_path).examples[0].fields["messages"][0]["content"] == "ab"
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps([*talk, reply])]])
    assert load(path="t.csv", folder=tmp_path).examples[0] == Example("1", {"messages": talk}, ("r",))


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ("hello", "not a list"),
        ([], "not a list"),
        ([{"role": "tool", "content": "x"}], "needs a role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "needs a role"),
        ([{"role": "assistant", "content": "x"}], "no user turn"),
    ],
)
def test_bad_messages(tmp_path: Path, messages: Any, words: str) -> None:
    (problem,) = problems(tmp_path, lines(tmp_path, [{"q": "x", "messages": messages}]))
    assert problem.startswith("data.jsonl:1: ") and words in problem


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_every_bad_line_is_named(tmp_path: Path) -> None:
    text = b'{"q": "ok", "id": 1}\n{"q": \n\n[1, 2]\n{"q": "\xff", "id": 2}\n"text"\n{"q": "\\ud800", "id": 3}\nnull\n'
    text += b'{"q": "again", "id": 1}\n{"q": "", "id": 9}\n{"q": "no id"}\n' + b"[" * 100_000 + b"\n"
    found = problems(tmp_path, write(tmp_path, "d.jsonl", text))
    starts = {
        2: "malformed JSON (Expecting value, column",
        4: "a list where an object was expected",
        5: "byte 0xff is not valid UTF-8",
        6: "a text where an object was expected",
        7: "half of a surrogate pair",
        8: "null where an object was expected",
        9: 'id "1" is already used on line 1',
        10: "every field is empty",
        11: 'no id in "id"',
        12: "malformed JSON (nested too deeply)",
    }
    assert [problem.split(": ")[0] for problem in found] == [f"d.jsonl:{number}" for number in starts]
    for problem, words in zip(found, starts.values(), strict=True):
        assert words in problem and ". " in problem  # what is wrong, then what to do


def test_many_problems_are_counted(tmp_path: Path) -> None:
    found = problems(tmp_path, write(tmp_path, "d.jsonl", "{\n" * 57))
    assert len(found) == 21 and found[-1] == "... and 37 more"


def test_bad_delimited_lines(tmp_path: Path) -> None:
    write(tmp_path, "t.csv", 'q,a\n"x\ny",1\nonly\n1,2,3\n"open,4\n5,6\n')
    assert [problem.split(":")[1] for problem in problems(tmp_path, "t.csv")] == ["4", "5", "6"]
    write(tmp_path, "u.csv", b"q,a\nx,1\n\xe9,2\n")
    assert problems(tmp_path, "u.csv")[0].startswith("u.csv:3: byte 0xe9 is not valid UTF-8")
    assert "column a is there twice" in problems(tmp_path, write(tmp_path, "v.csv", "a,a\n1,2\n"))[0]
    assert "commas" in problems(tmp_path, write(tmp_path, "w.csv", "q;a\n1;2\n"))[0]
    assert "UTF-16" in problems(tmp_path, write(tmp_path, "x.csv", "q,a\n1,2\n".encode("utf-16")))[0]
    data = load(path=write(tmp_path, "y.csv", ",q,\n0,x,\n"), folder=tmp_path)
    assert bodies(data) == [{"q": "x"}] and "column without a name" in data.warnings[0]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('[{"q": 1},\n{"q": }]', "d.json:2: malformed JSON"),
        ('{"q": 1}\n{"q": 2}\n', "d.json:2: malformed JSON (Extra data"),
        ("3", "d.json: not a table"),
        ('{"q": [1, 2], "a": [1]}', "d.json: not a table"),
        ('[{"q": "x"}, 4]', "d.json: row 2: a number"),
        ("[]", "d.json: no rows"),
        ("[" * 100_000, "d.json: malformed JSON (nested too deeply)"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, start: str) -> None:
    assert problems(tmp_path, write(tmp_path, "d.json", text))[0].startswith(start)


@pytest.mark.parametrize(("name", "text"), [("e.jsonl", "\n"), ("e.csv", ""), ("e.csv", "q,a\n"), ("e.json", "{}")])
def test_no_rows(tmp_path: Path, name: str, text: str) -> None:
    assert problems(tmp_path, write(tmp_path, name, text), reference="x") == (f"{name}: no rows. Give at least one",)


def test_unknown_columns_are_guessed_and_listed(tmp_path: Path) -> None:
    path = lines(tmp_path, [{"question": "a", "answer": "b"}])
    found = problems(tmp_path, path, reference="anwser", id="key", group="grp", map={"x": "qestion"})
    assert len(found) == 4
    by_key = {key: next(p for p in found if f"(dataset.{key})" in p) for key in ("reference", "id", "group", "map.x")}
    assert 'no column "anwser"' in by_key["reference"] and 'Did you mean "answer"?' in by_key["reference"]
    assert "Columns: question, answer" in by_key["id"] and "Did you mean" not in by_key["id"]
    assert 'Did you mean "question"?' in by_key["map.x"]
    assert 'would hide the column "answer"' in problems(tmp_path, path, map={"answer": "question"})[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"answer": {"a": 1}}, "the reference holds objects"),
        ({"answer": ["x", ["y"]]}, "lists of lists"),
        ({"id": [1]}, 'the id "id" is a list'),
        ({"group": {"a": 1}}, 'the group "group" is an object'),
    ],
)
def test_bad_values(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    (problem,) = problems(tmp_path, lines(tmp_path, [{"q": 1, **row}]))
    assert problem.startswith("data.jsonl:1: ") and words in problem


def test_files_that_are_not_there(tmp_path: Path) -> None:
    lines(tmp_path, ROWS, "tickets.jsonl")
    (problem,) = problems(tmp_path, "ticket.jsonl")
    assert problem.startswith('ticket.jsonl: no such file. Did you mean "tickets.jsonl"?') and str(tmp_path) in problem
    assert "no such file" in problems(tmp_path, "data/tickets.jsonl")[0]
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in problems(tmp_path, "folder.csv")[0]
    assert "only for hub data sets" in problems(tmp_path, "tickets.jsonl", split="train")[0]
    with pytest.raises(SpecError, match="exactly one"):
        load(folder=tmp_path)
    with pytest.raises(SpecError, match="limit"):
        load(rows=ROWS, folder=tmp_path, limit=0)


def test_require_references(tmp_path: Path) -> None:
    path = lines(tmp_path, [{"q": n, "answer": "" if n % 3 else "x"} for n in range(90)])
    data = load(path=path, folder=tmp_path)
    with pytest.raises(SpecError) as caught:
        require_references(data, ["exact", "chrf"])
    assert "exact, chrf" in str(caught.value)
    assert "on lines 2, 3, 5, 6" in str(caught.value) and "and 40 more" in str(caught.value)
    require_references(data, [])
    require_references(load(rows=[{"q": 1, "answer": 2}], folder=tmp_path), ["exact"])
    with pytest.raises(SpecError, match=r"no row has a reference.*columns: q, gold"):
        require_references(load(rows=[{"q": 1, "gold": 2}], folder=tmp_path), ["exact"])
    with pytest.raises(SpecError, match=r"on row 2\. "):
        require_references(load(rows=[{"q": 1, "answer": 2}, {"q": 3}], folder=tmp_path), ["exact"])


def test_duplicates_are_warned_of_once(tmp_path: Path) -> None:
    rows = [{"id": n, "q": n % 4} for n in range(10)]
    assert load(rows=rows, folder=tmp_path).warnings == (
        "rows: 6 of 10 rows repeat an earlier one. Remove them, or give repeats a common group",
    )


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_hub_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(name: str, config: str | None, *, split: str) -> list[dict[str, Any]]:
        asked.append((name, config, split))
        return [{"question": "a", "answer": "b"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load(path="owner/set", folder=tmp_path)
    assert data.examples[0].references == ("b",) and data.source == "owner/set"
    load(path="owner/set:main", folder=tmp_path, split="test[:5]")
    load(path="squad", folder=tmp_path, format="hub")
    assert asked == [("owner/set", None, "train"), ("owner/set", "main", "test[:5]"), ("squad", None, "train")]


@pytest.mark.real
def test_hub_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(SpecError) as caught:
        load(path="owner/set", folder=tmp_path)
    assert "owner/set: neither a file nor a hub data set" in str(caught.value)
    assert "ConnectionError: Couldn't reach the Hub)" in str(caught.value) and "JSONL" in caught.value.hint


def test_hub_without_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"genopt\[hub\]"):
        load(path="owner/set", folder=tmp_path)


def test_import_is_light() -> None:
    code = (
        "import sys, genopt.dataset; print([m for m in ('pandas', 'pyarrow', 'datasets', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- digests, limits, orders -----------------------------------------------------------------------------------------


def test_digest_sees_content_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"q": "a", "answer": "x"}, {"q": "b", "answer": "y"}]
    base = load(rows=rows, folder=tmp_path)
    assert base.digest == load(path=lines(tmp_path, rows), folder=tmp_path).digest
    assert base.digest == load(rows=[dict(reversed(row.items())) for row in rows], folder=tmp_path).digest
    assert base.digest == load(rows=rows, folder=tmp_path, shuffle=True, seed=5).digest
    others = [
        load(rows=rows[::-1], folder=tmp_path),
        load(rows=rows, folder=tmp_path, limit=1),
        load(rows=[{**rows[0], "q": "c"}, rows[1]], folder=tmp_path),
        load(rows=rows, folder=tmp_path, reference="q"),
        load(rows=rows, folder=tmp_path, group="answer"),
        load(rows=rows, folder=tmp_path, id="q"),
    ]
    assert len({data.digest for data in (base, *others)}) == 7


def test_example_digest() -> None:
    base = Example("1", {"q": "a", "r": [1, {"z": 1, "y": 2}]}, ("x", "y"), "g")
    assert example_digest(base) == example_digest(Example("1", dict(reversed(base.fields.items())), ("x", "y"), "g"))
    others = [
        Example("2", base.fields, base.references, "g"),
        Example("1", {**base.fields, "q": 1}, base.references, "g"),
        Example("1", base.fields, ("y", "x"), "g"),
        Example("1", base.fields, base.references, None),
    ]
    assert len({example_digest(example) for example in (base, *others)}) == 5


def test_limit_and_shuffle(tmp_path: Path) -> None:
    rows = [{"q": f"q{n}"} for n in range(200)]
    assert [e.id for e in load(rows=rows, folder=tmp_path, limit=3).examples] == ["1", "2", "3"]
    picks = [
        tuple(e.id for e in load(rows=rows, folder=tmp_path, limit=20, shuffle=True, seed=s).examples)
        for s in range(40)
    ]
    assert len(set(picks)) == 40 and all(len(set(pick)) == 20 for pick in picks)
    assert picks[3] == tuple(e.id for e in load(rows=rows, folder=tmp_path, shuffle=True, seed=3).examples[:20])
    mean = sum(int(i) for pick in picks for i in pick) / 800
    assert abs(mean - 100.5) < 4 * 57.7 / math.sqrt(800)
    kept = load(rows=rows, folder=tmp_path, limit=20, shuffle=True, seed=3)
    assert kept.lines.keys() == {example.id for example in kept.examples}


def make(count: int, groups: int | None = None, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [Example(str(n), {"q": n}, (), f"g{draw.randrange(groups)}" if groups else None) for n in range(count)]


@pytest.mark.parametrize("holdout", [0.1, 0.25, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("count", [20, 101, 1000])
def test_split_fraction_without_groups(count: int, holdout: float) -> None:
    examples = make(count)
    tune, kept = split(examples, holdout=holdout, seed=1)
    assert abs(len(kept) - holdout * count) <= 0.5
    assert sorted((*tune, *kept), key=lambda e: int(e.id)) == examples


def test_split_keeps_groups_whole_for_any_seed() -> None:
    for seed in range(200):
        examples = make(150, groups=25, seed=seed)
        tune, kept = split(examples, holdout=0.3, seed=seed)
        assert not {e.group for e in tune} & {e.group for e in kept}
        assert len(tune) + len(kept) == 150
        largest = max(sum(e.group == g for e in examples) for g in {e.group for e in examples})
        assert abs(len(kept) - 45) <= largest / 2


def test_split_with_one_huge_group() -> None:
    singles = make(60)
    for seed in range(50):
        huge = [Example(f"h{n}", {}, (), "huge") for n in range(60)]
        assert len(split(huge + singles, holdout=0.25, seed=seed)[1]) == 30  # taking it would be off by more
        large = huge[:40]
        tune, kept = split(large + singles, holdout=0.3, seed=seed)
        assert {e.group for e in tune} & {e.group for e in kept} <= {None}
        assert 30 <= len(kept) < 30 + 20
    assert split(huge, holdout=0.3, seed=0)[1] == ()


def test_a_group_that_makes_the_sides_unlike_each_other_is_told() -> None:
    singles = make(60)
    large = [Example(f"h{n}", {}, (), "large") for n in range(40)]
    assert list(one_sided(singles + large, [])) == [
        "dataset.group: 40% of the rows are of the group 'large', all of them searched on: the rows held out may not be"
        " like them. Name a column with smaller groups"
    ]
    (told,) = one_sided(singles, large)
    assert "all of them held out: the rows searched on may" in told
    assert not list(one_sided(singles, large[:20]))
    assert not list(one_sided(make(60, groups=5)[:40], singles))


def test_a_group_is_not_an_id() -> None:
    examples = [Example("a", {}), Example("b", {}, (), "a"), Example("c", {}, (), "a"), Example("d", {})]
    sides = {tuple(sorted(e.id for e in split(examples, holdout=0.25, seed=s)[1])) for s in range(60)}
    assert ("a",) in sides  # the example named like the group is held out without it


def test_every_example_is_held_out_as_often_as_its_fraction() -> None:
    examples = make(50)
    counts = dict.fromkeys((e.id for e in examples), 0)
    for seed in range(600):
        for example in split(examples, holdout=0.3, seed=seed)[1]:
            counts[example.id] += 1
    spread = math.sqrt(600 * 0.3 * 0.7)
    assert all(abs(count - 180) < 4.5 * spread for count in counts.values())


def test_orders_do_not_depend_on_the_file_and_mix_groups() -> None:
    examples = make(300, groups=10)
    shuffled = random.Random(1).sample(examples, len(examples))
    assert split(examples, holdout=0.3, seed=4) == split(shuffled, holdout=0.3, seed=4)
    assert split(examples, holdout=0.3, seed=4) != split(examples, holdout=0.3, seed=5)
    tune, _ = split(examples, holdout=0.3, seed=4)
    same = sum(a.group == b.group for a, b in itertools.pairwise(tune)) / (len(tune) - 1)
    assert same < 0.3  # neighbours share one of ~7 groups about every seventh time


def test_rows_that_are_added_leave_the_others_in_place() -> None:
    before, after = make(200), make(220)
    old_tune, old_kept = split(before, holdout=0.3, seed=9)
    new_tune, new_kept = split(after, holdout=0.3, seed=9)
    moved = {e.id for e in old_kept} - {e.id for e in new_kept} | {e.id for e in old_tune} - {e.id for e in new_tune}
    assert len(moved) <= 6
    for old, new in ((old_tune, new_tune), (old_kept, new_kept)):
        stayed = {e.id for e in old} & {e.id for e in new}
        assert [e.id for e in old if e.id in stayed] == [e.id for e in new if e.id in stayed]


def test_split_limits() -> None:
    examples = make(30)
    tune, kept = split(examples, holdout=0.0, seed=0)
    assert len(tune) == 30 and kept == ()
    assert split([], holdout=0.3, seed=0) == ((), ())
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(SpecError, match="holdout"):
            split(examples, holdout=wrong, seed=0)
