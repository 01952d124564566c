"""Owns the arithmetic of trusting a judge: how far two raters agree, and whether a property of one is shown.

It knows numbers only: no texts, no prompts, no wording. Random resampling is seeded by an explicit integer. What the
data cannot tell is NaN. Scipy is imported inside the functions: the command line must start quickly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genopt.stats import minimum_detectable_effect

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its 95 % interval; NaN where the data cannot tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Shown:
    """Whether a mean is shown to be above a bound: Student's t, one-sided, on `n` independent rows.

    `p_value` is the chance of such rows when the true mean is no higher than the bound. `sure` is the true mean from
    which on rows that scatter like these show it with the same certainty (1 - level both ways).
    """

    n: int
    mean: float
    sd: float
    bound: float
    level: float
    p_value: float
    sure: float

    @property
    def passed(self) -> bool:
        return self.p_value <= self.level


@dataclass(frozen=True, slots=True)
class Repeatability:
    """The noise of a rater that is asked the same again: `sd` within a text; `icc`, the part of the variance of single
    ratings that is the texts' own; the chance of such ratings when that part is no larger than the bound."""

    texts: int
    repeats: int
    sd: float
    icc: float
    p_value: float


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation; NaN when either is constant or has fewer than two values."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN when either is constant."""
    return pearson(_ranks(x), _ranks(y))


def kendall(x: ArrayLike, y: ArrayLike) -> float:
    """Kendall's tau-b (Kendall 1945); NaN when either is constant."""
    from scipy.stats import kendalltau

    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(kendalltau(a, b, method="asymptotic").statistic)


def kappa(a: ArrayLike, b: ArrayLike, levels: int) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) of two raters' levels, whole numbers from 0 to levels - 1.

    1 - (mean squared distance) / (the same if the raters chose independently, each with their own habits); NaN when
    both always give the same one level.
    """
    x, y = np.asarray(a, dtype=np.intp), np.asarray(b, dtype=np.intp)
    if x.size == 0:
        return math.nan
    grid = np.arange(levels)
    p, q = (np.bincount(z, minlength=levels) / z.size for z in (x, y))
    chance = float(p @ (grid[:, None] - grid[None, :]) ** 2 @ q)
    return math.nan if chance == 0 else 1 - float(np.mean((x - y) ** 2)) / chance


def numbered(labels: Sequence[Hashable]) -> Rows:
    """A number from 0 for each distinct label, in order of appearance."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(label, len(codes)) for label in labels], dtype=np.intp)


def members(codes: Rows, count: int) -> list[Rows]:
    """For each of `count` codes the rows that carry it."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.searchsorted(codes[order], np.arange(1, count)))


def bootstrap(
    statistics: Callable[[Rows], Mapping[str, float]], clusters: int, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """95 % intervals of named statistics under resampling of whole clusters. `statistics` gets the chosen clusters'
    numbers, with repetitions.

    Percentiles widened for the number of clusters as Student's t is (Hesterberg 2015, arXiv 1411.5279,
    "expanded percentiles"); with 40 clusters they hold 91 to 95 % of the truths. NaN with fewer than three clusters,
    and where a tenth of the resamples cannot tell the statistic.
    """
    from scipy.special import ndtr, stdtrit

    values = statistics(np.arange(clusters))
    tail = float(ndtr(math.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, 0.025))) if clusters > 2 else 0.0
    rng = np.random.default_rng(seed)
    drawn = [statistics(rng.integers(0, clusters, clusters)) for _ in range(resamples if clusters > 2 else 0)]
    found = {}
    for name, value in values.items():
        again = np.array([each[name] for each in drawn])
        again = again[~np.isnan(again)]
        known = not math.isnan(value) and again.size and again.size >= 0.9 * resamples
        low, high = np.quantile(again, (tail, 1 - tail)) if known else (math.nan, math.nan)
        found[name] = Estimate(float(value), float(low), float(high))
    return found


def shown_above(values: ArrayLike, bound: float, *, level: float = 0.01) -> Shown:
    """Test whether the mean of independent `values` is above `bound`; NaN are left out.

    A true mean at or below the bound is wrongly shown above it with probability `level`. Equal values (a rater without
    noise) show it as soon as there are three.
    """
    from scipy.special import stdtr

    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    n = int(x.size)
    if n < 3:
        return Shown(n, float(x.mean()) if n else math.nan, math.nan, bound, level, 1.0, math.nan)
    mean, sd = float(x.mean()), float(x.std(ddof=1))
    excess = mean - bound
    if sd <= 1e-12:
        return Shown(n, mean, 0.0, bound, level, 0.0 if excess > 1e-12 else 1.0, bound)
    p_value = float(stdtr(n - 1, -excess / (sd / math.sqrt(n))))
    sure = bound + minimum_detectable_effect(sd, n, level=1 - 2 * level, power=1 - level)
    return Shown(n, mean, sd, bound, level, p_value, sure)


def rate_above(count: int, n: int, limit: float) -> float:
    """The exact one-sided p-value of "the true rate is at most `limit`" after `count` of `n`."""
    from scipy.special import bdtrc

    return 1.0 if count == 0 else float(bdtrc(count - 1, n, limit))


def repeatability(table: ArrayLike, bound: float) -> Repeatability:
    """How well single ratings tell texts apart, from a table of texts (rows) by repeats, tested to be above `bound`.

    One-way random effects, ICC(1) and its F test for normal noise (Shrout and Fleiss 1979). Rows with a NaN are left
    out. Without any noise the coefficient is 1, or NaN where all texts got the same.
    """
    from scipy.special import fdtrc

    x = np.asarray(table, dtype=np.float64)
    x = x[~np.isnan(x).any(axis=1)]
    n, k = x.shape
    if n < 2 or k < 2:
        return Repeatability(n, k, math.nan, math.nan, 1.0)
    within = float(x.var(axis=1, ddof=1).mean())
    between = k * float(x.mean(axis=1).var(ddof=1))
    if within <= 1e-24:
        alike = between <= 1e-24
        return Repeatability(n, k, 0.0, math.nan if alike else 1.0, 1.0 if alike else 0.0)
    ratio = between / within
    p_value = float(fdtrc(n - 1, n * (k - 1), ratio / (1 + k * bound / (1 - bound))))
    return Repeatability(n, k, math.sqrt(within), (ratio - 1) / (ratio + k - 1), p_value)


def _ranks(x: ArrayLike) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, place, counts = np.unique(np.asarray(x), return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks
