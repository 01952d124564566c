"""Owns the record of every number of a report: the page, the Markdown and the JSON are made of it.

A gain is a configuration's utility minus the baseline's on the same examples: > 0 is better, in units of the objective.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from genopt.report.importance import Importance, Interaction
from genopt.stats import UNBOUNDED, PairedResult


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; NaN and unbounded where the data cannot tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration as it was measured on the tune split; equal ones are one.

    `score` is the mean of the objective, `gain` is paired with the baseline. It is no worse than the baseline on `good`
    of `units` examples (or groups, where the data have them).
    """

    key: str
    number: int | None
    role: str
    params: Mapping[str, Any]
    stopped_early: bool
    eligible: bool
    why: str
    score: float
    gain: Estimate
    examples: int
    units: int
    good: int
    better: int
    values: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A metric on the holdout: both means, and the paired difference with its interval (more may be worse)."""

    name: str
    baseline: float
    winner: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Winner against baseline on the holdout; `pairs` are (example, baseline, winner) in utility, the worst first."""

    baseline: float
    winner: float
    result: PairedResult
    metrics: tuple[Change, ...]
    pairs: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What the study took. `saved` generations were not made because racing stopped trials, `known` because a trial
    equalled another one, `harvested` because they are cuts of generated ones (`saved_tokens` in all). `calls_failed`
    times the engine was asked and made none."""

    trials: int
    configurations: int
    stopped: int
    duplicates: int
    failed: int
    search_generations: int
    confirm_generations: int
    tokens: int
    hours: float
    saved: int
    known: int
    harvested: int = 0
    saved_tokens: int = 0
    calls_failed: int = 0


@dataclass(frozen=True, slots=True)
class ScorerFacts:
    """A scorer as the study file has it, and on the baseline's texts: mean, spread, how many could not be scored."""

    name: str
    options: Mapping[str, Any]
    mean: float
    sd: float
    scored: int
    unscored: int


@dataclass(frozen=True)
class Facts:
    """A study in numbers. `verdict` is the stored one, or null fields before there is one."""

    name: str
    objective: str
    directions: tuple[str, ...]
    metrics: tuple[str, ...]
    sentence: str
    verdict: Mapping[str, Any] | None
    baseline: float
    settings: tuple[Setting, ...]
    held_out: HeldOut | None
    importances: tuple[Importance, ...]
    interaction: Interaction | None
    front: tuple[str, ...]
    cost: Cost
    scorers: tuple[ScorerFacts, ...]
    finishes: Mapping[str, Mapping[str, int]]
    examples: Mapping[str, int]
    groups: Mapping[str, int]
    sampler: tuple[str, ...]
    description: Mapping[str, Any]
    spec: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what the data cannot tell is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def setting(self, role: str) -> Setting | None:
        """The baseline or the winner."""
        return next((setting for setting in self.settings if setting.role == role), None)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < UNBOUNDED:
        return None
    return value
