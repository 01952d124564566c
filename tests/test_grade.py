"""A study that a person grades: keystrokes at a terminal, a running study that goes on, one that was stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genopt.errors import SpecError, StudyError
from genopt.judging.grading import Grading, waiting
from genopt.spec.read import make_study, read_study
from tests.studies import generations, query
from tests.terminal import Terminal, terminal

STUDY = """
name = "toy"
storage = "sqlite:///toy.db"
seed = 1
[dataset]
path = "rows.jsonl"
holdout = 0.5
[prompt]
user = "{{ question }}"
[backend]
kind = "tests.judges:Author"
model = "author"
[space]
skill = { choices = [0.2, 0.9] }
[baseline]
skill = 0.2
words = 5
[scorers.person]
kind = "human"
question = "Is it good?"
levels = { 1 = "bad", 2 = "so so", 3 = "good" }
[search]
sampler = "grid"
pruner = "none"
trials_in_flight = 1
replicates = 0
[budget]
trials = 2
"""
ASKS, IDLE = "Is it good?  [", "nothing else waits  ["
NEW = rf"({re.escape(ASKS)}|{re.escape(IDLE)})[^]]*\] $"  # at the end of the screen: it is being asked


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [json.dumps({"id": f"r{n}", "question": f"How was number {n}?"}) for n in range(16)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path


@contextmanager
def optimizing(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`genopt optimize`, under way in a process of its own that ends with the block; what it says is in out and err."""
    command = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        study = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=err, text=True)
        try:
            yield study
        finally:
            study.kill()
            study.wait()


def until_told(folder: Path, study: subprocess.Popen[str], line: str) -> None:
    limit = time.monotonic() + 120
    while line not in (folder / "err").read_text():
        assert study.poll() is None and time.monotonic() < limit, (folder / "err").read_text()
        time.sleep(0.05)


def text_shown(screen: str) -> str:
    """The text that is to be graded now."""
    return re.findall(r"the text\S*\n  (.*)\n", screen)[-1]


def opinion(text: str) -> str:
    """The grade that this person gives."""
    return "3" if text.count("good") > text.count("bad") else "1"


def grade_until_it_ends(person: Terminal, study: subprocess.Popen[str]) -> None:
    """Grade every text that comes, until the study has its verdict."""
    seen = 0  # of the screen

    def comes() -> str:
        """The last question that is new on the screen, "" while there is none."""
        return max((ASKS, IDLE), key=person.screen.rfind) if re.search(NEW, person.screen[seen:]) else ""

    while True:
        person._until(lambda: bool(comes()) or study.poll() is not None, "a question, or the end of the study")
        question, seen = comes(), len(person.screen)
        if not question:
            return person.process.send_signal(signal.SIGINT)
        person.press(opinion(text_shown(person.screen)) if question == ASKS else "w")


def test_a_person_grades_a_study_that_was_stopped_and_then_one_that_runs(folder: Path) -> None:
    with optimizing(folder) as study:
        until_told(folder, study, "8 texts wait for a person's grade: genopt grade STUDY")
        study.send_signal(signal.SIGTERM)
        assert study.wait(timeout=120) == 75
    assert "8 texts wait for a grade: genopt grade study.toml" in (folder / "err").read_text()

    with terminal(folder, "grade", "study.toml") as person:
        first = text_shown(person.expect(ASKS))
        person.press("9")  # no level
        person.expect("'9' is none of these")
        person.press("1")
        second = text_shown(person.expect(ASKS, 3))
        assert "0 graded, 8 wait" in person.screen, "what can be taken back is not given away yet"
        person.press("u")
        assert text_shown(person.expect(ASKS, 4)) == first
        person.press("2")
        assert text_shown(person.expect(ASKS, 5)) == second
        person.press("s")
        third = text_shown(person.expect(ASKS, 6))
        person.press(opinion(third))
        person.expect(ASKS, 7)
        person.press("q")
        assert person.ended() == 0
        for secret in ("skill", "0.2", "baseline", "trial", "config"):
            assert secret not in person.screen
    graded = query(folder, "SELECT value, why, raw FROM genopt_judgments WHERE mode = 'a person'")
    assert {(value, why, json.loads(raw)["text"]) for value, why, raw in graded} == {
        (0.5, "2: so so", first),
        ((int(opinion(third)) - 1) / 2, {"1": "1: bad", "3": "3: good"}[opinion(third)], third),
    }
    assert waiting(read_study(folder / "study.toml")) == 6

    made = len(generations(folder))
    with optimizing(folder) as study, terminal(folder, "grade", f"sqlite:///{folder / 'toy.db'}#toy") as person:
        grade_until_it_ends(person, study)
        assert person.ended() == 130
        assert study.wait(timeout=120) == 0
    verdict = json.loads((folder / "out").read_text())
    assert verdict["verdict"] == "improved" and verdict["params"]["skill"] == 0.9
    texts = [row[5] for row in generations(folder)]
    assert len(texts) == made + 8 + 16, "nothing is generated twice"
    scored = query(
        folder,
        "SELECT text, value FROM genopt_generations JOIN genopt_scores ON id = generation_id WHERE text != ?",
        first,
    )
    assert scored and all(value == (int(opinion(text)) - 1) / 2 for text, value in scored)
    asked = query(folder, "SELECT count(*) FROM genopt_judgments")[0][0]
    assert asked == len({(row[1], row[5]) for row in generations(folder)}), (
        "equal texts of one example are one question"
    )


def test_what_no_person_grades_is_told(folder: Path) -> None:
    with pytest.raises(StudyError):
        Grading(str(folder / "study.toml"))  # not begun
    assert waiting(make_study({**_table(), "scorers": {"length": {"kind": "length", "max": 3}}}, folder=folder)) == 0
    for levels in ({"1": "only"}, {"10": "a", "2": "b"}):
        scorer = {"kind": "human", "question": "Good?", "levels": levels}
        with pytest.raises(SpecError, match="at least two single digits"):
            make_study({**_table(), "scorers": {"person": scorer}}, folder=folder)


def _table() -> dict[str, Any]:
    return tomllib.loads(STUDY)
