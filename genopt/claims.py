"""Owns what may be said when several differences are claimed at once: all claims together err at the stated rate.

One claim is `stats.paired`'s. Knows numbers and group labels only, as stats does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from genopt.stats import TIE, Floats, cluster_codes, differences, sign_flip_p, sign_patterns


def max_t(
    claims: Sequence[tuple[ArrayLike, ArrayLike]],
    *,
    groups: Sequence[Hashable] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, ...]:
    """Adjusted two-sided p-values, one a claim: to claim all that are <= 0.05 is to claim anything false in <= 5 %.

    A claim is a pair (a, b) of scores of the same examples, in one order for all claims and NaN where missing; `groups`
    as in `stats.paired`. Claims may have any units and share any side: several configurations against one baseline,
    several metrics of one configuration. Step-down max-T (Westfall and Young 1993): one pattern of signs is applied to
    all claims at once, so what they have in common is not paid for twice; each sum is in units of its own root sum of
    squares, which flipping leaves alone and which orders patterns as Student's t does. Exact where all patterns are no
    more than `resamples`. Never below the p-value of `stats.paired`, and equal to it where one thing alone is claimed.
    """
    rows = [differences(a, b) for a, b in claims]
    if not rows:
        return ()
    if len({row.size for row in rows}) > 1:
        raise ValueError(f"all claims need the same examples, not {', '.join(str(row.size) for row in rows)} of them")
    codes = cluster_codes(groups, rows[0].size)
    sums = np.stack([np.bincount(codes, weights=np.nan_to_num(row, nan=0.0)) for row in rows])
    alone = np.array([sign_flip_p(row, resamples, seed) for row in sums])
    if len(rows) == 1:
        return tuple(alone.tolist())
    sums = sums[:, (sums != 0).any(axis=0)]
    norms = np.sqrt((sums**2).sum(axis=1, keepdims=True))
    unit = sums / np.where(norms > 0, norms, 1.0)
    order = np.argsort(-np.abs(unit.sum(axis=1)), kind="stable")
    unit = unit[order]
    observed = np.abs(unit.sum(axis=1)) - TIE
    exact = 2.0 ** unit.shape[1] <= resamples
    counts, patterns = (np.zeros(len(rows)), 0) if exact else (np.ones(len(rows)), 1)
    for signs in _all_patterns(unit.shape[1]) if exact else sign_patterns(unit.shape[1], resamples, seed):
        reached = np.abs(signs @ unit.T)
        # A claim is held against the largest of those that are no clearer than itself: the clearer ones are settled.
        counts += (np.maximum.accumulate(reached[:, ::-1], axis=1)[:, ::-1] >= observed).sum(axis=0)
        patterns += len(signs)
    adjusted = np.empty(len(rows))
    adjusted[order] = np.maximum.accumulate(np.maximum(counts / patterns, alone[order]))
    return tuple(adjusted.tolist())


def _all_patterns(clusters: int) -> Iterator[Floats]:
    """Every pattern of -1 and +1, one a row."""
    negative = np.arange(2**clusters)[:, None] >> np.arange(clusters) & 1
    yield (1 - 2 * negative).astype(np.float64)
