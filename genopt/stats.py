"""Owns the arithmetic of evidence: paired comparison, intervals, power, shrinkage.

It knows numbers and group labels only: no trials, no storage, no wording of verdicts. Every function is pure and
deterministic (random resampling is seeded by an explicit integer) and returns finite numbers wherever it can: a
standard error or limit that the data cannot tell is `UNBOUNDED`, the largest float, because infinity is not JSON.
Scipy is imported inside the functions, and only scipy.special: the command line must start quickly.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

UNBOUNDED = sys.float_info.max
EXACT_CLUSTERS = 24  # 2**24 sign patterns, counted from two sorted halves of 2**12 sums
TIE = 1e-12  # differences below this are rounding: 0.3 - 0.2 and 0.2 - 0.1 must tie


@dataclass(frozen=True, slots=True)
class PairedResult:
    """Candidate minus baseline on the same examples; `difference` > 0 means the candidate scores higher.

    `n` examples in `clusters` independent groups; `low`, `high` the two-sided interval at `level`; `p_value` two-sided.
    With fewer than two clusters `se`, `-low` and `high` are UNBOUNDED and `p_value` is 1: nothing can be claimed.
    """

    n: int
    clusters: int
    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int
    se: float
    level: float


@dataclass(frozen=True, slots=True)
class Shrunk:
    """Posterior means and standard deviations, in the order given, and the prior (mean, sd tau) fitted to all."""

    means: tuple[float, ...]
    ses: tuple[float, ...]
    prior_mean: float
    tau: float


def paired(
    a: ArrayLike,
    b: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedResult:
    """How much higher candidate `a` scores than baseline `b`, example by example, with an interval and a p-value.

    Pairs with a NaN (or None) are dropped; every remaining example weighs the same. Examples of one group are one
    cluster; a group of None is a cluster of its own. The p-value flips the sign of whole clusters: exact up to
    EXACT_CLUSTERS clusters that differ at all, else `resamples` random patterns and (count + 1) / (resamples + 1). The
    interval is Student's t with C - 1 degrees of freedom on the cluster-robust standard error, factor C / (C - 1)
    (Miller 2024, arXiv 2411.00640). When every cluster differs by the same amount the interval has no width; the
    p-value still knows how many clusters that were. ValueError: unequal lengths, infinite values, bad `level`.
    """
    d = differences(a, b)
    codes = cluster_codes(groups, d.size)
    kept = ~np.isnan(d)
    d, codes = d[kept], codes[kept]
    n = int(d.size)
    if n == 0:
        return PairedResult(0, 0, 0.0, -UNBOUNDED, UNBOUNDED, 1.0, 0, 0, 0, UNBOUNDED, _proportion(level))
    sums, sizes = _cluster_sums(d, codes)
    difference = float(d.mean())
    clusters = int(sums.size)
    se = UNBOUNDED
    if clusters > 1:
        se = math.sqrt(clusters / (clusters - 1) * float(np.sum((sums - difference * sizes) ** 2))) / n
    low, high = interval(difference, se, clusters, level)
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    p_value = sign_flip_p(sums, resamples, seed)
    return PairedResult(n, clusters, difference, low, high, p_value, wins, n - wins - losses, losses, se, level)


def mean_se(values: ArrayLike) -> tuple[float, float]:
    """Mean and its standard error without NaN: (NaN, UNBOUNDED) of nothing, (value, UNBOUNDED) of one value."""
    x = _finite(values)
    x = x[~np.isnan(x)]
    if x.size == 0:
        return math.nan, UNBOUNDED
    if x.size == 1:
        return float(x[0]), UNBOUNDED
    return float(x.mean()), float(x.std(ddof=1)) / math.sqrt(x.size)


def interval(mean: float, se: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Student's t interval of a mean of `n` independent values (or clusters); unbounded below two of them."""
    tail = (1 + _proportion(level)) / 2
    if n < 2 or se >= UNBOUNDED:
        return -UNBOUNDED, UNBOUNDED
    half = _t_quantile(tail, n - 1) * se
    return mean - half, mean + half


def minimum_detectable_effect(sd_difference: float, n: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """The true mean difference that a two-sided paired t test on `n` examples finds with probability `power`.

    Exact for normal differences (noncentral t, the far tail neglected); normal quantiles above 10,000 examples.
    """
    tail, power = (1 + _proportion(level)) / 2, _proportion(power)
    if n < 2 or sd_difference >= UNBOUNDED:
        return UNBOUNDED
    from scipy.special import nctdtrinc, ndtri

    if n > 10_000:
        shift = float(ndtri(tail) + ndtri(power))
    else:
        shift = float(nctdtrinc(n - 1, 1 - power, _t_quantile(tail, n - 1)))
    return shift * sd_difference / math.sqrt(n)


def examples_needed(sd_difference: float, effect: float) -> int:
    """The fewest examples (at least 2) whose minimum detectable effect is at most `effect` (> 0, else ValueError)."""
    if not effect > 0:
        raise ValueError(f"the effect must be greater than 0, not {effect!r}")

    def enough(n: int) -> bool:
        return minimum_detectable_effect(sd_difference, n) <= effect

    high = 2
    while not enough(high):
        high *= 2
    low = high // 2
    while high - low > 1 and high > 2:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def expected_sd_of_difference(baseline_values: ArrayLike, rho: float = 0.5) -> float:
    """A guess of the paired differences' sd before a second configuration exists: sd * sqrt(2 (1 - rho)).

    `rho` is the correlation of two configurations' scores over examples: .06 to .36 where generations vary freely, up
    to .9 for near-deterministic ones. UNBOUNDED with fewer than two values. 0 when all baseline scores are equal: then
    the guess is worth nothing, and the caller should say "unknown".
    """
    _, se = mean_se(baseline_values)
    if se >= UNBOUNDED:
        return UNBOUNDED
    n = int(np.sum(~np.isnan(np.asarray(baseline_values, dtype=np.float64))))
    return se * math.sqrt(n) * math.sqrt(2 * (1 - rho))


def shrink(means: Sequence[float], ses: Sequence[float]) -> Shrunk:
    """Posterior means of exchangeable trials: the maximum of these is not inflated by having been chosen.

    Normal-normal empirical Bayes with unequal standard errors: tau^2 by Paule and Mandel (1982; recommended by
    Veroniki et al. 2016, doi 10.1002/jrsm.1164), prior mean by inverse variance; the posterior sd includes the errors
    of the prior mean and of tau (Morris 1983) and is still a little small: 95 % intervals from it hold 94 to 95 % of
    the truths with 60 trials, 92 to 93 % with 10 to 25, 90 % where the trials differ far less than the noise. Pass the
    means of all trials, and standard errors of what differs *between* trials: those of paired differences, say.

    A standard error below a third of the median one is raised to that: with few or all-equal scores it is an accident,
    not certainty. tau is at least a tenth of the median standard error, so that 1 % of a gain survives and trials that
    differ by no more than noise are still ranked by what was seen, not by their order. All standard errors zero:
    nothing is shrunk. UNBOUNDED or infinite: that trial gets the prior mean.
    NaN means stay NaN. ValueError: unequal lengths, a negative standard error.
    """
    m, s = np.asarray(means, dtype=np.float64), np.asarray(ses, dtype=np.float64)
    if m.shape != s.shape or m.ndim != 1:
        raise ValueError(f"{m.size} means need as many standard errors, not {s.size}")
    if np.any(s < 0):
        raise ValueError("a standard error cannot be negative")
    known = ~np.isnan(m) & (s < math.sqrt(UNBOUNDED))
    if not known.any():
        prior = float(np.mean(m[~np.isnan(m)])) if np.any(~np.isnan(m)) else 0.0
        return Shrunk(tuple(m.tolist()), tuple(np.minimum(s, UNBOUNDED).tolist()), prior, 0.0)
    x, v = m[known], s[known] ** 2
    if np.any(v > 0):
        v = np.maximum(v, np.median(v[v > 0]) / 9)
        tau2 = max(_paule_mandel(x, v), float(np.median(v)) / 100)
    else:
        tau2 = float(np.var(x, ddof=1)) if x.size > 1 else 0.0
        v = np.full_like(x, 0.0)
    weights = 1 / (tau2 + v) if np.all(tau2 + v > 0) else np.ones_like(x)
    prior_mean = float(np.sum(weights * x) / np.sum(weights))
    prior_var = 1 / float(np.sum(weights)) if np.any(v > 0) else 0.0
    keep = np.divide(tau2, tau2 + v, out=np.ones_like(v), where=v > 0)
    out_means = np.where(np.isnan(m), np.nan, prior_mean)
    out_vars = np.full(m.shape, tau2 + prior_var)
    out_means[known] = prior_mean + keep * (x - prior_mean)
    total = np.where(tau2 + v > 0, tau2 + v, 1.0)
    typical = tau2 + float(np.sum(weights * v) / np.sum(weights))
    unsure_tau = 2 / max(x.size - 3, 1) * typical / total * (x - prior_mean) ** 2
    out_vars[known] = keep * v + (1 - keep) ** 2 * (prior_var + unsure_tau)
    return Shrunk(tuple(out_means.tolist()), tuple(np.sqrt(out_vars).tolist()), prior_mean, math.sqrt(tau2))


def look_level(look: int) -> float:
    """The level for the `look`-th look (from 1) at the same holdout: 0.05 / 2**(look - 1).

    The sum over all looks ever is below 0.1, so whoever keeps raising the budget until something is significant
    still errs with at most 0.1; a single look costs nothing. The confidence level of an interval is 1 minus this.
    """
    if look < 1:
        raise ValueError(f"looks count from 1, not {look}")
    return 0.05 / 2.0 ** (look - 1)


def _proportion(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return value


def _finite(values: Any) -> Floats:
    x = np.asarray(values, dtype=np.float64)  # None becomes NaN
    if np.isinf(x).any():
        raise ValueError("values must be finite, or NaN for missing")
    return x


def differences(a: ArrayLike, b: ArrayLike) -> Floats:
    """Example by example `a` minus `b`, exactly 0 where they differ by rounding, NaN where either is missing."""
    x, y = _finite(a), _finite(b)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"paired values need two lists of one length, not {x.shape} and {y.shape}")
    d = x - y
    scale = np.maximum(1.0, np.maximum(np.abs(x), np.abs(y)))
    return np.where(np.abs(d) <= TIE * scale, 0.0, d)  # a NaN compares false and stays


def cluster_codes(groups: Sequence[Hashable] | None, n: int) -> NDArray[np.intp]:
    """A number from 0 for each example's cluster; None is nobody else's cluster."""
    if groups is None:
        return np.arange(n, dtype=np.intp)
    if len(groups) != n:
        raise ValueError(f"{n} examples need {n} groups, not {len(groups)}")
    codes: dict[Hashable, int] = {}
    keys = (("alone", i) if group is None else ("group", group) for i, group in enumerate(groups))
    return np.array([codes.setdefault(key, len(codes)) for key in keys], dtype=np.intp)


def _cluster_sums(d: Floats, codes: NDArray[np.intp]) -> tuple[Floats, Floats]:
    sizes = np.bincount(codes).astype(np.float64)
    sums = np.bincount(codes, weights=d).astype(np.float64)
    return sums[sizes > 0], sizes[sizes > 0]


def _t_quantile(p: float, df: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(df, p))


def sign_patterns(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of rows of -1 and +1, `resamples` rows in all, at most about 16 MB at a time."""
    rng = np.random.default_rng(seed)
    block = max(1, 2_000_000 // max(1, clusters))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        yield rng.integers(0, 2, size=(rows, clusters), dtype=np.int8).astype(np.float64) * 2 - 1


def sign_flip_p(sums: Floats, resamples: int, seed: int) -> float:
    """Two-sided p of the total of `sums` when each one's sign is a fair coin; zeros cannot change it."""
    sums = sums[sums != 0]
    reach = abs(float(sums.sum())) - TIE * float(np.abs(sums).sum())
    if reach <= 0:
        return 1.0
    if sums.size <= EXACT_CLUSTERS:
        left, right = _all_sums(sums[: sums.size // 2]), np.sort(_all_sums(sums[sums.size // 2 :]))
        upper = right.size * left.size - int(np.searchsorted(right, reach - left, side="left").sum())
        return 2 * upper / 2.0**sums.size
    count = sum(int((np.abs(signs @ sums) >= reach).sum()) for signs in sign_patterns(sums.size, resamples, seed))
    return (count + 1) / (resamples + 1)


def _all_sums(values: Floats) -> Floats:
    """The 2**n sums of the values under every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums - value, sums + value))
    return sums


def _paule_mandel(x: Floats, v: Floats) -> float:
    """tau^2 at which the weighted squared deviations sum to their degrees of freedom; 0 when even tau = 0 is below."""

    def excess(tau2: float) -> float:
        w = 1 / (v + tau2)
        return float(np.sum(w * (x - np.sum(w * x) / np.sum(w)) ** 2)) - (x.size - 1)

    if x.size < 2 or excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(np.sum((x - x.mean()) ** 2))  # excess falls with tau^2, and is below 0 there
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2
