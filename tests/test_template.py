"""The study file that `genopt init` writes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from genopt.errors import SpecError
from genopt.spec.read import make_study
from genopt.spec.scorers import KINDS
from genopt.template import beside, guess_fields, quote, study_file


def table(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_file_of_every_scorer_is_a_valid_study(kind: str) -> None:
    found = table(study_file("a", "rows.jsonl", "model", kind, "transformers", ["question", "topic"], True))
    spec = make_study(found)
    assert spec.scorers["quality"].kind == kind  # type: ignore[union-attr]
    assert (spec.name, spec.dataset.path, spec.backend.model) == ("a", "rows.jsonl", "model")
    assert spec.prompt.user == "{{ question }}"


def test_a_scorer_that_compares_samples_gets_samples_to_compare() -> None:
    repeats = {
        kind: make_study(table(study_file("a", "d", "m", kind, "transformers", ["q"], True))).search.repeats
        for kind in ("diversity", "distinct", "consistency", "bleu")
    }
    assert repeats == {"diversity": 2, "distinct": 2, "consistency": 2, "bleu": 1}


def test_what_is_commented_out_is_valid_when_the_comments_are_removed() -> None:
    text = study_file("a", "rows.jsonl", "model", "bleu", "transformers", ["question", "topic"], True)
    lines = []
    for line in text.splitlines()[1:]:  # the first is a sentence
        bare = line.removeprefix("# ")
        lines.append(bare if line.startswith("# ") and ("=" in bare or bare.startswith("[")) else line)
    found = table("\n".join(lines))
    spec = make_study(found)
    assert spec.baseline and spec.space and spec.objectives and spec.constraints and spec.dataset.limit
    assert spec.budget.tokens and spec.prompt.shots and spec.storage == "sqlite:///a.db"


@pytest.mark.parametrize("text", ['say "hi"', "C:\\models\\x", "rows 🙂 ü.jsonl", "tab\there", ""])
def test_any_text_survives_the_quotes(text: str) -> None:
    assert tomllib.loads(f"key = {quote(text)}") == {"key": text}


def test_awkward_names_survive() -> None:
    found = table(study_file('my "study"', 'a "b"/🙂.csv', "C:\\m", "bleu", "transformers", ["frage_ü"], False))
    assert found["name"] == 'my "study"' and found["dataset"]["path"] == 'a "b"/🙂.csv'
    assert found["backend"]["model"] == "C:\\m" and found["prompt"]["user"] == "{{ frage_ü }}"


def test_the_likeliest_prompt_comes_first_and_answers_are_none(tmp_path: Path) -> None:
    data = write(tmp_path, {"id": "1", "topic": "a", "question": "b", "answer": "c", "score": 3, "my field": "d"})
    assert guess_fields(data) == (["question", "topic"], True)


def test_a_column_that_no_template_can_name_is_given_a_name(tmp_path: Path) -> None:
    data = write(tmp_path, {"Meine Frage, bitte": "Which of the two is it?", "note": "x", "answer": "this"})
    fields, found = guess_fields(data)
    assert (fields, found) == (["Meine Frage, bitte", "note"], True)
    spec = make_study(table(study_file("a", data, "m", "rouge_l", "transformers", fields, found)))
    assert spec.prompt.user == "{{ Meine_Frage_bitte }}"
    assert spec.dataset.map == {"Meine_Frage_bitte": "Meine Frage, bitte"}
    own = make_study(table(study_file("a", data, "m", "rouge_l", "transformers", fields, found, prompt="{{ note }}")))
    assert own.dataset.map == {}


def test_without_a_usual_name_the_longest_texts_are_the_likeliest_prompt(tmp_path: Path) -> None:
    rows = [{"code": n, "card": "a long card", "area": "hills", "answer": "c"} for n in ("c1", "c2")]
    data = write(tmp_path, *rows)
    assert guess_fields(data) == (["card", "area", "code"], True)


def test_rows_without_references_and_rows_with_messages(tmp_path: Path) -> None:
    assert guess_fields(write(tmp_path, {"text": "a"}, {"text": "b"})) == (["text"], False)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    assert guess_fields(write(tmp_path, {"topic": "x", "messages": turns})) == ([], True)
    assert "user" not in table(study_file("a", "d", "m", "bleu", "transformers", [], True))["prompt"]


def test_data_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"none\.jsonl: no such file"):
        guess_fields(str(tmp_path / "none.jsonl"))


def test_paths_are_written_as_the_study_file_has_to_see_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.jsonl").write_text("")
    assert beside("data/rows.jsonl", Path(".")) == "data/rows.jsonl"
    assert beside("data/rows.jsonl", Path("studies")) == "../data/rows.jsonl"
    assert beside("data/rows.jsonl", Path("data")) == "rows.jsonl"
    assert beside(str(tmp_path / "data"), Path("studies")) == str(tmp_path / "data")
    assert beside("owner/name", Path("studies")) == "owner/name"  # a hub id, not a path
