"""Owns one study in Optuna's tables: ask, report, tell, release. Synchronous; use a Study from one thread.

What genopt adds to a trial are two user attributes: `config` (written when asked) and `outcome` (when told).
Texts and per-example scores are never put there.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState

from genopt.database import masked
from genopt.errors import StudyError
from genopt.geometry import Live
from genopt.space import SearchSpace
from genopt.study.draft import Draft
from genopt.study.hgp import distribution
from genopt.study.proxy import open_proxy, same_database
from genopt.study.queue import RETRY, Alone, Budget, Claims, Queue, proposal_of
from genopt.study.samplers import PROPOSAL, SeededSampler, maker
from genopt.study.storage import drop, open_storage
from genopt.types import ParamValue

DESCRIPTION = "genopt:study"
GRADE = "grade: "  # user attribute: a person's grade of a trial, by the scorer's name
STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.PRUNED: "pruned",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A configuration to try: its flat parameters, and what was answered at each open dimension of the space."""

    number: int
    trial_id: int
    proposal: int
    params: Mapping[str, ParamValue]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as it is stored; `said` is what people attached to it in the dashboard while it ran, `again` whether it
    waits to be asked a second time."""

    number: int
    trial_id: int
    state: str
    answers: Mapping[str, Any]
    proposal: int
    worker: str | None
    config: Mapping[str, Any]
    outcome: Mapping[str, Any]
    values: tuple[float, ...] | None
    said: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False


class Study:
    """One study, opened; see `open_study`."""

    def __init__(
        self, study: optuna.Study, space: SearchSpace, *, seed: int, sampler: str, worker: str, live: Live | None
    ) -> None:
        self._study, self._space, self._worker = study, space, worker
        self._study.sampler = SeededSampler(maker(sampler, seed, space, live))
        self._queue = Queue(study, worker, Alone())
        self._grid: int | None = None

    @property
    def id(self) -> int:
        return int(self._study._study_id)

    @property
    def name(self) -> str:
        return self._study.study_name

    def attribute(self, key: str) -> Any:
        """A value kept with the study, or None."""
        return self._study.user_attrs.get(f"genopt:{key}")

    def set_attribute(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study."""
        self._study.set_user_attr(f"genopt:{key}", value)

    def share(self, claims: Claims) -> None:
        """Begin trials beside other workers, which hold claims of the same kind."""
        self._queue = Queue(self._study, self._worker, claims)

    def use_grid(self, points: int) -> None:
        """Propose the points of a full grid, in the space's order, instead of asking the sampler.

        Each new trial takes the first point that no worker has taken.
        """
        self._grid = points

    def enqueue(
        self, answers: Mapping[str, ParamValue], *, proposal: int | None = None, retry_of: int | None = None
    ) -> None:
        """Have these answers asked next; open dimensions that are not answered are left to the sampler."""
        if proposal is None:
            with self._queue.reserved() as (number, _):
                self._enqueue(answers, {PROPOSAL: number})
        else:
            self._enqueue(answers, {PROPOSAL: proposal} | ({} if retry_of is None else {RETRY: retry_of}))

    def _enqueue(self, answers: Mapping[str, ParamValue], attrs: Mapping[str, Any]) -> None:
        self._study.enqueue_trial(dict(answers), user_attrs={**attrs, "worker": self._worker})

    def enter(
        self,
        answers: Mapping[str, ParamValue],
        values: Sequence[float],
        *,
        config: Mapping[str, Any],
        outcome: Mapping[str, Any],
        violations: Mapping[str, float],
    ) -> tuple[int, int]:
        """Add a trial that was measured already, in one transaction; its (number, trial id)."""
        dimensions = self._space.open_dimensions()
        with self._queue.reserved() as (proposal, _):
            trial = optuna.trial.create_trial(
                params=dict(answers),
                distributions={path: distribution(dimensions[path]) for path in answers},
                values=list(values),
                user_attrs={
                    PROPOSAL: proposal,
                    "config": json.loads(json.dumps({**config, "worker": self._worker})),
                    "outcome": dict(outcome),
                },
                constraints={name: min(violation, 1e9) for name, violation in violations.items()} or None,
            )
            trial_id = self._study._storage.create_new_trial(self._study._study_id, template_trial=trial)
        return self._study._storage.get_trial(trial_id).number, trial_id

    def ask(self, key_of: Callable[[Mapping[str, ParamValue]], str], *, budget: Budget | None = None) -> Asked | None:
        """The next configuration, or None when the budget or a grid is exhausted. `key_of` gives the key of flat
        parameters. Raises Later when the budget may have room in a moment.

        Trials that wait in the queue come first, those of other workers too. Beyond the budget nothing new is proposed:
        only what was asked before and not finished is asked again.
        """

        def draw(draft: Draft) -> None:
            draft.params = self._space.sample(lambda path, dimension: draft.answer(path, distribution(dimension)))
            config = {"key": key_of(draft.params), "params": draft.params, "worker": self._worker}
            draft.trial.user_attrs["config"] = json.loads(json.dumps(config))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            draft = self._queue.next(budget or Budget(), self._point if self._grid is not None else None, draw)
        if draft is None:
            return None
        return Asked(draft.trial.number, draft.trial._trial_id, proposal_of(draft.trial), draft.params)

    def _point(self, index: int) -> dict[str, ParamValue] | None:
        """The grid's point number `index`, None beyond its last."""
        return next(islice(self._space.grid(self._grid or 2), index, None), None)

    def report(self, asked: Asked, step: int, value: float) -> None:
        """The running mean after `step` examples, for the dashboard's curves (single objective only)."""
        if math.isfinite(value) and len(self._study.directions) == 1:
            with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):  # others took this worker for dead
                self._study._storage.set_trial_intermediate_value(asked.trial_id, step, value)

    def tell(
        self,
        asked: Asked,
        values: Sequence[float] | None,
        *,
        outcome: Mapping[str, Any],
        violations: Mapping[str, float] | None = None,
    ) -> bool:
        """Finish a trial with its values (None: it failed) and what is to be remembered of it.

        False when it is finished already: others took this worker for dead, or it was told and nobody heard that.

        Optuna's own `tell` reads the whole trial twice more, to hand it to a sampler that learns from what it is told:
        ours are made anew for every proposal.
        """
        told = values is not None and all(math.isfinite(value) for value in values)
        state = TrialState.COMPLETE if told else TrialState.FAIL
        storage = self._study._storage
        try:
            for name, violation in (violations or {}).items():
                storage.set_trial_system_attr(asked.trial_id, f"{_CONSTRAINTS_KEY}:{name}", min(violation, 1e9))
            storage.set_trial_user_attr(asked.trial_id, "outcome", dict(outcome))
            storage.set_trial_state_values(asked.trial_id, state, values if told else None)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return True

    def release(self, number: int, why: str) -> None:
        """Fail a trial that will not be finished and queue its configuration again, under the same proposal number.

        It is queued first: a process killed in between must not lose it. One whose process died while it was drawn is
        drawn anew from the start: what is given is not drawn, so that half of it would make the rest another draw.
        """
        trials = self._frozen()
        record = next((t for t in trials if t.number == number), None)
        if record is None or record.state.is_finished():
            return
        if all(trial.user_attrs.get(RETRY) != number for trial in trials):
            drawn = record.params if "config" in record.user_attrs else {}
            answers = record.system_attrs.get("fixed_params", {}) | drawn
            self.enqueue(answers, proposal=proposal_of(record), retry_of=number)
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._study._storage.set_trial_user_attr(record._trial_id, "outcome", {"why": why})
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def release_all(self, why: str, *, but: Collection[int] = ()) -> None:
        """Release every trial that this worker has begun and not finished, `but` those."""
        for trial in self.trials():
            if trial.state == "running" and trial.worker == self._worker and trial.number not in but:
                self.release(trial.number, why)

    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return [_record(trial) for trial in self._frozen()]

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def close(self) -> None:
        """Drop the database connections; safe to call twice."""
        drop(self._study._storage)


def open_study(
    url: str,
    name: str,
    space: SearchSpace,
    *,
    directions: Sequence[str] = ("maximize",),
    seed: int = 0,
    sampler: str = "tpe",
    worker: str = "",
    live: Live | None = None,
    create: bool = True,
    proxy: str | None = None,
) -> Study:
    """The study of this name, made when it is missing; or, where `create` says no, one to be read. Raises StudyError.

    `live` says what acts in a configuration of flat parameters (see geometry.Geometry), for a sampler that asks. With
    `proxy` (host:port) Optuna's tables are reached through a server that stands before the same database.
    """
    storage = open_proxy(proxy, url) if proxy else open_storage(url, create=create, reading=not create)[0]
    try:
        study = _found(storage, url, name, directions, create=create)
        if proxy:
            same_database(storage, study._study_id, url, proxy)
    except BaseException:
        drop(storage)
        raise
    return Study(study, space, seed=seed, sampler=sampler, worker=worker, live=live)


def _found(storage: BaseStorage, url: str, name: str, directions: Sequence[str], *, create: bool) -> optuna.Study:
    names = optuna.get_all_study_names(storage)
    if name not in names:
        if not create:
            raise StudyError(
                f"storage: {masked(url)} has no study {name!r}",
                hint=f"it has: {', '.join(names)}" if names else "it has no study at all",
            )
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=name,
                directions=[StudyDirection[d.upper()] for d in directions],
                pruner=optuna.pruners.NopPruner(),
            )
        except optuna.exceptions.DuplicatedStudyError:  # another worker was quicker
            study = optuna.load_study(storage=storage, study_name=name, pruner=optuna.pruners.NopPruner())
    else:
        study = optuna.load_study(storage=storage, study_name=name, pruner=optuna.pruners.NopPruner())
        if DESCRIPTION not in study.user_attrs and study.get_trials(deepcopy=False):
            raise StudyError(
                f"storage: the study {name!r} in {masked(url)} was not made by genopt", hint="choose another name"
            )
    return study


def _record(trial: FrozenTrial) -> TrialRecord:
    config = trial.user_attrs.get("config", {})
    return TrialRecord(
        number=trial.number,
        trial_id=trial._trial_id,
        state=STATES[trial.state],
        answers=trial.params,
        proposal=proposal_of(trial),
        worker=config.get("worker") or trial.user_attrs.get("worker"),
        config=config,
        outcome=trial.user_attrs.get("outcome", {}),
        values=tuple(trial.values) if trial.values else None,
        said={name: value for name, value in trial.user_attrs.items() if name.startswith(GRADE)},
        again=trial.state == TrialState.WAITING and RETRY in trial.user_attrs,
    )
