"""Owns reading a study that exists: its trials, its verdict, what it is about. Opens no engine and no data."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genopt.database import SQLITE, masked
from genopt.errors import SpecError, StudyError
from genopt.leases import Spent, Worker
from genopt.liveness import alive, shown
from genopt.objectives import Goal
from genopt.space import SearchSpace
from genopt.spec import ConstraintSpec, ObjectiveSpec, goal_of
from genopt.spec.read import read_study
from genopt.spec.storage import as_written
from genopt.stats import UNBOUNDED
from genopt.store import Store
from genopt.study import TrialRecord, copy_trials, open_study, remove_study

_STUDY = re.compile(r"([\w+]+://(?:[^:/]*:[^@]*@)?[^#]*)#(.+)")  # a # in the password ends nothing

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Archive:
    """A study as it is stored."""

    url: str
    name: str
    description: Mapping[str, Any]
    sampler: Sequence[str]
    baseline: Mapping[str, Any]
    verdict: Mapping[str, Any] | None
    trials: Sequence[TrialRecord]
    spent: Spent
    workers: Sequence[Worker]
    id: int = 0
    spec: Mapping[str, Any] = field(default_factory=dict)
    taken_up: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """config_key -> what a trial that was stopped early was worth once it had seen all examples as a finalist."""

    @property
    def goal(self) -> Goal:
        """What the study is after. Raises StudyError for a study that was begun before this was kept."""
        if not self.spec:
            raise StudyError(
                f"storage: the study {self.name!r} was begun by an older genopt, which did not keep its study file",
                hint="go on in a new study that reuses its generations: --fork NEW_NAME",
            )
        return goal_of(
            [ObjectiveSpec.model_validate(each) for each in self.spec.get("objectives", ())],
            [ConstraintSpec.model_validate(each) for each in self.spec.get("constraints", ())],
            list(self.spec["scorers"]),
        )

    def rows(self) -> list[dict[str, Any]]:
        """One plain record per trial (and one for a baseline outside the space, number null), as `trials --jsonl`. What
        nobody can tell, as the standard error of one score, is null."""
        found = [
            {
                "number": trial.number,
                "state": trial.state,
                "stopped_early": bool(outcome.get("stopped_early")),
                "params": trial.config.get("params", {}),
                "config_key": trial.config.get("key"),
                "n": outcome.get("n", 0),
                "mean": outcome.get("mean"),
                "se": _known(outcome.get("se")),
                "value": trial.values[0] if trial.values else None,
                "duplicate_of": outcome.get("duplicate_of"),
                "eligible": bool(outcome.get("eligible", True)),
                "baseline": bool(outcome.get("baseline")),
                "why": outcome.get("why", ""),
            }
            for trial in self.trials
            for outcome in [{**trial.outcome, **self._taken_up(trial)}]
        ]
        if self.baseline and self.baseline.get("number") is None:
            outside = dict.fromkeys(("number", "mean", "se", "value", "duplicate_of"), None)
            found.insert(
                0,
                {
                    **outside,
                    "state": "complete",
                    "stopped_early": False,
                    "params": self.baseline.get("params", {}),
                    "config_key": self.baseline.get("key"),
                    "n": self.baseline.get("n", 0),
                    "mean": self.baseline.get("mean"),
                    "se": _known(self.baseline.get("se")),
                    "eligible": bool(self.baseline.get("eligible", True)),
                    "baseline": True,
                    "why": "",
                },
            )
        return found

    def _taken_up(self, trial: TrialRecord) -> Mapping[str, Any]:
        return self.taken_up.get(str(trial.config.get("key")), {}) if trial.state == "complete" else {}

    def observations(self) -> pandas.DataFrame:
        """Every text of the study with its scores, as genopt.observations describes it."""
        from genopt.observations import read

        return read(self.url, self.id, goal=self.goal, description=self.description, roles=self.roles())

    def roles(self) -> dict[str, tuple[int | None, str]]:
        """config_key -> the number of the trial that measured it (None: a baseline outside the space), and "baseline",
        "winner" (what the holdout was asked about, improved or not) or "trial"."""
        found: dict[str, tuple[int | None, str]] = {}
        rows = sorted(self.rows(), key=lambda row: (row["state"] != "complete", row["number"] or 0))
        for row in rows:
            if row["config_key"] is not None and row["duplicate_of"] is None:
                found.setdefault(row["config_key"], (row["number"], "trial"))
        trial = self.verdict["trial"] if self.verdict else None
        winner = next((row["config_key"] for row in rows if trial is not None and row["number"] == trial), None)
        for key, role in ((winner, "winner"), (self.baseline.get("key"), "baseline")):
            if key in found:
                found[key] = (found[key][0], role)
        return found

    def tried(self) -> dict[str, str]:
        """Held-out example -> the config_key of what answered it for the winner; empty without a verdict on any."""
        if not self.verdict or not self.verdict["holdout_examples"]:
            return {}
        folds = self.verdict.get("folds") or ()
        return {example: fold["key"] for fold in folds for example in fold["examples"]}

    def to_pandas(self) -> pandas.DataFrame:
        """The trials as a table, one column per parameter (`params.temperature`, ...)."""
        import pandas

        return pandas.json_normalize(self.rows(), max_level=1)


def _known(se: float | None) -> float | None:
    return None if se is None or se >= UNBOUNDED else se


def as_url(where: str) -> str:
    """`where` with an SQLite file's URL in the place of its path; anything else as it is."""
    path, mark, name = where.partition("#")
    with contextlib.suppress(OSError, ValueError), open(path, "rb") as file:
        if file.read(16) == SQLITE:
            return f"sqlite:///{as_written(path)}{mark}{name}"
    return where


def locate(where: str) -> tuple[str, str]:
    """The storage URL and the name behind STUDY: a study file, or storage-URL#name. Raises SpecError.

    GENOPT_STORAGE stands in the place of a file's storage, as it does for `optimize`."""
    where = as_url(where)
    if "://" in where:
        found = _STUDY.fullmatch(where)
        if found is None:
            raise SpecError(f"{masked(where.rstrip('#'))}: names a storage but no study. Write storage-URL#name")
        return found[1], found[2]
    spec = read_study(Path(where), allow_outside=True)  # only its name and storage are wanted
    return os.environ.get("GENOPT_STORAGE") or spec.url, spec.name


def load(where: str) -> Archive:
    """The study behind STUDY (a study file, or storage-URL#name). Raises SpecError or StudyError."""
    url, name = locate(where)
    study = open_study(url, name, SearchSpace({}), create=False)
    description = study.attribute("study")
    if description is None:
        raise StudyError(f"storage: the study {name!r} in {masked(url)} was not made by genopt")
    store = Store(url, reading=True)
    try:
        return Archive(
            url=url,
            name=name,
            description=description,
            sampler=study.attribute("sampler") or [],
            baseline=study.attribute("baseline") or {},
            verdict=study.attribute("verdict"),
            trials=study.trials(),
            spent=store.spent(study.id),
            workers=store.leases.workers(study.id),
            id=study.id,
            spec=study.attribute("spec") or {},
            taken_up=study.attribute("taken_up") or {},
        )
    finally:
        store.close()
        study.close()


def clone(where: str, name: str) -> tuple[int, int]:
    """Copy a study under a new name in its storage; how many trials and generations were copied. Raises StudyError."""
    if not name.strip():
        raise SpecError("NAME: is empty. Give the copy a name")
    archive = load(where)
    source = open_study(archive.url, archive.name, SearchSpace({}), create=False)
    target_id = copy_trials(archive.url, archive.name, name)
    store = Store(archive.url)
    try:
        digests = store.example_digests(source.id)
        copied = store.copy(source.id, target_id, digests)
        store.copy_examples(source.id, target_id)
        copies = {trial.number: trial.trial_id for trial in load(f"{archive.url}#{name}").trials}
        store.copy_trial_rows(source.id, target_id, {t.trial_id: copies[t.number] for t in archive.trials})
    finally:
        store.close()
        source.close()
    return len(archive.trials), copied


def refuse_at_work(archive: Archive) -> None:
    """Raise StudyError while somebody works on the study."""
    working = [worker for worker in archive.workers if alive(worker)]
    if working:
        who = ", ".join(shown(worker) for worker in working)
        raise StudyError(
            f"storage: the study {archive.name!r} is being worked on by {who}",
            hint="end it there first (Ctrl-C), or wait until its lease is over if it was killed: genopt studies --live",
        )


def delete(archive: Archive) -> None:
    """Delete a study with everything it generated. Raises StudyError, also while somebody works on it."""
    refuse_at_work(archive)
    study = open_study(archive.url, archive.name, SearchSpace({}), create=False)
    store = Store(archive.url)
    try:
        store.delete(study.id, [trial.trial_id for trial in archive.trials])
    finally:
        store.close()
        study.close()
    remove_study(archive.url, archive.name)
