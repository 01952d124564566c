"""Owns the arithmetic of a Gaussian process over configurations: kernel, fit, posterior, expected improvement.

It knows rows of numbers (see geometry.py), values and the variance of each value's error; nothing of spaces, trials or
samplers. Pure functions.

The model. A value is a constant plus a Matern-5/2 process over groups of columns, each group with a length scale of its
own, plus an error whose variance is known up to a common factor, plus a nugget. All hyperparameters are set to the mode
of their posterior: with a handful of values the likelihood alone says nothing about eight length scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import log_ndtr, ndtr

Array = NDArray[np.float64]

MEAN_VARIANCE = 1.0  # of the constant, in units of the values' own variance
JITTER = 1e-8
# Log-normal priors (log of the median, spread), in units of the values' own variance. Length scales grow with the root
# of the number of groups, so that the distance between two random rows stays what it is (Hvarfner et al. 2024).
LENGTH = (math.log(0.45), 0.8)
SIGNAL = (0.0, 0.8)
FACTOR = (math.log(0.7), 0.5)  # below 1: what is common to all trials, which examples are hard, is in their errors too
NUGGET = (math.log(0.03), 1.0)
BOUND = 3.5  # spreads that a hyperparameter may lie from its prior's median


@dataclass(frozen=True, slots=True)
class Data:
    """Rows, their values (more is better) and the variance of each value's error (0: only the nugget is known).

    Shapes (n, p), (n,), (n,); `groups` (p,) numbers the group of each column.
    """

    rows: Array
    values: Array
    variances: Array
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scale:
    """Turns values into those that are modelled: centred, of unit spread, and what is far below drawn together.

    Where a configuration breaks the model's output, values collapse; how far does not matter, and a process that has to
    follow the cliff sees nothing of the plain above. Below one spread under the centre values go down as a logarithm.
    """

    centre: float
    spread: float

    @classmethod
    def of(cls, values: Array) -> Scale:
        """The scale of these values: their median, and the root mean square of what lies above it and below it, the
        smaller of the two but for values that are all equal."""
        centre = float(np.median(values))
        off = values - centre
        sides = [float(np.sqrt(np.mean(side**2))) for side in (off[off > 0], off[off < 0]) if len(side)]
        spread = min(sides, default=0.0)
        return cls(centre, spread if spread > 1e-12 else 1.0)

    def apply(self, values: Array) -> Array:
        """The modelled values."""
        z = (values - self.centre) / self.spread
        return np.where(z >= -1, z, -1 - np.log(np.maximum(-z, 1)))

    def slope(self, values: Array) -> Array:
        """The derivative of `apply`."""
        z = (values - self.centre) / self.spread
        return np.where(z >= -1, 1.0, 1 / np.maximum(-z, 1)) / self.spread


@dataclass(frozen=True, slots=True)
class Hyper:
    """Hyperparameters: a length scale for each group, the process's variance, the factor on known variances, the
    nugget."""

    lengths: Array
    signal: float
    factor: float
    nugget: float

    @classmethod
    def unpack(cls, theta: Array) -> Hyper:
        """From the logarithms, in the order of the fields."""
        return cls(np.exp(theta[:-3]), *(math.exp(t) for t in theta[-3:]))


def matern(distance: Array) -> Array:
    """The Matern-5/2 correlation at a distance in length scales."""
    r = math.sqrt(5) * distance
    result: Array = (1 + r + r * r / 3) * np.exp(-r)
    return result


def squared_distances(rows: Array, groups: NDArray[np.int64]) -> Array:
    """The squared distance of every two rows in every group of columns, (groups, n, n)."""
    return np.stack([cdist(part, part, "sqeuclidean") for part in (rows[:, groups == g] for g in _numbers(groups))])


def _numbers(groups: NDArray[np.int64]) -> range:
    return range(int(groups.max()) + 1 if len(groups) else 0)


def log_posterior(theta: Array, distances: Array, values: Array, variances: Array) -> tuple[float, Array]:
    """The log posterior of the hyperparameters' logarithms up to a constant, and its gradient.

    Marginal likelihood as in Rasmussen and Williams 2006, (5.8) and (5.9), with log-normal priors.
    """
    hyper, n = Hyper.unpack(theta), len(values)
    scaled = distances * hyper.lengths[:, None, None] ** -2
    r = np.sqrt(5 * scaled.sum(axis=0))
    decay = np.exp(-r)
    process = hyper.signal * (1 + r + r * r / 3) * decay
    covariance = process + MEAN_VARIANCE
    covariance[np.diag_indices(n)] += hyper.factor * variances + hyper.nugget + JITTER
    factor = cho_factor(covariance, lower=True)
    alpha = cho_solve(factor, values)
    value = -0.5 * values @ alpha - np.log(np.diag(factor[0])).sum()
    inner = 0.5 * (np.outer(alpha, alpha) - cho_solve(factor, np.eye(n)))
    gradient = np.empty_like(theta)
    gradient[:-3] = np.tensordot(scaled, inner * hyper.signal * (5 / 3) * (1 + r) * decay, axes=2)
    gradient[-3] = np.sum(inner * process)
    gradient[-2] = hyper.factor * np.diag(inner) @ variances
    gradient[-1] = hyper.nugget * np.trace(inner)
    median, spread = _priors(len(theta) - 3)
    off = (theta - median) / spread
    return float(value - 0.5 * off @ off), gradient - off / spread


def _priors(groups: int) -> tuple[Array, Array]:
    """The log of the medians, and the spreads, of all hyperparameters."""
    length = (LENGTH[0] + 0.5 * math.log(max(groups, 1)), LENGTH[1])
    both = np.array([*[length] * groups, SIGNAL, FACTOR, NUGGET])
    return both[:, 0], both[:, 1]


def fit(data: Data) -> Hyper:
    """The likeliest hyperparameters of data whose values are scaled (see Scale). The same data give the same ones."""
    distances = squared_distances(data.rows, data.groups)
    median, spread = _priors(len(distances))

    def negative(theta: Array) -> tuple[float, Array]:
        value, gradient = log_posterior(theta, distances, data.values, data.variances)
        return -value, -gradient

    bounds = list(zip(median - BOUND * spread, median + BOUND * spread, strict=True))
    found = minimize(negative, median, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60})
    return Hyper.unpack(found.x)


class Posterior:
    """What data say about the process under given hyperparameters."""

    def __init__(self, data: Data, hyper: Hyper) -> None:
        self.data, self.hyper = data, hyper
        self._columns = hyper.lengths[data.groups]
        self._scaled = data.rows / self._columns
        covariance = self._covariance(self._scaled, self._scaled)
        noise = hyper.factor * data.variances + hyper.nugget + JITTER
        covariance[np.diag_indices(len(noise))] += noise
        self._factor = np.linalg.cholesky(covariance)
        half = solve_triangular(self._factor, data.values, lower=True)
        self._alpha = solve_triangular(self._factor, half, lower=True, trans=1)

    def _covariance(self, a: Array, b: Array) -> Array:
        result: Array = self.hyper.signal * matern(cdist(a, b)) + MEAN_VARIANCE
        return result

    def mean(self, rows: Array) -> Array:
        """The expected value at rows (m, p), without the error of a measurement."""
        result: Array = self._covariance(rows / self._columns, self._scaled) @ self._alpha
        return result

    def at(self, rows: Array) -> tuple[Array, Array]:
        """The expected value at rows (m, p), and its standard deviation."""
        cross = self._covariance(self._scaled, rows / self._columns)
        half = solve_triangular(self._factor, cross, lower=True)
        variance = self.hyper.signal + MEAN_VARIANCE - np.einsum("ij,ij->j", half, half)
        return cross.T @ self._alpha, np.sqrt(np.maximum(variance, 1e-12))

    def believing(self, rows: Array, variance: float) -> Posterior:
        """This posterior once rows (m, p) will have been measured with errors of this variance, and will have shown
        what is expected of them: the same means, and less doubt around them (Ginsbourger et al. 2010)."""
        if not len(rows):
            return self
        data = self.data
        more = Data(
            np.vstack([data.rows, rows]),
            np.concatenate([data.values, self.mean(rows)]),
            np.concatenate([data.variances, np.full(len(rows), variance)]),
            data.groups,
        )
        return Posterior(more, self.hyper)


def log_expected_improvement(mean: Array, sd: Array, best: float) -> Array:
    """The logarithm of the expected gain over `best` of normal values, precise where it is tiny (Ament et al. 2023)."""
    z = (mean - best) / sd
    density = -0.5 * z * z - 0.5 * math.log(2 * math.pi)
    near = np.log(np.maximum(np.exp(density) + z * ndtr(z), 1e-300))
    # Below -1: phi(z) + z Phi(z) = phi(z) (1 - |z| Phi(z) / phi(z)), of which 1 / z^2 is left far out.
    ratio = np.exp(np.minimum(log_ndtr(z) - density, 0.0)) * np.abs(z)
    tail = np.where(z > -50, np.log1p(-np.minimum(ratio, 1 - 1e-9)), -2 * np.log(np.maximum(np.abs(z), 1.0)))
    inner = np.where(z > -1, near, density + tail)
    result: Array = np.log(sd) + inner
    return result


def log_augmented(sd: Array, noise: float) -> Array:
    """The logarithm of what a measurement of this error (its standard deviation) leaves of an expected improvement.

    1 - noise / sqrt(noise^2 + sd^2), Huang et al. 2006: without it, the best known place is measured again and again.
    """
    both = np.hypot(sd, noise)
    result: Array = 2 * np.log(sd) - np.log(both * (both + noise))
    return result


def log_feasible(mean: Array, sd: Array) -> Array:
    """The logarithm of the chance that normal violations are at most 0."""
    result: Array = log_ndtr(-mean / sd)
    return result


def augmented_chebyshev(values: Array, weights: Sequence[float]) -> Array:
    """One number for each row of several objectives, more is better (ParEGO, Knowles 2006): each is put on [0, 1], and
    the worst weighted shortfall counts, with 5 % of the sum. Shapes (n, k), (k,) -> (n,)."""
    low, high = values.min(axis=0), values.max(axis=0)
    short = (high - values) / np.where(high > low, high - low, 1.0) * np.asarray(weights)
    result: Array = -(short.max(axis=1) + 0.05 * short.sum(axis=1))
    return result
