"""Owns the questions that a rubric or a checklist asks, and how the answers become one score. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genopt.scorers._judge_modes import Scale
from genopt.types import Judgment

LEVELS: Mapping[str, str] = {
    "1": "does not meet the criterion at all",
    "2": "meets little of it",
    "3": "meets about half of it",
    "4": "meets most of it",
    "5": "meets it completely",
}
ANSWERS: Mapping[str, str] = {"no": "it does not hold, or only in part", "yes": "it holds"}
YES: Scale = {"no": 0.0, "yes": 1.0}


@dataclass(frozen=True, slots=True)
class Item:
    """One question that a judge answers about every text: label -> meaning, label -> value, and what it weighs."""

    criterion: str
    meanings: Mapping[str, str]
    scale: Scale
    weight: float = 1.0


def items_of(
    rubric: str | None, checklist: Sequence[Mapping[str, Any]], levels: Mapping[str, str] | None
) -> tuple[Item, ...]:
    """The questions of a rubric (one, on its levels) or of a checklist (yes or no)."""
    if rubric is None:
        return tuple(Item(item["question"], ANSWERS, YES, item.get("weight", 1.0)) for item in checklist)
    meanings = dict(sorted((levels or LEVELS).items()))
    low, high = int(min(meanings)), int(max(meanings))
    return (Item(rubric.strip(), meanings, {label: (int(label) - low) / (high - low) for label in meanings}),)


def together(items: Sequence[Item], found: Sequence[Judgment]) -> Judgment:
    """A checklist's score: the weights earned over all positive weights, clipped to [0, 1]; missing when an answer is.

    Arora et al. 2025 (HealthBench, arXiv 2505.08775) score so; here an answer counts with its probability of yes.
    """
    missing = next((judgment.why for judgment in found if judgment.value is None), None)
    met = [judgment.value or 0.0 for judgment in found]
    earned = math.fsum(item.weight * p for item, p in zip(items, met, strict=True))
    value = earned / math.fsum(item.weight for item in items if item.weight > 0)
    return Judgment(
        value=min(1.0, max(0.0, value)) if missing is None else None,
        why=missing or "; ".join(f"{item.criterion} {p:.2f}" for item, p in zip(items, met, strict=True)),
        probabilities={},
        raw="\n".join(judgment.raw for judgment in found),
        mode=found[0].mode,
        calls=sum(judgment.calls for judgment in found),
        prompt_tokens=sum(judgment.prompt_tokens for judgment in found),
        completion_tokens=sum(judgment.completion_tokens for judgment in found),
        seconds=math.fsum(judgment.seconds for judgment in found),
    )
