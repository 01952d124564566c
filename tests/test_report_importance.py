"""Which parameters matter: against pandas, scipy and simulations whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from scipy.stats import f_oneway

from genopt.report.importance import binned, importances, interaction


def simulated(n: int, seed: int, *, noise: float) -> tuple[list[dict[str, Any]], list[float]]:
    """Gains that depend on `a` in three steps and not at all on `b`."""
    rng = np.random.default_rng(seed)
    params = [{"a": int(rng.integers(0, 3)), "b": float(rng.uniform())} for _ in range(n)]
    return params, [float([0.0, 1.0, 3.0][each["a"]] + rng.normal(0, noise)) for each in params]


def test_a_share_is_the_adjusted_r_squared_of_the_bins_means() -> None:
    params, gains = simulated(60, 1, noise=1.0)
    found = {each.name: each for each in importances(params, gains)}
    frame = pandas.DataFrame(params).assign(gain=gains)
    within = float(((frame["gain"] - frame.groupby("a")["gain"].transform("mean")) ** 2).sum())
    total = float(((frame["gain"] - frame["gain"].mean()) ** 2).sum())
    assert found["a"].share == pytest.approx(1 - within / total * 59 / 57, abs=1e-12)
    groups = [group.to_numpy() for _, group in frame.groupby("a")["gain"]]
    assert found["a"].p_value == pytest.approx(f_oneway(*groups).pvalue, rel=1e-9)
    means = frame.groupby("a")["gain"].agg(["mean", "count", "sem"])
    assert [b.mean for b in found["a"].bins] == pytest.approx(means["mean"].tolist())
    assert [b.count for b in found["a"].bins] == means["count"].tolist()
    from scipy.stats import t

    half = t.ppf(0.975, means["count"] - 1) * means["sem"]
    assert [b.mean_high for b in found["a"].bins] == pytest.approx((means["mean"] + half).tolist())


def test_what_matters_comes_first_and_what_does_not_has_no_share_on_average() -> None:
    truth = np.var([0.0, 1.0, 3.0]) / (np.var([0.0, 1.0, 3.0]) + 1)
    shares, covered, chance = [], 0, []
    for seed in range(200):
        a, b = importances(*simulated(80, seed, noise=1.0))
        assert a.name == "a"
        shares.append(a.share)
        covered += a.low <= truth <= a.high
        chance.append(b.p_value < 0.05)
    assert np.mean(shares) == pytest.approx(truth, abs=0.02)
    assert 0.88 <= covered / 200 <= 0.99
    assert np.mean(chance) < 0.11


def test_a_parameter_of_a_branch_is_looked_at_where_it_is_used() -> None:
    params: list[dict[str, Any]] = [{"how": "greedy"} for _ in range(20)]
    params += [{"how": "sampling", "top_p": 0.5 + i / 40} for i in range(20)]
    gains = [-5.0 + 0.01 * (i % 2) for i in range(20)] + [0.01 * (i % 2) for i in range(20)]
    found = {each.name: each for each in importances(params, gains)}
    assert found["how"].share > 0.99
    assert found["top_p"].share < 0.2, "the branch's credit is not its parameters'"
    assert sum(b.count for b in found["top_p"].bins) == 20


def test_too_little_to_say_anything_says_nothing() -> None:
    assert importances([{"a": i} for i in range(7)], [0.1 * i for i in range(7)]) == ()
    assert importances([{"a": i} for i in range(9)], [0.0] * 9) == ()
    assert importances([{"a": 1} for _ in range(9)], [0.1 * i for i in range(9)]) == ()


def test_numbers_are_cut_into_bins_of_about_equal_count_and_other_values_are_kept() -> None:
    codes, bins = binned([float(i) for i in range(48)])
    assert len(bins) == 6 and set(np.bincount(codes)) == {8}
    assert bins[0] == (0.0, 7.0) and bins[-1] == (40.0, 47.0)
    codes, bins = binned(["x", "y", True, ["a"], "x", 2, 1])
    assert bins == [(1, 1), (2, 2), ("x", "x"), ("y", "y"), (True, True), (["a"], ["a"])]
    assert codes.tolist() == [2, 3, 4, 5, 2, 1, 0]
    same, one = binned([0.5] * 30)
    assert one == [(0.5, 0.5)] and set(same) == {0}


def test_an_interaction_is_the_mean_for_each_pair_of_bins() -> None:
    params = [{"a": i % 2, "b": word} for i, word in enumerate(["u", "u", "v", "u"] * 5)] + [{"a": 1}]
    gains = [float(i) for i in range(21)]
    found = interaction(params, gains, "a", "b")
    frame = pandas.DataFrame(params).assign(gain=gains).dropna()
    means = frame.pivot_table(index="a", columns="b", values="gain")
    assert found.means[0] == pytest.approx(means.loc[0].tolist())
    assert found.means[1] == (pytest.approx(means.loc[1, "u"]), None)
    assert found.counts == ((5, 5), (10, 0))
