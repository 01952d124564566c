"""Owns what is left of a gain when neither side may write longer than the other. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from genopt.agreement import numbered
from genopt.stats import UNBOUNDED, interval

SATURATED = 1e-3  # a standard deviation of the length term below which one side is simply always longer


@dataclass(frozen=True, slots=True)
class EqualLength:
    """A paired gain at equal length with its interval, and the ratio of the mean lengths; NaN and UNBOUNDED where the
    data cannot tell."""

    gain: float
    low: float
    high: float
    ratio: float


def at_equal_length(
    differences: ArrayLike,
    lengths: ArrayLike,
    other_lengths: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    level: float = 0.95,
) -> EqualLength | None:
    """The mean paired difference that is left at equal lengths; None where they are equal as it is.

    The differences are regressed on tanh(d / sd(d)) with d the difference of the lengths, and the intercept is the gain
    at d = 0: the length term of length-controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475) with a linear link,
    since scores are numbers and not wins. Interval: Student's t with clusters - 2 degrees of freedom on the
    cluster-robust standard error with factor C / (C - 1) * (n - 1) / (n - 2) (Cameron and Miller 2015, doi
    10.3368/jhr.50.2.317); a group of None is a cluster of its own. Where one side is always longer the intercept is an
    extrapolation, and the interval is as wide as that. Pairs with a NaN are left out.
    """
    y, a, b = (np.asarray(each, dtype=np.float64) for each in (differences, lengths, other_lengths))
    known = ~(np.isnan(y) | np.isnan(a) | np.isnan(b))
    names = [("alone", i) if g is None else ("group", g) for i, g in enumerate(groups or [None] * y.size)]
    cluster = numbered([name for name, kept in zip(names, known, strict=True) if kept])
    y, a, b = y[known], a[known], b[known]
    if not np.any(a != b):
        return None
    ratio = float(a.mean() / b.mean()) if b.mean() > 0 else math.inf
    spread, n = float(np.std(a - b)), y.size
    x = np.column_stack([np.ones_like(y), np.tanh((a - b) / spread) if spread > 0 else np.ones_like(y)])
    count = int(cluster.max()) + 1
    if count < 3 or np.std(x[:, 1]) < SATURATED:
        return EqualLength(math.nan, -UNBOUNDED, UNBOUNDED, ratio)
    bread = np.linalg.inv(x.T @ x)
    beta = bread @ x.T @ y
    sums = np.zeros((count, 2))
    np.add.at(sums, cluster, x * (y - x @ beta)[:, None])
    gain = float(beta[0])
    factor = count / (count - 1) * (n - 1) / (n - 2)
    se = math.sqrt(max(0.0, factor * float((bread @ sums.T @ sums @ bread)[0, 0])))
    return EqualLength(gain, *interval(gain, se, count - 1, level), ratio)
