"""The levels of repeated looks against published boundaries and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genopt import racing

ALPHA = 0.1


def test_levels_are_the_published_lan_demets_boundaries() -> None:
    # Five equal looks, two-sided .05: Pocock-type and O'Brien-Fleming-type spending, as in ldbounds.
    t = np.arange(1, 6) / 5
    pocock = 0.025 * np.log(1 + (math.e - 1) * t)
    fleming = 2 * scipy_stats.norm.sf(scipy_stats.norm.ppf(1 - 0.0125) / np.sqrt(t))
    for spent, published in (
        (pocock, [2.438, 2.427, 2.410, 2.397, 2.386]),
        (fleming, [4.877, 3.357, 2.680, 2.290, 2.031]),
    ):
        levels = racing.nominal_levels(range(1, 6), np.diff([0.0, *spent]).tolist())
        assert scipy_stats.norm.isf(levels) == pytest.approx(published, abs=6e-4)


def test_unequal_looks_together_spend_alpha_evenly() -> None:
    looks, runs = (12, 15, 60, 200), 400_000
    bounds = scipy_stats.norm.ppf(racing.levels(looks, ALPHA))
    r, sums, alive = np.random.default_rng(1), np.zeros(runs), np.ones(runs, dtype=bool)
    before = 0
    for n, bound in zip(looks, bounds, strict=True):
        sums += r.normal(size=runs) * math.sqrt(n - before)
        left = alive & (sums <= bound * math.sqrt(n))
        assert left.mean() == pytest.approx(ALPHA / 4, abs=0.001)
        alive &= ~left
        before = n
    bonferroni = ALPHA / 4
    assert all(level > bonferroni for level in racing.levels(looks, ALPHA)[1:])


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="increasing"):
        racing.levels((12, 12), 0.1)
    with pytest.raises(ValueError, match="alpha"):
        racing.levels((12,), 0.0)
