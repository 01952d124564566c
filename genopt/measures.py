"""Owns the metrics of one observation: what is measured of its texts, and the means of their scores. Scores nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from genopt.objectives import HIGHEST, TIMED, Goal
from genopt.types import Generation, Score

OF_A_TEXT = ("completion_tokens", *TIMED, "characters", "words")  # what is not known where none was written


def metrics_of(
    generations: Sequence[Generation], scores: Mapping[str, Sequence[Score]], goal: Goal
) -> dict[str, float]:
    """The metrics of one observation from its samples and their scores by scorer. Of a metric that is minimized, a text
    that was never written gets the highest score."""
    metrics = measured(generations)
    for name, given in scores.items():
        if any(generation.failed for generation in generations) and name in goal.minimized():
            rated = zip(generations, given, strict=True)
            given = [Score(HIGHEST) if generation.failed else score for generation, score in rated]
        metrics[name] = _mean_score(given)
    return metrics


def measured(generations: Sequence[Generation]) -> dict[str, float]:
    """The quantities that need no scorer, averaged over samples; NaN where a text was never written: else failing
    would be the way to be short and quick."""
    n = len(generations)
    found = {
        "completion_tokens": sum(g.completion_tokens for g in generations) / n,
        "prompt_tokens": sum(g.prompt_tokens for g in generations) / n,
        "seconds": sum(g.seconds for g in generations) / n,
        "characters": sum(len(g.text) for g in generations) / n,
        "words": sum(len(g.text.split()) for g in generations) / n,
    }
    waits = [g.first_token_seconds for g in generations if g.first_token_seconds is not None]
    if len(waits) == n:
        writing = sum(g.seconds for g in generations) - sum(waits)
        found["first_token_seconds"] = sum(waits) / n
        found["tokens_per_second"] = (
            sum(g.completion_tokens for g in generations) / writing if writing > 0 else math.nan
        )
    if any(g.finish == "error" for g in generations):
        found |= dict.fromkeys(OF_A_TEXT, math.nan)
    return found


def _mean_score(scores: Sequence[Score]) -> float:
    values = [score.value for score in scores]
    if any(value is None or math.isnan(value) for value in values):
        return math.nan
    return math.fsum(value for value in values if value is not None) / len(values)
