"""Owns where the outputs that are compared come from: a file made anywhere, or a configuration of a stored study."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genopt import _rows
from genopt.compare import Asked, Output, Side
from genopt.errors import SpecError

TEXTS = ("output", "outputs", "text", "response", "completion")
SCORES = ("scores", "metrics")
OURS = (*TEXTS, *SCORES, "id", "score", "finish", "why", "references", "reference", "group", "fields")


def from_file(path: str) -> Side:
    """The outputs in a file (JSONL, JSON, CSV, TSV, Parquet) with an id and a text per row, and scores where there are
    any: `output` (or `outputs`, a list of samples, as `genopt evaluate -o` writes), `score` or numbers by name under
    `scores`. Other columns are shown as what was asked. Raises SpecError, naming the row."""
    found = _rows.read(path, Path.cwd(), None, None)
    for number, problem in found.problems:
        raise SpecError(f"{path}:{number}: {problem}")
    outputs: dict[str, Output] = {}
    asked: dict[str, Asked] = {}
    for number, row in found.rows:
        where = f"{path}:{number}"
        if row.get("id", "") == "":
            raise SpecError(f"{where}: has no id. Each row needs an id that both sides share")
        name = str(row["id"])
        if name in outputs:
            raise SpecError(f"{where}: the id {name!r} occurs twice. Each row needs an id of its own")
        outputs[name] = Output(_text(row, where), _scores(row, where))
        asked[name] = _asked(row)
    if not outputs:
        raise SpecError(f"{path}: holds no rows")
    return Side(Path(path).name, outputs, asked)


def _text(row: Mapping[str, Any], where: str) -> str:
    key = next((key for key in TEXTS if key in row), None)
    if key is None:
        raise SpecError(f"{where}: has no text. Call its column one of {', '.join(TEXTS)}")
    value = row[key]
    if isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise SpecError(f"{where}: {key} is {value!r}, not a text")
    return value


def _scores(row: Mapping[str, Any], where: str) -> dict[str, float]:
    table: dict[str, Any] = {}
    for key in SCORES:
        if isinstance(row.get(key), Mapping):
            table |= row[key]
    if row.get("score", "") != "":
        table["score"] = row["score"]
    found = {}
    for name, value in table.items():
        if value is None or value == "":
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SpecError(f"{where}: the score {name} is {value!r}, not a number") from None
        if math.isfinite(number):
            found[name] = number
    return found


def _asked(row: Mapping[str, Any]) -> Asked:
    references = row.get("references", row.get("reference", ()))
    texts = tuple(map(str, references)) if isinstance(references, list) else (str(references),) if references else ()
    fields = row.get("fields")
    if not isinstance(fields, Mapping):
        fields = {key: value for key, value in row.items() if key not in OURS}
    group = row.get("group")
    return Asked(fields, texts, str(group) if group not in (None, "") else None)
