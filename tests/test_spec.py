"""The study file: the whole of it is read, every mistake is told at once, and the JSON Schema agrees."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from sqlalchemy.engine import make_url

from genopt.errors import SpecError
from genopt.objectives import Constraint, Objective
from genopt.space import Choice, Constant, Number, Switch
from genopt.spec import BackendSpec, DatasetSpec, StudySpec
from genopt.spec.dimensions import Choices, Range, build_space
from genopt.spec.mistakes import hint
from genopt.spec.read import make_study, read_study

FULL = """
name    = "support-answers"
storage = "sqlite:///support.db"
seed    = 7

[dataset]
path      = "tickets.jsonl"
reference = "answer"
holdout   = 0.3

[prompt]
system = "You answer support tickets. {{ style }}"
user   = "{{ ticket }}"

[backend]
kind        = "transformers"
model       = "Qwen/Qwen3-8B"
concurrency = 64
options     = { max_model_len = 4096, gpu_memory_utilization = 0.85 }

[space]
repetition_penalty = { low = 1.0, high = 1.2 }
max_tokens         = { low = 64, high = 512, step = 64 }
style              = { choices = ["", "Be brief.", "Think step by step."] }
[space.decoding.greedy]
temperature = 0.0
[space.decoding.nucleus]
temperature = { low = 0.1, high = 1.5 }
top_p       = { low = 0.5, high = 1.0 }

[baseline]
decoding = "nucleus"
temperature = 0.7
top_p = 0.8

[scorers.helpful]
kind    = "exact_match"
[scorers.similar]
kind  = "embedding"
model = "sentence-transformers/all-MiniLM-L6-v2"

[[objectives]]
maximize = "helpful"
[[objectives]]
minimize = "completion_tokens"
[[constraints]]
metric = "similar"
at_least = 0.6

[search]
sampler = "auto"
pruner  = "paired"
trials_in_flight = 4
repeats = 1

[budget]
trials = 120
tokens = 2_000_000
hours  = 3.0
"""

SHORT = """
[dataset]
path = "d.jsonl"
[prompt]
user = "{{ q }}"
[backend]
model = "m"
[scorers.right]
kind = "exact_match"
"""


def short() -> dict[str, Any]:
    return tomllib.loads(SHORT)


def at(*path: Any) -> Callable[[dict[str, Any]], None]:
    """Sets the last of the path under the others, making tables as needed."""
    *tables, name, value = path

    def change(table: dict[str, Any]) -> None:
        for key in tables:
            table = table.setdefault(key, {})
        table[name] = value

    return change


def problems(*changes: Callable[[dict[str, Any]], None], overrides: tuple[str, ...] = ()) -> list[str]:
    """What is told about the short study with these changes, without the source's name."""
    table = short()
    for change in changes:
        change(table)
    with pytest.raises(SpecError) as error:
        make_study(table, overrides=overrides, source="f.toml")
    assert all(line.startswith(("f.toml: ", "--set ")) for line in error.value.problems)
    return [line.removeprefix("f.toml: ") for line in error.value.problems]


# --- reading


def test_a_full_study_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(FULL)
    spec = read_study(tmp_path / "study.toml")
    assert (spec.name, spec.seed, spec.folder) == ("support-answers", 7, tmp_path.resolve())
    assert spec.url == f"sqlite:///{tmp_path.resolve() / 'support.db'}"
    assert (spec.dataset.path, spec.dataset.reference, spec.dataset.holdout) == ("tickets.jsonl", "answer", 0.3)
    assert spec.backend.options == {"max_model_len": 4096, "gpu_memory_utilization": 0.85}
    assert spec.backend.concurrency == 64
    assert build_space(spec.space, spec.folder).dimensions == {
        "repetition_penalty": Number(1.0, 1.2),
        "max_tokens": Number(64, 512, integer=True, step=64),
        "style": Choice.of(["", "Be brief.", "Think step by step."]),
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "nucleus": {"temperature": Number(0.1, 1.5), "top_p": Number(0.5, 1.0)},
            }
        ),
    }
    assert spec.baseline == {"decoding": "nucleus", "temperature": 0.7, "top_p": 0.8}
    goal = spec.goal()
    assert goal.objectives == (Objective("helpful", "maximize"), Objective("completion_tokens", "minimize"))
    assert goal.constraints == (Constraint("similar", at_least=0.6),)
    assert (spec.budget.trials, spec.budget.tokens, spec.budget.hours) == (120, 2_000_000, 3.0)


def test_the_shortest_study_gets_its_defaults(tmp_path: Path) -> None:
    (tmp_path / "my study.toml").write_text(SHORT)
    spec = read_study(tmp_path / "my study.toml")
    assert spec.name == "my study"
    assert spec.url == f"sqlite:///{tmp_path.resolve() / 'my study.db'}"
    assert spec.goal().objectives == (Objective("right", "maximize"),)
    assert (spec.seed, spec.dataset.holdout, spec.backend.concurrency) == (0, "auto", "auto")
    assert spec.dataset.fraction == 0.3
    assert (spec.search.sampler, spec.search.pruner, spec.search.repeats) == ("auto", "paired", 1)
    assert spec.space == spec.baseline == {}
    assert spec.budget.trials is None


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + SHORT.encode())
    assert read_study(tmp_path / "s.toml").backend.model == "m"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "no such study file"), (b"name = ", "not valid TOML"), (b"name = '\xff'", "UTF-8")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=says) as error:
        read_study(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("storage", "url"),
    [
        (None, "sqlite:///{folder}/n.db"),
        ("sqlite:///a/b.db", "sqlite:///{folder}/a/b.db"),
        ("sqlite:///../b.db", "sqlite:///{parent}/b.db"),
        ("sqlite:////abs/b.db", "sqlite:////abs/b.db"),
        ("sqlite+pysqlite:///b.db", "sqlite+pysqlite:///{folder}/b.db"),
        ("sqlite:///b.db?timeout=5", "sqlite:///{folder}/b.db?timeout=5"),
        ("sqlite:///file:b.db?uri=true", "sqlite:///file:b.db?uri=true"),
        ("postgresql+psycopg://u:p@h:1/db", "postgresql+psycopg://u:p@h:1/db"),
    ],
)
def test_a_storage_is_found_from_the_study_files_folder(tmp_path: Path, storage: str | None, url: str) -> None:
    folder = (tmp_path / "inner").resolve()
    table = short() | {"name": "n"} | ({"storage": storage} if storage else {})
    assert make_study(table, folder=folder).url == url.format(folder=folder, parent=folder.parent)


@pytest.mark.parametrize("folder", ["a?b", "a%20b", "100% sure", "a#b", "q&m+x ü"])
def test_a_storage_is_beside_the_study_file_whatever_its_folder_is_called(tmp_path: Path, folder: str) -> None:
    for name, storage, file in (("n?%41", {}, "n?%41.db"), ("n", {"storage": "sqlite:///../my%20own.db"}, "my own.db")):
        spec = make_study(short() | {"name": name} | storage, folder=tmp_path / folder)
        parent = tmp_path if storage else tmp_path / folder
        assert make_url(spec.url).database == str(parent.resolve() / file)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite+pysqlite:///?timeout=5"])
def test_a_database_in_memory_is_refused_however_it_is_written(url: str) -> None:
    with pytest.raises(SpecError, match=r"storage: a database in memory is gone .* sqlite:///study.db"):
        make_study(short() | {"storage": url})


# --- the space


@pytest.mark.parametrize(
    ("written", "built"),
    [
        ({"low": 0.0, "high": 1.0}, Number(0.0, 1.0)),
        ({"low": 0, "high": 10}, Number(0, 10, integer=True)),
        ({"low": 0, "high": 1.0}, Number(0, 1.0)),
        ({"low": 1, "high": 100, "log": True}, Number(1, 100, integer=True, log=True)),
        ({"low": 0, "high": 10, "step": 4}, Number(0, 8, integer=True, step=4)),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, Number(0.0, pytest.approx(0.9), step=0.3)),
        ({"low": 0, "high": 1, "step": 0.25}, Number(0, 1, step=0.25)),
        ({"choices": [2, 2.5, "x", True]}, Choice.of([2, 2.5, "x", True])),
        ({"choices": [["a"], []]}, Choice.of([("a",), ()])),
        (0.5, Constant(0.5)),
        (["END", "\n"], Constant(("END", "\n"))),
        (False, Constant(False)),
    ],
)
def test_dimensions_as_they_are_written(written: Any, built: Any, tmp_path: Path) -> None:
    spec = make_study(short() | {"space": {"x": written}})
    (found,) = build_space(spec.space, tmp_path).dimensions.values()
    assert found == built
    if isinstance(built, Number):
        assert isinstance(found, Number)
        assert found.integer == built.integer


def test_texts_in_files_are_named_by_their_paths(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p/a.txt").write_text("Text a\n")
    (tmp_path / "p/b.txt").write_text("Text b\n")
    spec = make_study(short() | {"space": {"system": {"files": ["p/a.txt", "p/b.txt"]}}}, folder=tmp_path)
    (choice,) = build_space(spec.space, tmp_path).dimensions.values()
    assert choice == Choice(("Text a\n", "Text b\n"), ("p/a.txt", "p/b.txt"))
    spec = make_study(short() | {"space": {"system": {"files": ["p/none.txt"]}}}, folder=tmp_path)
    with pytest.raises(SpecError, match=r"none\.txt"):
        build_space(spec.space, tmp_path)


def test_switches_nest() -> None:
    table = {"a": {"x": {"inner": {"k": {"t": 1}, "p": {"u": {"low": 0.0, "high": 1.0}}}}, "y": {"t": 2}}}
    switch = build_space(make_study(short() | {"space": table}).space, Path()).dimensions["a"]
    inner = Switch({"k": {"t": Constant(1)}, "p": {"u": Number(0.0, 1.0)}})
    assert switch == Switch({"x": {"inner": inner}, "y": {"t": Constant(2)}})


@pytest.mark.parametrize(
    "space",
    [
        {"t": {"low": 0.0, "high": 1.0}, "d": {"a": {"t": 0.5}, "b": {"u": 1}}},
        {"d": {"a": {"t": 0.5}, "b": {"u": 1}}, "e": {"a": {"t": 0.5}, "b": {"v": 1}}},
        {"d": {"a": {"t": 0.5, "e": {"x": {"t": 1.0}, "y": {"u": 1}}}, "b": {"u": 1}}},
    ],
)
def test_a_parameter_that_one_trial_would_get_twice_is_refused(space: dict[str, Any]) -> None:
    spec = make_study(short() | {"space": space})
    with pytest.raises(SpecError, match=r"space\..*\bt: .*twice"):
        build_space(spec.space, Path())


# --- mistakes


@pytest.mark.parametrize(
    ("change", "key", "meant"),
    [
        (at("budgt", {}), "budgt", "budget"),
        (at("budget", "trails", 3), "budget.trails", "trials"),
        (at("dataset", "pth", "x"), "dataset.pth", "path"),
        (at("prompt", "usr", "x"), "prompt.usr", "user"),
        (at("prompt", "user", {"fil": "x"}), "prompt.user.fil", "file"),
        (at("backend", "concurency", 3), "backend.concurency", "concurrency"),
        (at("search", "samplr", "tpe"), "search.samplr", "sampler"),
        (at("search", "sampler", "tp"), "search.sampler", "tpe"),
        (at("scorers", "right", "normalise", True), "scorers.right.normalise", "normalize"),
        (at("scorers", "right", "kind", "exact_mach"), "scorers.right", "exact_match"),
        (at("scorers", "j", {"kind": "json_schema", "scheme": {}}), "scorers.j.scheme", "schema"),
        (at("space", "t", {"lo": 1, "high": 2}), "space.t.lo", "low"),
        (at("space", "t", {"low": 1, "high": 2, "stp": 1}), "space.t.stp", "step"),
        (at("space", "d", {"a": {"t": {"low": 1, "high": 2, "stp": 1}}, "b": {}}), "space.d.a.t.stp", "step"),
        (at("objectives", [{"maximise": "right"}]), "objectives[0].maximise", "maximize"),
        (at("objectives", [{"maximize": "rihgt"}]), "objectives[0]", "right"),
        (at("constraints", [{"metric": "wrds", "at_most": 3}]), "constraints[0]", "words"),
    ],
)
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(change: Any, key: str, meant: str) -> None:
    (line,) = [line for line in problems(change) if line.startswith(f"{key}: ")]
    assert f"Did you mean {meant!r}?" in line


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        (at("seed", "x"), "seed", "'x' is not a whole number"),
        (at("seed", -1), "seed", "-1"),
        (at("seed", True), "seed", "whole number"),
        (at("name", ""), "name", ""),
        (at("dataset", {}), "dataset", "path"),
        (at("dataset", "rows", [{"q": "x"}]), "dataset", "exactly one"),
        (at("dataset", "holdout", 1.0), "dataset.holdout", "1"),
        (at("dataset", "holdout", "x"), "dataset.holdout", "not a number"),
        (at("dataset", "format", "xml"), "dataset.format", "'xml'"),
        (at("dataset", "map", {"a": 1}), "dataset.map.a", "not a text"),
        (at("prompt", "messages", []), "prompt", "exclude each other"),
        (at("prompt", "user", 3), "prompt.user", "3 is not"),
        (at("backend", {}), "backend.model", "is missing"),
        (at("backend", "concurrency", "many"), "backend.concurrency", "'auto'"),
        (at("backend", "concurrency", 0), "backend.concurrency", ""),
        (at("scorers", {}), "scorers", ""),
        (at("scorers", "x", {}), "scorers.x", "has no kind"),
        (at("scorers", "x", 3), "scorers.x", "not a table"),
        (at("scorers", "x", {"kind": "regex"}), "scorers.x.pattern", "is missing"),
        (at("scorers", "x", {"kind": "numeric", "tolerance": -1.0}), "scorers.x.tolerance", "-1"),
        (at("scorers", "x", {"kind": "length"}), "scorers.x", "min, max or both"),
        (at("scorers", "x", {"kind": "length", "min": 3, "max": 2}), "scorers.x", "larger than max"),
        (at("scorers", "x", {"kind": "function", "function": "f"}), "scorers.x", "module:name"),
        (at("scorers", "words", {"kind": "bleu"}), "scorers.words", "measured quantity"),
        (at("space", "t", {"low": 2, "high": 1}), "space.t", "must be smaller than high"),
        (at("space", "t", {"low": 1.0, "high": 1.0}), "space.t", "must be smaller than high"),
        (at("space", "t", {"low": 0.0, "high": 1.0, "log": True}), "space.t", "log needs low > 0"),
        (at("space", "t", {"low": 0, "high": 10, "step": 20}), "space.t", "smaller step"),
        (at("space", "t", {"low": 0, "high": 10, "step": 0}), "space.t", "step"),
        (at("space", "t", {"low": 1, "high": 9, "step": 2, "log": True}), "space.t", "exclude each other"),
        (at("space", "t", {"low": 1}), "space.t.high", "is missing"),
        (at("space", "t", {"choices": []}), "space.t.choices", ""),
        (at("space", "t", {"choices": [1, 1]}), "space.t", "listed twice"),
        (at("space", "t", {"files": []}), "space.t.files", ""),
        (at("objectives", [{"maximize": "right", "minimize": "words"}]), "objectives[0]", "exactly one"),
        (at("objectives", [{}]), "objectives[0]", "exactly one"),
        (at("objectives", [{"maximize": "right", "weight": -1.0}]), "objectives[0].weight", "-1"),
        (at("objectives", [{"maximize": "right", "weight": 1.0}, {"minimize": "words"}]), "objectives", "weight"),
        (
            lambda t: t.update(objectives=[{"minimize": "seconds"}], search={"trials_in_flight": 2}),
            "objectives",
            "both are 1",
        ),
        (at("constraints", [{"metric": "words"}]), "constraints[0]", "at_least, at_most"),
        (at("scorers", "second", {"kind": "bleu"}), "objectives", "no objective"),
        (at("search", "trials_in_flight", 0), "search.trials_in_flight", "0"),
        (at("search", "repeats", 1.5), "search.repeats", "whole number"),
        (at("budget", "hours", 0), "budget.hours", ""),
        (at("budget", 3), "budget", "table"),
    ],
)
def test_each_mistake_is_told_at_its_key_with_what_to_do(change: Any, key: str, says: str) -> None:
    (line,) = [line for line in problems(change) if line.startswith(f"{key}: ")]
    assert says in line
    assert len(line) > len(key) + 10


def test_all_mistakes_are_told_at_once() -> None:
    found = problems(
        at("budgt", {}), at("seed", "x"), at("dataset", "holdout", 2.0), at("scorers", "right", "kind", "x"),
        at("space", "t", {"low": 2, "high": 1}), at("search", "sampler", "tp"),
    )  # fmt: skip
    assert {line.partition(":")[0] for line in found} == {
        "budgt", "seed", "dataset.holdout", "scorers.right", "space.t", "search.sampler"
    }  # fmt: skip
    assert len(found) == 6


def test_several_inconsistencies_are_told_at_once() -> None:
    found = problems(at("objectives", [{"maximize": "nothing"}, {"minimize": "words", "weight": 1.0}]),
                     at("constraints", [{"metric": "nobody", "at_least": 1.0}]))  # fmt: skip
    assert {line.partition(":")[0] for line in found} == {"objectives[0]", "objectives", "constraints[0]"}


def test_a_hint_is_a_close_name_or_the_list() -> None:
    assert hint("temprature", ["temperature", "top_p"]) == " Did you mean 'temperature'?"
    assert hint("zzz", ["b", "a"]) == " Known: a, b"
    assert hint("zzz", []) == ""


# --- --set


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("budget.trials = 10", ("budget", "trials"), 10),
        ("budget.hours=0.5", ("budget", "hours"), 0.5),
        ("dataset.shuffle=true", ("dataset", "shuffle"), True),
        ("name=quick look", ("name",), "quick look"),
        ('name="quoted"', ("name",), "quoted"),
        ("search.sampler=tpe", ("search", "sampler"), "tpe"),
        ("prompt.user={{ q }}=?", ("prompt", "user"), "{{ q }}=?"),
        ("baseline.stop=['a', 'b']", ("baseline", "stop"), ["a", "b"]),
        ("space.t={low = 0.0, high = 1.0}", ("space", "t"), Range(low=0.0, high=1.0)),
        ("space.t.choices=[1, 2]", ("space", "t"), Choices(choices=[1, 2])),
        ("budget.tokens=2_000", ("budget", "tokens"), 2000),
    ],
)
def test_set_takes_every_toml_value_and_bare_words(override: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = make_study(short(), overrides=[override])
    for name in path:
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("budget.trials", "not key=value"),
        ("=3", "not key=value"),
        ("name.x=3", "name is not a table"),
        ("budget.trails=3", "Did you mean 'trials'?"),
        ("budget.trials=many", "whole number"),
    ],
)
def test_a_wrong_override_is_told_as_it_was_written(override: str, says: str) -> None:
    (line,) = problems(at("name", "n"), overrides=(override,))
    assert says in line
    assert line.startswith(f"--set {override}: ")


def test_the_last_override_counts_and_the_callers_table_is_left_alone() -> None:
    table = short()
    before = copy.deepcopy(table)
    assert make_study(table, overrides=["seed=1", "dataset.limit=9", "seed=2"]).seed == 2
    assert table == before


# --- from Python


def test_a_study_from_python_takes_callables_as_scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def score(example: Any, text: str) -> float:
        return 1.0

    spec = StudySpec(
        dataset=DatasetSpec(rows=[{"q": "x"}]),
        backend=BackendSpec(model="m"),
        scorers={"mine": score, "other": {"kind": "bleu"}},  # type: ignore[dict-item]
    )
    assert spec.scorers["mine"].function is score
    assert spec.known_metrics()[:2] == ("mine", "other")
    assert spec.url == f"sqlite:///{tmp_path.resolve() / 'study.db'}"
    assert spec.source == "StudySpec"


@pytest.mark.parametrize("make", [lambda table: StudySpec(**table), StudySpec.model_validate])
def test_what_the_constructor_refuses_is_told_as_in_a_study_file(make: Any) -> None:
    """Every mistake at once, with its key, the value and what to do; `self` is a key like any other."""
    table = {
        "dataset": {"rows": [], "holdout": 1.5},
        "prompt": {"usr": "{{ q }}"},
        "backend": BackendSpec(model="m"),
        "scorers": {"right": {"kind": "exact_mach"}},
        "budget": 5,
        "self": 1,
    }
    with pytest.raises(SpecError) as told:
        make(table)
    with pytest.raises(SpecError) as of_file:
        make_study(table, source="StudySpec")
    assert told.value.problems == of_file.value.problems
    assert "StudySpec: prompt.usr: unknown key. Did you mean 'user'?" in told.value.problems
    assert "StudySpec: dataset.holdout: 1.5 is too large. Use less than 1.0" in told.value.problems
    assert len(told.value.problems) == 5


def test_who_makes_a_study_of_a_table_words_its_mistakes() -> None:
    """Where a mistake stands is told once, by whoever knows it: what begins like a place stays as it was written."""
    with pytest.raises(SpecError) as told:
        StudySpec.of(short() | {"StudySpec": 1, "seed": -1}, lambda mistake: f"mine.toml has {mistake}")
    assert [problem.partition(". ")[0] for problem in told.value.problems] == [
        "mine.toml has seed: -1 is too small",
        "mine.toml has StudySpec: unknown key",
    ]


@pytest.mark.parametrize(
    ("space", "told"),
    [
        (
            {"top_k": [10, 40]},
            ["space.top_k: [10, 40] is a list. Write { choices = [10, 40] } for one of them, or { low = 10, high"],
        ),
        (
            {"stop": [["a"], ["b"]]},
            ['space.stop: [["a"], ["b"]] is a list. Write { choices = [["a"], ["b"]] }'],
        ),
        (
            {"max_tokens": {"min": 24, "max": 48}},
            ["space.max_tokens.min: unknown key. Did you mean 'low'?", "max: unknown key. Did you mean 'high'?"],
        ),
        ({"top_k": (40, 10)}, ["space.top_k: [40, 10] is a list. Write { choices = [40, 10] } for one of them"]),
        ({"top_p": {"values": [0.5, 0.9]}}, ["space.top_p.values: unknown key. Did you mean 'choices'?"]),
        ({"top_p": {"choice": [0.5, 0.9]}}, ["space.top_p.choice: unknown key. Did you mean 'choices'?"]),
        ({"top_p": {"Low": 0.5, "high": 0.9}}, ["space.top_p.Low: unknown key. Did you mean 'low'?"]),
    ],
)
def test_a_dimension_in_the_words_of_others_is_told_once_and_how_to_write_it(
    space: dict[str, Any], told: list[str]
) -> None:
    with pytest.raises(SpecError) as caught:
        make_study(short() | {"space": space})
    assert len(caught.value.problems) == len(told)
    for problem, needle in zip(caught.value.problems, told, strict=True):
        assert needle in problem


def test_what_python_may_give_in_the_place_of_a_table_is_told() -> None:
    table: dict[str, Any] = {"dataset": [{"q": "x"}, {"q": "y"}], "scorers": {"right": "ROUGE-L"}}
    with pytest.raises(SpecError) as told:
        StudySpec(backend=BackendSpec(model="m"), **table)
    assert told.value.problems == (
        "StudySpec: dataset: is a list of tables. Write [dataset] in single brackets, and rows from Python as its rows",
        "StudySpec: scorers.right: 'ROUGE-L' is not a table. Write right = { kind = \"rouge_l\" }",
    )
    space = {"stop": ("a", "b"), "top_k": {"low": 1, "high": 9}}
    assert make_study(short() | {"space": space}).space["stop"] == ["a", "b"]


def test_a_name_in_other_capitals_is_the_nearest() -> None:
    """`rougeL` is rouge_l, not rouge_n, which has as many letters in common."""
    with pytest.raises(SpecError, match=r"kind 'rougeL' is not a scorer genopt knows .* Did you mean 'rouge_l'"):
        make_study(short() | {"scorers": {"right": {"kind": "rougeL"}}})


def test_a_study_is_frozen_and_strict() -> None:
    spec = make_study(short())
    with pytest.raises(ValidationError):
        spec.seed = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        DatasetSpec(path="x", limit="3")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        DatasetSpec(path="x", nonsense=1)  # type: ignore[call-arg]


# --- JSON Schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = StudySpec.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("text", [FULL, SHORT])
def test_the_json_schema_accepts_what_is_read(validator: jsonschema.Draft202012Validator, text: str) -> None:
    table = tomllib.loads(text)
    validator.validate(table)
    make_study(table)


@pytest.mark.parametrize(
    "change",
    [
        at("budgt", {}),
        at("seed", "x"),
        at("dataset", "holdout", 2.0),
        at("scorers", "right", "kind", "x"),
        at("scorers", "right", "normalise", True),
        at("space", "t", {"lo": 1, "high": 2}),
        at("space", "d", {"a": {"t": {"low": 1, "hi": 2}}}),
        at("search", "sampler", "tp"),
    ],
)
def test_the_json_schema_refuses_what_is_refused(validator: jsonschema.Draft202012Validator, change: Any) -> None:
    table = short()
    change(table)
    assert not validator.is_valid(table)
    assert problems(change)


def test_the_json_schema_describes_every_key(validator: jsonschema.Draft202012Validator) -> None:
    for name, table in validator.schema["$defs"].items():
        for key, described in table.get("properties", {}).items():
            assert described.get("description") or key in ("kind", "metric", "model"), f"{name}.{key}"


@pytest.mark.parametrize(
    ("low", "high", "step", "last"), [(0.0, 0.3, 0.1, 0.3), (0.0, 0.7, 0.1, 0.7), (0.1, 0.5, 0.3, 0.4)]
)
def test_the_last_step_of_a_range_is_never_above_its_end(low: float, high: float, step: float, last: float) -> None:
    """3 * 0.1 is a little more than 0.3 in binary, which may be the largest legal value."""
    assert Range(low=low, high=high, step=step).build().high == last
