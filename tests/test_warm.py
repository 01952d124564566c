"""A new study begins with what earlier studies on the same model found, and with what the model recommends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import load
from genopt.errors import SpecError, StudyError
from genopt.spec.read import make_study
from genopt.types import BackendInfo
from genopt.warm import same_model
from tests.studies import Ran, backend, run
from tests.toy import ToyBackend, rows, study

TODAY = {"decoding": "sampling", "temperature": 1.4, "top_p": 1.0}
OTHER = [row | {"id": f"x{i}", "question": f"Was {i} right?"} for i, row in enumerate(rows(60))]


class Recommending(ToyBackend):
    """The toy engine with a model that comes with sampling settings."""

    async def open(self) -> BackendInfo:
        return replace(await super().open(), recommended={"temperature": 0.6, "top_p": 0.8, "top_k": 20})


def again(folder: Path, table: dict[str, Any], **changes: Any) -> tuple[Ran, list[dict[str, Any]]]:
    """The study `new` in the same storage: how it ran, and the settings that were asked, in order."""
    ran = run(table | {"name": "new"} | changes, folder)
    archive = load(f"sqlite:///{folder / 'toy.db'}#new") if ran.error is None else None
    trials = sorted(archive.trials, key=lambda t: t.number) if archive else []
    return ran, [dict(t.config["params"]) for t in trials if "params" in t.config and not t.outcome.get("baseline")]


@pytest.fixture
def old(tmp_path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A finished study, and its best searched settings, the best first."""
    table = study(tmp_path, baseline=TODAY, budget={"trials": 6})
    found = run(table, tmp_path)
    assert found.decided().verdict == "improved"
    trials = [t for t in found.complete() if not t.outcome.get("baseline")]
    ranked = sorted(trials, key=lambda t: -t.outcome["mean"])
    return table, [dict(trial.config["params"]) for trial in ranked]


def test_the_best_of_an_earlier_study_on_other_data_are_asked_first(tmp_path: Path, old: Any) -> None:
    table, best = old
    ran, asked = again(tmp_path, table, dataset={"rows": OTHER, "holdout": 0.4})
    assert sorted(map(str, asked[:3])) == sorted(map(str, best[:3]))
    assert "starting with trial" in ran.notes() and "of toy" in ran.notes()
    assert ran.decided().look == 1  # nothing was looked at before
    once, _ = again(tmp_path, table, dataset={"rows": OTHER, "holdout": 0.4}, budget={"trials": 7})
    assert "starting with" not in once.notes()  # gone on with, it is not begun again


def test_the_same_holdout_stays_looked_at_and_rows_that_chose_are_kept_apart(tmp_path: Path, old: Any) -> None:
    table, best = old
    ran, asked = again(tmp_path, table)
    assert asked[0] in best[:3]
    before = load(f"sqlite:///{tmp_path / 'toy.db'}#toy").verdict
    assert before is not None
    assert ran.decided().look == (1 if ran.decided().params == before["params"] else 2)
    other, asked = again(tmp_path, table, name="third", seed=2)  # another split of the same rows
    assert "rows held out here chose the settings of" in other.notes() and "starting with" not in other.notes()
    named, _ = again(tmp_path, table, name="fourth", seed=2, search={"sampler": "random", "warm_start": "toy"})
    assert "the verdict is not clean of them" in named.notes() and "of toy" in named.notes()


def test_it_can_be_turned_off_and_a_study_that_is_not_there_is_named_before_anything_is_paid(
    tmp_path: Path, old: Any
) -> None:
    table, _ = old
    changes: dict[str, Any] = {"dataset": {"rows": OTHER, "holdout": 0.4}}
    off, _ = again(tmp_path, table, search={"sampler": "random", "warm_start": False}, **changes)
    assert "starting with" not in off.notes()
    other = backend()
    other["model"] = "another"
    ran, _ = again(tmp_path, table, name="other", backend=other, **changes)
    assert "starting with" not in ran.notes()
    with pytest.raises(SpecError, match=r"search\.warm_start"):
        make_study(table | {"search": {"warm_start": 3}}, folder=tmp_path)
    wrong = run(table | {"name": "x", "search": {"warm_start": "toyy"}}, tmp_path)
    assert isinstance(wrong.error, StudyError) and "search.warm_start: 'toyy'" in str(wrong.error)
    assert "no study 'toyy'" in str(wrong.error)


def test_what_the_model_recommends_is_asked_where_the_baseline_is_another(tmp_path: Path) -> None:
    table = study(tmp_path, baseline=TODAY, budget={"trials": 4})
    table["backend"] = {"kind": "tests.test_warm:Recommending", "model": "toy"}
    ran = run(table, tmp_path)
    first = min((t for t in ran.trials if t.config and not t.outcome.get("baseline")), key=lambda t: t.number)
    assert first.config["params"] == {"decoding": "sampling", "temperature": 0.6, "top_p": 0.8}
    assert "starting with what the model recommends (with no top_k, which is not searched)" in ran.notes()


def test_the_same_weights_are_told_by_their_digest_else_by_the_name() -> None:
    assert same_model({"model": "a", "digest": "1"}, {"model": "b", "digest": "1"})
    assert not same_model({"model": "a", "digest": "1"}, {"model": "a", "digest": "2"})
    assert same_model({"model": "a"}, {"model": "a", "digest": "2"})
    assert not same_model({}, {})
