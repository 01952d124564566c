"""The sampler between Optuna and the proposals: what it sees of a trial, and that its studies work as any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from genopt.proposals import Finished
from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.study import Asked, Study, open_study
from genopt.study.hgp import distribution, finished
from genopt.study.samplers import SeededSampler, maker

SPACE = SearchSpace(
    {
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "hot": {"temperature": Number(0.1, 1.5), "top_p": Number(0.5, 1.0)},
            }
        ),
        "style": Choice.of(["", "Be brief. " * 20]),
        "max_tokens": Number(64, 512, integer=True, step=64),
    }
)
DIMENSIONS = SPACE.open_dimensions()
GREEDY = {"decoding": "greedy", "style": "", "max_tokens": 64}


def trial(answers: Mapping[str, Any], value: float | None, **rest: Any) -> optuna.trial.FrozenTrial:
    return optuna.create_trial(
        params=dict(answers),
        distributions={path: distribution(DIMENSIONS[path]) for path in answers},
        value=value,
        **rest,
    )


@pytest.mark.parametrize(
    ("outcome", "sign", "seen"),
    [
        ({}, 1, Finished(GREEDY, (0.5,))),
        ({"se": 0.1, "mean": 0.4}, 1, Finished(GREEDY, (0.5,), 0.1)),
        ({"estimate": 0.45, "se": 0.2}, 1, Finished(GREEDY, (0.45,), 0.2)),
        ({"estimate": 0.45, "se": 0.3, "estimate_se": 0.2}, -1, Finished(GREEDY, (-0.45,), 0.2)),
        (
            {"estimate": None, "se": None, "metrics": {"completion_tokens": 80.0}},
            1,
            Finished(GREEDY, (0.5,), 0.0, 80.0),
        ),
        ({"estimate": float("nan"), "se": -1.0}, 1, Finished(GREEDY, (0.5,))),
    ],
)
def test_what_is_seen_of_a_trial(outcome: dict[str, Any], sign: int, seen: Finished) -> None:
    assert finished(trial(GREEDY, 0.5, user_attrs={"outcome": outcome}), [sign]) == seen


def test_violations_come_in_one_order() -> None:
    told = trial(GREEDY, 0.5, constraints={"b": 1.0, "a": -1.0})
    assert finished(told, [1], ["a", "b", "c"]).violations == (-1.0, 1.0, 0.0)


def proposal(study: optuna.Study) -> dict[str, Any]:
    asked = study.ask()
    SPACE.sample(lambda path, dimension: asked._suggest(path, distribution(dimension)))
    study.tell(asked, state=TrialState.FAIL)
    return dict(asked.params)


def new_study() -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=SeededSampler(maker("hgp", 1, SPACE)))


def filled(outcome: Mapping[str, Any], extra: int = 0) -> optuna.Study:
    study = new_study()
    for i, tokens in enumerate((64, 128, 192, 256, 320, 448)):
        answers = {"decoding": "hot", "decoding.hot.temperature": 0.2 + 0.2 * i, "decoding.hot.top_p": 0.9}
        study.add_trial(
            trial({**answers, "style": "", "max_tokens": tokens}, 0.1 * i, user_attrs={"outcome": {"se": 0.05}})
        )
    for _ in range(extra):
        study.add_trial(trial(GREEDY, 0.9, user_attrs={"outcome": dict(outcome)}))
    return study


def test_duplicates_are_seen_once() -> None:
    once = filled({"duplicate_of": 3}, extra=0)
    twice = filled({"duplicate_of": 3}, extra=2)
    for study in (once, twice):
        study.enqueue_trial({}, user_attrs={"proposal": 40})
    assert proposal(once) == proposal(twice)


def test_an_estimate_is_believed_before_the_value() -> None:
    def next_after(estimate: float) -> dict[str, Any]:
        study = filled({"estimate": estimate, "se": 0.02}, extra=1)
        study.enqueue_trial({}, user_attrs={"proposal": 40})
        return proposal(study)

    assert next_after(0.9)["decoding"] == "greedy"
    assert next_after(-2.0)["decoding"] == "hot"


# --- through a study on a database


def key(params: Mapping[str, Any]) -> str:
    return str(sorted(params.items()))


def opened(path: Path, **options: Any) -> Study:
    study = open_study(f"sqlite:///{path}", "s", SPACE, **{"sampler": "hgp", "seed": 3, "worker": "w"} | options)
    study.set_attribute("study", {"made": "by a test"})
    return study


def ask(study: Study) -> Asked:
    asked = study.ask(key)
    assert asked is not None
    return asked


def tell(study: Study, asked: Asked) -> None:
    value = float(asked.params["max_tokens"]) / 512 - abs(float(asked.params["temperature"]) - 0.7)  # type: ignore[arg-type]
    study.tell(asked, [value], outcome={"estimate": value, "se": 0.05})


def test_a_resumed_study_proposes_what_an_undisturbed_one_would(tmp_path: Path) -> None:
    def proposals(name: str, reopen_every: int) -> list[dict[str, Any]]:
        study, found = opened(tmp_path / name), []
        for i in range(14):
            if i and i % reopen_every == 0:
                study.close()
                study = opened(tmp_path / name, worker=f"w{i}")
            asked = ask(study)
            assert SPACE.locate(asked.params) is not None
            found.append(dict(asked.params))
            tell(study, asked)
        study.close()
        return found

    undisturbed = proposals("a", 100)
    assert proposals("b", 5) == undisturbed
    assert len({key(params) for params in undisturbed}) == 14
    assert {params["decoding"] for params in undisturbed} == {"greedy", "hot"}


def test_queued_answers_are_kept_and_the_rest_is_proposed(tmp_path: Path) -> None:
    study = opened(tmp_path / "a")
    for _ in range(8):
        tell(study, ask(study))
    study.enqueue({"max_tokens": 192, "decoding": "hot"})
    asked = ask(study)
    assert (asked.params["max_tokens"], asked.params["decoding"]) == (192, "hot")
    study.enqueue(GREEDY)
    assert dict(ask(study).params) == {"decoding": "greedy", "temperature": 0.0, "style": "", "max_tokens": 64}
    study.close()


def test_what_runs_is_not_proposed_again_and_what_was_released_is(tmp_path: Path) -> None:
    study = opened(tmp_path / "a")
    asked = [ask(study) for _ in range(12)]
    assert len({key(each.params) for each in asked}) == 12
    study.release(asked[4].number, "gone")
    assert dict(ask(study).params) == dict(asked[4].params)
    study.close()


def test_several_objectives_are_searched(tmp_path: Path) -> None:
    study = opened(tmp_path / "a", directions=("maximize", "minimize"))
    for i in range(8):
        asked = ask(study)
        study.tell(asked, [float(i), float(asked.params["max_tokens"])], outcome={"se": 0.1})  # type: ignore[arg-type]
    assert {record.state for record in study.trials()} == {"complete"}
    study.close()
