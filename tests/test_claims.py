"""Several claims at once, against scipy, closed testing by brute force and simulations whose truth is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genopt.claims import max_t
from genopt.stats import paired
from tests.test_stats import rng, within

ZERO = np.zeros


def against_zero(rows: Any) -> list[tuple[Any, Any]]:
    return [(row, ZERO(len(row))) for row in rows]


@pytest.mark.parametrize("n", [1, 7, 13, 40])
@pytest.mark.parametrize("kind", ["continuous", "exact match"])
def test_one_claim_is_the_paired_test(n: int, kind: str) -> None:
    r = rng(n)
    a, b = r.normal(0.3, 1, n), r.normal(size=n)
    if kind == "exact match":
        a, b = (a > 0).astype(float), (b > 0).astype(float)
    a[:: max(3, n - 1)] = np.nan
    for groups in (None, [i // 2 for i in range(n)], [None if i % 3 else "all" for i in range(n)]):
        alone = paired(a, b, groups=groups, seed=4).p_value
        assert max_t([(a, b)], groups=groups, seed=4) == (alone,)
        # A claim that cannot differ costs nothing, and the same claim twice is one claim.
        both = max_t([(a, b), (b, b), (a, b)], groups=groups, seed=4)
        assert both[1] == 1.0
        assert both[0] == both[2] == pytest.approx(alone, abs=0.02)


def test_the_clearest_claim_is_scipys_permutation_test_of_the_maximum() -> None:
    r = rng(2)
    d = r.normal([[0.9], [0.4], [0.0]], 1, (3, 9)) + r.normal(size=9)

    def highest(signed: Any, axis: int = -1) -> Any:  # scipy flips the signs of 1 .. n; the signs are all we take
        t = np.sign(signed) @ (d / np.linalg.norm(d, axis=1, keepdims=True)).T
        return np.abs(t).max(axis=-1)

    expected = scipy_stats.permutation_test(
        (np.arange(1.0, 10.0),), highest, permutation_type="samples", alternative="greater", n_resamples=np.inf
    ).pvalue
    assert min(max_t(against_zero(d))) == pytest.approx(expected, abs=1e-12)


def test_stepping_down_is_closed_testing() -> None:
    """A claim's p-value is the largest of those of all sets of claims it belongs to, each tested by its maximum."""
    r = rng(3)
    groups = [0, 0, 1, 2, 3, 3, 4, 5, 6, 7]
    d = r.normal([[1.0], [0.6], [0.1], [-0.8]], 1, (4, 10)) + 0.5 * r.normal(size=10)
    d[1, 7] = d[3, 2] = np.nan
    sums = np.stack([np.bincount(groups, weights=np.nan_to_num(row)) for row in d])
    unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    signs = np.array(list(itertools.product([-1, 1], repeat=8)))
    flipped = np.abs(signs @ unit.T)
    observed = np.abs(unit.sum(axis=1))

    def of(members: tuple[int, ...]) -> float:
        best = observed[list(members)].max() - 1e-12
        return float((flipped[:, list(members)].max(axis=1) >= best).mean())

    sets = [c for size in range(1, 5) for c in itertools.combinations(range(4), size)]
    expected = [max(of(members) for members in sets if claim in members) for claim in range(4)]
    assert max_t(against_zero(d), groups=groups) == pytest.approx(expected, abs=1e-12)
    drawn = max_t(against_zero(d), groups=groups, resamples=200)  # fewer than there are patterns
    assert drawn == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize("n", [12, 60])
def test_all_claims_together_err_at_the_stated_rate_and_find_more_than_bonferroni(n: int) -> None:
    """Five claims share a baseline; one more that is true must not raise the error of the others."""
    r, runs = rng(13), 350
    family = beside = found = bonferroni = 0
    for run in range(runs):
        baseline = r.normal(size=n)
        arms = r.normal(size=(5, n)) + r.normal(size=n)
        family += min(max_t([(arm, baseline) for arm in arms], resamples=399, seed=run)) <= 0.05
        arms[0] += 4.5 / np.sqrt(n)
        adjusted = max_t([(arm, baseline) for arm in arms], resamples=399, seed=run)
        beside += min(adjusted[1:]) <= 0.05
        found += adjusted[0] <= 0.05
        bonferroni += paired(arms[0], baseline, resamples=399, seed=run).p_value <= 0.01
    assert within(family / runs, 0.05, runs)
    assert beside / runs < 0.05 + 2 * np.sqrt(0.05 * 0.95 / runs)
    assert found > bonferroni + 3 * np.sqrt(found - bonferroni) and bonferroni > 0.2 * runs


def test_units_do_not_matter_and_input_is_checked() -> None:
    r = rng(5)
    d = r.normal(0.4, 1, (2, 11))
    assert max_t(against_zero(d)) == max_t(against_zero(d * [[1.0], [1024.0]]))
    assert max_t([]) == ()
    assert max_t([([], []), ([], [])]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="same examples, not 2, 3 of them"):
        max_t([([1, 2], [0, 0]), ([1, 2, 3], [0, 0, 0])])
