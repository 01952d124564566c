"""Owns what is taken up of trials that are finished: what they were found to be worth, and their evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from genopt.study import TrialRecord
from genopt.tables import Row
from genopt.trial import Configuration, Evaluation, Observer
from genopt.types import Example


@dataclass(frozen=True, slots=True)
class Known:
    """What a finished configuration was found to be worth (utility), and what the sampler was told."""

    number: int | None
    values: tuple[float, ...]
    mean: float
    se: float
    n: int
    stopped_early: bool
    eligible: bool
    violations: Mapping[str, float]


def known_from(trial: TrialRecord) -> Known:
    """What a stored trial was found to be worth."""
    outcome = trial.outcome
    mean, se = outcome.get("mean"), outcome.get("se")
    return Known(
        trial.number,
        trial.values or (),
        math.nan if mean is None else mean,
        math.nan if se is None else se,
        outcome.get("n", 0),
        bool(outcome.get("stopped_early")),
        bool(outcome.get("eligible", True)),
        {name: math.inf if v is None else v for name, v in outcome.get("violations", {}).items()},
    )


def recalled(
    observer: Observer, config: Configuration, rows: Sequence[Row], examples: Sequence[Example], upto: int | None
) -> Evaluation | None:
    """The evaluation of a configuration on the first `upto` examples (None: all), by its stored rows; None where one is
    missing, or a score of one."""
    memory = {(row.example_id, row.sample): row for row in rows}
    evaluation = Evaluation(config, examples)
    for position, example in enumerate(examples[:upto]):
        found = observer.stored(config, memory, example, 0)
        if found is None:
            return None
        evaluation.cells[position, 0] = found
    return evaluation
