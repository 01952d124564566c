"""Owns the decision whether a trial goes on: the rungs at which it is looked at, and the test it has to survive.

It knows paired numbers on one contiguous prefix of examples, nothing of trials, storage or samplers. Pure functions.

The test. At every rung the paired differences (trial minus incumbent) are tested one-sided for "worse" by flipping
their signs: exact for few non-zero differences, else the normal approximation. It needs no standard deviation, so
exact-match scores full of ties, or differences that are all equal, are no special case. "Equal" means that the
differences are symmetric around 0, as between two configurations of equal quality; where the trial loses a little often
and wins much rarely, in balance, it is stopped more often (twice `alpha` for exponential differences).

The levels. The chance of stopping a trial that is equal to the incumbent, `alpha` over all looks together, is spent
evenly over the looks (evenly in log n on geometric rungs: what is stopped early saves most), and the level of each look
follows from the joint distribution of the sums at all looks so far (Lan and DeMets 1983; recursion of Armitage,
McPherson and Rowe 1969): unequal spacing is right, and correlated looks are not paid for twice, as with Bonferroni.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

MOST_RUNGS = 6
LAST_RUNG = 0.85  # a stop later than this share of the examples saves less than it risks
EXACT = 20  # non-zero differences up to which all sign patterns are counted
TIE = 1e-12  # differences below this are rounding


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to go on, and why: one-sided `p_value` of "worse" against the `level` of this look.

    `difference` is the mean paired difference (below 0: worse). `told` is what the sampler is told when the trial stops
    here: the incumbent's mean over all its examples plus `difference`, comparable between trials that saw different
    prefixes, and below the incumbent's mean whenever `keep` is False.
    """

    keep: bool
    p_value: float
    difference: float
    told: float
    level: float


def rungs(n_examples: int, *, first: int = 12, eta: float = 2.0) -> tuple[int, ...]:
    """The prefix lengths at which a trial is looked at: increasing, at most six, none of them late.

    Geometric from `first` with ratio `eta` (wider for large data) up to 85 % of the examples; none below 2 * `first`,
    where nothing is saved by stopping early. ValueError when `first` < 1 or `eta` <= 1.
    """
    if first < 1 or eta <= 1:
        raise ValueError(f"rungs need first >= 1 and eta > 1, not {first} and {eta}")
    if n_examples < 2 * first:
        return ()
    latest = LAST_RUNG * n_examples
    ratio = max(eta, (latest / first) ** (1 / (MOST_RUNGS - 1)))
    found: list[int] = []
    n = float(first)
    while round(n) <= latest and len(found) < MOST_RUNGS:
        if not found or round(n) > found[-1]:
            found.append(round(n))
        n *= ratio
    return tuple(found)


def decide(
    trial: ArrayLike,
    incumbent: ArrayLike,
    *,
    look: int,
    looks: Sequence[int],
    n_examples: int | None = None,
    alpha: float = 0.1,
    groups: Sequence[Hashable] | None = None,
) -> Decision:
    """Stop a trial that is clearly worse than the incumbent; one that is equal to it survives with 1 - `alpha`.

    `trial` holds its scores on the first examples, `incumbent` its scores on all it has seen (higher is better), both
    in the study's order; a NaN drops the pair. `looks` are the rungs of the study, `look` the index of this one, from
    1. `groups` (of the first examples at least; None = alone) makes whole groups flip together. `n_examples` may be
    given and is not needed: only the ratios of the rungs matter. The promise holds for one trial against a fixed
    incumbent; one that was itself chosen for its scores on these examples looks better than it is, and equals of it are
    stopped more often. Nothing to compare: goes on. ValueError: no such look, or the incumbent has no score at all.
    """
    if not 1 <= look <= len(looks):
        raise ValueError(f"look {look} is not one of 1 to {len(looks)}")
    level = levels(tuple(looks), alpha)[look - 1]
    x, y = np.asarray(trial, dtype=np.float64), np.asarray(incumbent, dtype=np.float64)
    mean = _mean(y)
    if mean is None:
        raise ValueError("the incumbent has no scores to compare with")
    d = _prefix_differences(x, y)
    kept = ~np.isnan(d)
    sums = d[kept]
    if sums.size == 0:
        return Decision(True, 1.0, 0.0, mean, level)
    difference = float(sums.mean())
    if groups is not None:
        sums = _group_sums(sums, [group for group, keep in zip(groups, kept, strict=False) if keep])
    p_value = worse_p(sums)
    return Decision(p_value > level or difference >= 0, p_value, difference, mean + difference, level)


def adjusted_mean(trial_prefix: ArrayLike, incumbent_prefix: ArrayLike, incumbent_mean: float) -> float:
    """A stopped trial's mean as if it had seen all examples: the incumbent's plus the mean paired difference.

    The incumbent's mean itself when no pair is scored.
    """
    d = _prefix_differences(np.asarray(trial_prefix, dtype=np.float64), np.asarray(incumbent_prefix, dtype=np.float64))
    return incumbent_mean + (_mean(d) or 0.0)


def worse_p(sums: ArrayLike) -> float:
    """One-sided mid-p-value of "the sum is below zero" when each term's sign is a fair coin; 1 when all are zero.

    Mid-p (half of the ties with the observed sum count; Lancaster 1961), because with exact-match scores few patterns
    are possible and the plain p-value would hardly ever stop a trial: simulated, an equal trial is still stopped at
    most `alpha` of the time (to within .005), unless nearly all examples differ by the same amount (.115 for .1). Exact
    up to EXACT non-zero terms; above, normal with variance sum of squares, whose tails are if anything too heavy.
    """
    d = np.asarray(sums, dtype=np.float64)
    size = np.abs(d)
    moved = size > TIE
    d, size = d[moved], size[moved]
    if d.size == 0:
        return 1.0
    total = float(d.sum())
    if d.size > EXACT:
        return 0.5 * math.erfc(-total / math.sqrt(2 * float(d @ d)))
    # All 2**n sums as pairs of a left and a right half: how many fall below, and how many at or below, the observed.
    half = d.size // 2
    left, right = _all_sums(size[:half]), np.sort(_all_sums(size[half:]))
    slack = 1e-9 * float(size.sum())
    below = int(np.searchsorted(right, total - slack - left, side="left").sum())
    at_most = int(np.searchsorted(right, total + slack - left, side="right").sum())
    return (below + at_most) / 2.0 ** (d.size + 1)


@lru_cache(maxsize=256)
def levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """The one-sided level of each look, so that all together stop an equal trial with probability `alpha`.

    `looks` are increasing prefix lengths. The probability spent after k of K looks is alpha k / K.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, not {alpha!r}")
    if any(n <= 0 for n in looks) or any(b <= a for a, b in pairwise(looks)):
        raise ValueError(f"looks must be increasing numbers of examples, not {looks}")
    return nominal_levels(looks, tuple(alpha / len(looks) for _ in looks))


def nominal_levels(information: Sequence[float], spend: Sequence[float]) -> tuple[float, ...]:
    """The level of each look such that a Brownian motion first leaves at look k with probability `spend[k]`.

    `information` is increasing (here: numbers of examples). Accurate to about 1e-4 of the boundary.
    """
    from scipy.special import ndtr

    found: list[float] = []
    points, mass = np.zeros(1), np.ones(1)  # where the sums of the trials still in the race are, and how likely
    before = 0.0
    for now, chance in zip(information, spend, strict=True):
        step = math.sqrt(now - before)
        low, high = -9 * math.sqrt(now), 9 * math.sqrt(now)
        for _ in range(60):
            edge = (low + high) / 2
            if float(mass @ ndtr((edge - points) / step)) > chance:
                high = edge
            else:
                low = edge
        found.append(float(ndtr(low / math.sqrt(now))))
        if len(found) < len(information):
            grid = np.linspace(low, 9 * math.sqrt(now), 513)
            weight = np.full(grid.size, (grid[1] - grid[0]) / 3)  # Simpson
            weight[1:-1:2] *= 4
            weight[2:-1:2] *= 2
            density = np.exp(-0.5 * ((grid[:, None] - points[None, :]) / step) ** 2) @ mass
            mass = weight * density / (step * math.sqrt(2 * math.pi))
            points, before = grid, now
    return tuple(found)


def _prefix_differences(trial: Floats, incumbent: Floats) -> Floats:
    n = min(trial.size, incumbent.size)
    d = trial[:n] - incumbent[:n]
    return np.where(np.abs(d) <= TIE, 0.0, d)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _group_sums(d: Floats, groups: Sequence[Hashable]) -> Floats:
    if len(groups) != d.size:
        raise ValueError("every example needs a group, or None")
    codes: dict[Hashable, int] = {}
    keys = (("alone", i) if group is None else ("group", group) for i, group in enumerate(groups))
    index = [codes.setdefault(key, len(codes)) for key in keys]
    return np.bincount(index, weights=d).astype(np.float64)


def _all_sums(values: Floats) -> Floats:
    """The sums of the values under every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate((sums - value, sums + value))
    return sums
