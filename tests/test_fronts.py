"""Several objectives against known truth: who is stopped, which bounds hold, the front, its knee and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from genopt import fronts, race
from genopt.field import fit
from genopt.racing import levels

Floats = NDArray[np.float64]
ARMS, EXAMPLES = 20, 80
WORSE = np.full(ARMS - 1, 1.0)


def quality(rng: np.random.Generator, logits: Floats) -> Floats:
    """0/1 scores (arms x examples) of arms with these logits; examples differ in difficulty."""
    spread = rng.normal(0, 1.2, EXAMPLES) + rng.normal(0, 0.5, (len(logits), EXAMPLES))
    return (rng.random(spread.shape) < 1 / (1 + np.exp(-(logits[:, None] + spread)))).astype(np.float64)


def lengths(rng: np.random.Generator, means: Floats, variation: Floats) -> Floats:
    """Minus the tokens, log-normal about these means with these coefficients of variation."""
    sd = np.sqrt(np.log(1 + variation**2))[:, None]
    of_examples = np.exp(rng.normal(0, 0.3, EXAMPLES) - 0.045)
    tokens = means[:, None] * of_examples * np.exp(sd * rng.normal(size=(len(means), EXAMPLES)) - sd**2 / 2)
    return -tokens


def stopped(scores: Floats) -> bool:
    """Whether the last arm is stopped at one of its looks, all others being complete."""
    rungs = race.looks(10, EXAMPLES)
    for look, level in zip(rungs, levels(rungs, race.ALPHA), strict=True):
        known = [*scores[:-1], scores[-1, :look]]
        fields = [fit([each[:, k] for each in known], EXAMPLES) for k in range(scores.shape[2])]
        if fronts.beaten_by(fields, known, len(scores) - 1, level, range(len(scores))) is not None:
            return True
    return False


def raced(name: str, seed: int) -> bool:
    """One race of the last arm, in a world whose truth has a name."""
    rng, even = np.random.default_rng(seed), np.full(ARMS, 0.3)
    match name:
        case "as good as all, and the longest":
            parts = quality(rng, np.zeros(ARMS)), lengths(rng, np.append(np.full(ARMS - 1, 60.0), 120.0), even)
        case "as short as all, varying most, and the worst":
            noisy = np.append(np.full(ARMS - 1, 0.2), 1.2)
            parts = quality(rng, np.append(WORSE, -1.5)), lengths(rng, np.full(ARMS, 60.0), noisy)
        case "in the middle of a front":
            place = np.append(np.delete(np.linspace(0, 1, ARMS), ARMS // 2), 0.5)
            parts = quality(rng, 2 * np.sqrt(place) - 1), lengths(rng, 30 + 90 * place, even)
        case _:
            parts = quality(rng, np.append(WORSE, -1.0)), lengths(rng, np.append(np.full(ARMS - 1, 60.0), 100.0), even)
    return stopped(np.stack(parts, axis=-1))


@pytest.mark.parametrize(
    "name",
    [
        "as good as all, and the longest",
        "as short as all, varying most, and the worst",
        "in the middle of a front",
    ],
)
def test_what_no_other_beats_is_stopped_no_more_often_than_promised(name: str) -> None:
    """The least favourable truths: equal to all others in one objective, far behind them in the other."""
    runs = 100
    rate = sum(raced(name, seed) for seed in range(runs)) / runs
    assert rate <= race.ALPHA, f"{rate:.0%} were stopped"


def test_what_is_beaten_in_all_is_stopped() -> None:
    assert sum(raced("beaten", seed) for seed in range(30)) >= 28


def test_an_arm_is_beaten_only_by_one_that_is_better_in_every_objective() -> None:
    """Two rivals, each far better in one objective and far worse in the other, beat nobody; a third beats all."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (4, 40, 2))
    scores = [*(np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.4], [0.9, 0.9]])[:, None] + noise)]

    def by(*rivals: int) -> int | None:
        return fronts.beaten_by([fit([s[:, k] for s in scores], 40) for k in (0, 1)], scores, 2, 0.1, rivals)

    assert by(0, 1, 2) is None
    assert by(0, 1, 2, 3) == 3
    scores[2] = scores[2][:1]
    assert by(0, 1, 2, 3) is None, "one example shows nothing"


def test_the_front_is_what_nothing_beats() -> None:
    points = np.random.default_rng(1).integers(0, 5, (40, 3)).astype(float)
    beaten = [any((q >= p).all() and (q > p).any() for q in points) for p in points]
    assert fronts.front(points).tolist() == [not each for each in beaten]
    assert fronts.front(np.stack([points, -points]))[0].tolist() == fronts.front(points).tolist()
    assert fronts.front([[1.0, np.nan], [0.0, 0.0], [0.0, 0.0]]).tolist() == [False, True, True]


@pytest.mark.parametrize(("power", "at"), [(2.0, 0.5), (3.0, 3**-0.5), (6.0, 6**-0.2)])
def test_the_knee_of_analytic_fronts(power: float, at: float) -> None:
    """y = 1 - x^p: the tangent is parallel to the chord where p x^(p-1) = 1, whatever the units."""
    x = np.linspace(0, 1, 1001)
    points = np.stack([x, 1 - x**power], axis=1)
    found = fronts.knee(points * [1.0, 1000.0] + [5.0, -300.0])
    assert x[found.place] == pytest.approx(at, abs=1e-3)
    assert found.distance == pytest.approx((at - at**power) / np.sqrt(2), abs=1e-3)


def test_a_front_without_a_bulge_has_an_end_for_a_knee_and_says_so() -> None:
    x = np.linspace(0, 1, 11)
    assert fronts.knee(np.stack([x, 1 - x], axis=1)).distance == pytest.approx(0, abs=1e-12)
    hollow = fronts.knee(np.stack([x, (1 - x) ** 2], axis=1))
    assert hollow.place == 10 and hollow.distance == pytest.approx(0)
    assert fronts.knee([[2.0, 3.0]]).place == 0
    assert fronts.knee([[np.nan, 3.0]]) == fronts.Knee(0, 0.0)
    assert [fronts.knee(two).place for two in ([[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]])] == [1, 0]
    sphere = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.6, 0.5], [0.1, 0.1, 0.95], [0.5, 0.5, 0.4]])
    assert fronts.knee(sphere).place == 3


def test_a_front_is_thinned_to_its_ends_its_knee_and_what_lies_apart() -> None:
    x = np.linspace(0, 1, 101)
    points = np.stack([x, 1 - x**3], axis=1)
    kept = fronts.thinned(points, 5)
    assert len(kept) == 5 and kept == sorted(kept)
    assert {0, 100, fronts.knee(points).place} <= set(kept)
    assert max(np.diff(kept)) < 45
    assert fronts.thinned(points[:3], 5) == [0, 1, 2]


def test_shares_say_how_sure_the_knee_is() -> None:
    """Truth: three configurations on a line with one bulge; with noise as large as the bulge the shares are mixed, and
    over many studies the knee has its share about as often as it is right."""
    truth = np.array([[0.0, 1.0], [0.6, 0.75], [0.8, 0.5], [1.0, 0.0]])
    said, right = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        values = truth[:, None] + rng.normal(0, 0.5, (4, 40, 2))
        found, knee = fronts.shares(values, resamples=200, seed=seed), fronts.knee(values.mean(axis=1)).place
        assert found.knee.sum() == pytest.approx(1.0)
        said.append(found.knee[knee])
        right.append(knee == 1)
    assert abs(np.mean(said) - np.mean(right)) < 0.15
    sure = fronts.shares(truth[:, None] + rng.normal(0, 0.01, (4, 40, 2)))
    assert sure.knee.tolist() == [0, 1, 0, 0] and sure.front.tolist() == [1, 1, 1, 1]


def test_examples_of_one_group_are_drawn_together() -> None:
    """Forty copies of four examples tell no more than the four; without their groups they seem to."""
    rng = np.random.default_rng(3)
    four = np.array([[0.0, 1.0], [0.5, 0.6], [1.0, 0.0]])[:, None] + rng.normal(0, 0.3, (3, 4, 2))
    many, groups = np.repeat(four, 10, axis=1), [f"g{i // 10}" for i in range(40)]
    assert fronts.shares(many, groups=groups, seed=1).knee == pytest.approx(fronts.shares(four, seed=1).knee, abs=0.05)
    assert fronts.shares(many, groups=groups, seed=1).knee.tolist() != fronts.shares(many, seed=1).knee.tolist()


def test_the_front_of_posterior_means_is_not_made_of_the_lucky() -> None:
    """Forty arms, few of them on the true front: members by raw means are reported too good, by posterior means not."""
    lucky, pulled, found = [], [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        worth = rng.normal(0, 0.05, (40, 2))
        scores = worth[:, None] + rng.normal(0, 0.3, (1, 48, 2)) + rng.normal(0, 0.25, (40, 48, 2))
        fields = [fit(list(scores[..., k]), 48) for k in (0, 1)]
        level = scores.mean(axis=(0, 1)) - worth.mean(axis=0)
        raw, posterior = (np.array([getattr(f, name) for f in fields]).T for name in ("raw", "worth"))
        lucky.append(np.mean((raw - level - worth)[fronts.front(raw)]))
        pulled.append(np.mean((posterior - level - worth)[fronts.front(posterior)]))
        chosen = worth[fronts.front(posterior)]
        found.append(np.mean([(chosen >= p - 0.04).all(axis=1).any() for p in worth[fronts.front(worth)]]))
    assert np.mean(lucky) > 0.02
    assert abs(np.mean(pulled)) < np.mean(lucky) / 2
    assert np.mean(found) > 0.75, "most of the true front has a member that is no more than .04 behind it anywhere"


def test_the_chance_to_be_on_the_front() -> None:
    rng = np.random.default_rng(4)
    worth = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [1.0, 0.0]])
    scores = worth[:, None] + rng.normal(0, 0.1, (4, 50, 2))
    fields = [fit(list(scores[..., k]), 50) for k in (0, 1)]
    found = fronts.membership(fields, [0, 1, 2], rng)
    assert found[[1, 2, 3]].tolist() == [1, 0, 0] and found[0] == 1
    both = fronts.membership(fields, [0, 3], rng, draws=2000)
    assert all(0.2 < share < 1 for share in both[[0, 3]]), "equals are each on the front about as often"


# --- bounds


@pytest.mark.parametrize(("right", "n"), [(40, 40), (38, 40), (10, 12), (0, 10), (57, 60)])
def test_the_probability_of_a_bound_on_a_share_is_about_its_posterior(right: int, n: int) -> None:
    values = np.arange(n) < right
    for bound in (0.5, 0.8, 0.95):
        found = fronts.holds(values, at_least=bound, ends=(0.0, 1.0))
        assert found == pytest.approx(stats.beta.sf(bound, 1 + right, 1 + n - right), abs=0.08)


def test_the_probability_of_a_bound_is_students() -> None:
    values = np.random.default_rng(5).normal(100, 20, 30)
    mean, error = values.mean(), values.std(ddof=1) / np.sqrt(30)
    assert fronts.holds(values, at_most=105.0) == pytest.approx(stats.t.cdf((105 - mean) / error, 29))
    both = fronts.holds(values, at_least=95.0, at_most=105.0)
    assert both == pytest.approx(fronts.holds(values, at_most=105.0) - fronts.holds(values, at_most=95.0))
    assert fronts.holds([64.0] * 10, at_most=64.0) == 1 and fronts.holds([64.0] * 10, at_most=63.0) == 0
    assert fronts.holds([64.0], at_most=64.0) == 0.5 and fronts.holds([np.nan], at_most=1.0) == 0
    pairs = fronts.holds(np.repeat(values, 2), at_most=105.0, groups=[i // 2 for i in range(60)])
    assert pairs == pytest.approx(fronts.holds(values, at_most=105.0))


@pytest.mark.parametrize("kind", ["share", "tokens"])
def test_what_meets_its_bound_is_seldom_stopped_for_missing_it(kind: str) -> None:
    """Truth: exactly on the bound. Over all looks together it is stopped about as often as promised."""
    rungs = race.looks(10, EXAMPLES)
    lost, runs = 0, 800
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        values = rng.random(EXAMPLES) < 0.9 if kind == "share" else rng.gamma(4, 25, EXAMPLES)
        bound = {"at_least": 0.9, "ends": (0.0, 1.0)} if kind == "share" else {"at_most": 100.0}
        for look, level in zip(rungs, levels(rungs, fronts.SURE), strict=True):
            if fronts.holds(values[:look], **bound) < level:
                lost += 1
                break
    assert lost / runs <= fronts.SURE + 0.02
