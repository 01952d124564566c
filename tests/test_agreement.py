"""Agreement against scipy and scikit-learn; tests and intervals against simulations with known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from genopt import agreement
from genopt.agreement import (
    bootstrap,
    kappa,
    kendall,
    members,
    numbered,
    rate_above,
    repeatability,
    shown_above,
    spearman,
)


def raters(seed: int, n: int = 80) -> tuple[list[int], list[int]]:
    """Two raters' grades 0..4 with many ties, agreeing more for some seeds than for others."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    noise = 0.3 + seed % 5
    a, b = (np.clip(np.round(2 + truth + rng.normal(0, noise, n)), 0, 4).astype(int).tolist() for _ in range(2))
    return a, b


@pytest.mark.parametrize("seed", range(20))
def test_correlations_and_kappa_equal_those_of_scipy_and_scikit_learn(seed: int) -> None:
    a, b = raters(seed)
    scores = np.array(b) + np.random.default_rng(seed).random(len(b))
    assert spearman(a, scores) == pytest.approx(scipy_stats.spearmanr(a, scores).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(scipy_stats.spearmanr(a, b).statistic, abs=1e-12)
    assert kendall(a, b) == pytest.approx(scipy_stats.kendalltau(a, b).statistic, abs=1e-12)
    assert agreement.pearson(a, scores) == pytest.approx(scipy_stats.pearsonr(a, scores).statistic, abs=1e-12)
    expected = cohen_kappa_score(a, b, weights="quadratic", labels=list(range(5)))
    assert kappa(a, b, 5) == pytest.approx(expected, abs=1e-12)


def test_where_there_is_nothing_to_agree_on_the_answer_is_unknown() -> None:
    assert all(math.isnan(f([1.0, 1.0], [1.0, 2.0])) for f in (spearman, kendall, agreement.pearson))
    assert all(math.isnan(f([], [])) for f in (spearman, kendall, agreement.pearson))
    assert math.isnan(kappa([2, 2], [2, 2], 5)) and math.isnan(kappa([], [], 5))
    assert kappa([2, 2], [3, 3], 5) == 0.0
    assert kappa([0, 4], [0, 4], 5) == 1.0


def test_members_are_the_rows_of_each_code() -> None:
    codes = numbered(["b", "a", "b", "c"])
    assert codes.tolist() == [0, 1, 0, 2]
    assert [rows.tolist() for rows in members(codes, 3)] == [[0, 2], [1], [3]]


def test_intervals_that_resample_clusters_hold_the_truth() -> None:
    """30 inputs of 4 outputs each, whose difficulty is shared: an interval that takes outputs for independent would
    hold the truth far less often."""
    rng, inputs, each, covered, runs = np.random.default_rng(1), 30, 4, 0, 300
    rows = members(np.repeat(np.arange(inputs), each), inputs)
    for run in range(runs):
        scores = 0.7 + 0.3 * np.repeat(rng.normal(size=inputs), each) + 0.1 * rng.normal(size=inputs * each)

        def mean(drawn: agreement.Rows, scores: agreement.Floats = scores) -> dict[str, float]:
            return {"mean": float(scores[np.concatenate([rows[c] for c in drawn])].mean())}

        found = bootstrap(mean, inputs, resamples=300, seed=run)["mean"]
        covered += found.low <= 0.7 <= found.high
    assert 0.89 <= covered / runs <= 0.97


def test_an_interval_is_unknown_where_hardly_anything_is_known() -> None:
    assert math.isnan(bootstrap(lambda drawn: {"x": 1.0}, 2)["x"].low)
    sometimes = bootstrap(lambda drawn: {"x": math.nan if drawn[0] % 2 else 1.0}, 50, resamples=100)["x"]
    assert sometimes.value == 1.0 and math.isnan(sometimes.low)
    always = bootstrap(lambda drawn: {"size": float(drawn.size)}, 5, resamples=10)
    assert always == {"size": agreement.Estimate(5.0, 5.0, 5.0)}


@pytest.mark.parametrize("true_mean", [0.2, 0.5])
def test_a_mean_at_the_bound_is_wrongly_shown_above_it_as_often_as_said(true_mean: float) -> None:
    rng, bound = np.random.default_rng(2), true_mean
    wrong = sum(shown_above(rng.normal(true_mean, 0.3, 20), bound, level=0.05).passed for _ in range(4000))
    assert scipy_stats.binomtest(wrong, 4000, 0.05).pvalue > 1e-3


def test_the_mean_that_is_surely_shown_is_shown_as_often_as_said() -> None:
    rng = np.random.default_rng(3)
    sd, n, bound = 0.3, 20, 0.25
    pattern = scipy_stats.norm.ppf((np.arange(n) + 0.5) / n)
    like_these = 0.5 + sd * pattern / pattern.std(ddof=1)
    sure = shown_above(like_these, bound).sure
    failed = sum(not shown_above(rng.normal(sure, sd, n), bound).passed for _ in range(4000))
    assert scipy_stats.binomtest(failed, 4000, 0.01).pvalue > 1e-3


def test_equal_values_and_too_few() -> None:
    assert shown_above([0.5] * 3, 0.4).passed and not shown_above([0.5] * 3, 0.5).passed
    assert not shown_above([0.9, 0.9], 0.1).passed
    assert not shown_above([], 0.1).passed
    assert shown_above([0.5, math.nan, 0.5, 0.5], 0.4).n == 3


def test_the_p_value_of_a_mean_equals_scipys() -> None:
    values = np.random.default_rng(4).random(15)
    expected = scipy_stats.ttest_1samp(values, 0.4, alternative="greater").pvalue
    assert shown_above(values, 0.4).p_value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("count", "n"), [(0, 50), (1, 50), (7, 50), (50, 50)])
def test_the_p_value_of_a_rate_equals_scipys(count: int, n: int) -> None:
    expected = scipy_stats.binomtest(count, n, 0.05, alternative="greater").pvalue
    assert rate_above(count, n, 0.05) == pytest.approx(expected, abs=1e-12)


def test_repeatability_finds_the_noise_and_its_share() -> None:
    rng = np.random.default_rng(5)
    table = rng.normal(0, 0.4, (4000, 1)) + rng.normal(0, 0.2, (4000, 3))
    found = repeatability(table, 0.75)
    assert found.sd == pytest.approx(0.2, rel=0.03)
    assert found.icc == pytest.approx(0.16 / 0.20, rel=0.03)
    assert found.p_value < 0.001 < 0.999 < repeatability(table, 0.85).p_value


def test_a_repeatability_at_the_bound_is_wrongly_shown_above_it_as_often_as_said() -> None:
    rng = np.random.default_rng(6)
    tables = (rng.normal(0, 1.0, (20, 1)) + rng.normal(0, 1.0, (20, 3)) for _ in range(2000))
    above = sum(repeatability(table, 0.5).p_value <= 0.05 for table in tables)
    assert scipy_stats.binomtest(above, 2000, 0.05).pvalue > 1e-3


def test_repeatability_without_noise_or_without_differences() -> None:
    without = repeatability([[0.1, 0.1], [0.5, 0.5]], 0.5)
    assert (without.sd, without.icc, without.p_value) == (0.0, 1.0, 0.0)
    assert repeatability([[0.5, 0.5], [0.5, 0.5]], 0.5).p_value == 1.0
    assert repeatability([[0.5, 0.4]], 0.5).p_value == 1.0
    assert repeatability([[0.5, math.nan], [0.1, 0.2], [0.3, 0.5]], 0.5).texts == 2
