"""Owns a stored study's texts that wait for a person: which, what the person is shown, and keeping the grades. Opens no
engine and no data, and never learns which configuration wrote a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from genopt.archive import locate
from genopt.errors import StudyError
from genopt.scorers.human import GRADED, WAITING, Human, graded
from genopt.space import SearchSpace
from genopt.spec import StudySpec
from genopt.store import Store
from genopt.study import open_study


@dataclass(frozen=True, slots=True)
class Question:
    """A text to grade: `levels` says what each grade means, `asked` what the text answers, field by field."""

    key: str
    judge: str
    raw: str
    question: str
    levels: dict[str, str]
    asked: dict[str, str]
    references: tuple[str, ...]
    text: str


class Grading:
    """The human scorers of a study (a study file, or storage-URL#name). Raises SpecError, or StudyError for a study
    that is not begun or that no person grades."""

    def __init__(self, where: str) -> None:
        url, name = locate(where)
        study = open_study(url, name, SearchSpace({}), create=False)
        try:
            tables = (study.attribute("spec") or {}).get("scorers", {})
        finally:
            study.close()
        self._judges = [human.digest for human in humans(tables).values()]
        if not self._judges:
            raise StudyError(f"no person grades the study {name!r}", hint='it needs a scorer of kind = "human"')
        self._store = Store(url)

    def waiting(self) -> list[Question]:
        """What waits, in an order that says nothing about who wrote it."""
        return [_question(*row) for row in self._store.judgments_in(self._judges, WAITING)]

    def done(self) -> int:
        """How many texts are graded."""
        return len(self._store.judgments_in(self._judges, GRADED))

    def grade(self, question: Question, label: str) -> None:
        """Keep a grade; a running study sees it within seconds. KeyError for a level that is none."""
        self._store.settle(question.key, question.judge, graded(question.raw, label))

    def close(self) -> None:
        """Drop the connection."""
        self._store.close()


def waiting(spec: StudySpec) -> int:
    """How many texts of a study wait for a person; 0 where none grades it."""
    tables = {name: table.model_dump() for name, table in spec.scorers.items()}
    judges = [human.digest for human in humans(tables).values()]
    if not judges:
        return 0
    store = Store(spec.url, reading=True)
    try:
        return len(store.judgments_in(judges, WAITING))
    finally:
        store.close()


def humans(tables: Mapping[str, Any]) -> dict[str, Human]:
    """The human scorers among the tables of a study file's scorers, by name."""
    return {
        name: Human(name=name, **{key: value for key, value in table.items() if key != "kind"})
        for name, table in tables.items()
        if isinstance(table, Mapping) and table.get("kind") == "human"
    }


def _question(key: str, judge: str, raw: str) -> Question:
    shown = json.loads(raw)
    return Question(
        key, judge, raw, shown["question"], shown["levels"], shown["asked"], tuple(shown["references"]), shown["text"]
    )
