"""A trial is drawn first and then stored whole, as Optuna stores it, and the history is read once for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy import event

from genopt.space import Number, SearchSpace
from genopt.study.storage import open_storage
from tests.study.test_study import OUTCOME, ask, opened, worth

MANY = SearchSpace({f"x{i}": Number(0.0, 1.0) for i in range(12)})


@pytest.fixture
def new(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: f"sqlite:///{tmp_path / name}.db"


def content(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """What Optuna's tables hold of trials."""
    engine = sa.create_engine(url)
    tables = ("trials", "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes")
    with engine.connect() as connection:
        found = {name: [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")] for name in tables}
    engine.dispose()
    return found


def test_a_new_trial_is_stored_as_optuna_stores_it(new: Callable[[str], str]) -> None:
    dimensions = {"a": FloatDistribution(0.1, 2.0, log=True), "b": CategoricalDistribution(("x", "y"))}
    running = create_trial(
        state=TrialState.RUNNING,
        params={"a": 0.25, "b": "y"},
        distributions=dict(dimensions),
        user_attrs={"worker": "w", "config": {"params": {"stop": ["é", "\n"]}}},
        system_attrs={"fixed_params": {"b": "y"}},
    )
    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {}})
    told = create_trial(values=[0.5], params={"a": 1.0}, distributions={"a": dimensions["a"]})
    for url, storage in ((new("ours"), open_storage(new("ours"))[0]), (new("theirs"), RDBStorage(new("theirs")))):
        study = optuna.create_study(storage=storage, study_name=Path(url).stem)
        for trial in (running, waiting, told):
            study._storage.create_new_trial(study._study_id, template_trial=trial)
        assert [trial.number for trial in study.trials] == [0, 1, 2]
    assert content(new("ours")) == content(new("theirs"))


@pytest.mark.parametrize("sampler", ["random", "tpe", "hgp"])
def test_asking_reads_the_history_once_however_many_dimensions_are_drawn(
    new: Callable[[str], str], sampler: str
) -> None:
    statements: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    study = opened(new("s"), MANY, sampler=sampler)
    for _ in range(16):
        asked = ask(study)
        study.tell(asked, [worth(asked)], outcome=OUTCOME)
    event.listen(sa.engine.Engine, "before_cursor_execute", note)
    try:
        ask(study)
    finally:
        event.remove(sa.engine.Engine, "before_cursor_execute", note)
        study.close()
    begun = [statement for statement in statements if statement.startswith("BEGIN")]
    assert len(begun) == 2, "one transaction that reads and one that writes"
    assert len(statements) < 20


def test_what_a_sampler_keeps_for_itself_is_kept_with_the_trial(new: Callable[[str], str]) -> None:
    study = opened(new("s"), SearchSpace({"x": Number(0.0, 1.0)}), sampler="nsga2")
    study.enqueue({})
    for _ in range(20):
        asked = ask(study)
        study.tell(asked, [worth(asked)], outcome=OUTCOME)
    study.close()
    trials = optuna.load_study(storage=new("s"), study_name="s").trials
    generations = [value for trial in trials for name, value in trial.system_attrs.items() if "generation" in name]
    assert generations == [0] * 16 + [1] * 4, "a population of 16 begets the next"


def test_a_failure_while_drawing_leaves_nothing_and_fails_what_was_queued(new: Callable[[str], str]) -> None:
    study = opened(new("s"))

    def broken(params: object) -> str:
        raise ValueError("no key")

    with pytest.raises(ValueError, match="no key"):
        study.ask(broken)
    assert study.trials() == []
    study.enqueue({"top_p": 0.75})
    with pytest.raises(ValueError, match="no key"):
        study.ask(broken)
    assert [trial.state for trial in study.trials()] == ["failed"]
    assert ask(study).proposal == 1
    study.close()
