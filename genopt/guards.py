"""Owns what has to be said of a study that rests on scores: what could not be scored, what length may explain, what
judging cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from genopt.lengths import at_equal_length
from genopt.objectives import HIGHEST, LOWEST, MEASURED, Goal
from genopt.trial import Evaluation, Observation, mean_of
from genopt.types import Scorer
from genopt.words import bound

LENGTHS = ("completion_tokens", "characters", "words")
LONGER = 1.1  # a ratio of lengths from which on it is worth saying how to hold length down


def at_worst(evaluation: Evaluation, goal: Goal, *, best: bool = False) -> Evaluation:
    """The evaluation with every score that is missing at the worse end of its scale, or at the better one."""
    low = goal.minimized()

    def filled(cell: Observation) -> Observation:
        missing = [n for n in goal.metrics() if n not in MEASURED and math.isnan(cell.metrics.get(n, math.nan))]
        metrics = {**cell.metrics, **{n: HIGHEST if (n in low) != best else LOWEST for n in missing}}
        return replace(cell, metrics=metrics, utility=goal.utility(metrics)) if missing else cell

    cells = {place: filled(cell) for place, cell in evaluation.cells.items()}
    return Evaluation(evaluation.config, evaluation.examples, cells)


def unscored(evaluation: Evaluation, goal: Goal) -> str:
    """What nothing is known of, where no observation has a utility: no gain over such a baseline can ever be shown."""
    if evaluation.missing() < 1:
        return ""
    return " and ".join(o.metric for o in goal.objectives if math.isnan(mean_of(evaluation.metric(o.metric))))


def unwritten(evaluation: Evaluation) -> float:
    """The fraction of what was observed of which a text was never written, as when the prompt is too long."""
    lengths = [cell.metrics.get("characters", math.nan) for cell in evaluation.cells.values()]
    return float(np.isnan(lengths).mean()) if lengths else 0.0


def notes(before: Evaluation, after: Evaluation, goal: Goal, scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """What a reader of the verdict should know: baseline `before`, winner `after`, on the same examples."""
    if before.missing() or after.missing():
        yield _missing_note(before, after, goal)
    judged = any(hasattr(scorers.get(name), "judge_text") for name in goal.metrics())
    if judged and not any(name in LENGTHS for name in goal.metrics()):
        yield from _length_note(before, after)


def _missing_note(before: Evaluation, after: Evaluation, goal: Goal) -> str:
    def totals(who: str, evaluation: Evaluation) -> str:
        dropped, worst = mean_of(evaluation.utility()), mean_of(at_worst(evaluation, goal).utility())
        means = f"{goal.sign * dropped:.4f} without them, {goal.sign * worst:.4f} with them at worst"
        return f"{who} {evaluation.missing():.1%} missing, {means}"

    least = at_worst(after, goal).utility() - at_worst(before, goal, best=True).utility()
    return (
        f"some texts could not be scored: {totals('baseline', before)}; {totals('winner', after)}; with the winner's at"
        f" worst and the baseline's at best the difference is {mean_of(least):+.4f}"
    )


def _length_note(before: Evaluation, after: Evaluation) -> Iterator[str]:
    """The length-adjusted gain: judges are swayed by length, and decoding settings change it."""
    found = at_equal_length(
        after.utility() - before.utility(),
        after.metric("characters"),
        before.metric("characters"),
        groups=[example.group for example in after.examples],
    )
    if found is None:
        return
    low, high = bound(found.low, "+"), bound(found.high, "+")
    advice = ""
    if found.ratio > LONGER:
        advice = '; to hold length down, add [[objectives]] minimize = "completion_tokens", or a constraint on it'
    gain = f"its gain is {found.gain:+.4f} [{low}, {high}]" if math.isfinite(found.gain) else "its gain is not known"
    yield f"the winner's texts are {found.ratio:.2f} times as long; at equal length {gain}{advice}"


def usage_notes(scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """What each judge has cost in this run."""
    for name, scorer in scorers.items():
        usage = getattr(scorer, "usage", None)
        if usage is not None and usage.calls:
            yield (
                f"scorers.{name}: the judge was asked {usage.calls:,} times; it read {usage.prompt_tokens:,} tokens and"
                f" wrote {usage.completion_tokens:,}, which no budget counts"
            )
