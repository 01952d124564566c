"""Owns how metrics become the number that is searched, raced and claimed. Pure arithmetic.

Every comparison inside genopt is made on the *utility*: the objective with its sign turned so that more is better. With
weights the objectives are one weighted sum; without weights several objectives make a Pareto study, in which each has
a utility of its own and nobody says what one is worth in units of another.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

MEASURED = (
    "completion_tokens",
    "prompt_tokens",
    "seconds",
    "first_token_seconds",
    "tokens_per_second",
    "characters",
    "words",
)
LOWEST, HIGHEST = 0.0, 1.0  # the ends of every scorer's scale
TIMED = ("seconds", "first_token_seconds", "tokens_per_second")  # mean nothing while trials share the engine


@dataclass(frozen=True, slots=True)
class Objective:
    """One metric to maximize or minimize; `weight` joins it with others into one sum."""

    metric: str
    direction: Literal["maximize", "minimize"]
    weight: float | None = None

    @property
    def sign(self) -> int:
        return 1 if self.direction == "maximize" else -1


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound on the mean of a metric, and how sure it must be on the holdout that it holds."""

    metric: str
    at_least: float | None = None
    at_most: float | None = None
    confidence: float = 0.9

    def probability(self, values: ArrayLike, *, groups: Sequence[Hashable] | None = None) -> float:
        """The probability that the bound holds, from the metric on each example (see `fronts.holds`)."""
        ends = None if self.metric in MEASURED else (LOWEST, HIGHEST)
        from genopt.fronts import holds

        return holds(values, at_least=self.at_least, at_most=self.at_most, ends=ends, groups=groups)

    def sides(self) -> tuple[Constraint, ...]:
        """Each of its bounds alone: a mean in the middle of a narrow band lies in it with little probability, too, and
        misses neither end."""
        least, most = replace(self, at_most=None), replace(self, at_least=None)
        return tuple(side for side in (least, most) if side.at_least is not None or side.at_most is not None)

    def violation(self, mean: float) -> float:
        """How far the bound is missed; feasible when <= 0 (Optuna's convention)."""
        if math.isnan(mean):
            return math.inf
        bounds = [self.at_least - mean] if self.at_least is not None else []
        bounds += [mean - self.at_most] if self.at_most is not None else []
        return max(bounds, default=0.0)

    def __str__(self) -> str:
        if self.at_least is None:
            return f"{self.metric} <= {self.at_most:g}"
        if self.at_most is None:
            return f"{self.metric} >= {self.at_least:g}"
        return f"{self.at_least:g} <= {self.metric} <= {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a study is after: objectives and constraints over named metrics."""

    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    @property
    def timed(self) -> bool:
        """True when a time is an objective or bounded."""
        return any(name in TIMED for name in self.metrics())

    @property
    def weighted(self) -> bool:
        return self.objectives[0].weight is not None

    @property
    def several(self) -> bool:
        """True for a Pareto study: more than one objective, none weighted."""
        return len(self.objectives) > 1 and not self.weighted

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of the values that a sampler is told."""
        return tuple(o.direction for o in self.objectives) if self.several else (self._single_direction(),)

    def _single_direction(self) -> str:
        return "maximize" if self.weighted else self.objectives[0].direction

    @property
    def sign(self) -> int:
        """Turns the (first) value a sampler is told into utility and back."""
        return 1 if self._single_direction() == "maximize" else -1

    @property
    def title(self) -> str:
        """The objective as people write it."""
        if not self.weighted:
            return ", ".join(f"{o.direction} {o.metric}" for o in self.objectives)
        terms = [f"{o.sign * (o.weight or 0.0):+g} {o.metric}" for o in self.objectives]
        return "maximize " + " ".join(terms).lstrip("+")

    def metrics(self) -> tuple[str, ...]:
        """Every metric that is needed, each once, objectives first."""
        return tuple(dict.fromkeys([o.metric for o in self.objectives] + [c.metric for c in self.constraints]))

    def minimized(self) -> frozenset[str]:
        """The metrics of which less is better: minimized, or bounded from above alone."""
        return frozenset(
            [o.metric for o in self.objectives if o.sign < 0]
            + [c.metric for c in self.constraints if c.at_least is None]
        ) - {o.metric for o in self.objectives if o.sign > 0}

    def utility(self, metrics: Mapping[str, float]) -> float:
        """The utility of one observation; NaN when one of its metrics is missing (NaN or absent)."""
        if not self.weighted:
            first = self.objectives[0]
            return first.sign * metrics.get(first.metric, math.nan)
        return math.fsum(o.sign * (o.weight or 0.0) * metrics.get(o.metric, math.nan) for o in self.objectives)

    def utilities(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """The utility in each objective of a Pareto study; else the one there is."""
        if not self.several:
            return (self.utility(metrics),)
        return tuple(o.sign * metrics.get(o.metric, math.nan) for o in self.objectives)

    def values(self, utility: float, means: Mapping[str, float]) -> tuple[float, ...]:
        """What the sampler is told, from the mean utility and the mean of every metric."""
        if self.several:
            return tuple(means[o.metric] for o in self.objectives)
        return (self.sign * utility,)

    def violations(self, means: Mapping[str, float]) -> dict[str, float]:
        """Constraint -> how far it is missed (<= 0 is feasible)."""
        return {str(c): c.violation(means.get(c.metric, math.nan)) for c in self.constraints}

    def doubtful(self, chances: Mapping[str, float]) -> dict[str, float]:
        """The constraints whose chance to hold is below the confidence they are asked for."""
        return {str(c): chances[str(c)] for c in self.constraints if chances[str(c)] < c.confidence}


def pareto_front(values: Sequence[Sequence[float]], directions: Sequence[str]) -> list[int]:
    """The indices of the points that no other point beats in one objective without losing in another."""
    from genopt.fronts import front

    signs = [1 if direction == "maximize" else -1 for direction in directions]
    points = [[s * v for s, v in zip(signs, point, strict=True)] for point in values]
    return [place for place, best in enumerate(front(points)) if best] if points else []
