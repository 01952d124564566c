"""Owns who is at work on the studies of a storage right now."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import optuna

from genopt.leases import Worker
from genopt.liveness import alive
from genopt.store import Store
from genopt.study.storage import opened


@dataclass(frozen=True, slots=True)
class AtWork:
    """A worker of a study that holds a lease still; `alive` is false where it is over, or the process is gone."""

    study: str
    worker: Worker
    trials: int
    alive: bool


def at_work(url: str, name: str | None = None) -> list[AtWork]:
    """The workers of every study in a storage, or of one, that have not said goodbye. Raises StudyError."""
    found: list[AtWork] = []
    with opened(url, reading=True) as storage, closing(Store(url, reading=True)) as store:
        for study in storage.get_all_studies():
            if name is not None and study.study_name != name:
                continue
            workers = [worker for worker in store.leases.workers(study._study_id) if not worker.closed]
            if not workers:
                continue
            running = storage.get_all_trials(study._study_id, deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
            for worker in workers:
                owned = sum(_owner(trial) == worker.id for trial in running)
                found.append(AtWork(study.study_name, worker, owned, alive(worker)))
    return found


def _owner(trial: optuna.trial.FrozenTrial) -> str | None:
    owner: str | None = trial.user_attrs.get("config", {}).get("worker") or trial.user_attrs.get("worker")
    return owner
