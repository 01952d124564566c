"""Owns which texts of a study a person is asked to label, in which order, and what the label's row holds. Which
configuration wrote a text is in that row and in nothing that is shown."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from genopt.archive import Archive
from genopt.judging.labels import Labels
from genopt.scorers._judge_items import LEVELS
from genopt.store import Store

Order = Literal["hard", "random"]


@dataclass(frozen=True, slots=True)
class Item:
    """A text to label, what it answers, and which configurations wrote it. `doubt` is how far judges differ on it."""

    id: str
    text: str
    fields: Mapping[str, Any]
    references: tuple[str, ...]
    configs: tuple[str, ...]
    doubt: float


@dataclass(frozen=True, slots=True)
class Task:
    """What a person is asked about every text: the rubric, and label -> meaning."""

    question: str
    levels: Mapping[str, str]


def task_of(archive: Archive) -> Task:
    """The rubric of the study's first judge that has one; else a general question, on five levels."""
    for table in archive.spec.get("scorers", {}).values():
        if table.get("kind") == "judge" and table.get("rubric"):
            return Task(table["rubric"], dict(sorted((table.get("levels") or LEVELS).items())))
    return Task("How good is this answer?", LEVELS)


def items_of(archive: Archive, *, seed: int = 0, order: Order = "hard") -> list[Item]:
    """The distinct texts of a study, one entry for each example and text; blank and failed ones are left out.

    "hard": those first on which the judges differ most, or which one judge alone was least sure about; texts that are
    alike in that, and all of them under "random", come in an order that `seed` draws.
    """
    store = Store(archive.url, reading=True)
    try:
        rows = store.all_rows(archive.id)
        examples = {example.id: example for example, _ in store.examples(archive.id)}
    finally:
        store.close()
    tables = archive.spec.get("scorers", {})
    others = {
        key for name, key in archive.description["scorers"].items() if tables.get(name, {}).get("kind") != "judge"
    }
    steps = len(task_of(archive).levels) - 1
    found: dict[tuple[str, str], dict[str, None]] = {}
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for config, _, _, row in rows:
        if row.generation.failed or not row.generation.text.strip():
            continue
        key = row.example_id, row.generation.text
        found.setdefault(key, {})[config] = None
        judged = {scorer: s.value for scorer, s in row.scores.items() if s.value is not None and scorer not in others}
        scores.setdefault(key, {}).update(judged)
    items = [
        Item(
            name, text, examples[name].fields, examples[name].references, tuple(configs),
            _doubt(list(scores[name, text].values()), steps),
        )
        for (name, text), configs in found.items()
    ]  # fmt: skip

    def draw(item: Item) -> bytes:
        return hashlib.blake2b(f"{seed}\0{item.id}\0{item.text}".encode(), digest_size=8).digest()

    return sorted(items, key=lambda item: (-item.doubt if order == "hard" else 0.0, draw(item)))


def row_of(item: Item, label: str, task: Task, annotator: str) -> dict[str, Any]:
    """A label as a row of the labels file."""
    values = [int(level) for level in task.levels]
    return {
        "id": item.id,
        "output": item.text,
        "label": int(label),
        "scale": [min(values), max(values)],
        "annotator": annotator,
        "config": list(item.configs),
    }


def left(items: Sequence[Item], done: Labels | None, annotator: str) -> list[Item]:
    """The items that this person has not labelled yet."""
    known = {(row.id, row.output) for row in done.rows if row.annotator == annotator} if done is not None else set()
    return [item for item in items if (item.id, item.text) not in known]


def _doubt(scores: Sequence[float], steps: int) -> float:
    """The standard deviation of the judges' scores; of one judge's grade, the least it can have: a mean between two
    whole grades comes from no single one."""
    if len(scores) > 1:
        mean = math.fsum(scores) / len(scores)
        return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    between = scores[0] * steps % 1 if scores else 0.0
    return math.sqrt(between * (1 - between)) / steps
