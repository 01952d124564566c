"""Starting points: the presets themselves, how one is fitted into a space, and that a study asks for them first."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from genopt.backends.transformers import PARAMS
from genopt.canonical import resolve
from genopt.errors import SpecError
from genopt.prepare import prepare
from genopt.presets import PRESETS, Fitted, fit
from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.spec.read import make_study
from genopt.types import ParamValue
from tests.studies import run
from tests.toy import study

TODAY: Mapping[str, ParamValue] = {
    **{name: domain.neutral[0] for name, domain in PARAMS.items() if domain.neutral},
    "temperature": 0.8,
    "top_p": 0.9,
    "max_tokens": 64,
}
SWITCH = Switch(
    {
        "greedy": {"temperature": Constant(0.0)},
        "sampling": {"temperature": Number(0.2, 1.2), "top_p": Number(0.5, 1.0), "min_p": Number(0.0, 0.3)},
    }
)


def fitted(dimensions: Mapping[str, Any], wanted: Mapping[str, ParamValue]) -> Fitted | None:
    space = SearchSpace(dimensions)
    return fit(space, wanted, TODAY, lambda chosen: resolve(chosen, space=space, today=TODAY, domains=PARAMS))


def answers(dimensions: Mapping[str, Any], wanted: Mapping[str, ParamValue]) -> Mapping[str, ParamValue]:
    found = fitted(dimensions, wanted)
    assert found is not None
    return found.answers


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_legal_and_says_where_it_comes_from(name: str) -> None:
    preset = PRESETS[name]
    assert preset.source
    assert {n: PARAMS[n].coerce(value) for n, value in preset.params.items()} == preset.params


class TestFit:
    def test_what_is_not_named_stays_as_it_is_today(self) -> None:
        space = {"temperature": Number(0.0, 2.0), "top_p": Number(0.5, 1.0), "max_tokens": Number(16, 512, True)}
        found = fitted(space, {"temperature": 0.2})
        assert found == Fitted({"temperature": 0.2, "top_p": 0.9, "max_tokens": 64}, ())

    def test_values_outside_move_to_the_edge_and_onto_a_step(self) -> None:
        found = fitted({"temperature": Number(0.1, 1.0, step=0.3), "top_k": Number(1, 30, True)}, {"temperature": 1.5})
        assert found == Fitted({"temperature": 1.0, "top_k": 1}, ("temperature = 1 for 1.5",))
        assert answers({"temperature": Number(0.1, 1.0, step=0.3)}, {"temperature": 0.6}) == {"temperature": 0.7}

    def test_a_choice_takes_the_nearest_number(self) -> None:
        space = {"temperature": Choice.of((0.0, 0.5, 1.0)), "style": Choice.of(("", "Be brief."))}
        assert answers(space, {"temperature": 0.7}) == {"temperature": 0.5, "style": ""}
        assert answers(space, {"style": "Be brief."}) == {"temperature": 1.0, "style": "Be brief."}

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (PRESETS["greedy"].params, {"decoding": "greedy"}),
            (PRESETS["precise"].params, {"decoding": "sampling", "decoding.sampling.temperature": 0.2}),
            (PRESETS["min_p"].params, {"decoding": "sampling", "decoding.sampling.min_p": 0.05}),
            (PRESETS["creative"].params, {"decoding": "sampling", "decoding.sampling.temperature": 1.2}),
            ({"decoding": "sampling", "temperature": 0.0}, {"decoding": "sampling"}),
        ],
    )
    def test_the_branch_is_the_one_that_fits(self, wanted: Mapping[str, ParamValue], expected: dict[str, Any]) -> None:
        assert expected.items() <= answers({"decoding": SWITCH}, wanted).items()

    def test_a_parameter_that_only_another_branch_sets_is_off(self) -> None:
        found = fitted({"decoding": SWITCH}, {"temperature": 0.0, "top_p": 1.0})
        assert found == Fitted({"decoding": "greedy"}, ())

    def test_the_nearer_of_two_branches_is_taken(self) -> None:
        heat = Switch({"hot": {"temperature": Number(1.0, 2.0)}, "cool": {"temperature": Number(0.2, 0.9)}})
        assert answers({"heat": heat}, {"temperature": 0.0}) == {"heat": "cool", "heat.cool.temperature": 0.2}
        assert answers({"heat": heat}, {"repetition_penalty": 1.1, "heat": "hot"})["heat"] == "hot"

    def test_what_is_left_out_is_told_and_nothing_at_all_is_none(self) -> None:
        space = {"temperature": Number(0.0, 2.0)}
        found = fitted(space, PRESETS["qwen3"].params)
        assert found == Fitted(
            {"temperature": 0.7}, ("no top_p, which is not searched", "no top_k, which is not searched")
        )
        assert fitted(space, {"top_k": 40}) is None


class TestStarts:
    def test_they_are_asked_first_in_their_order(self, tmp_path: Path) -> None:
        start = ["greedy", "nucleus", {"temperature": 0.5, "top_p": 0.7}, {"decoding": "sampling", "temperature": 0.3}]
        search = {"sampler": "random", "pruner": "none", "trials_in_flight": 1, "start": start}
        ran = run(study(tmp_path, search=search), tmp_path)
        ran.decided()
        trials = [trial for trial in ran.trials if not trial.outcome.get("baseline")]
        tried = [(t.config["params"]["temperature"], t.config["params"]["top_p"]) for t in trials[:4]]
        assert tried[:3] == [(0.0, tried[0][1]), (1.0, 0.95), (0.5, 0.7)] and tried[3][0] == 0.3
        assert "starting with greedy; nucleus" in ran.notes()
        assert len(ran.complete()) == 6  # of the budget, not over it

    def test_a_study_that_goes_on_asks_only_for_new_ones(self, tmp_path: Path) -> None:
        search = {"sampler": "random", "pruner": "none", "start": ["greedy", "greedy"]}
        first = run(study(tmp_path, search=search, budget={"trials": 3}), tmp_path)
        again = run(study(tmp_path, search={**search, "start": ["greedy", "mistral"]}, budget={"trials": 5}), tmp_path)
        assert "starting with greedy" in first.notes()
        assert "starting with mistral" in again.notes() and "greedy;" not in again.notes()
        tried = [trial.config["params"]["temperature"] for trial in again.trials]
        assert tried.count(0.0) <= 2 and 0.15 in tried

    def test_one_that_sets_nothing_is_left_out_with_a_warning(self, tmp_path: Path) -> None:
        space = {"top_p": {"low": 0.5, "high": 1.0}}
        search = {"sampler": "random", "pruner": "none", "start": ["greedy"]}
        ran = run(study(tmp_path, search=search, space=space), tmp_path)
        ran.decided()
        assert "nothing of greedy is searched" in ran.notes()

    def test_misspelt_presets_and_settings_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"search\.start\[1\]: 'gredy' is no preset\. Did you mean 'greedy'"):
            make_study(study(tmp_path, search={"start": ["precise", "gredy"]}))
        with pytest.raises(SpecError, match=r"search\.start"):
            make_study(study(tmp_path, search={"start": [3]}))
        wrong = make_study(study(tmp_path, search={"start": [{"temprature": 0.5}, {"top_p": 7.0}]}), folder=tmp_path)
        with pytest.raises(SpecError) as caught:
            asyncio.run(prepare(wrong))
        told = "\n".join(caught.value.problems)
        assert "search.start[0].temprature" in told and "Did you mean 'temperature'" in told
        assert "search.start[1].top_p: 7.0 is outside" in told
