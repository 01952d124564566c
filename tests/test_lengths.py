"""The gain at equal length, against simulations with known truth and a regression by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genopt.lengths import at_equal_length
from genopt.stats import UNBOUNDED


def simulated(seed: int, *, gain: float, slope: float, longer: float, n: int = 120, cluster: int = 1):  # type: ignore[no-untyped-def]
    """Differences that are a gain, what length brings, and noise that clusters share."""
    rng = np.random.default_rng(seed)
    a, b = 100 + longer + 30 * rng.standard_normal(n), 100 + 30 * rng.standard_normal(n)
    shared = np.repeat(rng.standard_normal(n // cluster), cluster)
    d = gain + slope * np.tanh((a - b) / np.std(a - b)) + 0.1 * (shared + rng.standard_normal(n))
    return d, a, b, [i // cluster for i in range(n)]


def test_a_gain_that_is_nothing_but_length_is_none() -> None:
    intervals = [at_equal_length(*simulated(s, gain=0.0, slope=0.2, longer=20)[:3]) for s in range(300)]
    known = [found for found in intervals if found is not None]
    raw = np.mean([simulated(s, gain=0.0, slope=0.2, longer=20)[0].mean() for s in range(300)])
    assert raw > 0.05
    assert np.mean([found.gain for found in known]) == pytest.approx(0, abs=0.005)
    assert 0.92 < np.mean([found.low <= 0 <= found.high for found in known]) < 0.98


@pytest.mark.parametrize("cluster", [1, 4])
def test_intervals_hold_the_true_gain_also_with_clusters(cluster: int) -> None:
    held = 0
    for seed in range(400):
        d, a, b, groups = simulated(seed, gain=0.05, slope=-0.1, longer=15, cluster=cluster)
        found = at_equal_length(d, a, b, groups=groups)
        assert found is not None
        held += found.low <= 0.05 <= found.high
    assert 0.91 < held / 400 < 0.98


def test_it_is_the_intercept_of_a_regression() -> None:
    d, a, b, _ = simulated(1, gain=0.1, slope=0.3, longer=10)
    found = at_equal_length(d, a, b)
    x = np.tanh((a - b) / np.std(a - b))
    intercept = np.polyfit(x, d, 1)[1]
    assert found is not None
    assert found.gain == pytest.approx(intercept)
    assert found.ratio == pytest.approx(a.mean() / b.mean())


def test_what_is_missing_is_left_out_and_its_groups_with_it() -> None:
    d, a, b, _ = simulated(2, gain=0.1, slope=0.3, longer=10, n=40)
    holes = np.where(np.arange(40) % 7 == 0, math.nan, d)
    kept = np.arange(40) % 7 != 0
    groups = [None if i % 2 else i // 4 for i in range(40)]
    left = [group for group, keep in zip(groups, kept, strict=True) if keep]
    assert at_equal_length(holes, a, b, groups=groups) == at_equal_length(d[kept], a[kept], b[kept], groups=left)


def test_what_the_data_cannot_tell_is_not_told() -> None:
    assert at_equal_length([0.1, 0.2, 0.3], [1, 2, 3], [1, 2, 3]) is None
    for a, b, groups in (
        ([1, 2], [2, 1], None),
        ([5, 6, 7], [4, 5, 6], None),  # always one longer
        ([105, 116, 107], [5, 6, 7], None),  # always much longer
        ([1, 2, 3], [3, 1, 1], ["a", "a", "b"]),
    ):
        found = at_equal_length([0.1, 0.2, 0.3][: len(a)], a, b, groups=groups)
        assert found is not None
        assert math.isnan(found.gain) and (found.low, found.high) == (-UNBOUNDED, UNBOUNDED)
        assert found.ratio == sum(a) / sum(b)


def test_one_side_always_longer_is_an_extrapolation_with_a_wide_interval() -> None:
    d, a, b, _ = simulated(3, gain=0.0, slope=0.2, longer=0)
    near, far = at_equal_length(d, a, b), at_equal_length(d, a + 150, b)
    assert near is not None and far is not None
    assert far.high - far.low > 3 * (near.high - near.low)
