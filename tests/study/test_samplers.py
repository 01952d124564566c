"""Which sampler proposes, and that each proposal depends on its number and the history alone."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from genopt.errors import SpecError
from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.study.samplers import HGP_TRIALS, PROPOSAL, SeededSampler, choose_sampler, make_sampler, proposal_seed

FLAT = SearchSpace({"x": Number(0, 1), "c": Choice.of(["a", "b"])})
SWITCHED = SearchSpace({"s": Switch({"a": {"x": Number(0, 1)}, "b": {"x": Constant(0.0)}})})


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says whether PyTorch seems to be installed."""
    real = importlib.util.find_spec

    def seems(installed: bool) -> None:
        def find(name: str, package: str | None = None) -> Any:
            return (real("json") if installed else None) if name == "torch" else real(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find)

    return seems


@pytest.mark.parametrize(
    ("space", "trials", "several", "installed", "wanted"),
    [
        (FLAT, 60, False, True, "hgp"),
        (FLAT, HGP_TRIALS, False, True, "hgp"),
        (FLAT, HGP_TRIALS + 1, False, True, "tpe"),
        (FLAT, None, False, True, "hgp"),
        (FLAT, 60, False, False, "hgp"),
        (FLAT, 60, True, True, "tpe"),
        (SWITCHED, 60, False, True, "hgp"),
    ],
)
def test_auto_takes_what_sees_how_sure_values_are(
    torch: Any, space: SearchSpace, trials: int | None, several: bool, installed: bool, wanted: str
) -> None:
    torch(installed)
    choice = choose_sampler("auto", space, trials=trials, several=several)
    assert choice.name == wanted
    assert choice.why


@pytest.mark.parametrize("name", ["hgp", "tpe", "random", "grid", "nsga2"])
@pytest.mark.parametrize("space", [FLAT, SWITCHED])
def test_a_named_sampler_is_taken_at_its_word(torch: Any, name: str, space: SearchSpace) -> None:
    torch(False)
    assert choose_sampler(name, space, trials=10, several=False).name == name


def test_the_gaussian_process_is_refused_where_it_would_draw_at_random(torch: Any) -> None:
    torch(True)
    assert choose_sampler("gp", FLAT, trials=10_000, several=False).name == "gp"
    with pytest.raises(SpecError, match="switch"):
        choose_sampler("gp", SWITCHED, trials=10, several=False)
    torch(False)
    with pytest.raises(SpecError, match="needs PyTorch"):
        choose_sampler("gp", FLAT, trials=10, several=False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("nsga2", optuna.samplers.NSGAIISampler),
        ("random", optuna.samplers.RandomSampler),
        ("grid", optuna.samplers.RandomSampler),
    ],
)
def test_names_lead_to_optunas_samplers(name: str, kind: type) -> None:
    assert type(make_sampler(name, 1)) is kind


def test_proposal_seeds_differ_and_fit() -> None:
    seeds = {proposal_seed(study, proposal) for study in range(10) for proposal in range(500)}
    assert len(seeds) > 4990
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert proposal_seed(1, 11) != proposal_seed(11, 1)


def proposals(name: str, *, numbers: list[int], history: int) -> list[tuple[Any, Any]]:
    """What is proposed under these numbers, each time on the same finished trials."""
    study = optuna.create_study(sampler=SeededSampler(lambda n: make_sampler(name, proposal_seed(0, n))))
    distributions: dict[str, Any] = {"x": FloatDistribution(0, 1), "c": CategoricalDistribution(("a", "b"))}
    draw = random.Random(0)
    for _ in range(history):
        params = {"x": draw.random(), "c": draw.choice("ab")}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=params["x"]))
    found = []
    for number in numbers:
        study.enqueue_trial({}, user_attrs={PROPOSAL: number})
        trial = study.ask()
        found.append((trial.suggest_float("x", 0, 1), trial.suggest_categorical("c", ["a", "b"])))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return found


@pytest.mark.parametrize("name", ["random", "tpe", "nsga2"])
@pytest.mark.parametrize("history", [0, 15])
def test_a_proposal_is_a_function_of_its_number_and_the_history(name: str, history: int) -> None:
    forwards = proposals(name, numbers=[20, 21, 22], history=history)
    backwards = proposals(name, numbers=[22, 20, 21, 20], history=history)
    assert backwards == [forwards[2], forwards[0], forwards[1], forwards[0]]
    assert len({x for x, _ in forwards}) > 1


def test_random_proposals_do_not_depend_on_the_history() -> None:
    assert proposals("random", numbers=[5, 6], history=0) == proposals("random", numbers=[5, 6], history=20)
    assert proposals("tpe", numbers=[30, 31], history=5) != proposals("tpe", numbers=[30, 31], history=25)
