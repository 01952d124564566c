"""A whole study through the door that people use: verdict, resume, budget raised, dead workers, notebooks."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

import genopt
from genopt.archive import load
from genopt.errors import BackendError, SpecError, StudyError
from genopt.events import Decided, Event, Note, Progress, StageStarted, TrialDone
from genopt.leases import LEASE
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.runner import changes
from genopt.spec import StudySpec
from genopt.spec.read import make_study
from tests.studies import backend, generations, query, run
from tests.toy import rows, study


def test_the_same_command_after_the_verdict_spends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    table = study(tmp_path, count=30, budget={"trials": 4}, backend=backend(log=str(log)))
    first = run(table, tmp_path)
    stored, lines = generations(tmp_path), log.read_text()
    second = run(table, tmp_path)
    assert second.decided().to_json() == first.decided().to_json()
    assert generations(tmp_path) == stored
    assert log.read_text() == lines
    assert len(second.trials) == len(first.trials)
    assert "raise the budget to search on" in second.notes()


def test_a_raised_budget_searches_on_and_looks_again_at_a_lower_level(tmp_path: Path) -> None:
    """Another winner is judged on the same holdout, and held to half the level."""
    table = study(tmp_path, baseline={"decoding": "sampling", "temperature": 1.4, "top_p": 1.0})
    verdicts = [run(table | {"budget": {"trials": trials}}, tmp_path).decided() for trials in (2, 14)]
    first, second = verdicts
    assert (first.look, first.level, first.trials) == (1, 0.05, 2)
    assert (second.look, second.level, second.trials) == (2, 0.025, 14)
    assert first.params != second.params
    assert second.interval is not None
    assert second.difference is not None
    before = len(generations(tmp_path))
    again = run(table | {"budget": {"trials": 15}}, tmp_path).decided()
    if again.params == second.params:
        assert (again.look, again.confirm_generations) == (2, second.confirm_generations)
        assert (again.difference, again.p_value) == (second.difference, second.p_value)
        assert len(generations(tmp_path)) - before <= 3 * 36, "one trial, and what finalists lacked"
    else:
        assert again.look == 3


@pytest.mark.parametrize(("age", "freed"), [(LEASE + 5, True), (0.0, False)])
def test_a_trial_of_a_worker_whose_lease_ran_out_is_asked_again(tmp_path: Path, age: float, freed: bool) -> None:
    table = study(tmp_path, count=30, baseline={"decoding": "sampling", "temperature": 1.4, "top_p": 1.0})
    run(table | {"budget": {"trials": 3}}, tmp_path).decided()
    plan = asyncio.run(prepare(make_study(table, folder=tmp_path)))
    plant(tmp_path, plan, beaten=time.time() - age)
    waited: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.text == "waiting for 1 trial of another worker":
            waited.append(event.text)
            planted = optuna.load_study(study_name="toy", storage=f"sqlite:///{tmp_path / 'toy.db'}")
            trial = next(trial for trial in planted.trials if trial.user_attrs["proposal"] == 77)
            assert trial.state == optuna.trial.TrialState.RUNNING
            planted.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its worker gives it up

    ran = run(table | {"budget": {"trials": 6}}, tmp_path, on_event=listen)
    assert ran.decided().trials == 6
    assert len(waited) == (not freed)
    orphan = next(trial for trial in ran.trials if trial.worker == "faraway")
    same = [trial for trial in ran.trials if trial.proposal == 77 and trial.number != orphan.number]
    if freed:
        assert orphan.state == "failed"
        assert orphan.outcome["why"] == "its worker is gone; asked again"
        assert [trial.state for trial in same] == ["complete"]
        assert same[0].config["params"]["temperature"] == 0.123
        assert not [trial for trial in ran.trials if trial.state in ("running", "waiting")]
    else:
        assert orphan.state == "failed"
        assert "why" not in orphan.outcome, "nobody took it over"
        assert same == []


def plant(folder: Path, plan: Plan, *, beaten: float) -> None:
    """A worker of another host with a trial that it does not finish."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    planted = optuna.load_study(study_name="toy", storage=f"sqlite:///{folder / 'toy.db'}")
    done = next(trial for trial in planted.trials if any(name.endswith("temperature") for name in trial.params))
    path = next(name for name in done.params if name.endswith("temperature"))
    params = {**done.user_attrs["config"]["params"], "temperature": 0.123}
    config = {"key": plan.configure(params).key, "params": params, "worker": "faraway"}
    template = optuna.trial.create_trial(
        state=optuna.trial.TrialState.RUNNING,
        params=done.params | {path: 0.123},
        distributions=done.distributions,
        user_attrs={"proposal": 77, "worker": "faraway", "config": config},
    )
    planted.add_trial(template)
    with closing(sqlite3.connect(folder / "toy.db", timeout=60)) as connection, connection:
        connection.execute(
            "INSERT INTO genopt_workers (id, study_id, host, process, started, heartbeat, closed)"
            " VALUES ('faraway', 1, 'elsewhere.example', '1:1', ?, ?, 0)",
            (beaten - 100, beaten),
        )


def test_events_come_in_a_sane_order(tmp_path: Path) -> None:
    ran = run(study(tmp_path, backend=backend(delay=0.01)), tmp_path)
    verdict = ran.decided()
    stages = [event.stage for event in ran.events if isinstance(event, StageStarted)]
    assert stages == ["baseline", "search", "finalists", "confirm", "done"]
    assert isinstance(ran.events[-1], Decided)
    assert ran.events[-1].verdict == verdict.to_json()
    where = {stage: ran.events.index(event) for stage, event in zip(stages, _started(ran.events), strict=True)}
    told = [i for i, event in enumerate(ran.events) if isinstance(event, TrialDone)]
    assert where["baseline"] < told[0] < where["search"] < told[1]
    assert told[-1] < where["finalists"]
    assert next(event.number for event in ran.told()) == 0, "the baseline lies in the space"
    assert sorted(event.number or 0 for event in ran.told()) == [trial.number for trial in ran.trials]
    assert sum(event.best for event in ran.told()) >= 1
    progress = [event for event in ran.events if isinstance(event, Progress)]
    assert progress
    assert [event.generations for event in progress] == sorted(event.generations for event in progress)
    assert all(0 <= event.fraction <= 1 for event in progress)
    ended = next(i for i, e in enumerate(ran.events) if isinstance(e, Note) and e.text.startswith("search ended"))
    assert told[-1] < ended < where["finalists"]
    planned = {event.stage: event.planned for event in _started(ran.events)}
    samples = "SELECT sum(phase = 'tune' AND sample > 0), sum(phase = 'confirm') FROM genopt_generations"
    [(again, confirmed)] = query(tmp_path, samples)
    assert 0 < again <= planned["finalists"], "finalists are measured until one is left, or what was planned is spent"
    assert confirmed == planned["confirm"]


def _started(events: list[Event]) -> list[StageStarted]:
    return [event for event in events if isinstance(event, StageStarted)]


def test_a_study_in_python_with_rows_and_functions(tmp_path: Path) -> None:
    """Nothing but Python: rows, a function as the scorer, and a running event loop as in a notebook."""

    def says_yes(example: genopt.Example, text: str) -> float:
        return float(text == example.references[0])

    spec = StudySpec(
        name="python",
        storage=f"sqlite:///{tmp_path / 'python.db'}",
        dataset={"rows": rows(40), "reference": "answer"},  # type: ignore[arg-type]
        prompt={"user": "{{ question }}"},  # type: ignore[arg-type]
        backend=backend(),  # type: ignore[arg-type]
        space={"temperature": {"low": 0.1, "high": 1.5}},
        scorers={"says_yes": says_yes},  # type: ignore[dict-item]
        budget={"trials": 4},  # type: ignore[arg-type]
        search={"sampler": "random"},  # type: ignore[arg-type]
    )
    plain = genopt.optimize(spec)
    assert plain.verdict.objective == "maximize says_yes"
    assert plain.params.keys() >= {"temperature"}
    assert (plain.url, plain.name) == (f"sqlite:///{tmp_path / 'python.db'}", "python")

    async def notebook() -> genopt.Result:
        assert asyncio.get_running_loop().is_running()
        return genopt.optimize(spec)

    assert asyncio.run(notebook()).verdict == plain.verdict


def test_a_study_may_be_the_tables_of_its_file_in_a_dict(tmp_path: Path) -> None:
    table = study(tmp_path, count=24, budget={"trials": 1})
    assert genopt.optimize(table).url == f"sqlite:///{tmp_path / 'toy.db'}"
    assert genopt.evaluate(table).examples == 24
    with pytest.raises(SpecError, match=r"^StudySpec: budget\.trails: unknown key\. Did you mean 'trials'"):
        genopt.optimize(table | {"budget": {"trails": 1}})


def test_an_error_in_a_notebook_reaches_the_caller(tmp_path: Path) -> None:
    spec = make_study(study(tmp_path, backend=backend(broken=True)), folder=tmp_path)

    async def notebook() -> None:
        genopt.optimize(spec)

    with pytest.raises(BackendError, match="the engine is broken"):
        asyncio.run(notebook())


def test_interrupting_a_notebook_ends_the_work(tmp_path: Path) -> None:
    """Its stop button raises KeyboardInterrupt in the thread that waits, while the study runs in another."""
    log = tmp_path / "log.jsonl"
    spec = make_study(study(tmp_path, backend=backend(delay=0.2, log=str(log))), folder=tmp_path)
    main = threading.get_ident()

    def stop() -> None:
        while not log.exists():
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    async def cell() -> None:
        threading.Thread(target=stop).start()
        genopt.optimize(spec)

    loop = asyncio.new_event_loop()
    with closing(loop), pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    requests = log.read_text()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("genopt")]
    time.sleep(0.3)
    assert log.read_text() == requests
    assert {trial.state for trial in load(f"{spec.url}#toy").trials} <= {"complete", "failed", "waiting"}


def test_the_result_keeps_the_baseline_unless_improved(tmp_path: Path) -> None:
    flat = study(tmp_path, backend=backend(flat=True))
    result = genopt.optimize(make_study(flat, folder=tmp_path))
    assert result.verdict.verdict == "not shown"
    assert result.params == dict(result.verdict.baseline_params)
    good = {"temperature": {"choices": [0.6, 0.65]}, "top_p": {"choices": [0.8]}}
    table = study(tmp_path, count=120, space=good, name="good", baseline={"temperature": 1.5, "top_p": 1.0})
    better = genopt.optimize(make_study(table, folder=tmp_path))
    assert better.verdict.verdict == "improved"
    assert better.params == dict(better.verdict.params) != dict(better.verdict.baseline_params)


@pytest.mark.parametrize("options", [{}, {"broken": True}])
def test_the_engine_is_closed_whatever_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    plans: list[Plan] = []
    close = Plan.aclose

    async def closing(plan: Plan) -> None:
        plans.append(plan)
        await close(plan)

    monkeypatch.setattr(Plan, "aclose", closing)
    ran = run(study(tmp_path, count=30, backend=backend(**options)), tmp_path)
    assert (ran.error is None) == (not options)
    engine: Any = plans[0].backend
    assert (engine.opened, engine.closed) == (1, 1)
    assert query(tmp_path, "SELECT closed FROM genopt_workers") == [(1,)]


def test_cancelling_commits_what_is_done(tmp_path: Path) -> None:
    spec = make_study(study(tmp_path, backend=backend(delay=0.02), budget={"trials": 30}), folder=tmp_path)

    async def main() -> None:
        reached = asyncio.Event()

        def listen(event: Event) -> None:
            if isinstance(event, TrialDone) and event.number:
                reached.set()

        task = asyncio.create_task(genopt.optimize_async(spec, on_event=listen))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    states = {state for (state,) in query(tmp_path, "SELECT DISTINCT state FROM trials")}
    assert "RUNNING" not in states
    assert {"COMPLETE", "WAITING"} <= states
    assert len(generations(tmp_path)) > 72


@pytest.mark.parametrize("tick", range(8))
def test_no_trial_is_left_running_wherever_the_search_is_cancelled(tmp_path: Path, tick: int) -> None:
    """Cancelled at every n-th event of a search full of repeats, where twins wait for each other."""
    space = {
        "top_p": {"low": 0.5, "high": 1.0},
        "decoding": {"greedy": {"temperature": 0.0}, "low": {"temperature": 0.2}},
    }
    table = study(tmp_path, count=20, space=space, backend=backend(delay=0.004), budget={"trials": 30})
    spec = make_study(table, folder=tmp_path)

    async def main() -> None:
        task = asyncio.create_task(genopt.optimize_async(spec, on_event=lambda event: started.extend([event])))
        while not any(isinstance(event, StageStarted) and event.stage == "search" for event in started):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.007 * tick)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started: list[Event] = []
    asyncio.run(main())
    assert query(tmp_path, "SELECT count(*) FROM trials WHERE state = 'RUNNING'") == [(0,)]
    lost = {trial[0] for trial in query(tmp_path, PROPOSALS.format("'FAIL'"))}
    assert lost <= {trial[0] for trial in query(tmp_path, PROPOSALS.format("'COMPLETE', 'WAITING'"))}


PROPOSALS = (
    "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) WHERE key = 'proposal' AND state IN ({})"
)


def test_what_changed_is_named_by_its_key() -> None:
    before = {"seed": 1, "space": {"top_p": [0.5, 1.0], "top_k": [1, 2]}, "scorers": {"right": "a"}}
    now = {"seed": 1, "space": {"top_p": [0.5, 0.9]}, "scorers": {"right": "a", "short": "b"}}
    assert changes(before, now) == ["scorers.short", "space.top_k", "space.top_p"]
    assert changes(before, before) == []


def test_a_study_of_another_program_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'toy.db'}"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    other = optuna.create_study(study_name="toy", storage=url)
    other.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    with pytest.raises(StudyError, match="was not made by genopt"):
        genopt.optimize(make_study(study(tmp_path), folder=tmp_path))
    assert len(other.trials) == 1
