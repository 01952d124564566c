"""Owns the levels at which a trial is judged at several looks: together they err no more often than promised.

The chance of stopping a trial that is equal to the best, `alpha` over all looks together, is spent evenly over the
looks (evenly in log n on geometric looks: what is stopped early saves most), and the level of each look follows from
the joint distribution of the sums at all looks so far (Lan and DeMets 1983; recursion of Armitage, McPherson and Rowe
1969): unequal spacing is right, and correlated looks are not paid for twice, as with Bonferroni.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np


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
