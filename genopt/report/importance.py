"""Owns which parameters the gains of a study's configurations depend on. Pure arithmetic on plain values.

Numbers are cut into bins of about equally many configurations, other values are bins of their own. A parameter's
importance is the share of the variance of the gains that its bins alone explain: the adjusted R squared of a one-way
analysis of variance (Theil 1961), which is 0 on average where nothing depends on the parameter. A parameter of a branch
is looked at among the configurations that use it. Parameters that were moved together share credit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genopt.stats import UNBOUNDED, interval, mean_se

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
MOST_BINS, EACH = 6, 8  # a bin has about eight configurations or more


@dataclass(frozen=True, slots=True)
class Bin:
    """Configurations with about the same value of a parameter; `low` and `high` are numbers or both the value itself.
    `mean` of their gains with its 95 % interval."""

    low: Any
    high: Any
    count: int
    mean: float
    mean_low: float
    mean_high: float


@dataclass(frozen=True, slots=True)
class Importance:
    """Share of the variance of the gains in [0, 1], its 95 % jackknife interval (Tukey 1958), and the p-value of the F
    test that no bin differs."""

    name: str
    share: float
    low: float
    high: float
    p_value: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Interaction:
    """Mean gain and number of configurations for each pair of bins of two parameters; None where there is none."""

    first: str
    second: str
    rows: tuple[Bin, ...]
    columns: tuple[Bin, ...]
    means: tuple[tuple[float | None, ...], ...]
    counts: tuple[tuple[int, ...], ...]


def importances(params: Sequence[dict[str, Any]], gains: Sequence[float]) -> tuple[Importance, ...]:
    """One for every parameter that has more than one value in 8 or more configurations, the most important first."""
    found = []
    for name in dict.fromkeys(name for each in params for name in each):
        values, y = _using(params, gains, name)
        if len(values) >= EACH and len({repr(value) for (value,) in values}) > 1 and np.ptp(y) > 0:
            found.append(_importance(name, [value for (value,) in values], y))
    return tuple(sorted(found, key=lambda each: -each.share))


def interaction(params: Sequence[dict[str, Any]], gains: Sequence[float], first: str, second: str) -> Interaction:
    """The mean gain for each pair of bins of two parameters, among the configurations that use both."""
    pairs, y = _using(params, gains, first, second)
    rows, columns = (binned([pair[side] for pair in pairs]) for side in (0, 1))
    means: list[tuple[float | None, ...]] = []
    counts: list[tuple[int, ...]] = []
    for row in range(len(rows[1])):
        cells = [y[(rows[0] == row) & (columns[0] == column)] for column in range(len(columns[1]))]
        means.append(tuple(float(cell.mean()) if cell.size else None for cell in cells))
        counts.append(tuple(int(cell.size) for cell in cells))
    return Interaction(first, second, _bins(*rows, y), _bins(*columns, y), tuple(means), tuple(counts))


def binned(values: Sequence[Any]) -> tuple[Codes, list[tuple[Any, Any]]]:
    """The bin of each value, and the smallest and largest value of each bin: numbers first, then other values in the
    order of their appearance."""
    known = [value for value in values if _number(value)]
    bins: list[tuple[Any, Any]] = []
    if known:
        distinct = sorted(set(known))
        wanted = max(2, min(MOST_BINS, len(known) // EACH))
        if len(distinct) <= wanted:
            bins = [(value, value) for value in distinct]
        else:
            edges = np.quantile(np.asarray(known, dtype=np.float64), np.linspace(0, 1, wanted + 1)[1:-1])
            placed = np.searchsorted(edges, distinct, side="right")
            for code in sorted(set(placed.tolist())):
                inside = [value for value, where in zip(distinct, placed, strict=True) if where == code]
                bins.append((inside[0], inside[-1]))
    others = {repr(value): value for value in values if not _number(value)}
    numbers = len(bins)
    words = list(others)
    bins += [(others[word], others[word]) for word in words]
    codes = [
        next(i for i, (low, high) in enumerate(bins[:numbers]) if low <= value <= high)
        if _number(value)
        else numbers + words.index(repr(value))
        for value in values
    ]
    return np.asarray(codes, dtype=np.intp), bins


def _using(
    params: Sequence[dict[str, Any]], gains: Sequence[float], *names: str
) -> tuple[list[tuple[Any, ...]], Floats]:
    """The values of these parameters and the gains, where all of them are used."""
    used = [i for i, each in enumerate(params) if all(each.get(name) is not None for name in names)]
    return [tuple(params[i][name] for name in names) for i in used], np.array([gains[i] for i in used])


def explained(codes: Codes, y: Floats) -> float:
    """Adjusted R squared of the bins' means: at most 1, 0 on average where nothing depends on them."""
    n, k = y.size, len(np.unique(codes))
    total = float(np.sum((y - y.mean()) ** 2))
    if n <= k or k < 2 or total <= 0:
        return 0.0
    return 1 - _within(codes, y) / total * (n - 1) / (n - k)


def _importance(name: str, values: Sequence[Any], y: Floats) -> Importance:
    codes, bins = binned(values)
    share = explained(codes, y)
    n = y.size
    left_out = np.array([explained(np.delete(codes, i), np.delete(y, i)) for i in range(n)])
    se = math.sqrt((n - 1) / n * float(np.sum((left_out - left_out.mean()) ** 2)))
    low, high = interval(share, se, n)
    share, low, high = (min(1.0, max(0.0, value)) for value in (share, low, high))
    return Importance(name, share, low, high, _f_test(codes, y), _bins(codes, bins, y))


def _within(codes: Codes, y: Floats) -> float:
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=y)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    return float(np.sum((y - means[codes]) ** 2))


def _f_test(codes: Codes, y: Floats) -> float:
    from scipy.special import fdtrc

    n, k = y.size, len(np.unique(codes))
    within, total = _within(codes, y), float(np.sum((y - y.mean()) ** 2))
    if k < 2 or n <= k:
        return 1.0
    if within <= 0:
        return 0.0
    return float(fdtrc(k - 1, n - k, (total - within) / (k - 1) / (within / (n - k))))


def _bins(codes: Codes, bins: Sequence[tuple[Any, Any]], y: Floats) -> tuple[Bin, ...]:
    found = []
    for code, (low, high) in enumerate(bins):
        inside = y[codes == code]
        mean, se = mean_se(inside)
        found.append(Bin(low, high, int(inside.size), mean, *interval(mean, min(se, UNBOUNDED), inside.size)))
    return tuple(found)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
