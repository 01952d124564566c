"""Owns the studies of a storage as a whole: listing, copying, removing. Knows nothing of what is inside one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import optuna

from genopt.database import masked
from genopt.errors import StudyError
from genopt.space import SearchSpace
from genopt.study.storage import opened
from genopt.study.study import DESCRIPTION, Study


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One line about a study in a storage."""

    name: str
    trials: int
    verdict: str | None
    ours: bool


def list_studies(url: str) -> list[StudySummary]:
    """Every study in a storage. Raises StudyError when it cannot be read."""
    with opened(url, reading=True) as storage:
        summaries = optuna.get_all_study_summaries(storage)
    return [
        StudySummary(
            study.study_name,
            study.n_trials,
            (study.user_attrs.get("genopt:verdict") or {}).get("verdict"),
            DESCRIPTION in study.user_attrs,
        )
        for study in summaries
    ]


def read_studies(url: str, names: Iterable[str]) -> Iterator[Study]:
    """These studies of a storage, to be read one after the other. Raises StudyError."""
    with opened(url, reading=True) as storage:
        for name in names:
            study = optuna.load_study(storage=storage, study_name=name)
            yield Study(study, SearchSpace({}), seed=0, sampler="random", worker="", live=None)


def copy_trials(url: str, source: str, target: str) -> int:
    """Copy a study's trials and attributes to a new name; the id of the copy. Raises StudyError."""
    with opened(url) as storage:
        try:
            optuna.copy_study(from_study_name=source, from_storage=storage, to_storage=storage, to_study_name=target)
        except optuna.exceptions.DuplicatedStudyError:
            raise StudyError(
                f"storage: {masked(url)} has a study {target!r} already", hint="choose another name"
            ) from None
        return int(storage.get_study_id_from_name(target))


def remove_study(url: str, name: str) -> None:
    """Delete a study from Optuna's tables. Raises StudyError when there is none."""
    with opened(url) as storage:
        try:
            optuna.delete_study(study_name=name, storage=storage)
        except KeyError:
            raise StudyError(f"storage: {masked(url)} has no study {name!r}") from None
