"""Owns which arms are one and the same: settings that are spelled differently and lead to the same scores.

With common seeds they do so to the last digit: a limit that no text reaches, a filter that takes nothing away. Arms
that agree are no further evidence for each other, and which of them is put forward makes no difference, so the one that
has most scores stands for all. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COMMON = 48  # scores that two arms must have in common to be compared: fewer are equal by chance
UNLIKE = 0.01  # of those, what may differ: a worth is off by no more


def representatives(scores: Sequence[Sequence[float] | NDArray[np.float64]]) -> list[int]:
    """For each arm the one that stands for it, itself where none does. `scores` are those of each arm in the study's
    order; a NaN is like a NaN."""
    rows = [np.asarray(own, dtype=np.float64) for own in scores]
    found = list(range(len(rows)))
    standing: list[int] = []
    for arm in sorted((k for k in found if len(rows[k]) >= COMMON), key=lambda k: (-len(rows[k]), k)):
        common = len(rows[arm])  # those before it have as many, or more
        for other in standing:
            a, b = rows[arm], rows[other][:common]
            if np.count_nonzero((a != b) & ~(np.isnan(a) & np.isnan(b))) <= UNLIKE * common:
                found[arm] = other
                break
        else:
            standing.append(arm)
    return found
