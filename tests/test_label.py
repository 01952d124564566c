"""`genopt label`: blind, resumable, hard texts first; at a pseudo-terminal and from a pipe; and on to calibrate."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.judging import labelling, labels
from tests.commands import Shell
from tests.studies import run
from tests.terminal import terminal
from tests.toy import study

RUBRIC = "Is it good?"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of a finished study whose judge is scripted."""
    folder = tmp_path_factory.mktemp("judged")
    own = {"kind": "tests.judges:ScriptedJudge", "model": "scripted", "options": {"noise": 0.1, "seed": 1}}
    table = study(folder) | {
        "dataset": {"rows": [{"id": f"r{n}", "question": f"How was {n}?"} for n in range(20)], "holdout": 0.45},
        "backend": {"kind": "tests.judges:Author", "model": "author"},
        "space": {"skill": {"choices": [0.2, 0.5, 0.8]}},
        "scorers": {"helpful": {"kind": "judge", "rubric": RUBRIC, "backend": own, "check": False}},
        "budget": {"trials": 3},
        "search": {"sampler": "grid", "pruner": "none"},
    }
    assert run(table, folder).error is None
    return folder / "toy.db"


@pytest.fixture
def where(finished: Path, tmp_path: Path) -> str:
    """That study, in a database of the test's own."""
    shutil.copy(finished, tmp_path / "toy.db")
    return f"sqlite:///{tmp_path / 'toy.db'}#toy"


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def change(folder: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(folder / "toy.db")) as connection, connection:
        connection.execute(sql, values)


def piped(monkeypatch: pytest.MonkeyPatch, keys: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(keys) + "\n"))


def test_a_person_labels_at_a_terminal_takes_one_back_and_goes_on_later(tmp_path: Path, where: str) -> None:
    items = labelling.items_of(load(where))
    command = ("label", where, "--annotator", "ann", "--rows", "4")
    with terminal(tmp_path, *command) as person:
        person.expect("1 of 4")
        person.expect(RUBRIC)
        person.press("4")
        person.expect("2 of 4")
        person.press("x")
        person.expect("none of these: 1, 2, 3, 4, 5, u, s, q")
        person.press("u")
        person.expect("1 of 4", times=2)
        person.press("2")
        person.expect("2 of 4", times=2)
        person.press("s")
        person.expect("3 of 4")
        person.press("5")
        person.expect("4 of 4")
        person.press("q")
        person.expect("2 labels added to labels.jsonl")
        assert person.ended() == 0
        screen = person.screen
    given = rows(tmp_path / "labels.jsonl")
    assert [(row["id"], row["output"], row["label"]) for row in given] == [
        (items[0].id, items[0].text, 2),
        (items[2].id, items[2].text, 5),
    ]
    assert all(row["annotator"] == "ann" and row["scale"] == [1, 5] and row["config"] for row in given)
    assert not any(config[:8] in screen for row in given for config in row["config"])  # blind
    assert "skill" not in screen
    with terminal(tmp_path, *command) as person:
        person.expect("1 of 2")
        person.press("1")
        person.expect("2 of 2")
        person.press("1")
        person.expect("that was the last")
        person.press("q")
        assert person.ended() == 0
    assert {row["output"] for row in rows(tmp_path / "labels.jsonl")} == {item.text for item in items[:4]}


def test_ctrl_c_keeps_what_was_given(tmp_path: Path, where: str) -> None:
    with terminal(tmp_path, "label", where, "--annotator", "ann") as person:
        person.expect("1 of ")
        person.press("3")
        person.expect("2 of ")
        person.press("\x03")
        assert person.ended() == 130
    assert [row["label"] for row in rows(tmp_path / "labels.jsonl")] == [3]


def test_labels_from_a_pipe_are_held_against_the_judge(
    shell: Shell, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = labelling.items_of(load(where))[:12]
    for who, off in (("ann", 0), ("bob", 1)):
        keys = [min(5, 1 + round(4 * _worth(item.text)) + off * (n % 2)) for n, item in enumerate(items)]
        piped(monkeypatch, "".join(map(str, keys)))
        ran = shell("label", where, "--annotator", who, "--rows", "12")
        assert ran.code == 0 and ran.out == "" and "12 labels added" in ran.err
    assert "ann has labelled all 12 texts" in shell("label", where, "--annotator", "ann", "--rows", "12").err
    ran = shell("judge", "calibrate", "labels.jsonl", "--study", where, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["labels"], ran.json["texts"], ran.json["annotators"]) == (24, 12, 2)
    assert ran.json["spearman"]["value"] > 0.6 and ran.json["ceiling"]["texts"] == 12
    assert ran.json["configs"] and ran.json["kappa"]["value"] > 0
    told = shell("judge", "calibrate", "labels.jsonl", "--study", where).out
    assert told.startswith("24 labels from 1 to 5 by 2 annotators, of 12 texts on ")
    assert "weighted kappa" in told and "the judge in that annotator's place" in told


def _worth(text: str) -> float:
    words = text.split()
    return words.count("good") / len(words)


def test_scores_from_a_file_or_from_the_labels_themselves(shell: Shell) -> None:
    for n in range(9):
        labels.append(shell.folder / "labels.jsonl", {"id": n, "output": f"t{n}", "label": 1 + n % 5, "score": n / 9})
        labels.append(shell.folder / "scores.jsonl", {"id": n, "output": f"t{n}", "level": 1 + n % 5, "scale": [1, 5]})
    assert shell("judge", "calibrate", "labels.jsonl", "--json").json["spearman"]["value"] < 0.9
    ran = shell("judge", "calibrate", "labels.jsonl", "--judge-scores", "scores.jsonl", "--json")
    assert ran.json["spearman"]["value"] == pytest.approx(1.0) and ran.json["kappa"]["value"] == pytest.approx(1.0)
    both = shell("judge", "calibrate", "labels.jsonl", "--judge-scores", "scores.jsonl", "--study", "x.toml")
    assert both.code == 2 and "Choose one" in both.err
    missing = shell("judge", "calibrate", "nowhere.jsonl")
    assert missing.code == 2 and "no such file" in missing.err


def test_outputs_cannot_do_anything_to_the_terminal(shell: Shell, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change(shell.folder, "UPDATE genopt_generations SET text = char(27) || '[2J' || text")
    piped(monkeypatch, "q")
    ran = shell("label", where)
    assert "\x1b[2J" not in ran.err and "\\u001b[2J" in ran.err


def test_hard_texts_come_first_and_the_rest_in_an_order_of_its_own(where: str) -> None:
    archive = load(where)
    items = labelling.items_of(archive)
    doubts = [item.doubt for item in items]
    assert doubts == sorted(doubts, reverse=True) and doubts[0] > doubts[-1]
    at_random = [labelling.items_of(archive, seed=seed, order="random") for seed in (0, 0, 1)]
    ids = [[(item.id, item.text) for item in order] for order in (*at_random, items)]
    assert ids[0] == ids[1] != ids[2] != ids[3]
    assert sorted(ids[0]) == sorted(ids[3])
    assert len(set(ids[0])) == len(ids[0])


def test_where_several_judges_scored_their_difference_is_the_doubt(tmp_path: Path, where: str) -> None:
    items = labelling.items_of(load(where))
    hard = items[-1]
    change(
        tmp_path,
        "INSERT INTO genopt_scores SELECT id, 'another judge', 5.0, '' FROM genopt_generations"
        " WHERE example_id = ? AND text = ?",
        hard.id,
        hard.text,
    )
    assert labelling.items_of(load(where))[0].text == hard.text


def test_doubt_of_one_grade_is_the_least_it_can_have() -> None:
    assert labelling._doubt([0.5], 4) == 0.0
    assert labelling._doubt([0.625], 4) == pytest.approx(0.125)
    assert labelling._doubt([], 4) == 0.0
    assert labelling._doubt([0.2, 0.6], 4) == pytest.approx(0.2)


def test_a_judge_with_levels_of_its_own_gives_its_own_keys() -> None:
    class Archived:
        spec: Mapping[str, Any] = {
            "scorers": {"j": {"kind": "judge", "rubric": "R?", "levels": {"9": "yes", "0": "no"}}}
        }

    task = labelling.task_of(Archived())  # type: ignore[arg-type]
    assert (task.question, list(task.levels)) == ("R?", ["0", "9"])
    item = labelling.Item("1", "t", {}, (), ("k",), 0.0)
    assert labelling.row_of(item, "9", task, "me")["scale"] == [0, 9]
