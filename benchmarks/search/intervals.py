"""Owns the intervals of the benchmark's figures. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean or a rate with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """What stands behind the ±, where the interval is even."""
        return self.high - self.value

    def shown(self, digits: int = 2) -> str:
        """`value [low, high]`."""
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean(values: Sequence[float]) -> Estimate:
    """The mean over seeds with Student's interval."""
    from scipy.stats import t

    x = np.asarray(values, dtype=np.float64)
    value = float(x.mean())
    if x.size < 2:
        return Estimate(value, -math.inf, math.inf)
    half = float(t.ppf(0.975, x.size - 1)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Estimate(value, value - half, value + half)


def rate(hits: int, total: int) -> Estimate:
    """The share of hits with the interval of Clopper and Pearson (1934)."""
    from scipy.stats import beta

    low = float(beta.ppf(0.025, hits, total - hits + 1)) if hits else 0.0
    high = float(beta.ppf(0.975, hits + 1, total - hits)) if hits < total else 1.0
    return Estimate(hits / total, low, high)
