"""The race: exact where it says so, an equal trial survives, a worse one is stopped early."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats as scipy_stats

from genopt import racing

Floats = NDArray[np.float64]
Pair = tuple[Floats, Floats]
ALPHA = 0.1


def continuous(r: np.random.Generator, n: int, worse: float) -> Pair:
    shared = r.normal(size=n)
    return shared + r.normal(size=n) - worse * math.sqrt(2), shared + r.normal(size=n)


def exact_match(r: np.random.Generator, n: int, worse: float) -> Pair:
    p = r.random(n)
    lost = worse * math.sqrt(2 * (1 / 2 - 1 / 3)) / 0.5  # the sd of the differences when p is uniform
    return (r.random(n) < p * (1 - lost)).astype(float), (r.random(n) < p).astype(float)


def mostly_ties(r: np.random.Generator, n: int, worse: float) -> Pair:
    p = r.beta(0.1, 0.1, n)
    lost = worse * math.sqrt(2 * (1 / 2 - 0.5 * 1.1 / 1.2)) / 0.5
    return (r.random(n) < p * (1 - lost)).astype(float), (r.random(n) < p).astype(float)


def graded(r: np.random.Generator, n: int, worse: float) -> Pair:
    p = r.normal(0.6, 0.2, n)
    trial, incumbent = (np.clip(np.round((m + r.normal(size=n) * 0.2) * 4) / 4, 0, 1) for m in (p - worse * 0.26, p))
    return trial, incumbent


def race(
    make: Callable[[np.random.Generator, int, float], Pair], n: int, worse: float, runs: int, seed: int = 0
) -> tuple[float, float]:
    """Share of trials stopped, and share of the examples used."""
    r, looks = np.random.default_rng(seed), racing.rungs(n)
    stopped = used = 0
    for _ in range(runs):
        trial, incumbent = make(r, n, worse)
        for look, m in enumerate(looks, 1):
            if not racing.decide(trial[:m], incumbent, look=look, looks=looks, alpha=ALPHA).keep:
                stopped += 1
                used += m
                break
        else:
            used += n
    return stopped / runs, used / runs / n


@pytest.mark.parametrize("n", [40, 100, 300])
@pytest.mark.parametrize("make", [continuous, exact_match, mostly_ties, graded])
def test_an_equal_trial_survives(make: Callable[..., Pair], n: int) -> None:
    runs = 2000
    stopped, used = race(make, n, 0.0, runs)
    assert stopped <= ALPHA + 0.005 + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)
    assert used > 0.9


@pytest.mark.parametrize(
    ("make", "n", "power", "at_most_used"),
    [
        (continuous, 40, 0.80, 0.60),
        (continuous, 100, 0.93, 0.32),
        (continuous, 300, 0.99, 0.13),
        (exact_match, 40, 0.75, 0.63),
        (exact_match, 100, 0.91, 0.35),
        (exact_match, 300, 0.99, 0.15),
        (graded, 100, 0.86, 0.40),
        (mostly_ties, 100, 0.70, 0.56),
    ],
)
def test_half_a_standard_deviation_worse_is_stopped_early(
    make: Callable[..., Pair], n: int, power: float, at_most_used: float
) -> None:
    stopped, used = race(make, n, 0.5, 400)
    assert stopped >= power and used <= at_most_used


def test_a_better_trial_is_hardly_ever_stopped() -> None:
    assert race(continuous, 100, -0.25, 1000)[0] < 0.015


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


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("step", [0.0, 0.25, 1.0])
def test_p_value_is_the_mid_p_of_scipys_exact_permutation_test(n: int, step: float) -> None:
    d = np.random.default_rng(n).normal(-0.3, 1, n)
    d = np.round(d / step) * step if step else d
    at_most, at_least = (
        scipy_stats.permutation_test(
            (d,), np.mean, permutation_type="samples", alternative=side, n_resamples=np.inf, vectorized=True
        ).pvalue
        if n > 1
        else float(np.mean([(v <= d[0]) if side == "less" else (v >= d[0]) for v in (d[0], -d[0])]))
        for side in ("less", "greater")
    )
    expected = (at_most + 1 - at_least) / 2 if np.any(d != 0) else 1.0
    assert racing.worse_p(d) == pytest.approx(expected, abs=1e-12)


def test_the_normal_regime_continues_the_exact_one() -> None:
    r = np.random.default_rng(2)
    for values in (r.normal(-0.3, 1, 30), r.choice([-1.0, -1.0, 1.0], 30), np.round(r.normal(-0.1, 0.3, 30) * 4) / 4):
        signs = r.choice([-1.0, 1.0], size=(100_000, 30))
        sums = signs @ np.abs(values)
        mid_p = (np.mean(sums < values.sum() - 1e-9) + np.mean(sums <= values.sum() + 1e-9)) / 2
        assert racing.worse_p(values) == pytest.approx(mid_p, abs=0.006)


def test_scores_without_spread_are_no_special_case() -> None:
    looks = (12, 24)
    lost = racing.decide([0.0] * 12, [1.0] * 40, look=1, looks=looks)
    assert not lost.keep and lost.p_value == 0.5**13 and lost.told == 0.0 and lost.difference == -1.0
    same = racing.decide([1.0] * 12, [1.0] * 40, look=1, looks=looks)
    assert same.keep and same.p_value == 1.0 and same.difference == 0.0
    better = racing.decide([1.0] * 24, [0.0] * 40, look=2, looks=looks)
    assert better.keep and better.p_value > 0.99
    few = racing.decide([0.0] * 3 + [1.0] * 9, [1.0] * 40, look=1, looks=looks)
    assert few.keep and few.p_value == 0.5**4, "three lost of twelve may be luck"
    assert not racing.decide([0.5] * 24, [0.6] * 40, look=2, looks=looks).keep


def test_told_is_the_incumbents_whole_mean_plus_the_paired_difference() -> None:
    r = np.random.default_rng(3)
    incumbent = r.random(40)
    trial = incumbent[:12] - 0.3 + r.normal(size=12) * 0.01
    trial[4] = np.nan
    decision = racing.decide(trial, incumbent, look=1, looks=(12, 24), n_examples=40)
    expected = np.nanmean(trial - incumbent[:12])
    assert not decision.keep and decision.difference == pytest.approx(expected)
    assert decision.told == pytest.approx(incumbent.mean() + expected)
    assert racing.adjusted_mean(trial, incumbent[:12], float(incumbent.mean())) == pytest.approx(decision.told)
    assert racing.adjusted_mean([np.nan], [0.5], 0.7) == 0.7


def test_groups_are_flipped_together() -> None:
    trial, incumbent = [0.0] * 12, [1.0] * 12
    alone = racing.decide(trial, incumbent, look=1, looks=(12,), groups=[None] * 12)
    assert alone == racing.decide(trial, incumbent, look=1, looks=(12,))
    pairs = racing.decide(trial, incumbent, look=1, looks=(12,), groups=[i // 6 for i in range(12)])
    assert pairs.p_value == 0.5**3 and pairs.keep and pairs.difference == -1.0


def test_nothing_to_compare_goes_on_and_nonsense_is_refused() -> None:
    decision = racing.decide([np.nan, np.nan], [1.0, 0.0, 1.0], look=1, looks=(2,))
    assert decision.keep and decision.told == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="look 3"):
        racing.decide([1.0], [1.0], look=3, looks=(12, 24))
    with pytest.raises(ValueError, match="no scores"):
        racing.decide([1.0], [np.nan], look=1, looks=(12,))
    with pytest.raises(ValueError, match="increasing"):
        racing.levels((12, 12), 0.1)
    with pytest.raises(ValueError, match="alpha"):
        racing.levels((12,), 0.0)
    with pytest.raises(ValueError, match="eta"):
        racing.rungs(100, eta=1.0)


def test_rungs_are_few_increasing_and_leave_something_to_save() -> None:
    assert [racing.rungs(n) for n in (0, 10, 23)] == [()] * 3
    assert racing.rungs(40) == (12, 24) and racing.rungs(100) == (12, 24, 48)
    assert racing.rungs(300) == (12, 24, 48, 96, 192)
    for n in range(24, 3000, 7):
        found = racing.rungs(n)
        assert 1 <= len(found) <= racing.MOST_RUNGS and found[0] == 12 and found[-1] <= 0.85 * n
        assert all(b > a for a, b in pairwise(found))
    assert all(b > a for a, b in pairwise(racing.rungs(5, first=1, eta=1.1))), "rounding repeats no rung"


def test_a_decision_costs_less_than_half_a_millisecond() -> None:
    r, looks = np.random.default_rng(4), racing.rungs(300)
    trial, incumbent = r.random(300), r.random(300)
    best = {}
    for n in (12, 20, 192):
        laps = []
        for _ in range(50):
            start = time.perf_counter()
            racing.decide(trial[:n], incumbent, look=1, looks=looks)
            laps.append(time.perf_counter() - start)
        best[n] = min(laps)
    assert max(best.values()) < 0.0005
