"""Objectives: utility turns every direction into "more is better"; the Pareto front against brute force."""

from __future__ import annotations

import math
import random

import pytest

from genopt.objectives import Constraint, Goal, Objective, pareto_front

RIGHT = Objective("right", "maximize")
SHORT = Objective("words", "minimize")


def weighted(**weights: float) -> Goal:
    return Goal(
        tuple(Objective(m, "maximize" if w > 0 else "minimize", abs(w)) for m, w in weights.items()),
    )


def test_maximizing_is_the_metric_itself() -> None:
    goal = Goal((RIGHT,))
    assert goal.utility({"right": 0.75, "words": 3.0}) == 0.75
    assert goal.values(0.75, {"right": 0.75}) == (0.75,)
    assert (goal.sign, goal.directions, goal.title) == (1, ("maximize",), "maximize right")
    assert not goal.several
    assert not goal.weighted


def test_minimizing_turns_the_sign_for_the_utility_and_back_for_the_sampler() -> None:
    goal = Goal((SHORT,))
    assert goal.utility({"words": 12.0}) == -12.0
    assert goal.values(-12.0, {"words": 12.0}) == (12.0,)
    assert (goal.sign, goal.directions) == (-1, ("minimize",))


def test_weights_make_one_sum_to_maximize() -> None:
    goal = weighted(right=1.0, words=-0.01)
    assert goal.utility({"right": 0.5, "words": 10.0}) == pytest.approx(0.4)
    assert goal.values(0.4, {}) == (0.4,)
    assert (goal.sign, goal.directions, goal.several, goal.weighted) == (1, ("maximize",), False, True)
    assert goal.title == "maximize 1 right -0.01 words"


def test_the_utility_of_means_is_the_mean_of_utilities() -> None:
    draw = random.Random(1)
    goal = weighted(right=2.0, similar=0.5, words=-0.03)
    rows = [{"right": draw.random(), "similar": draw.random(), "words": 50 * draw.random()} for _ in range(40)]
    means = {name: math.fsum(row[name] for row in rows) / len(rows) for name in rows[0]}
    assert goal.utility(means) == pytest.approx(math.fsum(goal.utility(row) for row in rows) / len(rows))


def test_several_objectives_without_weights_make_a_pareto_study() -> None:
    goal = Goal((RIGHT, SHORT))
    assert goal.several
    assert goal.directions == ("maximize", "minimize")
    assert goal.values(0.5, {"right": 0.5, "words": 7.0}) == (0.5, 7.0)
    assert goal.utility({"right": 0.5, "words": 7.0}) == 0.5
    assert goal.title == "maximize right, minimize words"
    assert Goal((SHORT, RIGHT)).utility({"right": 0.5, "words": 7.0}) == -7.0


def test_a_missing_metric_makes_the_utility_missing() -> None:
    assert math.isnan(Goal((RIGHT,)).utility({}))
    assert math.isnan(Goal((SHORT,)).utility({"words": math.nan}))
    assert math.isnan(weighted(right=1.0, words=-1.0).utility({"right": 1.0}))
    assert math.isnan(weighted(right=1.0, words=-1.0).utility({"right": 1.0, "words": math.nan}))


def test_less_is_better_where_it_is_minimized_or_bounded_from_above_alone() -> None:
    bounds = (
        Constraint("a", at_most=1.0),
        Constraint("b", at_least=0.0, at_most=1.0),
        Constraint("right", at_most=1.0),
    )
    assert Goal((RIGHT, SHORT), bounds).minimized() == {"words", "a"}
    assert Goal((RIGHT,)).minimized() == frozenset()


def test_metrics_are_named_once_objectives_first() -> None:
    goal = Goal((SHORT, RIGHT), (Constraint("right", at_least=0.5), Constraint("similar", at_most=0.9)))
    assert goal.metrics() == ("words", "right", "similar")


@pytest.mark.parametrize(
    ("constraint", "mean", "violation"),
    [
        (Constraint("x", at_least=0.6), 0.7, -0.1),
        (Constraint("x", at_least=0.6), 0.6, 0.0),
        (Constraint("x", at_least=0.6), 0.5, 0.1),
        (Constraint("x", at_most=100.0), 120.0, 20.0),
        (Constraint("x", at_least=0.2, at_most=0.4), 0.5, 0.1),
        (Constraint("x", at_least=0.2, at_most=0.4), 0.1, 0.1),
        (Constraint("x", at_least=0.2, at_most=0.4), 0.25, -0.05),
        (Constraint("x", at_least=0.2), math.nan, math.inf),
    ],
)
def test_a_constraint_tells_how_far_it_is_missed(constraint: Constraint, mean: float, violation: float) -> None:
    assert constraint.violation(mean) == pytest.approx(violation)


def test_violations_are_named_and_a_metric_without_a_mean_is_infeasible() -> None:
    goal = Goal((RIGHT,), (Constraint("similar", at_least=0.6), Constraint("words", at_most=50)))
    found = goal.violations({"similar": 0.7})
    assert found == {"similar >= 0.6": pytest.approx(-0.1), "words <= 50": math.inf}


def test_constraints_with_two_bounds_do_not_share_a_name_with_one_of_them() -> None:
    one, two = Constraint("x", at_least=0.2), Constraint("x", at_least=0.2, at_most=0.4)
    assert str(one) != str(two)
    assert "0.4" in str(two)


def brute_force(points: list[tuple[float, ...]], directions: tuple[str, ...]) -> list[int]:
    def better(x: float, y: float, direction: str) -> bool:
        return x > y if direction == "maximize" else x < y

    front = []
    for i, a in enumerate(points):
        beaten = False
        for b in points:
            no_worse = not any(better(x, y, d) for x, y, d in zip(a, b, directions, strict=True))
            once_better = any(better(y, x, d) for x, y, d in zip(a, b, directions, strict=True))
            beaten = beaten or (no_worse and once_better)
        if not beaten:
            front.append(i)
    return front


@pytest.mark.parametrize("directions", [("maximize",), ("maximize", "minimize"), ("minimize", "minimize", "maximize")])
def test_the_pareto_front_against_brute_force(directions: tuple[str, ...]) -> None:
    draw = random.Random(7)
    for _ in range(200):
        points = [tuple(float(draw.randint(0, 5)) for _ in directions) for _ in range(draw.randint(0, 15))]
        assert pareto_front(points, directions) == brute_force(points, directions)


def test_equal_points_stand_on_the_front_together() -> None:
    assert pareto_front([(1.0, 2.0), (1.0, 2.0), (0.5, 3.0)], ["maximize", "minimize"]) == [0, 1]
