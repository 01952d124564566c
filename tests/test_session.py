"""A session measures what is not stored yet, and nothing twice."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.errors import BackendError
from genopt.leases import LEASE
from genopt.liveness import alive, as_worker
from genopt.trial import Configuration, Evaluation
from genopt.types import Params
from tests.studies import backend, opened, query, run
from tests.toy import study

SAMPLING: Params = {"decoding": "sampling", "temperature": 0.7, "top_p": 0.9}
GREEDY: Params = {"decoding": "greedy", "temperature": 0.0, "top_p": 0.9}


def test_what_is_stored_is_not_generated_again(tmp_path: Path) -> None:
    async def measure() -> tuple[int, Evaluation]:
        async with opened(study(tmp_path), tmp_path) as (plan, session, engine):
            config = plan.configure(SAMPLING)
            first = await session.measure(config)
            made = engine.requests
            again = await session.measure(config)
            assert engine.requests == made
            assert again.cells == first.cells
            assert session.evaluations[config.key] is again
            return made, again

    made, before = asyncio.run(measure())
    assert made == 36 == len(query(tmp_path, "SELECT 1 FROM genopt_generations"))
    made_again, after = asyncio.run(measure())
    assert made_again == 0
    assert np.array_equal(before.utility(), after.utility())
    assert 0 < before.utility().mean() < 1


def test_a_replicate_is_fresh_but_for_greedy_configurations(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(study(tmp_path), tmp_path) as (plan, session, engine):
            sampling, greedy = plan.configure(SAMPLING), plan.configure(GREEDY)
            assert greedy.deterministic
            assert not sampling.deterministic
            one = await session.measure(sampling)
            two = await session.measure(sampling, replicates=2)
            assert engine.requests == 72
            assert {replicate for _, replicate in two.cells} == {0, 1}
            assert any(one.cells[i, 0] != two.cells[i, 1] for i in range(36))
            await session.measure(greedy)
            await session.measure(greedy, replicates=3)
            assert engine.requests == 72 + 36

    asyncio.run(main())


@pytest.mark.parametrize("repeats", [1, 2])
def test_what_finished_trials_scored_is_read_when_it_is_gone_by_and_not_before(tmp_path: Path, repeats: int) -> None:
    """In few statements; what is lost of it is made again, and equals what was measured."""
    search = {"sampler": "random", "pruner": "paired", "repeats": repeats}
    table = study(tmp_path, search=search, budget={"trials": 8})
    assert run(table, tmp_path).decided().verdict is not None

    async def recalled(lost: int) -> None:
        async with opened(table, tmp_path) as (_, session, engine):
            reads: list[str] = []
            db = session.db

            async def counted(action: Any, *args: Any) -> Any:
                reads.append(action.__name__)
                return await db(action, *args)

            session.db = counted  # type: ignore[method-assign]
            known = dict(session.known)
            assert len(known) == 8 and not session.evaluations and not session.parked
            await session.recall()
            found = {**session.parked, **session.evaluations}
            assert found.keys() == known.keys()
            assert engine.requests == lost
            if not lost:
                assert reads == ["rows_of"]
            for key, evaluation in found.items():
                again = await session.measure(evaluation.config, upto=len(evaluation.cells))
                assert again.cells == evaluation.cells, key
                if not known[key].stopped_early:
                    assert evaluation.utility().mean() == pytest.approx(known[key].mean)
            await session.recall()
            assert engine.requests == lost

    asyncio.run(recalled(0))
    first = "SELECT generation_id FROM genopt_trial_rows ORDER BY rowid LIMIT 1"
    with closing(sqlite3.connect(tmp_path / "toy.db")) as connection:
        assert connection.execute(f"DELETE FROM genopt_generations WHERE id = ({first})").rowcount == 1
        connection.commit()
    asyncio.run(recalled(1))


@pytest.mark.parametrize("repeats", [1, 3])
def test_greedy_is_generated_once_per_example(tmp_path: Path, repeats: int) -> None:
    """Also when every replicate of every example is in flight at once."""
    table = study(tmp_path, search={"repeats": repeats}, backend=backend(concurrency=200, delay=0.005))

    async def main() -> None:
        async with opened(table, tmp_path) as (plan, session, engine):
            found = await session.measure(
                plan.configure(GREEDY), examples=plan.holdout, phase="confirm", replicates=2, window=200
            )
            assert engine.requests == len(plan.holdout) == 24
            assert session.meter.confirm_generations == 24
            assert not np.isnan(found.utility()).any()

    asyncio.run(main())
    assert len(query(tmp_path, "SELECT 1 FROM genopt_generations")) == 24


def test_repeats_are_different_samples_of_one_observation(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(study(tmp_path, search={"repeats": 3}), tmp_path) as (plan, session, engine):
            found = await session.measure(plan.configure(SAMPLING), replicates=2)
            assert engine.requests == 36 * 6
            assert len(found.cells) == 72
            assert {round(3 * cell.utility, 9) for cell in found.cells.values()} == {0, 1, 2, 3}

    asyncio.run(main())
    samples = query(tmp_path, "SELECT sample, count(*), count(DISTINCT seed) FROM genopt_generations GROUP BY 1")
    assert samples == [(sample, 36, 36) for sample in range(6)]


def test_stopping_at_a_rung_cancels_what_is_in_flight(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def main() -> None:
        async with opened(study(tmp_path, backend=backend(delay=0.02)), tmp_path) as (plan, session, engine):

            async def decide(evaluation: Evaluation, n: int) -> bool:
                seen.append((n, query(tmp_path, "SELECT count(*) FROM genopt_generations")[0][0]))
                assert sorted(evaluation.cells) == [(i, 0) for i in range(n)]
                return n < 12

            config = plan.configure(SAMPLING)
            found = await session.measure(config, rungs=(6, 12, 24), decide=decide, window=36)
            assert sorted(found.cells) == [(i, 0) for i in range(12)]
            assert engine.cancelled > 0
            assert config.key not in session.evaluations
            await session.flush()
            assert session.meter.search_generations == query(tmp_path, "SELECT count(*) FROM genopt_generations")[0][0]
            requests = engine.requests
            whole = await session.measure(config)
            assert len(whole.cells) == 36
            assert engine.requests - requests == 36 - (requests - engine.cancelled), "what was finished is not lost"

    asyncio.run(main())
    assert [n for n, _ in seen] == [6, 12]
    assert all(stored >= n for n, stored in seen), "a rung is decided on committed rows"


def test_calls_that_a_decision_calls_off_are_not_paid_also_where_it_fails_later(tmp_path: Path) -> None:
    async def main() -> None:
        table = study(tmp_path, backend=backend(delay=0.02, concurrency=8))
        async with opened(table, tmp_path) as (plan, session, engine):
            config = plan.configure(SAMPLING)

            async def decide(evaluation: Evaluation, n: int) -> bool:
                return False

            await session.measure(config, window=16, rungs=(6,), decide=decide)
            assert engine.cancelled > 0 and session.meter.failed == 0
            asked, engine.options["broken"] = engine.requests, True
            with pytest.raises(BackendError, match="the engine is broken"):
                await session.measure(config, window=16)
            assert engine.requests - asked == session.meter.failed > 1, "the one that failed, and those beside it"

    asyncio.run(main())


def test_trial_rows_say_what_a_trial_used(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(study(tmp_path), tmp_path) as (plan, session, _):
            await session.measure(plan.configure(SAMPLING), trial_id=41)
            await session.measure(plan.configure(SAMPLING), trial_id=42)

    asyncio.run(main())
    sql = "SELECT trial_id, count(*) FROM genopt_trial_rows JOIN genopt_generations ON id = generation_id GROUP BY 1"
    assert query(tmp_path, sql) == [(41, 36), (42, 36)]


def test_a_busy_engine_is_asked_again_with_growing_pauses(tmp_path: Path) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def main() -> None:
        async with opened(study(tmp_path, backend=backend(fail_every=2, concurrency=1)), tmp_path) as parts:
            plan, session, engine = parts
            session.observer.asker.sleep = sleep
            await session.measure(plan.configure(SAMPLING))
            assert pauses == [0.5] * 35
            assert engine.requests == 71
            assert (session.meter.search_generations, session.meter.failed) == (36, 35)

    asyncio.run(main())


@pytest.mark.parametrize(("options", "pauses_wanted"), [({"fail_every": 1}, [0.5, 2.0, 8.0]), ({"broken": True}, [])])
def test_a_dead_engine_is_given_up(tmp_path: Path, options: dict[str, Any], pauses_wanted: list[float]) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def main() -> None:
        async with opened(study(tmp_path, backend=backend(concurrency=1, **options)), tmp_path) as parts:
            plan, session, engine = parts
            session.observer.asker.sleep = sleep
            example = plan.tune[0]
            with pytest.raises(BackendError, match="the engine is"):
                await session.observer.observe(plan.configure(SAMPLING), {}, example, 0, "tune", None)
            assert engine.requests == len(pauses_wanted) + 1
            assert session.meter.made == 0
            assert session.meter.generations == session.meter.failed == engine.requests, "each call is paid for"

    asyncio.run(main())
    assert pauses == pauses_wanted


def test_equal_configurations_share_a_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(study(tmp_path), tmp_path) as (plan, session, engine):
            keys: dict[float, Configuration] = {
                top_p: plan.configure({"decoding": "greedy", "temperature": 0.0, "top_p": top_p})
                for top_p in (0.5, 0.9)
            }
            assert keys[0.5].key == keys[0.9].key
            assert keys[0.5].request != keys[0.9].request
            for config in keys.values():
                await session.measure(config)
            assert engine.requests == 36

    asyncio.run(main())


def test_the_lease_says_who_is_alive() -> None:
    here = as_worker()
    pid, began, machine = here.process.split(":")
    changed = {
        "said goodbye": replace(here, closed=True),
        "lease over": replace(here, age=LEASE + 1),
        "number given to another process": replace(here, process=f"{pid}:1:{machine}"),
        "process gone": replace(here, process=f"4194999:77:{machine}"),
        "other host, lease over": replace(here, host="elsewhere", age=LEASE + 1),
    }
    elsewhere = {
        "of another host only the lease is known": replace(here, host="elsewhere", process=f"4194999:77:{machine}"),
        "and of another machine of the same name": replace(here, process="4194999:77:feedbeef-1"),
        "it promised to be silent for no longer": replace(here, host="elsewhere", age=LEASE + 1, lease=LEASE + 2),
    }
    assert alive(here)
    assert began
    assert {what: alive(worker) for what, worker in elsewhere.items()} == dict.fromkeys(elsewhere, True)
    assert {what: alive(worker) for what, worker in changed.items()} == dict.fromkeys(changed, False)
