"""The comparison of samplers: its problems know their truth, and a search on them is raced and charged as it says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.search import samplers
from genopt.geometry import draw


@pytest.mark.parametrize("name", ["flat", "switch", "interaction", "grid", "level"])
def test_no_configuration_beats_the_optimum_by_more_than_the_search_for_it_misses(name: str) -> None:
    problem = samplers.Problem(name, 20, 1)
    rng = np.random.default_rng(5)
    found = [float(problem.truth(draw(problem.space, rng)).mean()) for _ in range(300)]
    assert max(found) <= problem.best + 0.005
    assert (problem.best - np.mean(found) < 0.03) == (name == "level")


def test_scores_have_the_truth_as_their_mean() -> None:
    problem, rng = samplers.Problem("switch", 30, 2), np.random.default_rng(0)
    answers = draw(problem.space, rng)
    scores = np.mean([problem.scores(answers, rng) for _ in range(400)], axis=0)
    assert np.abs(scores - problem.truth(answers)).max() < 0.12


def test_what_is_clearly_worse_is_stopped_and_told_with_its_error() -> None:
    problem, rng = samplers.Problem("switch", 60, 3), np.random.default_rng(0)
    tried = sorted((draw(problem.space, rng) for _ in range(200)), key=lambda a: float(problem.truth(a).mean()))
    best = samplers.Trial(tried[-1], None)  # type: ignore[arg-type]
    samplers.measure(problem, best, [], rng)
    worst = samplers.Trial(tried[0], None)  # type: ignore[arg-type]
    error = samplers.measure(problem, worst, [best], rng)
    assert len(best.scores) == 60 and best.estimate == pytest.approx(best.scores.mean())
    assert len(worst.scores) < 60 and error > best.scores.std() / np.sqrt(60)
    difference = (worst.scores - best.scores[: len(worst.scores)]).mean()
    assert worst.estimate == pytest.approx(best.estimate + difference)


@pytest.mark.parametrize("sampler", ["random", "tpe5", "hgp"])
def test_a_search_gives_its_regret(sampler: str) -> None:
    problem = samplers.Problem("grid", 20, 4)
    regret, seconds = samplers.search(problem, samplers.samplers(sampler, problem, 4), trials=20, in_flight=4, seed=4)
    assert regret.keys() == {20}
    assert 0 <= regret[20] < 40
    assert seconds > 0
