"""Owns the file of people's labels: its rows, its scale, and adding to it. Knows no study and no judge.

A labels file (JSONL, JSON, CSV, TSV or Parquet) has one row per label:
    id          the example; rows with one id share an input
    output      the text that was labelled, or `generation`: the id of a stored one
    label       the grade, a number (`human` is read too)
    annotator   who gave it; labels without one count as different people's
    scale       [lowest, highest] label that can be given; without it 1 to 5, or 0 to 1 where no label is outside that
    config      which configuration wrote the text, or a list of them
    score       the judge's score in [0, 1], or `level`: the same on the labels' scale
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from genopt import _rows
from genopt.errors import SpecError, writing

NEEDS = "A label needs id, output (or generation) and label"
MOST_LEVELS = 11  # whole numbers on one scale, beyond which they are no grades but a measure


@dataclass(frozen=True, slots=True)
class Label:
    """One person's grade of one text (NaN in a file of scores), and the judge's score of it where the file has one.

    `output` is the text, or "#" and the id of a stored generation.
    """

    id: str
    output: str
    label: float
    annotator: str
    configs: tuple[str, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a file, and the lowest and the highest that could be given."""

    rows: tuple[Label, ...]
    low: float
    high: float

    @property
    def levels(self) -> int | None:
        """How many grades there are; None where the labels are a measure and not grades."""
        whole = all(value.is_integer() for value in (self.low, self.high, *(row.label for row in self.rows)))
        count = round(self.high - self.low) + 1
        return count if whole and count <= MOST_LEVELS else None


def read(path: str, *, scores: bool = False) -> Labels:
    """The labels in a file; a later label of the same person for the same text replaces the earlier one.

    With `scores` it is a file of the judge's scores, whose rows need no label. Raises SpecError, naming the row.
    """
    found = _rows.read(path, Path.cwd(), None, None)
    for number, problem in found.problems:
        raise SpecError(f"{path}:{number}: {problem}")
    kept: dict[tuple[str, str, str], Label] = {}
    levels: dict[tuple[str, str, str], float] = {}
    scales: set[tuple[float, float]] = set()
    for number, row in found.rows:
        where = f"{path}:{number}"
        label, level = _label(row, where, f"#{number}"), _number(row, ("level",), where)
        if math.isnan(label.label) and not scores:
            raise SpecError(f"{where}: has no label. {NEEDS}")
        if scores and label.score is None and level is None:
            raise SpecError(f"{where}: has no score. The judge's scores need id, output (or generation) and score")
        key = (label.id, label.output, "" if scores else label.annotator)
        kept[key] = label
        if level is not None:
            levels[key] = level
        if row.get("scale") is not None:
            scales.add(_told(row["scale"], where))
    if not kept:
        raise SpecError(f"{path}: holds no rows")
    graded = [*levels.values(), *(label.label for label in kept.values() if not math.isnan(label.label))]
    low, high = _scale(path, scales, graded)
    for key, level in levels.items():
        kept[key] = replace(kept[key], score=(level - low) / (high - low))
    return Labels(tuple(kept.values()), low, high)


def append(path: Path, row: Mapping[str, Any], *, option: str = "-o") -> None:
    """Add one label to the JSONL file that `option` named. Raises SpecError when it cannot be written."""
    with writing(f"{option} {path}"), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _label(row: Mapping[str, Any], where: str, unnamed: str) -> Label:
    name, output = row.get("id"), row.get("output")
    if name in (None, ""):
        raise SpecError(f"{where}: has no id. {NEEDS}")
    if output is None and row.get("generation") not in (None, ""):
        output = f"#{row['generation']}"
    if not isinstance(output, str):
        raise SpecError(f"{where}: has no output. {NEEDS}")
    value = _number(row, ("label", "human"), where)
    configs = row.get("config") or ()
    return Label(
        str(name),
        output,
        math.nan if value is None else value,
        str(row.get("annotator") or unnamed),
        tuple(map(str, configs)) if isinstance(configs, list) else (str(configs),) if configs else (),
        _number(row, ("score",), where),
    )


def _number(row: Mapping[str, Any], names: Sequence[str], where: str) -> float | None:
    name = next((name for name in names if row.get(name) not in (None, "")), None)
    if name is None:
        return None
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise SpecError(f"{where}: {name} is {row[name]!r}, not a number")
    return value


def _told(scale: Any, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, scale)
    except (TypeError, ValueError):
        raise SpecError(
            f'{where}: scale is {scale!r}. Write the lowest and the highest label: "scale": [1, 5]'
        ) from None
    if not low < high:
        raise SpecError(f"{where}: scale is {scale!r}. Write the lowest label first")
    return low, high


def _scale(path: str, told: set[tuple[float, float]], values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    if len(told) > 1:
        raise SpecError(f"{path}: its labels are on several scales: {sorted(told)}. Give each a file of its own")
    low, high = told.pop() if told else (0.0, 1.0) if all(0 <= value <= 1 for value in values) else (1.0, 5.0)
    for value in values:
        if not low <= value <= high:
            raise SpecError(f'{path}: {value:g} is not between {low:g} and {high:g}. Name the scale: "scale": [0, 10]')
    return low, high
