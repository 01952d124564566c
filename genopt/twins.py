"""Owns which arms are one and the same: settings that are spelled differently and lead to the same scores.

With common seeds they do so to the last digit: a limit that no text reaches, a filter that takes nothing away. Arms
that agree are no further evidence for each other, and which of them is put forward makes no difference, so the one that
has most scores stands for all. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COMMON = 48  # scores that two arms have in common, at least: fewer are equal by chance
UNLIKE = 0.01  # of those, what may differ: a worth is off by no more
MISSING = 0.1  # of the examples, what may lack a score


def representatives(scores: Sequence[Sequence[float] | NDArray[np.float64]], n_examples: int) -> list[int]:
    """For each arm the one that stands for it, itself where none does. `scores` are those of each arm in the study's
    order (NaN: none). Only arms that saw all `n_examples` are compared: where nearly every score is a success, two that
    are not the same agree for long."""
    rows = [np.asarray(own, dtype=np.float64) for own in scores]
    found = list(range(len(rows)))
    standing: list[int] = []
    firsts = np.empty((len(rows), n_examples))
    least = max(COMMON, (1 - MISSING) * n_examples)
    whole = [k for k in found if len(rows[k]) >= max(n_examples, COMMON)]
    for arm in sorted(whole, key=lambda k: (-len(rows[k]), k)):
        own = rows[arm]  # those before it have as many scores, or more
        near = np.flatnonzero(_agree(firsts[: len(standing)], own[:n_examples], 0))
        same = next((standing[at] for at in near if _agree(rows[standing[at]][: len(own)], own, least)), None)
        if same is None:
            firsts[len(standing)] = own[:n_examples]
            standing.append(arm)
        else:
            found[arm] = same
    return found


def _agree(many: NDArray[np.float64], own: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Whether rows of scores agree with others, as far as both are known, on at least so many."""
    both = ~(np.isnan(many) | np.isnan(own))
    known = both.sum(axis=-1)
    agree: NDArray[np.bool_] = (known >= least) & (((many != own) & both).sum(axis=-1) <= UNLIKE * known)
    return agree
