"""Owns what a study is: the tables of the study file as frozen models. Reads no file (see read.py), opens nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from genopt.objectives import MEASURED, Constraint, Goal, Objective
from genopt.spec._base import Table, TextFile
from genopt.spec.answer import AnswerSpec
from genopt.spec.backend import Engines, EngineSpec
from genopt.spec.confirm import AuditSpec, ConfirmSpec
from genopt.spec.dimensions import SpaceSpec, Value
from genopt.spec.mistakes import Whole
from genopt.spec.output import OutputSpec
from genopt.spec.scorers import ScorerSpec
from genopt.spec.storage import as_written, sqlite_file

__all__ = [
    "AnswerSpec",
    "AuditSpec",
    "BackendSpec",
    "BudgetSpec",
    "ConfirmSpec",
    "ConstraintSpec",
    "DatasetSpec",
    "EngineSpec",
    "ObjectiveSpec",
    "OutputSpec",
    "PromptSpec",
    "SearchSpec",
    "StudySpec",
    "TextFile",
]


class DatasetSpec(Table):
    """The user's data: a file (JSONL, JSON, CSV, TSV, Parquet), a hub data set id, or rows."""

    path: str | None = None
    """File, from the study file's folder, or a hub id like "owner/name"."""
    rows: list[dict[str, Any]] | None = None
    """The rows themselves, from Python."""
    format: Literal["jsonl", "json", "csv", "tsv", "parquet", "hub"] | None = None
    """Only when the suffix does not tell."""
    split: str | None = None
    """Split of a hub data set."""
    reference: str | None = None
    """Key of the acceptable answers: one text or a list."""
    id: str | None = None
    """Key that names a row."""
    group: str | None = None
    """Key of rows that belong together (documents): they stay on one side of the split."""
    images: str | None = None
    """Key of the images shown with a row: one path from the data file's folder, or a list."""
    map: dict[str, str] = {}
    """New name -> name in the file."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only so many rows."""
    shuffle: bool = False
    """Shuffle (seeded) before the limit."""
    holdout: Annotated[float, Field(gt=0, lt=1)] | Literal["auto", "cross-fitting"] = "auto"
    """Fraction of rows the search never sees; the claim is made on them. auto: 0.3, but cross-fitting below 60
    independent rows with one objective: all are searched on, a choice is tried on rows after those it was made by."""

    @property
    def fraction(self) -> float:
        """What is held out where anything is."""
        return self.holdout if isinstance(self.holdout, float) else 0.3

    @model_validator(mode="after")
    def _one_source(self) -> DatasetSpec:
        if (self.path is None) == (self.rows is None):
            raise ValueError("needs path (a file or a hub id), or rows from Python. Give exactly one of them")
        return self


class PromptSpec(Table):
    """Jinja2 templates over the row's fields and the prompt variables of [space]."""

    system: str | TextFile | None = None
    """System prompt."""
    user: str | TextFile | None = None
    """User prompt."""
    messages: list[dict[str, str]] | None = None
    """A whole conversation of {role, content}, instead of system and user."""
    shots: Annotated[int, Field(ge=0)] = 0
    """Few-shot examples drawn from the tune split (search it with [space] shots)."""

    @model_validator(mode="after")
    def _one_form(self) -> PromptSpec:
        if self.messages is not None and self.user is not None:
            raise ValueError("user and messages exclude each other. Keep one of them")
        return self


class BackendSpec(Engines):
    """The engine that generates."""

    kind: str = "transformers"
    """ollama, vllm, openai, transformers, ray (one of these in many places), or your own "module:Class"."""
    model: str
    """The model's name in the server, or a folder (from the study file's folder) or hub id."""


class ObjectiveSpec(Table):
    """One metric to maximize or minimize: a scorer's name or a measured quantity. Several without weights: a front."""

    maximize: str | None = None
    """Metric to raise."""
    minimize: str | None = None
    """Metric to lower."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Weights turn several objectives into one sum; give all of them one, or none."""

    @model_validator(mode="after")
    def _one_direction(self) -> ObjectiveSpec:
        if (self.maximize is None) == (self.minimize is None):
            raise ValueError("needs exactly one of maximize and minimize")
        return self

    def build(self) -> Objective:
        if self.maximize is not None:
            return Objective(self.maximize, "maximize", self.weight)
        return Objective(str(self.minimize), "minimize", self.weight)


class ConstraintSpec(Table):
    """A bound on the mean of a metric, which a winner has to meet on the holdout."""

    metric: str
    """Scorer's name or measured quantity."""
    at_least: float | None = None
    """Lower bound."""
    at_most: float | None = None
    """Upper bound."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """How sure it must be on the holdout that the bound holds, for a winner to be claimed."""

    @model_validator(mode="after")
    def _bounded(self) -> ConstraintSpec:
        if self.at_least is None and self.at_most is None:
            raise ValueError("needs at_least, at_most or both")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"at_least ({self.at_least}) is above at_most ({self.at_most}): nothing meets both. Swap them"
            )
        return self


class StopSpec(Table):
    """When a search has done enough, before its budget is spent."""

    gain_below: Annotated[float, Field(gt=0)]
    """The gain (in units of the objective) that is not worth going on for: the search ends when going on is expected to
    bring less, or when the gain that is still likely could not be shown on this many held-out examples."""


class SearchSpec(Table):
    """How the space is searched."""

    sampler: Literal["auto", "hgp", "tpe", "gp", "random", "grid", "nsga2"] = "auto"
    """Who proposes; auto chooses by the space and the budget and records its choice. hgp is genopt's own Gaussian
    process: it weighs each value by how sure it is and sees inside switches. tpe, gp and nsga2 are Optuna's."""
    pruner: Literal["paired", "median", "none"] = "paired"
    """How bad trials are stopped early. paired: by what each is worth on the examples that others saw, too; of several
    objectives in all of them at once, and what surely misses a constraint. median: one objective alone."""
    trials_in_flight: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = "auto"
    """Trials that share the engine at once; auto = 4, and more while the engine has free slots."""
    repeats: Annotated[int, Field(ge=1, le=64)] = 1
    """Samples of each example in one observation."""
    grid_points: Annotated[int, Field(ge=2)] = 4
    """Values per number in a grid."""
    finalists: Annotated[int, Field(ge=1)] = 4
    """How many of those that may be best are measured further at once before one is chosen."""
    front: Annotated[int, Field(ge=2)] = 6
    """Of several objectives without weights: how many configurations of the front are measured on the holdout."""
    replicates: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Fresh measurements (finalists and the baseline, so many times over) that choosing may take; auto = 1 where trials
    are the budget, else a third of what generations, tokens or hours allow."""
    confirm_repeats: Annotated[int, Field(ge=1)] = 1
    """Observations of each holdout example for winner and baseline."""
    stop_when: StopSpec | None = None
    """End before the budget does: { gain_below = 0.005 }."""
    warm_start: Literal["auto", False] | str = "auto"
    """Begin with the best settings of earlier studies in the storage on the same model and with what the model itself
    recommends; false begins with nothing known, a study's name with that study's alone."""
    start: list[str | dict[str, Value]] = []
    """Tried first: names of presets (see genopt params) or tables of settings, fitted into the space."""


class BudgetSpec(Table):
    """Whichever runs out first ends the search; what the verdict needs is kept back from it."""

    trials: Annotated[int, Field(ge=1)] | None = None
    """Different configurations (default 60 when no budget is named)."""
    generations: Annotated[int, Field(ge=1)] | None = None
    """Texts generated, verdict included; and calls of the engine that failed, and made none."""
    tokens: Annotated[int, Field(ge=1)] | None = None
    """Tokens read and written, verdict included."""
    hours: Annotated[float, Field(gt=0)] | None = None
    """Time in which anybody works on the study, verdict included: eight workers for two hours are two hours."""


class StudySpec(Whole):
    """One study: what to optimise, on which data, by which score, within which budget."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "study"
    """Name in the storage (default: the file's name)."""
    storage: str | None = None
    """SQLAlchemy URL (default: SQLite beside the study file)."""
    storage_proxy: Annotated[str, Field(pattern=r"^[^/@\s]+:\d{1,5}$")] | None = None
    """host:port of a `genopt studies proxy` before that storage, for workers in the hundreds."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seeds everything."""
    dataset: DatasetSpec
    """The data."""
    prompt: PromptSpec = PromptSpec()
    """The prompt."""
    output: OutputSpec | None = None
    """What every answer is kept to (default: anything goes)."""
    answer: AnswerSpec | None = None
    """Several samples that become one answer (default: each sample is one)."""
    backend: BackendSpec
    """The engine."""
    space: SpaceSpec = {}
    """What to search (default: the backend's recommended ranges)."""
    baseline: dict[str, Value] = {}
    """What you run today (default: the model's own settings)."""
    scorers: Annotated[dict[str, ScorerSpec], Field(min_length=1)]
    """Scorers by the name of their metric."""
    objectives: list[ObjectiveSpec] = []
    """What to maximize or minimize (default: the only scorer)."""
    constraints: list[ConstraintSpec] = []
    """What must hold."""
    search: SearchSpec = SearchSpec()
    """How to search."""
    confirm: ConfirmSpec = ConfirmSpec()
    """What else is asked about the winner."""
    audit: AuditSpec | None = None
    """A second judge, for the holdout alone."""
    budget: BudgetSpec = BudgetSpec()
    """When to stop."""

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _source: str = PrivateAttr(default="StudySpec")
    _within: Path | None = PrivateAttr(default=None)

    @field_validator("scorers", mode="before")
    @classmethod
    def _callables(cls, scorers: Any) -> Any:
        if not isinstance(scorers, dict):
            return scorers
        return {n: {"kind": "function", "function": s} if callable(s) else s for n, s in scorers.items()}

    @field_validator("objectives")
    @classmethod
    def _each_once(cls, objectives: list[ObjectiveSpec]) -> list[ObjectiveSpec]:
        named = [objective.maximize or objective.minimize for objective in objectives]
        if twice := sorted({str(name) for name in named if named.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is named more than once. Keep one of them")
        return objectives

    @property
    def folder(self) -> Path:
        """Where relative paths start: the study file's folder."""
        return self._folder

    @property
    def within(self) -> Path | None:
        """The folder that images must not leave: of a study that was read from a file; None where anything goes."""
        return self._within

    @property
    def source(self) -> str:
        """The study file's name for messages."""
        return self._source

    @property
    def url(self) -> str:
        """The storage's URL, a relative SQLite path resolved against the study file's folder."""
        url = self.storage or f"sqlite:///{as_written(self.name)}.db"
        before, path, after = sqlite_file(url) or ("", "", "")
        if path and not path.startswith("/"):
            return f"{before}{as_written(str((self.folder / path).resolve()))}{after}"
        return url

    def portable(self) -> dict[str, Any]:
        """The study as plain JSON without what is private or elsewhere: no storage URL, no rows, no callables."""
        private: Any = {"storage": True, "storage_proxy": True, "dataset": {"rows"}}
        kept = self.model_dump(by_alias=True, exclude=private, exclude_unset=True)
        plain: dict[str, Any] = json.loads(
            json.dumps(kept, default=lambda value: getattr(value, "__name__", str(value)))
        )
        return plain

    def goal(self) -> Goal:
        """The objectives and constraints; the only scorer is maximized when no objective is named."""
        return goal_of(self.objectives, self.constraints, list(self.scorers))

    def known_metrics(self) -> tuple[str, ...]:
        """What objectives and constraints may name."""
        return (*self.scorers, *MEASURED)


def goal_of(objectives: Sequence[ObjectiveSpec], constraints: Sequence[ConstraintSpec], scorers: Sequence[str]) -> Goal:
    """What is aimed at; the only scorer is maximized when no objective is named."""
    built = tuple(objective.build() for objective in objectives)
    if not built and len(scorers) == 1:
        built = (Objective(scorers[0], "maximize"),)
    bounds = tuple(Constraint(c.metric, c.at_least, c.at_most, c.confidence) for c in constraints)
    return Goal(built, bounds)
