"""Owns the blind reading of two sides: in which order rows and texts are shown, what the reader chose, and what that
says. The labels are rows of a JSONL file, so that a reading can be stopped and gone on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scipy.stats import binomtest

from genopt.compare import Comparison, Pair
from genopt.errors import SpecError

Choice = Literal["a", "b", "tie"]


@dataclass(frozen=True, slots=True)
class Preference:
    """How often B was preferred: (wins + ties / 2) / n in [0, 1], with a 95 % Wilson interval over the readings that
    took a side (Wilson 1927), moved by the ties as halves; `p_value` is the exact sign test over those."""

    a: int
    b: int
    ties: int
    rate: float
    low: float
    high: float
    p_value: float


def preference(choices: Iterable[Choice]) -> Preference | None:
    """What the reader's choices say, None when there are none."""
    counts = {"a": 0, "b": 0, "tie": 0}
    for choice in choices:
        counts[choice] += 1
    n, decided = sum(counts.values()), counts["a"] + counts["b"]
    if not n:
        return None
    rate = (counts["b"] + counts["tie"] / 2) / n
    if not decided:
        return Preference(0, 0, n, rate, 0.0, 1.0, 1.0)
    test = binomtest(counts["b"], decided)
    interval = test.proportion_ci(method="wilson")
    low, high = ((bound * decided + counts["tie"] / 2) / n for bound in (interval.low, interval.high))
    return Preference(counts["a"], counts["b"], counts["tie"], rate, low, high, float(test.pvalue))


def order(found: Comparison, seed: int = 0) -> list[tuple[Pair, bool]]:
    """The pairs whose texts differ in an order that tells nothing, each with whether B is shown first."""

    def draw(pair: Pair) -> bytes:
        return hashlib.blake2b(f"{seed}\0{pair.id}".encode(), digest_size=8).digest()

    differing = sorted((pair for pair in found.pairs if not pair.same), key=draw)
    return [(pair, bool(draw(pair)[-1] & 1)) for pair in differing]


def label(found: Comparison, pair: Pair, choice: Choice, annotator: str) -> dict[str, Any]:
    """A choice as a row of the labels file: with both texts, since it is about them and not about their settings."""
    return {
        "id": pair.id,
        "a": found.a.name,
        "b": found.b.name,
        "preferred": choice,
        "annotator": annotator,
        "output_a": pair.a.text,
        "output_b": pair.b.text,
    }


def recall(path: Path, found: Comparison, annotator: str) -> dict[str, Choice]:
    """The choices this reader made before between these two sides, by example id; those about other texts are left
    out. Raises SpecError for a file that is none of ours."""
    if not path.exists():
        return {}
    texts = {pair.id: {pair.a.text: "a", pair.b.text: "b"} for pair in found.pairs}
    chosen: dict[str, Choice] = {}
    with path.open(encoding="utf-8") as file:
        lines = list(file)  # not splitlines: U+2028 and its like stand inside texts
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            name, first, second = row["id"], row["output_a"], row["output_b"]
            preferred, who = row["preferred"], row["annotator"]
        except (ValueError, KeyError, TypeError):
            raise SpecError(f"--labels {path}:{number}: is no label of a comparison. Name another file") from None
        known = texts.get(name, {})
        if who == annotator and known.get(first) == "a" and known.get(second) == "b":
            chosen[name] = preferred
        elif who == annotator and known.get(first) == "b" and known.get(second) == "a":
            chosen[name] = {"a": "b", "b": "a"}.get(preferred, "tie")  # type: ignore[assignment]
    return chosen
