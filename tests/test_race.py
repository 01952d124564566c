"""The policy of the search against known truth: what it estimates, whom it parks, when it stops, what it claims."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from genopt import race
from genopt.field import Field, _additive, _inverse, fit
from genopt.racing import levels

Floats = NDArray[np.float64]


def binary(rng: np.random.Generator, worth: Floats, *, examples: int = 100, samples: int = 4) -> Floats:
    """0/1 scores (arms x examples x samples) of arms with these worths (logits); examples differ in difficulty."""
    ease = rng.normal(0, 1.5, examples)
    taste = rng.normal(0, 0.6, (len(worth), examples))
    chance = 1 / (1 + np.exp(-(worth[:, None] + ease + taste)))
    return (rng.random((*chance.shape, samples)) < chance[..., None]).astype(np.float64)


def test_the_field_of_complete_balanced_scores_is_plain_arithmetic() -> None:
    """Everyone saw everything once: estimates are means, their errors those of the additive model's residuals."""
    scores = np.random.default_rng(0).random((40, 60))
    field = fit(list(scores), 60)
    assert field.raw - field.raw.mean() == pytest.approx(scores.mean(axis=1) - scores.mean(), abs=1e-6)
    assert field.noise == pytest.approx(np.sqrt(1 / 12), rel=0.03)
    assert field.se == pytest.approx(field.noise / np.sqrt(60), rel=1e-6)
    pulled = field.worth - np.median(field.worth)
    top = np.argmax(scores.mean(axis=1))
    assert 0 <= pulled[top] < 0.5 * (field.raw[top] - np.median(field.raw)), "luck alone is pulled back"


@pytest.mark.parametrize("lengths", [(12, 24, 48), (48,), (0, 12, 100)])
def test_many_arms_are_reckoned_by_way_of_the_examples(lengths: tuple[int, ...]) -> None:
    """With more arms than examples another system of equations is solved: that of all arms gives the same numbers."""
    rng = np.random.default_rng(3)
    ease, worth = rng.normal(0, 0.3, 48), rng.normal(0, 0.1, 90)
    scores = [np.resize(ease, lengths[k % len(lengths)]) + w for k, w in enumerate(worth)]
    scores = [own + rng.normal(0, 0.2, len(own)) for own in scores]
    w = np.array([[1.0 if at < len(own) else 0.0 for at in range(48)] for own in scores])
    diagonal = rng.uniform(1, 9, 90) + w.sum(axis=1)
    column = w.sum(axis=0)
    direct = np.linalg.inv(np.diag(diagonal) - (w / column) @ w.T)
    assert _inverse(diagonal, w, column) == pytest.approx(direct, rel=1e-9, abs=1e-12)
    y = np.array([np.pad(own[:48], (0, max(0, 48 - len(own)))) for own in scores])
    arm, _ = _additive(y, w)
    seen = w.sum(axis=1) > 0
    normal = np.diag(w.sum(axis=1)) - (w / column) @ w.T
    right = (w * y).sum(axis=1) - (w / column) @ (w * y).sum(axis=0)
    assert normal @ arm == pytest.approx(right, abs=1e-6), "the normal equations of the additive model hold"
    assert np.median(arm[seen]) == pytest.approx(0) and (arm[~seen] == 0).all()


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_scores_that_are_the_same_on_every_example_can_be_reckoned_with(scale: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):  # as tokens are, where every text ends at the limit
        levels = -scale * rng.choice([16.0, 24.0, 32.0, 48.0, 64.0], size=int(rng.integers(2, 30)))
        n = int(rng.integers(12, 90))
        field = fit([np.full(int(rng.integers(1, n + 1)), level) for level in levels], n)
        assert field.worth == pytest.approx(levels, abs=0.01 * scale)
        assert np.linalg.eigvalsh(field.covariance).min() > -1e-9 * np.abs(field.covariance).max()


def test_an_arm_that_saw_easy_examples_is_not_better_for_it() -> None:
    """Truth: equal arms; half of them saw only the first third of the examples, which is easy."""
    rng = np.random.default_rng(1)
    ease = np.where(np.arange(60) < 20, 0.9, 0.4)
    scores = [ease + rng.normal(0, 0.05, 60) for _ in range(12)]
    short = [ease[:20] + rng.normal(0, 0.05, 20) for _ in range(12)]
    field = fit([*scores, *short], 60)
    assert np.mean([s.mean() for s in short]) > 0.85
    assert field.raw[12:].mean() == pytest.approx(field.raw[:12].mean(), abs=0.01)
    assert field.raw[:12].mean() == pytest.approx(ease.mean(), abs=0.01)
    assert field.se[12] == pytest.approx(np.sqrt(3) * field.se[0], rel=1e-6)


def test_standard_errors_hold_what_they_say() -> None:
    """Over simulated fields of unequal length: differences of raw estimates over the standard error have sd about 1."""
    z = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        worth = rng.normal(0, 0.1, 20)
        ease = rng.normal(0, 0.3, 48)
        lengths = [48 if k < 6 else 12 for k in range(20)]
        scores = [w + ease[:n] + rng.normal(0, 0.2, n) for w, n in zip(worth, lengths, strict=True)]
        field = fit(scores, 48)
        error = field.raw - worth
        error -= np.average(error, weights=field.se**-2.0)  # the common level is everyone's
        z += list(error / field.se)
    assert np.std(z) == pytest.approx(1.0, abs=0.05)


def test_replicates_say_less_than_new_examples_and_more_than_nothing() -> None:
    rng = np.random.default_rng(2)
    table = binary(rng, np.zeros(20))
    once = [table[k, :40, 0] for k in range(20)]
    again = [np.concatenate([table[k, :40, 0], table[k, :40, 1]]) for k in range(20)]
    wide = [table[k, :80, 0] for k in range(20)]
    errors = [fit(scores, n).se[0] for scores, n in ((once, 40), (again, 40), (wide, 80))]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("kind", ["binary", "graded"])
def test_an_equal_of_a_best_that_was_picked_for_its_scores_is_parked_no_more_often_than_promised(kind: str) -> None:
    """30 arms, all equal in truth: the best of 29 is the luckiest, and the last one is looked at again and again."""
    n, runs, parked = 80, 400, 0
    rungs = race.looks(10, n)
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        if kind == "binary":
            scores = binary(rng, np.zeros(30), examples=n, samples=1)[:, :, 0]
        else:
            scores = rng.normal(0, 0.2, n) + rng.normal(0, 0.15, (30, n))
        for look, level in zip(rungs, levels(rungs, race.ALPHA), strict=True):
            if not race.goes_on(fit([*scores[:-1], scores[-1, :look]], n), 29, level):
                parked += 1
                break
    assert parked / runs <= race.ALPHA + 2.6 * np.sqrt(race.ALPHA * (1 - race.ALPHA) / runs)


def test_a_much_worse_arm_is_parked_at_once() -> None:
    worth = np.append(np.full(20, 1.0), -2.0)
    parked = 0
    for seed in range(50):
        table = binary(np.random.default_rng(seed), worth)[:, :, 0]
        parked += not race.goes_on(fit([*table[:20], table[20, :12]], 100), 20, 0.1)
    assert parked >= 45


def test_the_leader_and_its_rivals_get_the_next_examples() -> None:
    rng = np.random.default_rng(3)
    worth = np.array([0.0, 1.0, 1.0, -3.0, -3.0])
    table = binary(rng, worth, examples=200)[:, :, 0]
    field = fit([row[:100] for row in table], 200)
    assert set(race.promote(field, [100] * 5, [200] * 5, rng, arms=2)) == {1, 2}
    assert race.promote(field, [100] * 5, [100, 100, 200, 100, 100], rng, arms=2) == [2]
    assert race.promote(field, [100] * 5, [100] * 5, rng, arms=2) == []


def test_the_next_examples_go_where_they_are_worth_most() -> None:
    """The value of a step, by drawing what it may show: the order is that of the gains for each call."""
    lengths, worth = [300, 150, 16, 16], np.array([0.50, 0.49, 0.40, -0.60])
    own, sampling, spread = 0.3, 0.25, 0.2  # sds: of what suits an arm by chance, of a draw, between arms

    def error(scores: int) -> float:
        return own**2 / min(scores, 400) + sampling**2 / scores

    doubt = np.array([1 / (spread**-2 + 1 / error(n)) for n in lengths])
    noise = float(np.hypot(own, sampling))
    field = Field(worth, np.diag(doubt), worth, np.ones(4), noise, spread, sampling, 400, (0, 1, 2, 3))
    gains = []
    rng = np.random.default_rng(0)
    for arm, (length, variance) in enumerate(zip(lengths, doubt, strict=True)):
        more = race.step(length, 400)
        new = 1 / (1 / error(length + more) - 1 / error(length))  # what the step alone tells, as one measurement
        seen = worth[arm] + np.sqrt(variance + new) * rng.standard_normal(400_000)
        after = worth[arm] + variance / (variance + new) * (seen - worth[arm])
        gains.append((np.maximum(after, np.delete(worth, arm).max()).mean() - worth.max()) / more)
    wanted = [int(k) for k in np.argsort(gains)[::-1]]
    assert wanted[0] == 2, "few and unlucky examples, much to learn"
    most = [900] * 4
    assert race.promote(field, lengths, most, rng, arms=4) == wanted[:3], "the last can only lose"
    assert race.promote(field, lengths, most, rng, arms=2) == wanted[:2]


def test_replicates_are_not_taken_for_new_examples() -> None:
    """Two arms saw everything and hardly vary when asked again; of the third most examples are still to come."""
    worth, zero = np.array([0.60, 0.59, 0.56]), np.zeros(3)
    field = Field(worth, np.eye(3) * 0.02, zero, zero + 1, 0.5, 0.2, 0.05, 100, (0, 1, 2))
    assert race.promote(field, [100, 100, 30], [800] * 3, np.random.default_rng(0), arms=1) == [2]


def test_arms_that_score_alike_count_once() -> None:
    """Five spellings of one arm are as much evidence as one, and only the longest of them is measured further."""
    rng = np.random.default_rng(4)
    table = binary(rng, np.array([0.8, 0.6, 0.4, -1.0]), examples=60, samples=2)
    twice = table.transpose(0, 2, 1).reshape(4, 120)
    spelled = fit([twice[0], twice[0][:60], *twice[1:], twice[0][:90], twice[0][:50]], 60)
    assert spelled.stands == (0, 0, 2, 3, 4, 0, 6), "fewer than all examples may be equal by chance"
    assert spelled.covariance[1, 5] == spelled.covariance[0, 0]
    without = fit([*twice, twice[0][:50]], 60)
    assert spelled.worth[[0, 2, 3, 4, 6]] == pytest.approx(without.worth)
    assert spelled.worth[[1, 5]] == pytest.approx(without.worth[[0, 0]])
    assert fit(list(twice), 60).stands == (0, 1, 2, 3)
    promoted = race.promote(spelled, [120, 60, 120, 120, 120, 90, 50], [360] * 7, rng, arms=7)
    assert promoted and not {1, 5} & set(promoted)
    nearly = twice[0].copy()
    nearly[[3, 70]] = 1 - nearly[[3, 70]]
    assert fit([twice[0], nearly], 60).stands == (0, 1), "two of 120 differ"
    lost = np.where(np.arange(120) == 5, np.nan, twice[0])
    assert fit([lost, twice[0]], 60).stands == (0, 0)
    few = np.where(np.arange(120) < 15, twice[0], np.nan)
    assert fit([few, few], 60).stands == (0, 1), "nothing is known of most"


def test_a_study_finds_the_best_at_a_third_of_the_grids_calls() -> None:
    """60 arms with known worths, 20 tables: regret in points of the true score, and an unbiased report."""
    regret, optimism = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        worth = rng.normal(0, 0.7, 60) - np.where(rng.random(60) < 0.3, 2.0, 0.0)
        table = binary(rng, worth, examples=80, samples=6)
        truth = table.mean(axis=(1, 2))
        found = race.simulate(
            table, round(0.35 * 60 * 80), seed, baseline=int(np.argsort(truth)[30]), common=bool(seed % 2)
        )
        assert found.calls <= round(0.35 * 60 * 80)
        regret.append(truth.max() - truth[found.winner])
        optimism.append(found.holdout_estimate - truth[found.winner])
    assert np.mean(regret) <= 0.015
    assert abs(np.mean(optimism)) <= 2.6 * np.std(optimism) / np.sqrt(20) + 0.01


def test_nothing_is_claimed_where_nothing_can_be_gained() -> None:
    claims = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        chance = rng.beta(2, 1, 60)  # of each example, whatever the arm
        equal = (rng.random((12, 60, 3)) < chance[:, None]).astype(np.float64)
        found = race.simulate(equal, 300, seed)
        claims += found.p_value < 0.05 and found.holdout_estimate > found.baseline_estimate and found.winner != 0
    assert claims <= 12


def test_a_search_ends_when_going_on_is_not_worth_it() -> None:
    """Truth: one arm is far ahead of equals. Ending early saves most of the calls, and costs nothing."""
    worth = np.append(np.full(39, -1.0), 2.0)
    for seed in range(5):
        table = binary(np.random.default_rng(seed), worth, examples=80)
        order = [*range(30, 40), *range(30)]  # the good one is among the first ten
        whole = race.simulate(table, 1600, seed, baseline=0, order=order)
        short = race.simulate(table, 1600, seed, baseline=0, order=order, gain_below=0.02)
        assert short.winner == whole.winner == 39
        assert short.calls < whole.calls


def test_the_prospect_is_the_expected_maximum() -> None:
    """Two arms with independent errors: E[max] - max E in closed form; unseen arms add to it."""
    field = Field(np.zeros(2), np.diag([0.04, 0.04]), np.zeros(2), np.full(2, 0.2), 1.0, 0.2, 0.5, 50, (0, 1))
    rng = np.random.default_rng(0)
    assert race.prospect(field, 0, 0, rng, draws=200_000).gain == pytest.approx(0.2 / np.sqrt(np.pi), rel=0.02)
    assert race.prospect(field, 0, 2, rng, draws=200_000).gain == pytest.approx(0.2 * 1.0294, rel=0.02)


def test_a_budget_is_split_between_the_search_and_the_choice() -> None:
    split = race.Split.of(1000, 60)
    assert split.total == 940
    assert split.search == pytest.approx((1 - race.FINALS) * 940)
    assert race.Split.of(1000, 60, finals=100).search == 840, "what is kept has a ceiling"
    assert race.Split.of(40, 60) == race.Split(0.0, 0.0)


@pytest.mark.parametrize("finals", [None, 0, 30, 400])
def test_the_least_budget_is_the_one_whose_search_is_just_long_enough(finals: float | None) -> None:
    least = race.Split.least(200, 60, finals=finals)
    assert race.Split.of(least, 60, finals=finals).search == pytest.approx(200)
    assert race.Split.of(least - 1, 60, finals=finals).search < 200


def test_a_simulated_study_asks_for_a_certain_text_once() -> None:
    table = np.repeat(np.random.default_rng(0).random((12, 40, 1)), 5, axis=2)
    found = race.simulate(table, 2000, 0, certain=[True] * 12)
    assert max(found.lengths) <= 28
    assert found.calls == sum(found.lengths) + (1 if found.winner == 0 else 2) * 12
