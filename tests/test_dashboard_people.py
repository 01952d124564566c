"""A study that a person grades in the dashboard: trial by trial, in the form beside a running trial."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.dashboard.live import Live
from genopt.dashboard.people import label_of
from genopt.errors import StudyError
from genopt.judging.grading import Grading, humans
from genopt.runner import optimize_async
from genopt.spec.read import make_study
from genopt.study.annotated import Annotated
from genopt.study.storage import open_storage
from genopt.types import Generation, Request
from tests.toy import ToyBackend, study

LEVELS = {"1": "bad", "2": "good"}


class Wordy(ToyBackend):
    """The toy engine, whose texts name their settings: no two configurations write the same."""

    async def generate(self, request: Request) -> Generation:
        made = await super().generate(request)
        return replace(made, text=f"{made.text} {sorted(request.params.items())}")


def graded_study(folder: Path) -> dict[str, Any]:
    table = study(folder, count=24, budget={"trials": 3})
    table["scorers"] = {"person": {"kind": "human", "question": "Is it <b>good</b>?", "levels": LEVELS}}
    table["backend"]["kind"] = "tests.test_dashboard_people:Wordy"
    table["search"] = {"sampler": "random", "pruner": "none", "trials_in_flight": 1, "replicates": 0}
    return table


class Person:
    """Grades running trials through the dashboard's storage, 2 from the second on, and the rest at the terminal."""

    def __init__(self, where: str) -> None:
        self.where, self.live = where, Live(where)
        self.forms: list[Any] = []
        self.notes: list[str] = []
        self.said: dict[int, float] = {}

    def look(self) -> None:
        try:
            archive = load(self.where)
        except StudyError:
            return  # not begun
        running = [trial for trial in archive.trials if trial.state == "running" and trial.config.get("key")]
        if not running:
            grading = Grading(self.where)
            for question in grading.waiting():
                grading.grade(question, "1")
            grading.close()
        self.live.refresh()
        _, beneath = open_storage(archive.url, create=False)
        storage = Annotated(beneath, archive.id, self.live.attributes)
        attributes = storage.get_study_system_attrs(archive.id)
        for trial in running:
            if trial.number in self.said or not archive.spent.generations:
                continue
            note = attributes.get(f"dashboard:{trial.trial_id}:note_str:0", "")
            if "To grade" not in note:
                continue
            self.forms.append(attributes["dashboard:form_widgets:v2"])
            self.notes.append(note)
            self.said[trial.number] = 2.0 if self.said else 1.0
            storage.set_trial_user_attr(trial.trial_id, "grade: person", self.said[trial.number])


def test_trials_are_graded_in_the_dashboard(tmp_path: Path) -> None:
    table = graded_study(tmp_path)
    person = Person(f"sqlite:///{tmp_path / 'toy.db'}#toy")

    async def main() -> None:
        work = asyncio.ensure_future(optimize_async(make_study(table, folder=tmp_path)))
        while not work.done():
            await asyncio.to_thread(person.look)
            await asyncio.sleep(0.05)
        await work

    asyncio.run(asyncio.wait_for(main(), timeout=100))
    archive = load(person.where)
    means = {row["number"]: row["mean"] for row in archive.rows() if row["number"] in person.said}
    assert len(person.said) >= 2
    assert means == {number: said - 1.0 for number, said in person.said.items()}
    (widget,) = person.forms[0]["widgets"]
    assert (widget["description"], widget["choices"]) == ("Is it <b>good</b>?", ["1: bad", "2: good"])
    assert widget["values"] == [1.0, 2.0]
    assert "question: Is " in person.notes[0]
    assert archive.verdict is not None


@pytest.mark.parametrize(("said", "label"), [(1.0, "1"), (2, "2"), (3.0, None), ("1", None), (None, None)])
def test_what_is_no_grade_settles_nothing(tmp_path: Path, said: object, label: str | None) -> None:
    human = humans(graded_study(tmp_path)["scorers"])["person"]
    assert label_of(said, human) == label
