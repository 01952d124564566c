"""Owns what the numbers of a holdout allow to say of a winner: that it improves on the baseline, or may take its place.

Whether a constraint is met counts before any gain: what misses one is not claimed, and what a study runs today is not
kept for its worth where it misses one itself.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

from genopt.objectives import Goal
from genopt.stats import UNBOUNDED, PairedResult, examples_needed
from genopt.trial import MAX_MISSING, Evaluation, mean_of

MISSED = 0.05  # the chance that a baseline whose mean lies on a bound is said to miss it
Conclusion = Literal["improved", "admissible", "not shown", "worse"]


def concluded(
    result: PairedResult, before: Evaluation, after: Evaluation, goal: Goal, level: float
) -> tuple[Conclusion, str]:
    """What the holdout shows, and what has to be said with it."""
    seen: Conclusion = "not shown"
    if result.p_value < level and result.difference != 0:
        seen = "improved" if result.difference > 0 else "worse"
    kind, why = constrained(seen, before, after, goal)
    notes = [misses("the baseline", before, goal), why or _size(seen, result)]
    return kind, "; ".join(filter(None, notes))


def _size(seen: Conclusion, result: PairedResult) -> str:
    """What the number of examples has to do with what was seen, where it has."""
    if seen == "not shown" and result.low > 0:
        return "too few examples differ: the p-value, which assumes nothing about the scores, decides"
    if result.ties == result.n > 0:  # the interval has no width; what no example shows may be on 3 / n of them
        return (
            f"both were worth the same on all {result.n} examples: a difference on fewer than about"
            f" {min(1.0, 3 / result.clusters):.0%} of such examples would likely stay unseen"
        )
    if seen == "not shown" and result.difference > 0 and result.se < UNBOUNDED:
        needed = examples_needed(result.se * math.sqrt(result.n), result.difference)
        return f"if the true gain is {result.difference:.4f}, showing it takes about {needed:,} held-out examples"
    return ""


def constrained(kind: Conclusion, before: Evaluation, after: Evaluation, goal: Goal) -> tuple[Conclusion, str]:
    """What a conclusion comes to by the constraints, and why the winner is barred where that decides, else "".

    A constraint is a must: a winner that meets them all is to be used in the place of a baseline that is shown to miss
    one, whatever that costs, and one that is barred is not, whatever it gains.
    """
    missed, why = shown_to_miss(before, goal), barred(after, goal)
    if not why:
        return ("admissible" if missed and kind != "improved" else kind), ""
    if kind == "improved":
        return "not shown", why
    return kind, why if missed else ""


def shown_to_miss(evaluation: Evaluation, goal: Goal) -> bool:
    """Whether its mean lies beyond a bound, and within it with probability MISSED at most; never where nothing is known
    of it."""
    sides = (side for constraint in goal.constraints for side in constraint.sides())
    missed = [side for side in sides if 0 < side.violation(mean_of(evaluation.metric(side.metric))) < math.inf]
    return any(chance <= MISSED for chance in evaluation.chances(replace(goal, constraints=tuple(missed))).values())


def misses(who: str, evaluation: Evaluation, goal: Goal) -> str:
    """Which constraints a configuration misses, in words; "" when none."""
    violated = [name for name, violation in goal.violations(evaluation.means()).items() if violation > 0]
    return f"{who} misses {', '.join(violated)}" if violated else ""


def barred(evaluation: Evaluation, goal: Goal) -> str:
    """Why a winner's gain cannot be claimed, in words: it misses a constraint, does not meet one as surely as is asked
    for, or could not be scored; "" where it can."""
    if missed := misses("the winner", evaluation, goal):
        return missed
    if evaluation.missing() > MAX_MISSING:
        return f"{evaluation.missing():.0%} of the winner's observations there could not be scored"
    asked = {str(c): c.confidence for c in goal.constraints}
    return "; ".join(
        f"the winner meets {name} with {chance:.0%} confidence, and {asked[name]:.0%} is asked for"
        for name, chance in goal.doubtful(evaluation.chances(goal)).items()
    )


def bounds(before: Evaluation, after: Evaluation, goal: Goal) -> dict[str, Any]:
    """Every constraint on the holdout: the means of winner and baseline, and how sure it is that each meets it."""
    sides = {"winner": after, "baseline": before}
    found: dict[str, Any] = {}
    for constraint in goal.constraints:
        name = str(constraint)
        found[name] = {"confidence": constraint.confidence}
        for who, evaluation in sides.items():
            mean = rounded(evaluation.means().get(constraint.metric))
            found[name][who] = {"mean": mean, "probability": rounded(evaluation.chances(goal)[name])}
    return found


def rounded(value: float | None) -> float | None:
    """A number as a verdict tells it; None for what is not known."""
    return None if value is None or not math.isfinite(value) else round(value, 6)
