"""What is known of a text under other settings is taken from there: what that may be, and that a study does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from genopt.harvest import REMEMBERED, Harvest, Kin, whole
from genopt.tables import Donor
from genopt.types import Finish, Generation, Params, Request
from tests.studies import backend, opened, query, run
from tests.toy import study

STOP_IN = Generation("one two", "stop", 5, 3, 0.1)
CUT = Generation("one two", "length", 5, 3, 0.1)


def params(max_tokens: int, *stop: str) -> Params:
    return {"temperature": 1.0, "max_tokens": max_tokens, "stop": stop}


# --- texts that stay whole


@pytest.mark.parametrize(
    ("made", "had", "wanted", "known"),
    [
        (STOP_IN, params(10), params(20), True),
        (STOP_IN, params(10), params(4), True),
        (STOP_IN, params(10), params(3), False),  # the end token may have been the fourth
        (CUT, params(3), params(10), False),
        (CUT, params(3), params(3), True),
        (CUT, params(3), params(3, "x"), True),
        (CUT, params(3), params(3, "one"), False),
        (CUT, params(3), params(3, "order"), False),  # "o" may be the beginning of it
        (STOP_IN, params(10), params(10, " two"), False),
        (STOP_IN, params(10, "END"), params(10, "END", "STOP"), True),
        (STOP_IN, params(10, "END"), params(10, "END", "nw END"), True),
        (STOP_IN, params(10, "END"), params(10, "END", "o END"), False),  # would have been complete before END was
        (STOP_IN, params(10, "END"), params(10), False),
        (STOP_IN, params(10, "END"), params(10, "STOP"), False),
        (STOP_IN, params(10, "a", "b"), params(12, "b", "a"), True),
        (STOP_IN, {"temperature": 1.0}, params(10), False),
        (STOP_IN, {"temperature": 1.0}, {"temperature": 1.0}, True),  # an engine without max_tokens: the same request
    ],
)
def test_a_text_stays_whole_or_is_not_taken(made: Generation, had: Params, wanted: Params, known: bool) -> None:
    assert whole(made, had, wanted, hidden=False) == (made if known else None)


def test_further_stop_strings_may_be_in_hidden_tokens() -> None:
    assert whole(STOP_IN, params(10), params(20, "x"), hidden=True) is None
    assert whole(STOP_IN, params(10), params(20), hidden=True) == STOP_IN


@pytest.mark.parametrize("finish", ["error", "degenerate"])
def test_a_text_that_failed_says_nothing_of_other_settings(finish: Finish) -> None:
    failed = Generation("", finish, 5, 0, 0.1)
    assert whole(failed, params(10), params(20), hidden=False) is None
    assert whole(failed, params(10), params(10), hidden=False) == failed  # an answer of more samples: the same request


# --- who is asked


def test_the_engine_cuts_where_it_can_and_the_longest_comes_first() -> None:
    asked: list[int] = []

    def replay(request: Request, donor: Generation) -> Generation | None:
        asked.append(donor.completion_tokens)
        return donor if donor.completion_tokens == 4 else None

    kin = Kin()
    for number, tokens in enumerate([2, 9, 4]):
        made = Generation("x", "length", 1, tokens, 0.0, tokens=tuple(range(tokens)))
        kin.add(Donor(number, "r1", 0, params(tokens), made))
    request = Request((), params(64), 1, "r1")
    found = Harvest(replay).find(kin, request)
    assert found is not None
    assert (found[1], found[0].completion_tokens, found[0].tokens) == (2, 4, None)
    assert asked == [9, 4]
    assert Harvest(replay).find(kin, Request((), params(64), 1, "r2")) is None
    assert Harvest(replay).find(kin, Request((), params(64), 1, "r1", sample=1)) is None


def test_families_are_remembered_up_to_a_number() -> None:
    harvest = Harvest()
    first = harvest.kin("0", "tune")
    assert harvest.kin("0", "tune") is first
    assert harvest.kin("0", "confirm") is not first
    for n in range(REMEMBERED):
        harvest.kin(f"family {n}", "tune")
    assert harvest.kin("0", "tune") is not first
    assert harvest.kin("", "tune") is not harvest.kin("", "tune")


def test_one_at_a_time_at_a_place_and_a_place_is_left_by_who_is_cancelled() -> None:
    async def main() -> list[str]:
        kin, order = Kin(), list[str]()

        async def work(name: str, place: tuple[str, int]) -> None:
            async with kin.turn(place):
                order.append(f"{name} in")
                await asyncio.sleep(0.01)
                order.append(f"{name} out")

        tasks = [asyncio.create_task(work(name, ("r", 0))) for name in "abc"]
        other = asyncio.create_task(work("other", ("r", 1)))
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, other, return_exceptions=True)
        assert not kin._turns
        return order

    order = asyncio.run(main())
    assert [name for name in order if name[0] in "bc"] == ["b in", "b out", "c in", "c out"]
    assert "a out" not in order
    assert order.index("other in") < order.index("b in")


# --- through a study


def searched(folder: Path, *, seeded: bool, **changes: Any) -> dict[str, Any]:
    """A grid over three lengths and three temperatures; the toy's texts have one token."""
    space = {
        "max_tokens": {"low": 8, "high": 64, "step": 28},
        "temperature": {"low": 0.0, "high": 1.2, "step": 0.6},
    }
    table = study(
        folder,
        space=space,
        baseline={"temperature": 1.2, "max_tokens": 64},
        search={"sampler": "grid", "pruner": "none", "trials_in_flight": 3},
        budget={"trials": 9},
        backend=backend(seeded=seeded, log=str(folder / "log.jsonl")),
    )
    return table | changes


def test_a_study_generates_once_what_differs_in_length_alone(tmp_path: Path) -> None:
    plain, harvesting = tmp_path / "plain", tmp_path / "harvesting"
    for folder in (plain, harvesting):
        folder.mkdir()
    without = run(searched(plain, seeded=False), plain)
    ran = run(searched(harvesting, seeded=True), harvesting)
    verdict, other = ran.decided(), without.decided()
    assert verdict.params == other.params
    assert (verdict.difference, verdict.p_value) == (other.difference, other.p_value)
    assert len((harvesting / "log.jsonl").read_text().splitlines()) == (
        verdict.search_generations + verdict.confirm_generations
    )
    stored = "SELECT config_key, example_id, sample, phase, seed, params, text, finish, completion_tokens"
    rows = query(harvesting, f"{stored} FROM genopt_generations ORDER BY 1, 2, 3, 4")
    assert rows == query(plain, f"{stored} FROM genopt_generations ORDER BY 1, 2, 3, 4")
    made = query(harvesting, "SELECT COUNT(*) FROM genopt_generations WHERE harvested_from IS NULL")
    assert made == [(verdict.search_generations + verdict.confirm_generations,)]
    # greedy at any length is free where it is not seeded, too; the two other temperatures are generated three times
    assert other.search_generations - verdict.search_generations >= 4 * 36
    assert verdict.harvested == len(rows) - made[0][0]
    assert verdict.tokens == 11 * made[0][0]
    donors = query(
        harvesting,
        "SELECT d.text = g.text, d.harvested_from IS NULL, d.example_id = g.example_id, d.seed = g.seed"
        " FROM genopt_generations g JOIN genopt_generations d ON d.id = g.harvested_from",
    )
    assert len(donors) == verdict.harvested
    assert set(donors) == {(1, 1, 1, 1)}


@pytest.mark.parametrize("budget", [{"generations": 900}, {"tokens": 9_900}])
def test_a_budget_pays_for_what_is_generated_and_for_nothing_else(tmp_path: Path, budget: dict[str, int]) -> None:
    """The choice among the best takes what is left until it is spent: texts that exist take nothing of it."""
    space = {"max_tokens": {"choices": [8, 36, 64]}, "temperature": {"low": 0.1, "high": 1.3, "step": 0.1}}
    search = {"sampler": "random", "trials_in_flight": 3}
    ran = run(searched(tmp_path, seeded=True, space=space, search=search, budget=budget), tmp_path)
    verdict = ran.decided()
    [(stored,)] = query(tmp_path, "SELECT value_json FROM study_user_attributes WHERE key = 'genopt:finals'")
    entered = json.loads(stored)["spent"]
    late = query(
        tmp_path,
        "SELECT COUNT(*) FROM genopt_generations WHERE sample > 0 AND phase = 'tune' AND harvested_from IS NOT NULL",
    )
    spent = {"generations": verdict.search_generations + verdict.confirm_generations, "tokens": verdict.tokens}
    assert late[0][0] > 20, "the choice harvests"
    for name, limit in budget.items():
        assert entered[name] < 0.7 * limit
        assert 0.97 * limit < spent[name] <= limit


def test_rows_of_other_runs_are_harvested(tmp_path: Path) -> None:
    async def main(length: int) -> int:
        async with opened(searched(tmp_path, seeded=True), tmp_path) as (plan, session, engine):
            await session.measure(plan.configure({"temperature": 0.6, "max_tokens": length}))
            return engine.requests

    assert asyncio.run(main(36)) == 36
    assert asyncio.run(main(64)) == 0
    assert asyncio.run(main(8)) == 0


def test_concurrent_kin_generate_once(tmp_path: Path) -> None:
    table = searched(tmp_path, seeded=True, backend=backend(seeded=True, delay=0.002, concurrency=200))

    async def main() -> None:
        async with opened(table, tmp_path) as (plan, session, engine):
            configs = [plan.configure({"temperature": 0.6, "max_tokens": length}) for length in (8, 36, 64)]
            found = await asyncio.gather(*(session.measure(config) for config in configs))
            assert engine.requests == 36
            assert session.meter.harvested == 72
            assert session.meter.saved_tokens == 72 * 11
            assert found[0].cells == found[1].cells == found[2].cells

    asyncio.run(main())


def test_what_is_left_of_a_cancelled_kin_is_generated(tmp_path: Path) -> None:
    table = searched(tmp_path, seeded=True, backend=backend(seeded=True, delay=0.5, concurrency=200))

    async def main() -> None:
        async with opened(table, tmp_path) as (plan, session, engine):
            short, long = (plan.configure({"temperature": 0.6, "max_tokens": length}) for length in (8, 64))
            first = asyncio.create_task(session.measure(short))
            while not engine.running:
                await asyncio.sleep(0.005)
            second = asyncio.create_task(session.measure(long))
            await asyncio.sleep(0.05)
            first.cancel()
            assert len((await second).cells) == 36
            assert engine.cancelled > 0

    asyncio.run(main())


@pytest.mark.parametrize(
    ("changes", "kin"),
    [
        ({}, True),
        ({"space": {"temperature": {"low": 0.0, "high": 1.2}}}, False),  # nothing that only ends a text is searched
        ({"objectives": [{"minimize": "seconds"}], "search": {"trials_in_flight": 1}}, False),  # time is measured
    ],
)
def test_configurations_have_kin_where_it_helps(tmp_path: Path, changes: dict[str, Any], kin: bool) -> None:
    async def main() -> None:
        async with opened(searched(tmp_path, seeded=True, **changes), tmp_path) as (plan, _, _):
            a = plan.configure({"temperature": 0.6, "max_tokens": 8})
            b = plan.configure({"temperature": 0.6, "max_tokens": 64})
            c = plan.configure({"temperature": 1.2, "max_tokens": 8})
            assert bool(a.kin) is kin
            if kin:
                assert a.kin == b.kin != c.kin
                assert len({a.key, b.key, a.kin}) == 3

    asyncio.run(main())


def test_without_seeds_only_greedy_configurations_have_kin(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(searched(tmp_path, seeded=False), tmp_path) as (plan, _, _):
            assert not plan.configure({"temperature": 0.6, "max_tokens": 8}).kin
            assert plan.configure({"temperature": 0.0, "max_tokens": 8}).kin

    asyncio.run(main())


def test_a_fork_takes_over_what_was_harvested(tmp_path: Path) -> None:
    ran = run(searched(tmp_path, seeded=True), tmp_path)
    assert ran.decided().harvested > 0
    again = run(searched(tmp_path, seeded=True), tmp_path, fork="second")
    assert again.error is None, again.error
    joined = query(
        tmp_path,
        "SELECT g.study_id = d.study_id, COUNT(*) FROM genopt_generations g JOIN genopt_generations d"
        " ON d.id = g.harvested_from GROUP BY 1",
    )
    assert joined == [(1, 2 * ran.decided().harvested)]
