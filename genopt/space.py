"""Owns the search space: what can be drawn from it, where a configuration lies in it, its grid. Knows no Optuna, no
backend, no file, and not which configurations are the same (see canonical).

A dimension that lies inside a branch of a switch is named by its path (`decoding.nucleus.temperature`), so that each
branch may give the same parameter another range; the parameters a trial ends up with are flat (`temperature`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from genopt.types import Domain, Params, ParamValue


@dataclass(frozen=True, slots=True)
class Number:
    """A numeric dimension on [low, high]; `integer` says whether its values are whole numbers."""

    low: float
    high: float
    integer: bool = False
    log: bool = False
    step: float | None = None

    def contains(self, value: Any) -> bool:
        """True when a search could propose this very value."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        if self.step is not None:
            steps = (value - self.low) / self.step
            return math.isclose(steps, round(steps), abs_tol=1e-9)
        return not self.integer or float(value).is_integer()

    def points(self, count: int) -> list[float]:
        """At most `count` values from low to high, evenly spaced (in the logarithm for a log dimension)."""
        if self.step is not None or self.integer:
            step = self.step or 1
            total = self._steps() + 1
            if total <= count:
                return [self._typed(self.low + i * step) for i in range(total)]
        fractions = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
        if self.log:
            raw = [math.exp(math.log(self.low) + f * (math.log(self.high) - math.log(self.low))) for f in fractions]
        else:
            raw = [self.low + f * (self.high - self.low) for f in fractions]
        if self.step is not None:
            raw = [self.low + round((value - self.low) / self.step) * self.step for value in raw]
        return list(dict.fromkeys(self._typed(min(max(value, self.low), self.high)) for value in raw))

    def nearest(self, value: Any) -> float:
        """The value nearest to this one that a search could propose; the lowest for what is no number."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            return self._typed(self.low)
        inside = min(max(value, self.low), self.high)
        if self.step is not None:
            inside = self.low + min(round((inside - self.low) / self.step), self._steps()) * self.step
        return self._typed(inside)

    def at(self, fraction: float) -> float:
        """The value at a fraction in [0, 1] of the way up (in the logarithm for a log dimension); where values are
        counted, each has the same share of the way."""
        if self.log:
            half = 0.5 if self.integer else 0.0
            low, high = math.log(self.low - half), math.log(self.high + half)
            return self.nearest(math.exp(low + fraction * (high - low)))
        if self.step is not None or self.integer:
            return self._typed(self.low + min(int(fraction * (self._steps() + 1)), self._steps()) * (self.step or 1))
        return self._typed(self.low + fraction * (self.high - self.low))

    def fraction(self, value: float) -> float:
        """How far up a value lies, in [0, 1]."""
        if self.high <= self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def _steps(self) -> int:
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9)

    def _typed(self, value: float) -> float:
        return round(value) if self.integer else float(f"{value:.12g}")


@dataclass(frozen=True, slots=True)
class Choice:
    """A categorical dimension; `labels` are the short names under which Optuna stores the values."""

    values: tuple[ParamValue, ...]
    labels: tuple[ParamValue, ...]

    @classmethod
    def of(cls, values: Sequence[ParamValue], labels: Sequence[str] | None = None) -> Choice:
        """A choice whose labels are the values themselves where those are short scalars, else a digest."""
        return cls(tuple(values), tuple(labels) if labels else tuple(_label(value) for value in values))

    def value_of(self, label: Any) -> ParamValue:
        """The value behind a label; KeyError when the label is unknown."""
        for known, value in zip(self.labels, self.values, strict=True):
            if known == label and type(known) is type(label):
                return value
        raise KeyError(label)

    def nearest(self, value: ParamValue) -> ParamValue:
        """The label of this value, or of the number nearest to it; else the first label."""
        same = [i for i, known in enumerate(self.values) if known == value]  # 1 == True, but 1.0 may stand for 1
        if same:
            return self.labels[next((i for i in same if type(self.values[i]) is type(value)), same[0])]
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            numbers = [(abs(v - value), i) for i, v in enumerate(self.values) if isinstance(v, (int, float))]
            if numbers:
                return self.labels[min(numbers)[1]]
        return self.labels[0]


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter fixed for the whole study."""

    value: ParamValue


@dataclass(frozen=True, slots=True)
class Switch:
    """A choice between branches, each with parameters of its own."""

    branches: Mapping[str, Mapping[str, Dimension]]


Dimension = Number | Choice | Constant | Switch
Suggest = Callable[[str, Number | Choice], Any]


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions by name, in the order of the study file."""

    dimensions: Mapping[str, Dimension]

    def sample(self, suggest: Suggest) -> dict[str, ParamValue]:
        """The flat parameters of one configuration, asking `suggest(path, dimension)` for each open dimension.

        A number comes back as itself, a choice as one of its labels. A switch contributes its own name (the branch)
        and the parameters of the branch taken.
        """
        return self._sample(self.dimensions, "", suggest)

    def _sample(self, dimensions: Mapping[str, Dimension], prefix: str, suggest: Suggest) -> dict[str, ParamValue]:
        params: dict[str, ParamValue] = {}
        for name, dimension in dimensions.items():
            match dimension:
                case Constant(value):
                    params[name] = value
                case Switch(branches):
                    branch = suggest(prefix + name, Choice.of(tuple(branches)))
                    params[name] = branch
                    params |= self._sample(branches[branch], f"{prefix}{name}.{branch}.", suggest)
                case Choice():
                    params[name] = dimension.value_of(suggest(prefix + name, dimension))
                case Number():
                    params[name] = suggest(prefix + name, dimension)
        return params

    def locate(self, params: Params) -> dict[str, ParamValue] | None:
        """What `suggest` would have to answer for `sample` to give these parameters, or None when it never can.

        `params` may hold more names than the space; a switch that is not named takes the first branch that fits.
        """
        return self._locate(self.dimensions, "", params)

    def _locate(self, dimensions: Mapping[str, Dimension], prefix: str, params: Params) -> dict[str, Any] | None:
        answers: dict[str, ParamValue] = {}
        for name, dimension in dimensions.items():
            value = params.get(name)
            match dimension:
                case Constant(fixed):
                    if value != fixed:
                        return None
                case Number():
                    if not dimension.contains(value):
                        return None
                    answers[prefix + name] = value
                case Choice(values):
                    if value not in values:
                        return None
                    answers[prefix + name] = dimension.nearest(value)
                case Switch(branches):
                    named = (value,) if value is not None else tuple(branches)
                    for branch in named:
                        inner = self._locate(branches.get(str(branch), {}), f"{prefix}{name}.{branch}.", params)
                        if branch in branches and inner is not None:
                            answers |= {prefix + name: branch} | inner
                            break
                    else:
                        return None
        return answers

    def names(self) -> frozenset[str]:
        """Every flat parameter name some configuration can set, without the switches."""
        return self._names[0]

    def switches(self) -> frozenset[str]:
        """The names of the switches."""
        return self._names[1]

    @cached_property
    def _names(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of parameters, and of switches: both are asked for at every candidate of a proposal."""
        found = [(name, isinstance(dimension, Switch)) for _, name, dimension in self.walk()]
        parameters, switches = (frozenset(name for name, is_one in found if is_one is which) for which in (False, True))
        return parameters, switches

    def conditional(self) -> bool:
        """True when some dimension exists only in a branch."""
        return bool(self.switches())

    def walk(self) -> Iterator[tuple[str, str, Dimension]]:
        """Every dimension as (path, flat name, dimension), outer before inner."""

        def inner(dimensions: Mapping[str, Dimension], prefix: str) -> Iterator[tuple[str, str, Dimension]]:
            for name, dimension in dimensions.items():
                yield prefix + name, name, dimension
                if isinstance(dimension, Switch):
                    for branch, parameters in dimension.branches.items():
                        yield from inner(parameters, f"{prefix}{name}.{branch}.")

        return inner(self.dimensions, "")

    def open_dimensions(self) -> dict[str, Number | Choice]:
        """Path -> what is searched there (a switch as the choice of its branch), for a sampler."""
        found: dict[str, Number | Choice] = {}
        for path, _, dimension in self.walk():
            if isinstance(dimension, Switch):
                found[path] = Choice.of(tuple(dimension.branches))
            elif not isinstance(dimension, Constant):
                found[path] = dimension
        return found

    def grid(self, points: int) -> Iterator[dict[str, ParamValue]]:
        """The answers of a full grid, with at most `points` values per number."""
        return self._grid(self.dimensions, "", points)

    def _grid(self, dimensions: Mapping[str, Dimension], prefix: str, points: int) -> Iterator[dict[str, Any]]:
        axes: list[list[dict[str, Any]]] = []
        for name, dimension in dimensions.items():
            match dimension:
                case Number():
                    axes.append([{prefix + name: value} for value in dimension.points(points)])
                case Choice(_, labels):
                    axes.append([{prefix + name: label} for label in labels])
                case Switch(branches):
                    axes.append(
                        [
                            {prefix + name: branch} | inner
                            for branch, parameters in branches.items()
                            for inner in self._grid(parameters, f"{prefix}{name}.{branch}.", points)
                        ]
                    )
                case Constant():
                    pass
        for combination in product(*axes):
            yield {key: value for answers in combination for key, value in answers.items()}

    def describe(self) -> dict[str, Any]:
        """The space as plain JSON values, for the study's digest and for reports."""

        def plain(dimension: Dimension) -> Any:
            match dimension:
                case Constant(value):
                    return list(value) if isinstance(value, tuple) else value
                case Choice(values):
                    return {"choices": [list(value) if isinstance(value, tuple) else value for value in values]}
                case Switch(branches):
                    return {b: {n: plain(d) for n, d in parameters.items()} for b, parameters in branches.items()}
                case Number(low, high, integer, log, step):
                    cast = int if integer else float
                    return (
                        {"low": cast(low), "high": cast(high)}
                        | ({"log": True} if log else {})
                        | ({"step": cast(step)} if step else {})
                    )

        return {name: plain(dimension) for name, dimension in self.dimensions.items()}


def default_space(domains: Mapping[str, Domain]) -> SearchSpace:
    """The backend's own recommended ranges, for a study file that names no space."""
    return SearchSpace(
        {
            name: Number(d.search.low, d.search.high, integer=d.kind == "int", log=d.search.log, step=d.search.step)
            for name, d in domains.items()
            if d.search is not None
        }
    )


def _label(value: ParamValue) -> ParamValue:
    """A value short enough for the database and the dashboard: long texts keep their head and a digest."""
    if isinstance(value, tuple):
        return json.dumps(list(value), ensure_ascii=False)
    if isinstance(value, str) and len(value) > 60:
        return f"{value[:40].strip()}... #{hashlib.sha256(value.encode()).hexdigest()[:6]}"
    return value
