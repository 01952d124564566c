"""The Gaussian process against formulas written out another way, finite differences and simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from genopt import surrogate
from genopt.surrogate import Data, Hyper, Posterior, Scale

GROUPS = np.array([0, 0, 1, 2, 2])


def data(n: int = 12, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    return Data(rng.random((n, 5)), rng.standard_normal(n), rng.random(n) * 0.3, GROUPS)


HYPER = Hyper(np.array([0.4, 0.9, 1.7]), 1.3, 0.6, 0.05)


def covariance(a: Any, b: Any, hyper: Hyper) -> Any:
    """The prior covariance of the process, entry by entry."""
    found = np.empty((len(a), len(b)))
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            r = math.sqrt(sum(((x[k] - y[k]) / hyper.lengths[GROUPS[k]]) ** 2 for k in range(5)))
            matern = (1 + math.sqrt(5) * r + 5 * r * r / 3) * math.exp(-math.sqrt(5) * r)
            found[i, j] = hyper.signal * matern + surrogate.MEAN_VARIANCE
    return found


def test_the_posterior_is_that_of_the_joint_normal() -> None:
    known, rows = data(), np.random.default_rng(1).random((7, 5))
    noise = np.diag(HYPER.factor * known.variances + HYPER.nugget + surrogate.JITTER)
    inverse = np.linalg.inv(covariance(known.rows, known.rows, HYPER) + noise)
    cross = covariance(rows, known.rows, HYPER)
    mean, sd = Posterior(known, HYPER).at(rows)
    np.testing.assert_allclose(mean, cross @ inverse @ known.values, rtol=1e-9)
    variance = np.diag(covariance(rows, rows, HYPER) - cross @ inverse @ cross.T)
    np.testing.assert_allclose(sd, np.sqrt(variance), rtol=1e-7)
    np.testing.assert_allclose(Posterior(known, HYPER).mean(rows), mean)


def test_the_likelihood_is_that_of_the_joint_normal() -> None:
    known = data()
    theta = np.log([*HYPER.lengths, HYPER.signal, HYPER.factor, HYPER.nugget])
    noise = np.diag(HYPER.factor * known.variances + HYPER.nugget + surrogate.JITTER)
    joint = stats.multivariate_normal(np.zeros(12), covariance(known.rows, known.rows, HYPER) + noise)
    length = stats.norm(surrogate.LENGTH[0] + 0.5 * math.log(3), surrogate.LENGTH[1])
    priors = [stats.norm(*prior) for prior in (surrogate.SIGNAL, surrogate.FACTOR, surrogate.NUGGET)]

    def reference(t: Any) -> float:
        return float(
            sum(length.logpdf(x) for x in t[:3]) + sum(p.logpdf(x) for p, x in zip(priors, t[3:], strict=True))
        )

    distances = surrogate.squared_distances(known.rows, GROUPS)
    value, _ = surrogate.log_posterior(theta, distances, known.values, known.variances)
    median = np.array([length.mean()] * 3 + [p.mean() for p in priors])
    constant = reference(median) - 6 * math.log(2 * math.pi)  # of the priors and of twelve values
    assert value == pytest.approx(joint.logpdf(known.values) + reference(theta) - constant, abs=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_that_of_finite_differences(seed: int) -> None:
    known = data(15, seed)
    distances = surrogate.squared_distances(known.rows, GROUPS)
    theta = np.random.default_rng(seed).standard_normal(6) * 0.6

    def value(t: Any) -> float:
        return surrogate.log_posterior(t, distances, known.values, known.variances)[0]

    numeric = [(value(theta + step) - value(theta - step)) / 2e-6 for step in np.eye(6) * 1e-6]
    np.testing.assert_allclose(
        surrogate.log_posterior(theta, distances, known.values, known.variances)[1], numeric, atol=1e-6
    )


def test_the_fit_is_a_maximum_and_the_same_each_time() -> None:
    known = data(30)
    hyper = surrogate.fit(known)
    theta = np.log([*hyper.lengths, hyper.signal, hyper.factor, hyper.nugget])
    distances = surrogate.squared_distances(known.rows, GROUPS)
    best, gradient = surrogate.log_posterior(theta, distances, known.values, known.variances)
    assert np.abs(gradient).max() < 1e-2
    rng = np.random.default_rng(2)
    assert all(
        surrogate.log_posterior(theta + 0.1 * rng.standard_normal(6), distances, known.values, known.variances)[0]
        < best
        for _ in range(20)
    )
    np.testing.assert_array_equal(surrogate.fit(known).lengths, hyper.lengths)


def test_the_fit_finds_which_columns_matter() -> None:
    rng = np.random.default_rng(3)
    rows = rng.random((60, 3))
    values = np.sin(6 * rows[:, 0]) + 0.05 * rng.standard_normal(60)
    hyper = surrogate.fit(Data(rows, values, np.full(60, 0.0025), np.arange(3)))
    assert hyper.lengths[0] < 0.5 * min(hyper.lengths[1:])


def test_a_value_that_is_surer_counts_more() -> None:
    rows = np.array([[0.5], [0.5]])
    one = Data(rows, np.array([1.0, -1.0]), np.array([0.01, 1.0]), np.array([0]))
    assert Posterior(one, Hyper(np.array([0.5]), 1.0, 1.0, 1e-6)).mean(rows)[0] > 0.8
    other = Data(rows, one.values, one.variances[::-1], one.groups)
    assert Posterior(other, Hyper(np.array([0.5]), 1.0, 1.0, 1e-6)).mean(rows)[0] < -0.8


def test_what_is_believed_moves_no_mean_and_takes_doubt_away() -> None:
    known, rows = data(), np.random.default_rng(4).random((6, 5))
    before = Posterior(known, HYPER)
    after = before.believing(rows[:2], 0.1)
    mean, sd = before.at(rows)
    mean_after, sd_after = after.at(rows)
    np.testing.assert_allclose(mean_after, mean, atol=1e-8)
    assert np.all(sd_after <= sd + 1e-9)
    assert np.all(sd_after[:2] < 0.8 * sd[:2])
    assert before.believing(rows[:0], 0.1) is before


@pytest.mark.parametrize("z", [3.0, 0.0, -0.5, -1.0, -2.0, -6.0, -20.0])
def test_expected_improvement_is_the_integral(z: float) -> None:
    sd, best = 0.7, 1.2
    mean = best + z * sd
    scale = stats.norm.pdf(z) if z < 0 else 1.0  # keeps the integrand within what numbers can say
    integral, _ = quad(lambda t: t * stats.norm.pdf(t - z) / scale, 0, max(z, 0) + 12, epsabs=0, epsrel=1e-10)
    found = surrogate.log_expected_improvement(np.array([mean]), np.array([sd]), best)[0]
    assert found == pytest.approx(math.log(sd * integral) + math.log(scale), abs=1e-5)


def test_expected_improvement_falls_all_the_way_down() -> None:
    z = np.linspace(5, -200, 2000)
    found = surrogate.log_expected_improvement(z, np.ones(len(z)), 0.0)
    assert np.all(np.isfinite(found))
    assert np.all(np.diff(found) < 0)


def test_the_chance_of_feasibility_is_normal() -> None:
    found = surrogate.log_feasible(np.array([0.0, -2.0, 50.0]), np.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(found[:2], np.log([0.5, stats.norm.cdf(2)]))
    assert -1300 < found[2] < -1200


def test_scaled_values_keep_their_order_and_their_top() -> None:
    values = np.array([0.05, 0.1, 0.6, 0.62, 0.66, 0.7, 0.72])
    scale = Scale.of(values)
    scaled = scale.apply(values)
    assert np.all(np.diff(scaled) > 0)
    np.testing.assert_allclose(np.diff(scaled[-3:]) * scale.spread, np.diff(values[-3:]))
    assert scaled[0] > -4  # what collapsed is near enough for the rest to be seen
    step = 1e-6
    np.testing.assert_allclose(
        scale.slope(values), (scale.apply(values + step) - scale.apply(values - step)) / (2 * step), rtol=1e-5
    )
    assert Scale.of(np.full(4, 0.5)).apply(np.full(4, 0.5)).tolist() == [0.0] * 4


def test_chebyshev_prefers_what_dominates_and_follows_the_weights() -> None:
    values = np.array([[1.0, 0.0], [0.0, 10.0], [0.6, 6.0], [0.5, 5.0]])
    even = surrogate.augmented_chebyshev(values, [0.5, 0.5])
    assert even.argmax() == 2
    assert even[2] > even[3]
    assert surrogate.augmented_chebyshev(values, [0.95, 0.05]).argmax() == 0
    assert surrogate.augmented_chebyshev(values, [0.05, 0.95]).argmax() == 1
