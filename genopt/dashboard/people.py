"""Owns people's grades in the dashboard: the form beside a trial that runs, and making its answer the grade of that
trial's texts. The terminal (`genopt grade`) asks text by text and blind; here a trial is graded as a whole."""

from __future__ import annotations

from collections.abc import Mapping

from genopt.archive import Archive
from genopt.dashboard.notes import block
from genopt.judging.grading import humans
from genopt.scorers.human import WAITING, Human, graded
from genopt.store import Store
from genopt.study.annotated import form
from genopt.study.study import GRADE
from genopt.types import Example

SHOWN = 5  # texts of a running trial in its note


def humans_of(archive: Archive) -> dict[str, Human]:
    """The study's human scorers by name."""
    return humans(archive.spec.get("scorers", {}))


def forms(people: Mapping[str, Human]) -> dict[str, object]:
    """The attributes that show a form beside every running trial; none where no person grades."""
    return form({name: (human.question, human.levels) for name, human in people.items()})


def settle(archive: Archive) -> int:
    """Give every waiting text of a running trial the grade that a person gave the trial; how many texts that were."""
    people = humans_of(archive)
    said = [trial for trial in archive.trials if trial.state == "running" and trial.said]
    if not people or not said:
        return 0
    store, count = Store(archive.url), 0
    try:
        examples = {example.id: example for example, _ in store.examples(archive.id)}
        for trial in said:
            rows = store.rows(archive.id, str(trial.config["key"]), "tune")
            for name, human in people.items():
                label = label_of(trial.said.get(GRADE + name), human)
                if label is None:
                    continue
                mine = {human.key(examples[row.example_id], row.generation.text) for row in rows}
                for key, judge, raw in store.judgments_in([human.digest], WAITING):
                    if key in mine:
                        store.settle(key, judge, graded(raw, label))
                        count += 1
    finally:
        store.close()
    return count


def label_of(said: object, human: Human) -> str | None:
    """The level behind what the form sent, None for anything else that somebody put there."""
    label = str(int(said)) if isinstance(said, (int, float)) else None
    return label if label in human.levels else None


def to_grade(texts: Mapping[str, str], examples: Mapping[str, Example]) -> str:
    """What a running trial wrote so far, to grade it by."""
    parts = ["\n\n**To grade** in the form below: one grade for all texts of this trial"]
    for name, text in list(texts.items())[:SHOWN]:
        asked = examples[name].fields if name in examples else {}
        parts += [block("\n".join(f"{key}: {value}" for key, value in asked.items())), block(text)]
    return "\n\n".join(parts)


def how_to_grade(where: str) -> str:
    """What the study note says where people grade."""
    return (
        "\n\nPeople grade this study. A running trial is graded as a whole in the form on its page. Text by text and"
        " blind, which also the baseline and the holdout need:\n\n" + block(f"genopt grade '{where}'")
    )
