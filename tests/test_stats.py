"""The arithmetic of evidence, against scipy, brute force and simulations whose truth is known."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genopt import stats


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def within(observed: float, expected: float, runs: int, sigmas: float = 3.5) -> bool:
    return abs(observed - expected) <= sigmas * math.sqrt(expected * (1 - expected) / runs)


# ---------------------------------------------------------------- paired


@pytest.mark.parametrize("n", [2, 3, 5, 8, 11])
@pytest.mark.parametrize("kind", ["continuous", "exact match", "graded"])
def test_p_value_is_scipys_exact_permutation_test(n: int, kind: str) -> None:
    r = rng(n)
    a, b = r.normal(0.4, 1, n), r.normal(size=n)
    if kind == "exact match":
        a, b = (a > 0).astype(float), (b > 0).astype(float)
    if kind == "graded":
        a, b = np.round(a * 4) / 4, np.round(b * 4) / 4
    expected = scipy_stats.permutation_test(
        (a - b,), np.mean, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    ).pvalue
    assert stats.paired(a, b).p_value == pytest.approx(expected, abs=1e-12)


def test_more_clusters_than_brute_force_can_do_are_still_exact_and_agree_with_sampling() -> None:
    r = rng(1)
    d = r.normal(0.3, 1, 24)
    exact = stats.paired(d, np.zeros(24)).p_value
    signs = r.choice([-1.0, 1.0], size=(200_000, 24))
    assert within(float(np.mean(np.abs(signs @ d) >= abs(d.sum()))), exact, 200_000)
    assert (exact * 2**24) == int(exact * 2**24)


def test_monte_carlo_p_value_agrees_with_the_t_test_and_is_repeatable() -> None:
    r = rng(2)
    a, b = r.normal(0.15, 1, 200), r.normal(size=200)
    one, two = stats.paired(a, b, seed=3), stats.paired(a, b, seed=3)
    assert one == two
    assert one.p_value == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert stats.paired(a + 5, b, resamples=999).p_value == 1 / 1000


def test_interval_is_scipys_t_interval() -> None:
    r = rng(3)
    a, b = r.random(37), r.random(37)
    result = stats.paired(a, b, level=0.9)
    expected = scipy_stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx((expected.low, expected.high))
    assert (result.n, result.clusters, result.level) == (37, 37, 0.9)
    assert result.difference == pytest.approx(np.mean(a - b))
    mean, se = stats.mean_se(a - b)
    assert stats.interval(mean, se, 37, 0.9) == pytest.approx((expected.low, expected.high))


def test_cluster_standard_error_and_p_value_are_brute_force() -> None:
    r = rng(4)
    groups = list("aabbbcddddeeffg")
    n = len(groups)
    a, b = r.random(n) + 0.1, r.random(n)
    d = a - b
    result = stats.paired(a, b, groups=groups)
    names = sorted(set(groups))
    total = 0.0
    for name in names:
        members = [i for i in range(n) if groups[i] == name]
        total += sum((d[i] - d.mean()) * (d[j] - d.mean()) for i in members for j in members)
    c = len(names)
    assert result.se == pytest.approx(math.sqrt(total * c / (c - 1)) / n)
    assert result.clusters == c
    assert result.high - result.difference == pytest.approx(scipy_stats.t.ppf(0.975, c - 1) * result.se)
    sums = np.array([d[[g == name for g in groups]].sum() for name in names])
    flips = [
        abs(sum(s * x for s, x in zip(signs, sums, strict=True))) for signs in itertools.product((-1, 1), repeat=c)
    ]
    assert result.p_value == np.mean(np.array(flips) >= abs(sums.sum()) - 1e-12)


def test_none_is_a_group_of_its_own_and_singletons_change_nothing() -> None:
    r = rng(5)
    a, b = r.random(9), r.random(9)
    plain = stats.paired(a, b)
    assert stats.paired(a, b, groups=[None] * 9) == plain
    assert stats.paired(a, b, groups=range(9)) == plain
    assert stats.paired(a, b, groups=["x", "x", *[None] * 7]).clusters == 8


def test_missing_values_drop_the_pair_and_rounding_is_a_tie() -> None:
    result = stats.paired([1.0, None, 0.3 - 0.2, 0.5], [0.5, 1.0, 0.2 - 0.1, float("nan")], groups=["g", "h", "g", "g"])
    assert (result.n, result.wins, result.ties, result.losses, result.clusters) == (2, 1, 1, 0, 1)
    assert result.difference == 0.25


def test_degenerate_inputs_have_defined_finite_json() -> None:
    nothing, one = stats.paired([], []), stats.paired([1.0], [0.0])
    for result, n, difference in ((nothing, 0, 0.0), (one, 1, 1.0)):
        assert (result.n, result.difference, result.p_value) == (n, difference, 1.0)
        assert result.low == -stats.UNBOUNDED and result.high == stats.UNBOUNDED == result.se
        assert json.loads(json.dumps(asdict(result), allow_nan=False))["low"] == result.low
    same = stats.paired([0.1, 0.7, 0.7], [0.1, 0.7, 0.7])
    assert (same.p_value, same.low, same.high, same.ties, same.se) == (1.0, 0.0, 0.0, 3, 0.0)
    always = stats.paired([1.0] * 4, [0.0] * 4)
    assert (always.low, always.high, always.p_value) == (1.0, 1.0, 2 / 16)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        stats.paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="finite"):
        stats.paired([math.inf], [1.0])
    with pytest.raises(ValueError, match="groups"):
        stats.paired([1.0], [1.0], groups=["a", "b"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        stats.paired([1.0, 2.0], [1.0, 1.0], level=95)


@pytest.mark.parametrize("kind", ["graded", "clusters"])
def test_interval_covers_and_p_value_errs_as_stated(kind: str) -> None:
    r, runs, truth = rng(6), 2000, 0.1
    covered = false = 0
    groups = [i // 3 for i in range(60)] if kind == "clusters" else None
    for _ in range(runs):
        if kind == "clusters":
            noise = np.repeat(r.normal(size=20), 3) * 0.2 + r.normal(size=60) * 0.2
        else:
            noise = (r.integers(0, 5, 60) - r.integers(0, 5, 60)) / 4
        result = stats.paired(noise + truth, np.zeros(60), groups=groups, resamples=199)
        covered += result.low <= truth <= result.high
        false += stats.paired(noise, np.zeros(60), groups=groups, resamples=199).p_value <= 0.05
    assert within(covered / runs, 0.95, runs)
    assert within(false / runs, 0.05, runs)


# ---------------------------------------------------------------- means, power


def test_mean_se_drops_nan_and_says_what_it_cannot_know() -> None:
    assert stats.mean_se([1.0, math.nan, 2.0, 4.0]) == pytest.approx((7 / 3, scipy_stats.sem([1, 2, 4])))
    assert stats.mean_se([3.0]) == (3.0, stats.UNBOUNDED)
    mean, se = stats.mean_se([math.nan])
    assert math.isnan(mean) and se == stats.UNBOUNDED
    assert stats.interval(3.0, stats.UNBOUNDED, 1) == (-stats.UNBOUNDED, stats.UNBOUNDED)


@pytest.mark.parametrize(("n", "power"), [(8, 0.8), (40, 0.8), (40, 0.5), (150, 0.9)])
def test_minimum_detectable_effect_is_found_that_often(n: int, power: float) -> None:
    effect, runs = stats.minimum_detectable_effect(0.3, n, power=power), 20_000
    d = rng(n).normal(effect, 0.3, (runs, n))
    assert within(float(np.mean(scipy_stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05)), power, runs)


def test_minimum_detectable_effect_at_the_edges() -> None:
    assert stats.minimum_detectable_effect(0.3, 1) == stats.UNBOUNDED
    assert stats.minimum_detectable_effect(stats.UNBOUNDED, 50) == stats.UNBOUNDED
    assert stats.minimum_detectable_effect(0.0, 50) == 0.0
    below, above = (stats.minimum_detectable_effect(1.0, n) for n in (10_000, 10_001))
    assert below == pytest.approx(above, rel=1e-3)


def test_examples_needed_is_the_fewest_that_suffice() -> None:
    for sd, effect in ((0.25, 0.05), (0.5, 0.05), (0.3, 0.2), (1.0, 2.0)):
        n = stats.examples_needed(sd, effect)
        assert stats.minimum_detectable_effect(sd, n) <= effect
        assert n == 2 or stats.minimum_detectable_effect(sd, n - 1) > effect
    assert stats.examples_needed(0.25, 0.05) == pytest.approx(7.85 * 0.25**2 / 0.05**2, abs=4)
    assert stats.examples_needed(0.0, 0.05) == 2
    with pytest.raises(ValueError, match="greater than 0"):
        stats.examples_needed(0.3, 0.0)


def test_expected_sd_of_difference_is_that_of_equally_noisy_correlated_scores() -> None:
    r = rng(7)
    a, b = r.multivariate_normal([0, 0], [[1, 0.3], [0.3, 1]], 100_000).T
    assert stats.expected_sd_of_difference([*a, math.nan], 0.3) == pytest.approx(np.std(a - b), rel=0.01)
    assert stats.expected_sd_of_difference([0.5]) == stats.UNBOUNDED


# ---------------------------------------------------------------- shrinkage


def test_shrinking_removes_the_winners_curse() -> None:
    r, runs = rng(8), 600
    raw = shrunk = regret_raw = regret_shrunk = 0.0
    for _ in range(runs):
        truth = r.normal(0.5, 0.02, 50)
        ses = 0.03 * r.choice([0.7, 1.0, 1.5], 50)
        seen = truth + r.normal(size=50) * ses
        fitted = stats.shrink(seen, ses)
        best, best_shrunk = int(np.argmax(seen)), int(np.argmax(fitted.means))
        raw += (seen[best] - truth[best]) / runs
        shrunk += (fitted.means[best_shrunk] - truth[best_shrunk]) / runs
        regret_raw += (truth.max() - truth[best]) / runs
        regret_shrunk += (truth.max() - truth[best_shrunk]) / runs
    assert raw > 0.06 and abs(shrunk) < 0.004
    assert regret_shrunk < regret_raw - 0.003


@pytest.mark.parametrize(("trials", "tau", "share", "tolerance"), [(60, 0.08, 0.95, 0.01), (25, 0.04, 0.93, 0.02)])
def test_posterior_sd_holds_what_its_docstring_says(trials: int, tau: float, share: float, tolerance: float) -> None:
    r, runs, inside = rng(9), 400, 0
    for _ in range(runs):
        truth, ses = r.normal(0.2, tau, trials), r.uniform(0.02, 0.06, trials)
        fitted = stats.shrink(truth + r.normal(size=trials) * ses, ses)
        inside += int(np.sum(np.abs(truth - fitted.means) <= 1.96 * np.array(fitted.ses)))
    assert inside / (runs * trials) == pytest.approx(share, abs=tolerance)


def test_tau_solves_the_paule_mandel_equation_and_means_are_the_textbook_posterior() -> None:
    r = rng(10)
    x, s = r.normal(0, 0.5, 12), r.uniform(0.1, 0.3, 12)
    fitted = stats.shrink(x, s)
    w = 1 / (s**2 + fitted.tau**2)
    center = np.sum(w * x) / np.sum(w)
    assert np.sum(w * (x - center) ** 2) == pytest.approx(11)
    assert fitted.prior_mean == pytest.approx(center)
    assert fitted.means == pytest.approx(center + fitted.tau**2 * w * (x - center))


def test_shrink_at_the_edges() -> None:
    assert stats.shrink([], []) == stats.Shrunk((), (), 0.0, 0.0)
    assert stats.shrink([0.4], [0.1]).means == pytest.approx((0.4,))
    assert stats.shrink([0.4], [stats.UNBOUNDED]).means == (0.4,)
    assert stats.shrink([0.2, 0.6, 0.4], [0.0] * 3).means == pytest.approx((0.2, 0.6, 0.4))
    assert stats.shrink([0.5] * 4, [0.0, 0.1, 0.2, 0.1]).means == pytest.approx((0.5,) * 4)
    assert stats.shrink([0.5] * 4, [0.0] * 4).ses == (0.0,) * 4
    lucky = stats.shrink([1.0, 0.5, 0.52, 0.48], [0.0, 0.2, 0.2, 0.2])
    assert lucky.means[0] < 1.0, "a zero standard error among others is not certainty"
    unknown = stats.shrink([0.9, 0.1, 0.3, math.nan], [stats.UNBOUNDED, 0.02, 0.02, 0.02])
    assert unknown.means[0] == unknown.prior_mean == pytest.approx(0.2) and math.isnan(unknown.means[3])
    noise = stats.shrink([0.5, 0.51, 0.49], [0.2, 0.2, 0.2])
    assert noise.means[1] > noise.means[0] > noise.means[2], "still ranked by what was seen"
    assert max(noise.means) - min(noise.means) < 0.001
    with pytest.raises(ValueError, match="standard errors"):
        stats.shrink([0.1, 0.2], [0.1])
    with pytest.raises(ValueError, match="negative"):
        stats.shrink([0.1], [-0.1])


def test_all_looks_together_err_with_at_most_twice_alpha() -> None:
    levels = [stats.look_level(look) for look in range(1, 60)]
    assert levels[:3] == [0.05, 0.025, 0.0125]
    assert sum(levels) <= 2 * 0.05
    with pytest.raises(ValueError, match="from 1"):
        stats.look_level(0)


def test_importing_costs_no_scipy() -> None:
    code = "import sys, genopt.stats, genopt.racing; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
