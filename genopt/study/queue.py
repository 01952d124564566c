"""Owns which trial is begun next, and that no two workers begin the same: proposals are taken one by one, by claims.

A trial keeps the number of its proposal, and is asked again under it: it then gets the values it had. Whoever begins a
proposal holds a claim on its number until the trial that carries it is stored under the worker's own name, and looks,
after claiming, whether that has happened already.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from genopt.database import passing
from genopt.study.draft import Draft
from genopt.study.samplers import PROPOSAL
from genopt.study.storage import create
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
        self._read: list[FrozenTrial] = []  # the trials as last known, to guess by which number is free

    def next(
        self,
        budget: Budget,
        grid: Callable[[int], Mapping[str, ParamValue] | None] | None,
        draw: Callable[[Draft], None],
    ) -> Draft | None:
        """A running trial, stored as `draw` has it answered: one that waits, else a new one, with the answers of the
        grid's next point where there is a grid (`grid` gives them by index). None when the budget or the grid has no
        more. Raises Later."""
        with self.reserved(PROPOSAL) as (number, trials):
            for waiting in [trial for trial in trials if trial.state == TrialState.WAITING]:
                again = RETRY in waiting.user_attrs
                if not again and not self._room(budget, trials, proposal_of(waiting)):
                    continue
                if self._take(waiting):
                    return self._drawn(waiting, trials, draw)
            if not self._room(budget, trials, number):
                return None
            if grid is None:
                return self._begin({PROPOSAL: number}, {}, trials, draw)
            with self.reserved(POINT, trials) as (index, trials):
                answers = grid(index)
                if answers is None:
                    return None
                return self._begin({PROPOSAL: number, POINT: index}, answers, trials, draw)

    def _room(self, budget: Budget, trials: Sequence[FrozenTrial], number: int) -> bool:
        others = [trial for trial in trials if proposal_of(trial) != number and not _after(trial, number)]
        lower = {proposal_of(trial) for trial in others if proposal_of(trial) < number}
        left = budget.left(others, number - len(lower))
        if left is None:
            raise Later
        return left

    @contextmanager
    def reserved(
        self, what: str = PROPOSAL, trials: Sequence[FrozenTrial] | None = None
    ) -> Iterator[tuple[int, list[FrozenTrial]]]:
        """The lowest number (of a proposal, or of a point) that no trial has and no worker takes, held while the block
        runs; and the trials, read under the claim. `trials`: some that are known already, to begin looking with."""
        elsewhere: set[int] = set()
        known = self._read if trials is None else trials
        while True:
            used = _used(what, known) | elsewhere
            number = next(number for number in count() if number not in used)
            name = f"{what} {number}"
            if not self._claims.take(name):
                elsewhere.add(number)
                continue
            try:
                known = found = self.trials()
                if number not in _used(what, found):
                    yield number, found
                    return
            finally:
                self._claims.free(name)

    def _take(self, waiting: FrozenTrial) -> bool:
        """Whether the waiting trial runs now, under this worker's name; another worker may have it.

        Its name is written first: a trial that runs always says whose it is.
        """
        name = f"{PROPOSAL} {proposal_of(waiting)}"
        if not self._claims.take(name):
            return False
        try:
            storage = self._study._storage
            if storage.get_trial(waiting._trial_id).state != TrialState.WAITING:
                return False
            storage.set_trial_user_attr(waiting._trial_id, "worker", self._worker)
            return storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        finally:
            self._claims.free(name)

    def _drawn(self, begun: FrozenTrial, trials: Sequence[FrozenTrial], draw: Callable[[Draft], None]) -> Draft:
        """A trial that runs already, answered."""
        storage, trial_id = self._study._storage, begun._trial_id
        draft = Draft(self._study, copy.deepcopy(begun), trials)
        try:
            draw(draft)
            for path, value in draft.trial.params.items():
                distribution = draft.trial.distributions[path]
                storage.set_trial_param(trial_id, path, distribution.to_internal_repr(value), distribution)
            for key, kept in draft.attributes.items():
                storage.set_trial_system_attr(trial_id, key, kept)
            storage.set_trial_user_attr(trial_id, "config", draft.trial.user_attrs["config"])
        except Exception as error:
            if not passing(error):
                self._study.tell(begun.number, state=TrialState.FAIL)
            raise
        return draft

    def _begin(
        self,
        attrs: Mapping[str, int],
        answers: Mapping[str, ParamValue],
        trials: Sequence[FrozenTrial],
        draw: Callable[[Draft], None],
    ) -> Draft:
        """A running trial with these user attributes, and these answers where there are any, the others drawn.

        All of it is stored in the transaction that creates it: a process killed before leaves nothing, one killed right
        after nothing whose origin is unknown. Queueing and asking would do the same in three times the time.
        """
        fixed = {"fixed_params": dict(answers)} if answers else {}
        own = {**attrs, "worker": self._worker}
        trial = optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=own, system_attrs=fixed)
        trial.number = len(trials)
        draft = Draft(self._study, trial, trials)
        draw(draft)
        trial.system_attrs = {**trial.system_attrs, **draft.attributes}
        trial.number, trial._trial_id = create(self._study, trial)
        self._read = [*trials, trial]
        return draft

    def trials(self) -> list[FrozenTrial]:
        """Every trial as it is stored, by number."""
        self._read = self._study.get_trials(deepcopy=False)
        return self._read


def proposal_of(trial: FrozenTrial) -> int:
    """The number of the proposal that a trial carries out."""
    found: Any = trial.user_attrs.get(PROPOSAL, trial.number)
    return int(found)


def _after(trial: FrozenTrial, number: int) -> bool:
    """Whether a trial has not begun and gives way to the proposal of this number: it counts that one, and not the other
    way round, else they wait for each other."""
    waiting = trial.state == TrialState.WAITING and RETRY not in trial.user_attrs
    return waiting and proposal_of(trial) > number


def _used(what: str, trials: Sequence[FrozenTrial]) -> set[int]:
    """The numbers of proposals, or of points, that trials have."""
    if what == PROPOSAL:
        return {proposal_of(trial) for trial in trials}
    return {int(trial.user_attrs[what]) for trial in trials if what in trial.user_attrs}
