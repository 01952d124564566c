"""Owns the sampler that sees how sure each value is: Optuna's trials in, the answers of the next one out.

The arithmetic is in proposals.py. A trial's value is its outcome's `estimate` and `se` where it has them: what a trial
that was stopped early would have been worth on the whole tune split, and how sure that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from genopt.space import Choice, Number

if TYPE_CHECKING:
    from genopt.proposals import Finished, Proposer


class HgpSampler(BaseSampler):
    """Proposes every open dimension at once, from the trials that the study holds and a seed."""

    def __init__(self, proposer: Proposer, seed: int) -> None:
        self._proposer, self._seed = proposer, seed

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {path: distribution(dimension) for path, dimension in self._proposer.space.open_dimensions().items()}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        fixed = dict(trial.system_attrs.get("fixed_params", {}))
        if _complete(self._proposer, fixed):
            return {}
        trials = study._get_trials(deepcopy=False, use_cache=True)
        others = [t for t in trials if t.number != trial.number and _complete(self._proposer, t.params)]
        told = [t for t in others if t.state == TrialState.COMPLETE and "duplicate_of" not in _outcome(t)]
        told.sort(key=lambda t: (t.datetime_complete.timestamp() if t.datetime_complete else 0.0, t.number))
        constraints = sorted({name for t in told for name in t.constraints})
        signs = [1 if direction == StudyDirection.MAXIMIZE else -1 for direction in study.directions]
        return self._proposer.propose(
            [finished(t, signs, constraints) for t in told],
            [t.params for t in others if t.state == TrialState.RUNNING],
            seed=self._seed,
            fixed=fixed,
            avoid=[t.params for t in others if t.state in (TrialState.FAIL, TrialState.PRUNED)],
        )

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Never needed where all dimensions are proposed at once; what is asked besides is drawn at random."""
        return optuna.samplers.RandomSampler(seed=self._seed).sample_independent(
            study, trial, param_name, param_distribution
        )


def finished(trial: FrozenTrial, signs: Sequence[int], constraints: Sequence[str] = ()) -> Finished:
    """A complete trial, its values turned by `signs` so that more is better."""
    from genopt.proposals import Finished

    outcome = _outcome(trial)
    values, estimate = list(trial.values), _number(outcome.get("estimate"))
    if len(values) == 1 and estimate is not None:
        values = [estimate]
    return Finished(
        trial.params,
        tuple(sign * value for sign, value in zip(signs, values, strict=True)),
        max(_number(outcome.get("estimate_se", outcome.get("se"))) or 0.0, 0.0),
        max(_number(outcome.get("metrics", {}).get("completion_tokens")) or 0.0, 0.0),
        tuple(trial.constraints.get(name, 0.0) for name in constraints),
    )


def _outcome(trial: FrozenTrial) -> Mapping[str, Any]:
    outcome: Mapping[str, Any] = trial.user_attrs.get("outcome", {})
    return outcome


def distribution(dimension: Number | Choice) -> BaseDistribution:
    """Optuna's distribution of an open dimension."""
    if isinstance(dimension, Choice):
        labels: Any = dimension.labels
        return CategoricalDistribution(labels)
    if dimension.integer:
        step = int(dimension.step or 1)
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _complete(proposer: Proposer, answers: Mapping[str, Any]) -> bool:
    try:
        proposer.space.sample(lambda path, _: answers[path])
    except KeyError:
        return False
    return True


def _number(value: Any) -> float | None:
    finite = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if finite else None
