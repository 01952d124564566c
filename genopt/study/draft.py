"""Owns drawing a trial before it is stored: the sampler sees the history as it was read, and writes nothing into it.

A trial is then stored whole, in one transaction: a process that dies while it draws leaves nothing behind, and however
many dimensions are answered, the history is read once.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from genopt.types import ParamValue


class Draft:
    """A trial that the study's sampler answers, dimension by dimension; `params` are the flat parameters, once known.

    `trial` fills with the answers, its user attributes with what is to be kept with it. Where the study holds it
    already (it waited in the queue), it is one of `trials`.
    """

    def __init__(self, study: optuna.Study, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> None:
        self.trial = trial
        self.params: Mapping[str, ParamValue] = {}
        self._study = copy.copy(study)
        self._history = _History(study._storage, trials)
        self._study._storage = self._history  # type: ignore[assignment]
        self._sampler = study.sampler
        self._sampler.before_trial(self._study, trial)
        self._together: dict[str, Any] | None = None

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the sampler wants to be kept with the trial, for itself."""
        return self._history.attributes

    def answer(self, path: str, distribution: BaseDistribution) -> Any:
        """The answer to one open dimension: a given one, else the sampler's."""
        trial, given = self.trial, self.trial.system_attrs.get("fixed_params", {})
        if path in given:
            value = given[path]
        elif distribution.single():
            value = optuna.distributions._get_single_value(distribution)
        elif path in (together := self._proposed()) and _holds(distribution, together[path]):
            value = together[path]
        else:
            value = self._sampler.sample_independent(self._study, trial, path, distribution)
        trial.params[path], trial.distributions[path] = value, distribution
        return value

    def _proposed(self) -> Mapping[str, Any]:
        """What the sampler proposes for several dimensions at once."""
        if self._together is None:
            space = self._sampler.infer_relative_search_space(self._study, self.trial)
            self._together = self._sampler.sample_relative(self._study, self.trial, space)
        return self._together


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    return distribution._contains(distribution.to_internal_repr(value))


class _History:
    """The study's storage as its sampler sees it: with the trials that were read, and a place for what it wants to keep
    with a trial that is not there yet."""

    def __init__(self, storage: optuna.storages.BaseStorage, trials: Sequence[FrozenTrial]) -> None:
        self._storage, self._trials = storage, trials
        self.attributes: dict[str, Any] = {}

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._trials if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.attributes[key] = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)
