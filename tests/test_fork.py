"""A changed study goes on under another name, and keeps what still holds."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from genopt.archive import Archive, load
from genopt.errors import StudyError
from genopt.events import StageStarted
from genopt.runner import optimize_async
from genopt.spec.read import make_study
from tests.studies import backend, query, run
from tests.toy import ToyBackend, rows, study

BASELINE = {"decoding": "sampling", "temperature": 1.4, "top_p": 1.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished study."""
    folder = tmp_path_factory.mktemp("finished")
    assert run(study(folder, baseline=BASELINE), folder).decided().verdict is not None
    return folder


@pytest.fixture
def old(tmp_path: Path, finished: Path) -> dict[str, Any]:
    """A finished study of one's own, as a table that logs from now on."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return study(tmp_path, baseline=BASELINE) | {"backend": backend(log=str(tmp_path / "log.jsonl"))}


def new(folder: Path, name: str = "new") -> Archive:
    return load(f"sqlite:///{folder / 'toy.db'}#{name}")


def asked(folder: Path) -> list[str]:
    """One line for every request since the log began."""
    path = folder / "log.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def keys(archive: Archive) -> set[str]:
    return {trial.config["key"] for trial in archive.trials if trial.state == "complete"}


def shorter(example: object, text: str) -> float:
    """Another scorer."""
    return 1.0 if text == "no" else 0.5


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"prompt": {"user": "Tell me: {{ question }}"}}, "prompt"),
    ({"space": {"temperature": {"low": 0.1, "high": 1.5}}, "baseline": {"temperature": 1.4, "top_p": 1.0}}, "space"),
    ({"scorers": {"right": {"kind": "contains"}}}, "scorers.right"),
    ({"scorers": {"other": {"kind": "exact_match"}}}, "scorers.other"),
    ({"dataset": {"rows": rows(61), "holdout": 0.4}}, "dataset"),
    ({"dataset": {"rows": rows(60), "holdout": 0.3}}, "dataset.holdout"),
    ({"baseline": {"temperature": 0.5}}, "baseline.temperature"),
    ({"backend": {"kind": "tests.toy:ToyBackend", "model": "other"}}, "backend.model"),
    ({"seed": 2}, "seed"),
    ({"search": {"sampler": "random", "repeats": 2}}, "search.repeats"),
    ({"constraints": [{"metric": "words", "at_most": 9}]}, "constraints"),
]


def test_a_changed_study_is_refused_and_the_change_is_named(tmp_path: Path, old: dict[str, Any]) -> None:
    for change, key in CHANGES:
        ran = run(old | change, tmp_path)
        assert isinstance(ran.error, StudyError), key
        named = str(ran.error).partition("begun with another ")[2].split(", ")
        assert any(name == key or name.startswith(f"{key}.") for name in named), (key, named)
        assert "--fork" in ran.error.hint
        assert ran.error.exit_code == 2
    assert asked(tmp_path) == []


def test_what_changes_nothing_is_not_refused(tmp_path: Path, old: dict[str, Any]) -> None:
    same: list[dict[str, Any]] = [
        {"search": {"sampler": "tpe", "trials_in_flight": 2}},
        {"backend": backend(delay=0.0, concurrency=3)},
    ]
    for change in same:
        assert run(old | change, tmp_path).decided().verdict is not None


def test_another_scorer_generates_nothing_again(tmp_path: Path, old: dict[str, Any]) -> None:
    changed = old | {"scorers": {"right": shorter}}
    ran = run(changed, tmp_path, fork="new")
    assert ran.decided().objective == "maximize right"
    fork, before = new(tmp_path), load(f"sqlite:///{tmp_path / 'toy.db'}#toy")
    assert keys(fork) == keys(before)
    assert "forked from toy" in ran.notes()
    first = [line for line in asked(tmp_path) if '"sample": 0' in line and '"phase": "tune"' in line]
    assert first == []
    means = {trial.config["key"]: trial.outcome["mean"] for trial in before.trials}
    for trial in fork.trials:
        assert trial.outcome["mean"] == pytest.approx(1 - means[trial.config["key"]] / 2)
    assert len(before.trials) == 6, "the old study is as it was"


def test_a_changed_example_is_the_only_one_that_is_generated_again(tmp_path: Path, old: dict[str, Any]) -> None:
    """Holdout and tune split are drawn by id, so that the other rows stay where they are."""
    changed_rows = rows(60)
    victim = query(tmp_path, "SELECT example_id FROM genopt_examples WHERE split = 'tune' LIMIT 1")[0][0]
    next(row for row in changed_rows if row["id"] == victim)["question"] = "Is this new?"
    ran = run(old | {"dataset": {"rows": changed_rows, "holdout": 0.4}}, tmp_path, fork="new")
    ran.decided()
    first = [line for line in asked(tmp_path) if '"sample": 0' in line and '"phase": "tune"' in line]
    assert all(f'"example": "{victim}"' in line for line in first)
    assert len(first) == len(keys(new(tmp_path))) == 6


def test_a_larger_space_takes_the_old_trials_over(tmp_path: Path, old: dict[str, Any]) -> None:
    space = {
        "top_p": {"low": 0.4, "high": 1.0},
        "decoding": {"greedy": {"temperature": 0.0}, "sampling": {"temperature": {"low": 0.05, "high": 1.9}}},
    }
    ran = run(old | {"space": space, "budget": {"trials": 9}}, tmp_path, fork="new")
    assert ran.decided().trials == 9
    fork = new(tmp_path)
    assert keys(fork) > keys(load(f"sqlite:///{tmp_path / 'toy.db'}#toy"))
    first = [line for line in asked(tmp_path) if '"sample": 0' in line and '"phase": "tune"' in line]
    assert len(first) == 3 * 36


def test_a_changed_prompt_takes_the_configurations_and_no_generation(tmp_path: Path, old: dict[str, Any]) -> None:
    ran = run(old | {"prompt": {"user": "Tell me: {{ question }}"}}, tmp_path, fork="new")
    ran.decided()
    fork, before = new(tmp_path), load(f"sqlite:///{tmp_path / 'toy.db'}#toy")
    assert not keys(fork) & keys(before)

    def params(archive: Archive) -> set[float]:
        return {trial.config["params"]["top_p"] for trial in archive.trials if trial.state == "complete"}

    assert params(fork) == params(before)
    first = [line for line in asked(tmp_path) if '"sample": 0' in line and '"phase": "tune"' in line]
    assert len(first) == 6 * 36


def test_another_seed_takes_no_generation(tmp_path: Path, old: dict[str, Any]) -> None:
    run(old | {"seed": 2}, tmp_path, fork="new").decided()
    stored = query(tmp_path, "SELECT count(*) FROM genopt_generations WHERE study_id = 2")[0][0]
    assert len(asked(tmp_path)) == stored


@pytest.mark.parametrize("changed", [False, True])
def test_a_study_is_not_forked_onto_itself(tmp_path: Path, old: dict[str, Any], changed: bool) -> None:
    change: dict[str, Any] = {"scorers": {"right": shorter}} if changed else {}
    ran = run(old | change, tmp_path, fork="toy")
    assert isinstance(ran.error, StudyError)
    assert "--fork: 'toy' is the study itself" in str(ran.error)
    assert "another name" in ran.error.hint
    assert asked(tmp_path) == []


def test_a_fork_of_nothing_is_refused(tmp_path: Path, old: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an engine loads, which may take minutes."""

    async def never(_: ToyBackend) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setattr(ToyBackend, "open", never)
    ran = run(old | {"name": "nobody"}, tmp_path, fork="new")
    assert isinstance(ran.error, StudyError)
    assert "--fork: 'nobody' cannot be begun with" in str(ran.error)
    assert "has no study 'nobody'" in str(ran.error)
    assert query(tmp_path, "SELECT study_name FROM studies") == [("toy",)]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_stopped_fork_goes_on(tmp_path: Path, old: dict[str, Any], by_name: bool) -> None:
    """With --fork again, or with its own name in the study file."""
    changed = old | {"scorers": {"right": shorter}, "budget": {"trials": 9}}

    async def stopped() -> None:
        events: list[object] = []
        task = asyncio.create_task(
            optimize_async(make_study(changed, folder=tmp_path), on_event=events.append, fork="new")
        )
        while not any(isinstance(event, StageStarted) and event.stage == "search" for event in events):
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stopped())
    copied = query(tmp_path, "SELECT count(*) FROM genopt_generations WHERE study_id = 1")
    ran = run(changed | {"name": "new"}, tmp_path) if by_name else run(changed, tmp_path, fork="new")
    assert ran.decided().trials == 9
    fork = new(tmp_path)
    assert not [trial for trial in fork.trials if trial.state in ("running", "waiting")]
    assert len(keys(fork)) == 9
    assert keys(fork) > keys(load(f"sqlite:///{tmp_path / 'toy.db'}#toy"))
    assert query(tmp_path, "SELECT count(*) FROM genopt_generations WHERE study_id = 1") == copied
    lines = asked(tmp_path)
    assert len({line.rpartition(', "time"')[0] for line in lines}) == len(lines)


def test_what_was_taken_over_is_not_spent_again(tmp_path: Path, old: dict[str, Any]) -> None:
    """A budget of generations counts what this study generates, in one go or in two."""
    changed = old | {"scorers": {"right": shorter}}
    for limit in (300, 420):
        ran = run(changed | {"budget": {"generations": limit}}, tmp_path, fork="new")
        verdict = ran.decided()
        assert verdict.search_generations + verdict.confirm_generations == len(asked(tmp_path)) <= limit


def test_a_fork_of_a_study_with_the_default_storage_stays_in_it(tmp_path: Path) -> None:
    """The default storage is named after the study, which the fork is not."""
    table = study(tmp_path, count=30, budget={"trials": 3})
    del table["storage"]
    spec = make_study(table, folder=tmp_path)
    asyncio.run(optimize_async(spec))
    result = asyncio.run(optimize_async(spec, fork="new"))
    assert [path.name for path in tmp_path.glob("*.db")] == ["toy.db"]
    assert (result.url, result.name) == (spec.url, "new")
    assert len(new(tmp_path).trials) >= 3


def test_a_fork_has_looked_at_the_holdout_as_often_as_its_source(tmp_path: Path, old: dict[str, Any]) -> None:
    """Else whoever forks often enough shows an improvement some day."""
    first = load(f"sqlite:///{tmp_path / 'toy.db'}#toy").verdict
    assert first is not None and first["look"] == 1
    without = {"top_p": {"low": 0.6, "high": first["params"]["top_p"] - 0.01}}
    verdict = run(old | {"space": old["space"] | without, "budget": {"trials": 12}}, tmp_path, fork="new").decided()
    assert verdict.params != first["params"] and verdict.holdout_examples
    assert (verdict.look, verdict.level) == (2, 0.025)
