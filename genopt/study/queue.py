"""Owns which trial is begun next, and that no two workers begin the same: proposals are taken one by one, by claims.

A trial keeps the number of its proposal, and is asked again under it: it then gets the values it had. Whoever begins a
proposal holds a claim on its number until the trial that carries it is stored under the worker's own name, and looks
again, after claiming, whether that has happened already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from genopt.study.samplers import PROPOSAL
from genopt.types import ParamValue

RETRY, POINT = "retry_of", "point"  # user attributes: the trial that is asked again, the index in the grid


class Claims(Protocol):
    """Names that one worker holds at a time."""

    def take(self, name: str) -> bool:
        """Whether this worker holds the name now."""

    def free(self, name: str) -> None:
        """Give a name back."""


class Alone:
    """The claims of a worker that has no others beside it."""

    def take(self, name: str) -> bool:
        return True

    def free(self, name: str) -> None:
        """Nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most `trials` different configurations, those with these keys among them."""

    trials: int | None = None
    begun: Set[str] = frozenset()

    def left(self, others: Sequence[FrozenTrial], unknown: int) -> bool | None:
        """Whether there is room for one more beside these trials and `unknown` that are being begun elsewhere under
        lower numbers; None when that depends on what these turn out to be. Who has the higher number counts the lower
        ones, so that two never take the last place at once."""
        if self.trials is None:
            return True
        keys = {trial.user_attrs["config"]["key"] for trial in others if "config" in trial.user_attrs}
        known = {proposal_of(trial) for trial in others if "config" in trial.user_attrs}
        open_ = {proposal_of(trial) for trial in others if not trial.state.is_finished()} - known
        settled = len(keys | self.begun)
        if settled >= self.trials:
            return False
        return True if settled + len(open_) + unknown < self.trials else None


class Later(Exception):
    """Whether another trial may begin depends on what others are beginning right now: ask again in a moment."""


class Queue:
    """The trials of one study, begun by one worker."""

    def __init__(self, study: optuna.Study, worker: str, claims: Claims) -> None:
        self._study, self._worker, self._claims = study, worker, claims

    def next(
        self, budget: Budget, grid: Callable[[int], Mapping[str, ParamValue] | None] | None
    ) -> optuna.Trial | None:
        """A running trial: one that waits, else a new one, with the answers of the grid's next point where there is a
        grid (`grid` gives them by index). None when the budget or the grid has no more. Raises Later."""
        trials = self.trials()
        for waiting in [trial for trial in trials if trial.state == TrialState.WAITING]:
            again = RETRY in waiting.user_attrs
            if not again and not self._room(budget, trials, proposal_of(waiting)):
                continue
            begun = self._take(waiting)
            if begun is not None:
                return begun
        with self.reserved(PROPOSAL, trials) as (number, trials):
            if not self._room(budget, trials, number):
                return None
            if grid is None:
                return self._begin({PROPOSAL: number}, {})
            with self.reserved(POINT, trials) as (index, _):
                answers = grid(index)
                return None if answers is None else self._begin({PROPOSAL: number, POINT: index}, answers)

    def _room(self, budget: Budget, trials: Sequence[FrozenTrial], number: int) -> bool:
        others = [trial for trial in trials if proposal_of(trial) != number]
        lower = {proposal_of(trial) for trial in others if proposal_of(trial) < number}
        left = budget.left(others, number - len(lower))
        if left is None:
            raise Later
        return left

    @contextmanager
    def reserved(
        self, what: str = PROPOSAL, trials: list[FrozenTrial] | None = None
    ) -> Iterator[tuple[int, list[FrozenTrial]]]:
        """The lowest number (of a proposal, or of a point) that no trial has and no worker takes, held while the block
        runs; and the trials, read anew under the claim. `trials`: those read just before."""
        elsewhere: set[int] = set()
        trials = self.trials() if trials is None else trials
        while True:
            used = _used(what, trials) | elsewhere
            number = next(number for number in count() if number not in used)
            name = f"{what} {number}"
            if not self._claims.take(name):
                elsewhere.add(number)
                continue
            try:
                trials = self.trials()
                if number not in _used(what, trials):
                    yield number, trials
                    return
            finally:
                self._claims.free(name)

    def _take(self, waiting: FrozenTrial) -> optuna.Trial | None:
        """The waiting trial, running under this worker's name; None when another worker has it.

        Its name is written first: a trial that runs always says whose it is.
        """
        name = f"{PROPOSAL} {proposal_of(waiting)}"
        if not self._claims.take(name):
            return None
        try:
            storage = self._study._storage
            if storage.get_trial(waiting._trial_id).state != TrialState.WAITING:
                return None
            storage.set_trial_user_attr(waiting._trial_id, "worker", self._worker)
            if not storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING):
                return None
        except optuna.exceptions.UpdateFinishedTrialError:
            return None
        finally:
            self._claims.free(name)
        return self._handle(waiting._trial_id)

    def _begin(self, attrs: Mapping[str, int], answers: Mapping[str, ParamValue]) -> optuna.Trial:
        """A running trial with these user attributes, and these answers where there are any.

        The attributes and its worker are stored in the transaction that creates it: a process killed right after leaves
        nothing whose origin is unknown. Queueing and asking would do the same in twice the time.
        """
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            user_attrs={**attrs, "worker": self._worker},
            system_attrs={"fixed_params": dict(answers)} if answers else {},
        )
        return self._handle(self._study._storage.create_new_trial(self._study._study_id, template_trial=template))

    def _handle(self, trial_id: int) -> optuna.Trial:
        self._study._thread_local.cached_all_trials = None  # as Study.ask does: samplers read the history anew
        return optuna.Trial(self._study, trial_id)

    def trials(self) -> list[FrozenTrial]:
        """Every trial as it is stored, by number."""
        return self._study.get_trials(deepcopy=False)


def proposal_of(trial: FrozenTrial) -> int:
    """The number of the proposal that a trial carries out."""
    found: Any = trial.user_attrs.get(PROPOSAL, trial.number)
    return int(found)


def _used(what: str, trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of proposals, or of points, that trials have."""
    if what == PROPOSAL:
        return {proposal_of(trial) for trial in trials}
    return {int(trial.user_attrs[what]) for trial in trials if what in trial.user_attrs}
