"""What is proposed: a function of its arguments, spread first, then where a gain is expected; runs, ties and bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from genopt.geometry import draw
from genopt.proposals import FIRST, Finished, Proposer
from genopt.space import Choice, Constant, Number, SearchSpace, Switch

FLAT = SearchSpace({"x": Number(0.0, 1.0), "y": Number(1.0, 100.0, log=True), "c": Choice.of(["a", "b", "c"])})
SWITCHED = SearchSpace(
    {
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "nucleus": {"temperature": Number(0.1, 1.5), "top_p": Number(0.5, 1.0)},
                "min_p": {"temperature": Number(0.1, 1.5), "min_p": Number(0.0, 0.3)},
            }
        ),
        "style": Choice.of(["brief", "steps"]),
    }
)
GRID = SearchSpace({"t": Choice.of([0.0, 0.5, 1.0, 1.5]), "k": Number(1, 5, integer=True), "c": Choice.of(["a", "b"])})


def worth(answers: Mapping[str, Any]) -> float:
    """Best at x = 0.3, y = 20, c = b, where it is 0."""
    along = math.log(answers["y"] / 20) / math.log(100)
    return -2 * float((answers["x"] - 0.3) ** 2 + along**2) - (0.0 if answers["c"] == "b" else 0.3)


def told(answers: Mapping[str, Any], rng: np.random.Generator, noise: float = 0.05) -> Finished:
    return Finished(answers, (worth(answers) + noise * float(rng.standard_normal()),), noise)


def history(count: int, seed: int = 0) -> list[Finished]:
    rng = np.random.default_rng(seed)
    return [told(draw(FLAT, rng), rng) for _ in range(count)]


def run(proposer: Proposer, count: int, seed: int) -> list[Finished]:
    """A search, one trial after the other."""
    rng, done = np.random.default_rng(seed), list[Finished]()
    for i in range(count):
        done.append(told(proposer.propose(done, seed=1000 * seed + i), rng))
    return done


@pytest.mark.parametrize("count", [0, 3, 15, 40])
def test_a_proposal_is_a_function_of_seed_and_history(count: int) -> None:
    known = history(count)
    used = Proposer(FLAT)
    for n in range(0, count, 5):
        used.propose(known[:n], seed=n)
    assert used.propose(known, seed=5) == Proposer(FLAT).propose(known, seed=5)
    assert len({str(Proposer(FLAT).propose(known, seed=seed)) for seed in range(4)}) > 1


def test_the_first_are_spread_over_the_space_and_its_branches() -> None:
    proposer, asked = Proposer(SWITCHED), list[dict[str, Any]]()
    for i in range(6):
        asked.append(proposer.propose([], asked, seed=i))
    assert sorted(answers["decoding"] for answers in asked[:3]) == ["greedy", "min_p", "nucleus"]
    assert [sum(a["decoding"] == b for a in asked) for b in ("nucleus", "min_p", "greedy")] == [2, 2, 2]

    def nearest(answers: Sequence[Mapping[str, Any]]) -> float:
        places = np.array([[a["x"], math.log(a["y"]) / math.log(100), ord(a["c"])] for a in answers])
        gaps = ((places[:, None] - places[None]) ** 2).sum(axis=2) + 9 * np.eye(len(places))
        return float(np.sqrt(gaps.min()))

    spread = []
    for seed in range(8):
        first = list[dict[str, Any]]()
        for i in range(5):
            first.append(Proposer(FLAT).propose([], first, seed=100 * seed + i))
        rng = np.random.default_rng(seed)
        spread.append((nearest(first), nearest([draw(FLAT, rng) for _ in range(5)])))
    mine, random = np.mean(spread, axis=0)
    assert mine > 1.5 * random


def test_it_finds_the_optimum_where_random_search_does_not() -> None:
    mine, random = [], []
    for seed in range(5):
        done = run(Proposer(FLAT), 25, seed)
        rng = np.random.default_rng(seed)
        drawn = [told(draw(FLAT, rng), rng) for _ in range(25)]
        mine.append(-worth(max(done, key=lambda t: t.values[0]).answers))
        random.append(-worth(max(drawn, key=lambda t: t.values[0]).answers))
    assert np.mean(mine) < 0.035
    assert np.mean(mine) < 0.6 * np.mean(random)


def test_what_runs_is_known_to_run() -> None:
    known, proposer = history(20), Proposer(FLAT)
    aware = list[dict[str, Any]]()
    for seed in range(6):
        aware.append(proposer.propose(known, aware, seed=seed))
    alone = [proposer.propose(known, seed=seed) for seed in range(6)]

    def gaps(batch: Sequence[Mapping[str, Any]]) -> list[float]:
        def gap(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
            along = math.log(a["y"] / b["y"]) / math.log(100)
            return max(abs(a["x"] - b["x"]), abs(along), float(a["c"] != b["c"]))

        return [gap(a, b) for i, a in enumerate(batch) for b in batch[:i]]

    assert min(gaps(aware)) > 0.03
    assert np.mean(gaps(aware)) > 2 * np.mean(gaps(alone))


def test_a_value_that_is_not_sure_is_not_believed() -> None:
    """A lucky first look at a bad place: with its error told, the place is left; without, it is gone to."""
    rng = np.random.default_rng(0)
    known = [told(draw(FLAT, rng), rng, 0.02) for _ in range(25)]
    lucky = {"x": 0.95, "y": 1.5, "c": "a"}
    proposer = Proposer(FLAT)

    def near(se: float) -> int:
        trials = [*known, Finished(lucky, (0.4,), se)]
        found = [proposer.propose(trials, seed=seed) for seed in range(6)]
        return sum(answers["x"] > 0.7 and answers["y"] < 5 for answers in found)

    assert near(0.02) >= 4
    assert near(0.6) == 0


def test_a_small_space_is_gone_through_without_repeats_and_then_exhausted() -> None:
    proposer, done = Proposer(GRID), list[Finished]()
    for i in range(40):
        answers = proposer.propose(done, seed=i)
        done.append(Finished(answers, (float(answers["t"] * answers["k"]),), 0.1))
    assert len({str(sorted(t.answers.items())) for t in done}) == 40
    assert proposer.propose(done, seed=99).keys() == {"t", "k", "c"}


def test_equals_of_what_is_known_are_not_proposed() -> None:
    def acts(params: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in params.items() if params["t"] > 0 or k != "k"}

    proposer, done = Proposer(GRID, acts), list[Finished]()
    for i in range(32):  # 3 temperatures x 5 x 2, and at temperature 0 only the two letters
        answers = proposer.propose(done, seed=i)
        done.append(Finished(answers, (0.0,), 0.1))
    assert sum(t.answers["t"] == 0.0 for t in done) == 2


def test_what_is_fixed_stays_and_what_failed_is_avoided() -> None:
    known = history(12)
    for seed in range(5):
        assert Proposer(FLAT).propose(known, seed=seed, fixed={"c": "a"})["c"] == "a"
        assert Proposer(FLAT).propose([], seed=seed, fixed={"c": "a"})["c"] == "a"
    failed = [{"t": t, "k": k, "c": c} for t in (0.0, 0.5, 1.0, 1.5) for k in range(1, 6) for c in "ab"]
    last = failed.pop(17)
    assert Proposer(GRID).propose([], avoid=failed, seed=0) == last


def test_constraints_keep_the_search_where_they_hold() -> None:
    rng = np.random.default_rng(0)

    def shares(constrained: bool) -> float:
        proposer, done = Proposer(FLAT), list[Finished]()
        for i in range(22):
            answers = proposer.propose(done, seed=i)
            value = float(answers["x"]) + 0.02 * float(rng.standard_normal())
            done.append(Finished(answers, (value,), 0.02, 0.0, (answers["x"] - 0.5,) if constrained else ()))
        return float(np.mean([t.answers["x"] <= 0.5 for t in done[8:]]))

    assert shares(True) > 0.5
    assert shares(True) > shares(False) + 0.3


def test_nothing_feasible_yet_leads_towards_feasibility() -> None:
    rng = np.random.default_rng(1)
    known = []
    for _ in range(15):
        answers = draw(FLAT, rng) | {"x": 0.4 + 0.6 * float(rng.random())}
        known.append(Finished(answers, (worth(answers),), 0.05, 0.0, (answers["x"] - 0.2,)))
    assert np.mean([Proposer(FLAT).propose(known, seed=seed)["x"] for seed in range(5)]) < 0.4


@pytest.mark.parametrize("tokens", [lambda a: 1000 * a["x"] + 20, lambda a: 1000 * (1 - a["x"]) + 20])
def test_of_two_equal_places_the_cheaper_one_is_tried(tokens: Callable[[Mapping[str, Any]], float]) -> None:
    space, known = SearchSpace({"x": Number(0.0, 1.0)}), []
    for x in np.linspace(0.04, 0.96, 16):
        answers = {"x": float(x)}
        known.append(Finished(answers, (float(abs(answers["x"] - 0.5) ** 0.5),), 0.3, tokens(answers)))
    found = [tokens(Proposer(space).propose(known, seed=seed)) for seed in range(6)]
    assert np.mean(found) < 400


def test_several_objectives_are_searched_along_the_front() -> None:
    proposer, done = Proposer(SearchSpace({"x": Number(0.0, 1.0), "z": Number(0.0, 1.0)})), list[Finished]()
    for i in range(24):
        a = proposer.propose(done, seed=i)
        done.append(Finished(a, (a["x"] - a["z"], -(a["x"] ** 2) - a["z"])))
    late = done[12:]
    assert np.mean([t.answers["z"] for t in late]) < 0.3  # z costs both
    assert np.ptp([t.answers["x"] for t in late]) > 0.4  # x trades one for the other


def test_values_that_are_all_equal_are_no_trouble() -> None:
    known = [Finished(t.answers, (0.5,), 0.0) for t in history(12)]
    assert Proposer(FLAT).propose(known, seed=0).keys() == {"x", "y", "c"}


def test_many_trials_are_thinned() -> None:
    known = history(FIRST + 400)
    assert Proposer(FLAT).propose(known, seed=0)["c"] == "b"


def test_a_space_without_a_choice_is_answered() -> None:
    assert Proposer(SearchSpace({"x": Choice.of([1.0])})).propose([], seed=0) == {"x": 1.0}
    assert Proposer(SearchSpace({"x": Constant(1.0)})).propose([], seed=0) == {}
