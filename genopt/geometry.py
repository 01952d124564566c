"""Owns where configurations lie to each other: what acts in one, as a row of numbers whose distances mean something.

A number lies on [0, 1] of its range, on a logarithm where the space says so or where choices span a decade; two other
values are equal or one apart. What does not act in a configuration (top_p at temperature 0, the parameters of another
branch) lies in the middle of its range and a step beside it, as far from one value as from another, nearly; between two
configurations in which it does not act it makes no distance. Knows no Optuna and no values. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.types import Params, ParamValue

Live = Callable[[Params], Mapping[str, ParamValue]]

ABSENT = 0.4  # how far beside its range a number lies that does not act
BEYOND = 1.25  # where infinity lies
DECADE = 10.0
SAMPLES = 200  # random configurations whose values are looked at


class _Numeric:
    """A number: its place on [0, 1], and whether it acts."""

    width = 2

    def __init__(self, values: Sequence[float], log: bool) -> None:
        finite = [value for value in values if math.isfinite(value)]
        low, high = min(finite), max(finite)
        self._log = low > 0 and (log or high >= DECADE * low)
        self._low, self._high = self._bend(low), self._bend(high)

    def _bend(self, value: float) -> float:
        return math.log(value) if self._log else float(value)

    def row(self, value: Any) -> tuple[float, ...]:
        if value is None:
            return 0.5, ABSENT
        if not math.isfinite(value) or (self._log and value <= 0):
            return (BEYOND if value > 0 else 1 - BEYOND), 0.0
        return (self._bend(value) - self._low) / ((self._high - self._low) or 1.0), 0.0


class _Named:
    """A value without an order: one column for each, two of them one apart."""

    def __init__(self, values: Sequence[ParamValue]) -> None:
        self._values = {value: i for i, value in enumerate(values)}
        self.width = len(values) + 1

    def row(self, value: Any) -> tuple[float, ...]:
        found = [0.0] * self.width
        found[self._values.get(value, self.width - 1)] = math.sqrt(0.5)
        return tuple(found)


class Geometry:
    """The coordinates of a space. `live` says what acts in a configuration of flat parameters; without it everything
    does that a configuration names, its switches too."""

    def __init__(self, space: SearchSpace, live: Live | None = None) -> None:
        self._space, self._live = space, live or dict
        declared: dict[str, list[ParamValue]] = {}
        logs = set()
        for _, name, dimension in space.walk():
            match dimension:
                case Number(low, high, _, log):
                    declared.setdefault(name, []).extend([low, high])
                    logs |= {name} if log else set()
                case Choice(choices):
                    declared.setdefault(name, []).extend(choices)
                case Constant(value):
                    declared.setdefault(name, []).append(value)
                case Switch(branches):
                    declared.setdefault(name, []).extend(branches)
        rng = np.random.default_rng(0)
        drawn = [self.live(draw(space, rng)) for _ in range(SAMPLES)]
        self._axes: dict[str, _Numeric | _Named] = {}
        for name in sorted(declared):
            seen = [found[name] for found in drawn if name in found]
            values = list(dict.fromkeys([*declared[name], *seen]))
            if not seen or (len(values) == 1 and len(seen) == len(drawn)):
                continue
            numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
            if len(numbers) == len(values):
                self._axes[name] = _Numeric(numbers, name in logs)
            else:
                self._axes[name] = _Named(values)
        widths = [axis.width for axis in self._axes.values()]
        self.groups: NDArray[np.int64] = np.repeat(np.arange(len(widths)), widths)
        """The number of the coordinate that each column belongs to."""

    def live(self, answers: Mapping[str, Any]) -> Mapping[str, ParamValue]:
        """What acts under these answers (see SearchSpace.sample)."""
        return self._live(self._space.sample(lambda path, _: answers[path]))

    def row(self, answers: Mapping[str, Any]) -> NDArray[np.float64]:
        """Where these answers lead. Equal configurations have equal rows. KeyError where an answer is missing."""
        live = self.live(answers)
        return np.array([x for name, axis in self._axes.items() for x in axis.row(live.get(name))])

    def rows(self, many: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        """The rows of several, (m, p)."""
        return np.array([self.row(answers) for answers in many]).reshape(len(many), len(self.groups))


def draw(space: SearchSpace, rng: np.random.Generator, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Random answers, each open dimension by itself; what is `fixed` is answered so."""
    answers = dict(fixed or {})

    def suggest(path: str, dimension: Number | Choice) -> Any:
        if path not in answers:
            answers[path] = _any(dimension, rng)
        return answers[path]

    space.sample(suggest)
    return answers


def mutate(
    space: SearchSpace,
    rng: np.random.Generator,
    base: Mapping[str, Any],
    step: float,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Answers near `base`: each dimension moves with a chance that makes one or two of them do; a number by a normal
    step (in fractions of its range), a choice to any other. A branch that is turned to is filled at random."""
    answers, chance = dict(fixed or {}), min(1.0, 1.5 / max(len(base), 1))

    def suggest(path: str, dimension: Number | Choice) -> Any:
        if path not in answers:
            stays = path in base and rng.random() > chance
            answers[path] = base[path] if stays else _near(dimension, base.get(path), step, rng)
        return answers[path]

    space.sample(suggest)
    return answers


def _any(dimension: Number | Choice, rng: np.random.Generator) -> Any:
    if isinstance(dimension, Choice):
        return dimension.labels[int(rng.integers(len(dimension.labels)))]
    return dimension.at(rng.random())


def _near(dimension: Number | Choice, value: Any, step: float, rng: np.random.Generator) -> Any:
    if value is None or isinstance(dimension, Choice):
        return _any(dimension, rng)
    moved = dimension.fraction(value) + step * rng.standard_normal()
    return dimension.at(min(max(moved, 0.0), 1.0))
