"""A study in Optuna's tables: proposals keep their numbers and values through releases, kills and strangers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from genopt.errors import StudyError
from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.store import Store
from genopt.study import Asked, Budget, Study, copy_trials, list_studies, open_study, remove_study
from genopt.study.storage import open_storage

SPACE = SearchSpace(
    {
        "top_p": Number(0.5, 1.0),
        "max_tokens": Number(64, 512, integer=True, step=64),
        "style": Choice.of(["", "Be brief. " * 20]),
        "stop": Choice.of([(), ("END", "\n")]),
        "decoding": Switch({"greedy": {"temperature": Constant(0.0)}, "hot": {"temperature": Number(0.1, 1.5)}}),
    }
)
FLAT = SearchSpace({"x": Number(0.0, 1.0), "k": Number(1, 64, integer=True, log=True)})
OUTCOME = {"mean": 0.5, "se": 0.1, "n": 10}


def key(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(sorted(params.items())), default=list)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables and no study, made once: making the tables takes longer than most tests."""
    path = tmp_path_factory.mktemp("empty") / "empty.db"
    _, storage = open_storage(f"sqlite:///{path}")
    storage.remove_session()
    storage.engine.dispose()
    return path


@pytest.fixture
def new(empty: Path, tmp_path: Path) -> Callable[[str], str]:
    """Gives the URL of a database of that name without a study."""

    def make(name: str) -> str:
        shutil.copy(empty, tmp_path / name)
        return f"sqlite:///{tmp_path / name}"

    return make


@pytest.fixture
def url(new: Callable[[str], str]) -> str:
    return new("study.db")


@pytest.fixture
def nothing(tmp_path: Path) -> str:
    """The URL of a file that is not there."""
    return f"sqlite:///{tmp_path / 'nothing.db'}"


@pytest.fixture
def study(url: str) -> Iterator[Study]:
    study = opened(url)
    yield study
    study.close()


def opened(url: str, space: SearchSpace = SPACE, **options: Any) -> Study:
    study = open_study(url, "s", space, **{"sampler": "random", "worker": "w", "seed": 3} | options)
    if study.attribute("study") is None:
        study.set_attribute("study", {"made": "by a test"})
    return study


def ask(study: Study) -> Asked:
    asked = study.ask(key)
    assert asked is not None
    return asked


def worth(asked: Asked) -> float:
    return round(float(sum(v for v in asked.params.values() if isinstance(v, (int, float)))) % 1.0, 6)


# --- asking and telling


def test_asked_parameters_lie_in_the_space_and_are_stored_at_once(study: Study) -> None:
    for number in range(30):
        asked = ask(study)
        (record,) = [trial for trial in study.trials() if trial.number == number]
        assert SPACE.locate(asked.params) == record.answers
        assert (asked.number, asked.proposal) == (number, number)
        assert (record.state, record.worker, record.config["key"]) == ("running", "w", key(asked.params))
        assert record.config["params"] == json.loads(json.dumps(asked.params))
        study.tell(asked, [worth(asked)], outcome=OUTCOME)
    assert {trial.state for trial in study.trials()} == {"complete"}


def test_what_was_told_is_read_back(study: Study) -> None:
    asked = ask(study)
    study.tell(asked, [0.75], outcome=OUTCOME, violations={"words <= 50": -3.0, "similar >= 0.6": float("inf")})
    (record,) = study.trials()
    assert (record.state, record.values, record.outcome) == ("complete", (0.75,), OUTCOME)
    assert record.trial_id == asked.trial_id
    frozen = study._frozen()[0]
    assert frozen.constraints == {"words <= 50": -3.0, "similar >= 0.6": 1e9}


@pytest.mark.parametrize("values", [None, [float("nan")], [float("inf")]])
def test_a_trial_without_a_finite_value_failed(study: Study, values: list[float] | None) -> None:
    study.tell(ask(study), values, outcome={"why": "broken"})
    (record,) = study.trials()
    assert (record.state, record.values, record.outcome) == ("failed", None, {"why": "broken"})


def test_long_texts_stay_out_of_the_answers(study: Study, url: str) -> None:
    for _ in range(10):
        ask(study)
    texts = {trial.answers["style"] for trial in study.trials()}
    assert max(len(text) for text in texts) <= 60
    assert any(trial.config["params"]["style"] == "Be brief. " * 20 for trial in study.trials())


def test_reports_are_the_running_means(study: Study) -> None:
    asked = ask(study)
    study.report(asked, 8, 0.5)
    study.report(asked, 16, float("nan"))
    study.report(asked, 24, 0.75)
    assert study._frozen()[0].intermediate_values == {8: 0.5, 24: 0.75}


def test_several_objectives_are_told_and_not_reported(url: str) -> None:
    study = opened(url, directions=("maximize", "minimize"), sampler="nsga2")
    for i in range(20):
        asked = ask(study)
        study.report(asked, 8, 0.5)
        study.tell(asked, [worth(asked), float(i)], outcome=OUTCOME)
    assert study.trials()[3].values == (worth_of(study, 3), 3.0)
    study.close()


def worth_of(study: Study, number: int) -> float:
    values = study.trials()[number].values
    assert values is not None
    return values[0]


def test_attributes_are_kept_with_the_study(url: str, study: Study) -> None:
    study.set_attribute("verdict", {"verdict": "improved", "interval": [0.1, 0.2]})
    again = opened(url)
    assert again.attribute("verdict") == {"verdict": "improved", "interval": [0.1, 0.2]}
    assert again.attribute("other") is None
    assert (again.id, again.name) == (study.id, "s")
    again.close()


# --- enqueue, enter, release


def test_what_is_queued_is_asked_next_and_the_rest_is_proposed(study: Study) -> None:
    study.enqueue({"top_p": 0.625, "decoding": "hot"})
    asked = ask(study)
    assert asked.params["top_p"] == 0.625
    assert asked.params["decoding"] == "hot"
    assert 0.1 <= float(asked.params["temperature"] or 0) <= 1.5
    assert ask(study).params["top_p"] != 0.625


def test_a_measured_trial_is_entered_whole(study: Study) -> None:
    ask(study)
    answers = {"top_p": 0.75, "max_tokens": 128, "style": "", "stop": "[]", "decoding": "greedy"}
    number, trial_id = study.enter(
        answers, [0.5], config={"key": "k", "params": {"top_p": 0.75}}, outcome=OUTCOME, violations={"c": 1.0}
    )
    record = study.trials()[number]
    assert (record.number, record.trial_id, record.state) == (1, trial_id, "complete")
    assert (record.values, record.answers, record.outcome) == ((0.5,), answers, OUTCOME)
    assert (record.config["key"], record.worker, record.proposal) == ("k", "w", 1)
    assert study._frozen()[number].constraints == {"c": 1.0}
    assert ask(study).proposal == 2


def test_a_released_trial_is_asked_again_with_its_values_and_its_proposal(study: Study) -> None:
    asked = [ask(study) for _ in range(4)]
    study.tell(asked[0], [0.5], outcome=OUTCOME)
    study.release(asked[2].number, "its worker is gone")
    record = study.trials()[2]
    assert (record.state, record.outcome["why"]) == ("failed", "its worker is gone")
    again = ask(study)
    assert (again.number, again.proposal) == (4, 2)
    assert dict(again.params) == dict(asked[2].params)
    following = ask(study)
    assert following.proposal == 4


def test_releasing_what_is_finished_or_unknown_does_nothing(study: Study) -> None:
    asked = ask(study)
    study.tell(asked, [0.5], outcome=OUTCOME)
    study.release(asked.number, "late")
    study.release(77, "never was")
    assert [(trial.state, trial.outcome) for trial in study.trials()] == [("complete", OUTCOME)]


def test_a_trial_released_twice_keeps_its_proposal(study: Study) -> None:
    first = ask(study)
    study.release(first.number, "gone")
    second = ask(study)
    study.release(second.number, "gone")
    third = ask(study)
    assert first.proposal == second.proposal == third.proposal == 0
    assert dict(first.params) == dict(second.params) == dict(third.params)


def test_without_fresh_proposals_only_what_was_not_finished_is_asked_again(study: Study) -> None:
    assert study.ask(key, budget=Budget(0)) is None
    asked = ask(study)
    study.release(asked.number, "gone")
    again = study.ask(key, budget=Budget(0))
    assert again is not None
    assert dict(again.params) == dict(asked.params)
    assert study.ask(key, budget=Budget(0)) is None


def test_of_more_starts_than_the_budget_has_trials_the_first_are_asked(study: Study) -> None:
    """What waits behind a start does not hold it up: they would wait for each other for ever."""
    for size in (64, 128, 192, 256):
        study.enqueue({"max_tokens": size})
    asked = [study.ask(key, budget=Budget(2)) for _ in range(3)]
    assert [each and each.params["max_tokens"] for each in asked] == [64, 128, None]


# --- proposals are a function of seed, number and history


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_resumed_study_proposes_what_an_undisturbed_one_would(new: Callable[[str], str], sampler: str) -> None:
    def proposals(name: str, reopen_every: int, count: int = 14) -> list[dict[str, Any]]:
        url = new(name)
        found: list[dict[str, Any]] = []
        study = opened(url, FLAT, sampler=sampler)
        for i in range(count):
            if i and i % reopen_every == 0:
                study.close()
                study = opened(url, FLAT, sampler=sampler, worker=f"w{i}")
            asked = ask(study)
            found.append(dict(asked.params))
            study.tell(asked, [worth(asked)], outcome=OUTCOME)
        study.close()
        return found

    undisturbed = proposals("a", 1000)
    assert proposals("b", 6) == undisturbed
    assert len({key(params) for params in undisturbed}) == len(undisturbed)


def test_another_seed_proposes_something_else(new: Callable[[str], str]) -> None:
    first, second = ask(opened(new("a"), FLAT, seed=1)), ask(opened(new("b"), FLAT, seed=2))
    assert dict(first.params) != dict(second.params)


def test_random_proposals_do_not_depend_on_what_happened_before(new: Callable[[str], str]) -> None:
    calm, wild = opened(new("a"), FLAT), opened(new("b"), FLAT)
    wanted = [dict(ask(calm).params) for _ in range(8)]
    got: dict[int, dict[str, Any]] = {}
    while len(got) < 8:
        asked = ask(wild)
        known = got.setdefault(asked.proposal, dict(asked.params))
        assert known == dict(asked.params)
        if asked.number % 4 == 0:
            wild.tell(asked, None, outcome={})
        elif asked.number % 4 == 1:
            wild.release(asked.number, "gone")
        else:
            wild.tell(asked, [worth(asked)], outcome=OUTCOME)
    assert [got[i] for i in range(8)] == wanted


def test_a_grid_is_walked_once_and_resumed(url: str) -> None:
    points = list(FLAT.grid(3))
    study = opened(url, FLAT, sampler="grid")
    study.use_grid(3)
    first = [dict(ask(study).params) for _ in range(4)]
    study.close()
    study = opened(url, FLAT, sampler="grid")
    study.use_grid(3)
    study.release(1, "gone")
    rest = []
    while (asked := study.ask(key)) is not None:
        rest.append(dict(asked.params))
    assert first + rest[1:] == points
    assert rest[0] == points[1]
    study.close()


KILLED = """
import os, signal, sys
from tests.study.test_study import ask, opened, worth, OUTCOME
study = opened(sys.argv[1])
for i in range(3):
    asked = ask(study)
    study.tell(asked, [worth(asked)], outcome=OUTCOME)
ask(study), ask(study)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_running_trials_of_a_killed_process_are_taken_up(url: str, new: Callable[[str], str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", KILLED, url], env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    calm = opened(new("calm.db"))
    wanted = [dict(ask(calm).params) for _ in range(7)]
    study = opened(url, worker="w2")
    running = [trial for trial in study.trials() if trial.state == "running"]
    assert [(trial.number, trial.worker) for trial in running] == [(3, "w"), (4, "w")]
    for trial in running:
        study.release(trial.number, "its worker is gone")
    got = [dict(ask(study).params) for _ in range(4)]
    assert got == wanted[3:]
    assert [trial.state for trial in study.trials()] == ["complete"] * 3 + ["failed"] * 2 + ["running"] * 4
    calm.close()
    study.close()


# --- what is not ours


def test_a_study_that_is_missing_is_not_made_when_only_looked_for(url: str, study: Study) -> None:
    with pytest.raises(StudyError, match="has no study 'other'") as error:
        open_study(url, "other", SPACE, create=False)
    assert "it has: s" in error.value.hint


def test_a_missing_file_is_not_made_when_only_looked_for(nothing: str) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        open_study(nothing, "s", SPACE, create=False)
    assert not Path(nothing.removeprefix("sqlite:///")).exists()


def test_a_study_of_plain_optuna_is_refused_and_left_alone(url: str) -> None:
    other = optuna.create_study(storage=url, study_name="s")
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="was not made by genopt"):
        open_study(url, "s", SPACE)
    assert len(other.get_trials()) == 1
    assert [(found.name, found.ours) for found in list_studies(url)] == [("s", False)]


def test_a_database_of_another_program_is_refused_and_left_alone(nothing: str) -> None:
    path = nothing.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE invoices (id INTEGER)")
        connection.commit()
    with pytest.raises(StudyError, match="tables of another program \\(invoices\\)"):
        open_study(nothing, "s", SPACE)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("invoices",)]


def test_genopts_own_tables_made_first_are_no_strangers(nothing: str) -> None:
    store = Store(nothing)
    store.create()
    store.close()
    study = opened(nothing)
    assert ask(study).number == 0
    study.close()


@pytest.mark.parametrize("bad", ["sqlite:////nowhere/at/all.db", "nonsense", "nosuch://host/db"])
def test_a_storage_that_cannot_be_used_is_a_study_error(bad: str) -> None:
    with pytest.raises(StudyError, match="cannot be"):
        open_study(bad, "s", SPACE)


# --- studies side by side


def test_studies_are_listed_copied_and_removed(url: str, study: Study) -> None:
    asked = ask(study)
    study.tell(asked, [0.5], outcome=OUTCOME)
    study.set_attribute("verdict", {"verdict": "improved"})
    copy_trials(url, "s", "copy")
    assert [(s.name, s.trials, s.verdict, s.ours) for s in list_studies(url)] == [
        ("s", 1, "improved", True),
        ("copy", 1, "improved", True),
    ]
    copy = open_study(url, "copy", SPACE, create=False)
    assert copy.trials()[0].outcome == OUTCOME
    copy.close()
    with pytest.raises(StudyError, match="has a study 'copy' already"):
        copy_trials(url, "s", "copy")
    remove_study(url, "copy")
    assert [s.name for s in list_studies(url)] == ["s"]
    with pytest.raises(StudyError, match="has no study 'copy'"):
        remove_study(url, "copy")
