"""Owns what one study of a table found, and the file of them: a line of JSON each, added to and gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.search.table import Table


@dataclass(frozen=True)
class Outcome:
    """The configuration that is put forward, what is said to be its score, and what it took.

    `claimed`: it is said to beat the baseline, after a test. `deployed`: what the user is told to use, where that may
    be another one. `seconds`: CPU time, where it was taken.
    """

    winner: int
    reported: float
    calls: int
    tokens: float
    claimed: bool = False
    deployed: int | None = None
    seconds: float | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON values, without what is not there."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def append(path: Path, table: Table, policy: str, budget: float, seed: int, found: Outcome) -> None:
    """Add an outcome, with the regret and the optimism that the table's truth makes of it, in points."""
    truth = table.truth
    line = {
        "table": table.name,
        "policy": policy,
        "budget": budget,
        "seed": seed,
        "regret": round(100 * float(truth.max() - truth[found.winner]), 4),
        "optimism": round(100 * float(found.reported - truth[found.winner]), 4),
        "share": round(found.calls / (table.utility.shape[0] * table.utility.shape[1]), 5),
        "tokens": round(found.tokens),
        "claimed": found.claimed,
    }
    if found.deployed is not None:
        line["deployed"] = round(100 * float(truth.max() - truth[found.deployed]), 4)
    if found.seconds is not None:
        line["seconds"] = found.seconds
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Every outcome of the file; the last of several for the same study."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            found[key(line)] = line
    yield from found.values()


def done(path: Path) -> set[tuple[Any, ...]]:
    """Which (table, policy, budget, seed) the file holds."""
    return {key(line) for line in read(path)}


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """Which study a line is of."""
    return line["table"], line["policy"], line["budget"], line["seed"]
