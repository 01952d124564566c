"""Experiments of ollama-grid-search, taken over as finished studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.compare import compare
from genopt.compare.sides import sides
from genopt.errors import SpecError, StudyError
from genopt.export import settings
from genopt.imported import import_experiment, read_experiment
from genopt.report import report_text
from genopt.spec.read import read_scorer
from tests.commands import Shell

ANSWERS = {("a", 0.2): ["Paris", "Paris", "Bern"], ("a", 1.5): ["Rome", "Paris", "Oslo"], ("b", 0.2): ["Oslo"] * 3}
PROMPTS = ("Capital of France?", "Capital of Switzerland?")


def experiment(folder: Path) -> Path:
    """Two models, two temperatures (three of the four combinations ran), two prompts, three generations each."""
    inferences = []
    for (model, temperature), texts in ANSWERS.items():
        for prompt in PROMPTS:
            for seed, text in enumerate(texts):
                parameters = {
                    "experiment_uuid": "u1", "model": model, "prompt": prompt, "system_prompt": "Be brief.",
                    "temperature": temperature, "repeat_penalty": 1.1, "top_k": 40, "top_p": 0.8999999761581421,
                    "repeat_last_n": 64, "tfs_z": 1.0, "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1,
                    "seed": seed,
                }  # fmt: skip
                result = {
                    "model": model, "created_at": "2026-01-01T00:00:00Z", "response": text, "done": True,
                    "total_duration": 9_000_000_000, "load_duration": 7_000_000_000, "prompt_eval_count": 12,
                    "prompt_eval_duration": 500_000_000, "eval_count": 3, "eval_duration": 1_500_000_000,
                }  # fmt: skip
                inferences.append({"parameters": parameters, "result": result})
    path = folder / "happy-blue-dog.json"
    config = {
        "server_url": "http://localhost:11434",
        "system_prompt": "",
        "default_options": {},
        "request_timeout": 300,
    }
    content = {"experiment_uuid": "u1", "datetime": "", "log_version": "0.5.0", "config": config}
    path.write_text(json.dumps(content | {"inferences": inferences}), encoding="utf-8")
    return path


def references(folder: Path) -> str:
    path = folder / "answers.jsonl"
    rows = zip(PROMPTS, ("Paris", "Bern"), strict=True)
    path.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in rows), encoding="utf-8")
    return str(path)


def imported(folder: Path) -> str:
    url = f"sqlite:///{folder / 'old.db'}"
    scorer = read_scorer("exact_match", "score")
    count = import_experiment(experiment(folder), url=url, name="old", scorer=scorer, references=references(folder))
    assert count == 3
    return f"{url}#old"


def test_settings_become_trials_and_prompts_examples(tmp_path: Path) -> None:
    archive = load(imported(tmp_path))
    rows = {(row["params"]["model"], row["params"]["temperature"]): row for row in archive.rows()}
    assert {key: row["mean"] for key, row in rows.items()} == pytest.approx(
        {("a", 0.2): (2 / 3 + 1 / 3) / 2, ("a", 1.5): (1 / 3) / 2, ("b", 0.2): 0.0}
    )
    assert all(row["n"] == 2 and row["state"] == "complete" for row in rows.values())
    assert rows["a", 0.2]["params"]["top_p"] == 0.9  # as it was typed, not as a 32-bit float
    assert "seed" not in rows["a", 0.2]["params"]
    assert archive.spent.generations == 18


def test_it_is_read_like_any_other_study(tmp_path: Path) -> None:
    where = imported(tmp_path)
    frame = load(where).observations()
    assert len(frame) == 18
    assert set(frame["sample"]) == {0, 1, 2}
    assert frame["seconds"].eq(2.0).all()  # without the seconds of loading
    assert "imported from ollama-grid-search" in report_text(load(where))
    found = compare(*sides("0", "2", where))
    assert found.result is not None
    assert found.result.difference == pytest.approx(-0.5)


def test_it_cannot_be_exported_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="was imported and says nothing of an engine"):
        settings(load(imported(tmp_path)), "1")


def test_without_references_a_scorer_that_needs_them_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    with pytest.raises(SpecError, match="2 of 2 prompts have no reference"):
        import_experiment(experiment(tmp_path), url=url, name="old", scorer=read_scorer("exact_match", "score"))
    assert not (tmp_path / "old.db").exists()


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    url = imported(tmp_path).removesuffix("#old")
    scorer = read_scorer('{kind = "contains", values = ["Paris"]}', "score")
    with pytest.raises(StudyError, match="already"):
        import_experiment(experiment(tmp_path), url=url, name="old", scorer=scorer)
    assert import_experiment(experiment(tmp_path), url=url, name="other", scorer=scorer) == 3


@pytest.mark.parametrize("content", ["[]", "{", '{"inferences": [{"parameters": {}, "result": {}}]}', "{}"])
def test_a_file_that_is_no_experiment_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SpecError, match="is no experiment of ollama-grid-search"):
        read_experiment(path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("rouge_", "Did you mean 'rouge_"),
        ("{kind = ", "is no table"),
        ('{kind = "contains", value = "x"}', "value"),
        ("nowhere.toml", "cannot be read"),
    ],
)
def test_a_scorer_that_is_none_is_refused(written: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        read_scorer(written, "score")


def test_a_scorer_is_a_kind_a_table_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scorer.toml"
    path.write_text('kind = "rouge_n"\nn = 3\n', encoding="utf-8")
    found: list[Any] = [read_scorer(text, "s") for text in ("rouge_n", '{kind = "rouge_n", n = 3}', str(path))]
    assert [each.n for each in found] == [2, 3, 3]


def test_as_it_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, monkeypatch, capsys)
    path = experiment(tmp_path)
    ran = shell("import", path, "--scorer", "exact_match", "--references", references(tmp_path))
    assert ran.code == 0
    assert ran.out == "3 trials imported. See: genopt report happy-blue-dog.db#happy-blue-dog\n"
    assert shell("trials", "happy-blue-dog.db#happy-blue-dog").code == 0
