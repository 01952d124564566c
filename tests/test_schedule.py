"""The schedule: bounded windows, decisions on exact prefixes, cancellation that waits, no lost wake-up."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from genopt.errors import ScorerError
from genopt.schedule import Load, gather, run_all, run_study, run_trial

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], seconds: float = 20.0) -> T:
    """The result, or a failure when it hangs."""

    async def bounded() -> T:
        async with asyncio.timeout(seconds):
            return await work

    return asyncio.run(bounded())


class Bench:
    """Observations that take some turns of the loop, with a record of what ran when."""

    def __init__(self, turns: Callable[[int], int] = lambda index: 1, fail_at: int | None = None) -> None:
        self.turns, self.fail_at = turns, fail_at
        self.started: list[int] = []
        self.finished: list[int] = []
        self.cancelled: list[int] = []
        self.released: list[int] = []
        self.now = self.most = 0

    async def observe(self, index: int) -> int:
        self.started.append(index)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self.turns(index)):
                await asyncio.sleep(0)
            if index == self.fail_at:
                raise ValueError(f"example {index}")
            self.finished.append(index)
            return index * 10
        except asyncio.CancelledError:
            self.cancelled.append(index)
            await asyncio.sleep(0)  # letting go may take a while
            raise
        finally:
            self.now -= 1
            self.released.append(index)


def forever(index: int) -> int:
    return 10**9


def keep(answers: dict[int, bool], seen: list[list[int]]) -> Callable[[list[int]], Awaitable[bool]]:
    async def decide(prefix: list[int]) -> bool:
        seen.append(prefix)
        await asyncio.sleep(0)
        return answers.get(len(prefix), True)

    return decide


def test_results_are_in_order_whatever_finishes_first() -> None:
    bench = Bench(turns=lambda index: 20 - index)
    assert run(run_trial(20, bench.observe, window=20)) == [10 * i for i in range(20)]
    assert bench.finished != sorted(bench.finished)


@pytest.mark.parametrize("window", [1, 3, 7, 100])
def test_the_window_is_used_and_never_exceeded(window: int) -> None:
    draw = random.Random(window)
    turns = [draw.randint(1, 9) for _ in range(40)]
    bench = Bench(turns=turns.__getitem__)
    assert len(run(run_trial(40, bench.observe, window=window))) == 40
    assert bench.most == min(window, 40)
    assert bench.started == list(range(40))


def test_no_examples_are_no_work() -> None:
    assert run(run_trial(0, Bench().observe, window=4)) == []


def test_decisions_see_exactly_the_prefix_at_each_rung() -> None:
    draw = random.Random(4)
    turns = [draw.randint(1, 30) for _ in range(50)]
    seen: list[list[int]] = []
    bench = Bench(turns=turns.__getitem__)
    got = run(run_trial(50, bench.observe, window=8, rungs=(5, 10, 11, 40), decide=keep({}, seen)))
    assert got == [10 * i for i in range(50)]
    assert seen == [[10 * i for i in range(rung)] for rung in (5, 10, 11, 40)]


def test_a_decision_to_stop_gives_the_prefix_and_cancels_what_is_in_flight() -> None:
    bench = Bench(turns=lambda index: 1 if index < 12 else 10**9)
    seen: list[list[int]] = []
    got = run(run_trial(50, bench.observe, window=6, rungs=(4, 8, 12), decide=keep({8: False}, seen)))
    assert got == [0, 10, 20, 30, 40, 50, 60, 70]
    assert [len(prefix) for prefix in seen] == [4, 8]
    assert bench.now == 0
    assert sorted(bench.released) == sorted(bench.started)
    assert len(bench.started) < 50


def test_nothing_beyond_a_rung_is_begun_before_it_is_decided_unless_trials_run_ahead() -> None:
    for ahead, most in ((False, 8), (True, 50)):
        bench = Bench()
        got = run(run_trial(50, bench.observe, window=50, rungs=(4, 8), decide=keep({8: False}, []), ahead=ahead))
        assert len(got) == 8
        assert len(bench.started) == most


def test_a_stop_waits_until_everything_has_let_go() -> None:
    bench = Bench(turns=lambda index: 1 if index < 4 else 10**9)
    run(run_trial(50, bench.observe, window=10, rungs=(4,), decide=keep({4: False}, [])))
    assert bench.cancelled
    assert bench.now == 0


def test_a_failure_is_raised_as_it_is_and_cancels_the_rest() -> None:
    bench = Bench(turns=lambda index: 2 if index == 3 else 10**9, fail_at=3)
    with pytest.raises(ValueError, match="example 3"):
        run(run_trial(50, bench.observe, window=6))
    assert sorted(bench.cancelled) == [0, 1, 2, 4, 5]
    assert bench.now == 0


def test_a_failing_decision_is_raised_and_cancels_the_rest() -> None:
    async def decide(prefix: list[int]) -> bool:
        raise RuntimeError("no storage")

    bench = Bench(turns=lambda index: 1 if index < 2 else 10**9)
    with pytest.raises(RuntimeError, match="no storage"):
        run(run_trial(9, bench.observe, window=4, rungs=(2,), decide=decide))
    assert bench.now == 0


def test_cancelling_a_trial_cancels_its_observations_first() -> None:
    bench = Bench(turns=forever)

    async def scenario() -> None:
        task = asyncio.create_task(run_trial(50, bench.observe, window=5))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(bench.cancelled) == [0, 1, 2, 3, 4]
        assert bench.now == 0

    run(scenario())


def test_an_observation_that_is_cancelled_from_elsewhere_ends_the_trial_and_does_not_hang_it() -> None:
    bench = Bench(turns=forever)

    async def observe(index: int) -> int:
        if index == 2:
            raise asyncio.CancelledError  # what awaiting a future of a closed engine raises
        return await bench.observe(index)

    with pytest.raises(RuntimeError, match="cancelled"):
        run(run_trial(50, observe, window=5), seconds=5)
    assert bench.now == 0


def test_no_wake_up_is_lost() -> None:
    async def scenario() -> None:
        for seed in range(300):
            draw = random.Random(seed)
            count, window = draw.randint(1, 30), draw.randint(1, 12)
            delays = [draw.choice((0, 0, 1, 2, 5, 11)) for _ in range(count)]
            rungs = sorted(draw.sample(range(1, count + 1), draw.randint(0, min(3, count))))
            stop = draw.choice([*rungs, None]) if draw.random() < 0.5 else None
            seen: list[list[int]] = []
            bench = Bench(turns=delays.__getitem__)
            async with asyncio.timeout(5):
                got = await run_trial(
                    count, bench.observe, window=window, rungs=rungs, decide=keep({stop: False} if stop else {}, seen)
                )
            asked = [rung for rung in rungs if stop is None or rung <= stop]
            assert [len(prefix) for prefix in seen] == asked, seed
            assert got == [10 * i for i in range(stop or count)], seed
            assert bench.most <= window, seed
            assert bench.now == 0, seed

    run(scenario(), seconds=60)


# --- a whole study


class Trials:
    """A supply of numbered trials, of which some fail."""

    def __init__(self, count: int, failing: Callable[[int], bool] = lambda number: False) -> None:
        self.count, self.failing = count, failing
        self.asked = self.now = self.most = 0
        self.done: list[int] = []
        self.failed: list[tuple[int, str]] = []

    async def ask(self) -> int | None:
        await asyncio.sleep(0)
        if self.asked >= self.count:
            return None
        self.asked += 1
        return self.asked - 1

    async def evaluate(self, number: int) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(1 + number % 5):
                await asyncio.sleep(0)
            if self.failing(number):
                raise OSError(f"trial {number}")
            self.done.append(number)
        finally:
            self.now -= 1

    async def fail(self, number: int, error: Exception) -> None:
        self.failed.append((number, str(error)))


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_a_study_keeps_its_lanes_busy_until_nothing_is_left(lanes: int) -> None:
    trials = Trials(20)
    run(run_study(trials.ask, trials.evaluate, trials.fail, trials_in_flight=lanes))
    assert sorted(trials.done) == list(range(20))
    assert trials.most == lanes


def test_a_failing_trial_does_not_end_the_study() -> None:
    trials = Trials(20, failing=lambda number: number % 3 == 0)
    run(run_study(trials.ask, trials.evaluate, trials.fail, trials_in_flight=1, patience=2))
    assert sorted(trials.done) == [n for n in range(20) if n % 3]
    assert trials.failed == [(n, f"trial {n}") for n in range(0, 20, 3)]


def test_failures_in_a_row_end_the_study_with_the_last_error() -> None:
    trials = Trials(100, failing=lambda number: number >= 4)
    with pytest.raises(OSError, match="trial 6"):
        run(run_study(trials.ask, trials.evaluate, trials.fail, trials_in_flight=1, patience=3))
    assert trials.done == [0, 1, 2, 3]
    assert [number for number, _ in trials.failed] == [4, 5, 6]


def test_an_error_while_asking_ends_the_study_and_cancels_the_trials_in_flight() -> None:
    cancelled: list[int] = []
    numbers = iter(range(3))

    async def ask() -> int | None:
        number = next(numbers, None)
        if number is None:
            for _ in range(5):
                await asyncio.sleep(0)
            raise OSError("the storage is gone")
        return number

    async def evaluate(number: int) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise

    async def fail(number: int, error: Exception) -> None:
        raise AssertionError("no trial failed")

    with pytest.raises(OSError, match="the storage is gone"):
        run(run_study(ask, evaluate, fail, trials_in_flight=4))
    assert sorted(cancelled) == [0, 1, 2]


def test_cancelling_a_study_cancels_its_trials() -> None:
    trials = Trials(100)

    async def scenario() -> None:
        async def evaluate(number: int) -> None:
            trials.now += 1
            try:
                await asyncio.sleep(3600)
            finally:
                trials.now -= 1

        task = asyncio.create_task(run_study(trials.ask, evaluate, trials.fail, trials_in_flight=4))
        while trials.now < 4:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert trials.now == 0
        assert not trials.failed

    run(scenario())


def test_run_all_raises_the_first_error_bare() -> None:
    async def good() -> None:
        await asyncio.sleep(0)

    async def bad() -> None:
        raise KeyError("x")

    run(run_all([good, good]))
    with pytest.raises(KeyError):
        run(run_all([good, bad, good]))


def test_run_all_raises_an_error_with_its_own_cause() -> None:
    """What a user's function raised is told by --debug below the error that names the scorer."""

    async def bad() -> None:
        try:
            raise KeyError("x")
        except KeyError as error:
            raise ScorerError("scorer 'mine' failed") from error

    with pytest.raises(ScorerError) as told:
        run(run_all([bad, bad]))
    assert isinstance(told.value.__cause__, KeyError)
    assert told.value.__context__ is told.value.__cause__, "no group of errors beside it"


# --- gather


def test_gather_keeps_the_order() -> None:
    bench = Bench(turns=lambda index: 10 - index)
    assert run(_gathered(bench, range(8))) == [10 * i for i in range(8)]
    assert run(_gathered(bench, [5])) == [50]
    assert bench.most == 8


def test_gather_cancels_the_others_when_one_fails() -> None:
    bench = Bench(turns=lambda index: 1 if index == 1 else 10**9, fail_at=1)
    with pytest.raises(ValueError, match="example 1"):
        run(_gathered(bench, range(4)))
    assert sorted(bench.cancelled) == [0, 2, 3]
    assert bench.now == 0


def test_cancelling_gather_cancels_its_jobs() -> None:
    bench = Bench(turns=forever)

    async def scenario() -> None:
        task = asyncio.create_task(_gathered(bench, range(3)))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(bench.cancelled) == [0, 1, 2]
        assert bench.now == 0

    run(scenario())


async def _gathered(bench: Bench, indices: Any) -> list[int]:
    return await gather([bench.observe(index) for index in indices])


def test_more_trials_run_where_the_engine_has_room_and_each_is_asked_for_as_late_as_that_allows() -> None:
    """Ten slots, trials of four requests that end one after the other: two would leave slots empty, five are more than
    it takes."""
    load = Load(10)
    trials = Trials(30)
    asked_at: list[int] = []  # what the engine had to do when a trial was proposed

    async def ask() -> int | None:
        asked_at.append(4 * trials.now)
        return await trials.ask()

    async def evaluate(number: int) -> None:
        with load.part(4, each=1):
            await trials.evaluate(number)

    run(run_study(ask, evaluate, trials.fail, trials_in_flight=1, at_most=20, load=load))
    assert sorted(trials.done) == list(range(30))
    assert trials.most in (3, 4), "the lane that is always there may ask at the same time as another"
    assert sum(busy >= 10 for busy in asked_at) <= 2
    assert not load.full


def test_no_more_trials_run_than_there_may_be() -> None:
    load, trials = Load(1000), Trials(30)

    async def evaluate(number: int) -> None:
        with load.part(4, each=1):
            await trials.evaluate(number)

    run(run_study(trials.ask, evaluate, trials.fail, trials_in_flight=2, at_most=5, load=load))
    assert sorted(trials.done) == list(range(30))
    assert 2 <= trials.most <= 5


def test_what_fails_when_nothing_was_left_is_asked_for_again() -> None:
    """The last trial fails in a lane of those that run where there is room, and the engine is full: no other lane is
    left to ask."""
    load = Load(1)
    supply, failed, done = [0, 1, 2], [], []

    async def ask() -> int | None:
        return supply.pop(0) if supply else None

    async def evaluate(number: int) -> None:
        with load.part(int(number == 2), each=1):
            for _ in range(1 + 20 * number):
                await asyncio.sleep(0)
            if number == 2 and not failed:
                raise OSError("once")
            done.append(number)

    async def fail(number: int, error: Exception) -> None:
        failed.append(number)
        supply.append(number)

    run(run_study(ask, evaluate, fail, trials_in_flight=1, at_most=3, load=load))
    assert (failed, done) == ([2], [0, 1, 2])


def test_a_trial_that_fails_gives_its_room_back() -> None:
    load, trials = Load(4), Trials(6, failing=lambda n: n % 2 == 0)

    async def evaluate(number: int) -> None:
        with load.part(4, each=1):
            await trials.evaluate(number)

    run(run_study(trials.ask, evaluate, trials.fail, trials_in_flight=1, at_most=3, load=load))
    assert not load.full


@pytest.mark.parametrize(("ahead", "before_the_look"), [(True, 6), (False, 4)])
def test_a_trial_enters_what_it_has_under_way_up_to_its_next_look_or_ahead_of_it(
    ahead: bool, before_the_look: int
) -> None:
    """Eight observations of two requests, six at once, looked at after four."""
    load, bench = Load(1000), Bench(turns=lambda index: 1 + 3 * index)
    seen: list[int] = []

    async def observe(index: int) -> int:
        found = await bench.observe(index)
        seen.append(load._asked)
        return found

    async def main() -> None:
        with load.part(1, each=2) as part:
            await run_trial(8, observe, window=6, rungs=(4,), decide=keep({4: True}, []), ahead=ahead, part=part)

    run(main())
    assert max(seen[:4]) == 2 * before_the_look
    assert seen[-1] <= 4, "fewer and fewer at its end"
    assert load._asked == 0


async def settle() -> None:
    """Let everything run that can."""
    for _ in range(30):
        await asyncio.sleep(0)


def test_what_nobody_may_need_is_begun_only_while_the_engine_has_room() -> None:
    """Ten requests fit. Beside eight of others a trial begins the four up to its look and nothing ahead of it; beside
    four it fills the room, and begins no more."""
    load, begun = Load(10), []

    async def main() -> None:
        gate = asyncio.Event()

        async def observe(index: int) -> int:
            begun.append(index)
            await gate.wait()
            return index

        with load.part(4, each=1) as one, load.part(4, each=1) as another, load.part(4, each=1) as part:
            trial = asyncio.create_task(
                run_trial(12, observe, window=12, rungs=(4,), decide=keep({4: False}, []), part=part)
            )
            await settle()
            assert begun == [0, 1, 2, 3]
            one.asks(0)
            await settle()
            assert begun == [0, 1, 2, 3, 4, 5] and load.full
            another.asks(0)
            await settle()
            assert begun == list(range(10)) and load.full
            gate.set()
            assert await trial == [0, 1, 2, 3]
        assert not load.full

    run(main())


def test_who_waits_for_room_hears_of_a_larger_engine() -> None:
    load = Load(4)

    async def main() -> None:
        with load.part(6, each=1):
            waiting = asyncio.create_task(load.room())
            await settle()
            load.resize(6)
            await settle()
            assert load.full and not waiting.done()
            load.resize(7)
            await waiting

    run(main())


def test_room_is_offered_to_one_trial_after_the_other() -> None:
    """Two trials wait with something ahead of their looks; the first has only one more, the second takes the rest."""
    load = Load(6)
    begun: dict[str, list[int]] = {"short": [], "long": []}
    parts: dict[str, Any] = {}

    async def main() -> None:
        gate = asyncio.Event()

        async def one(name: str, count: int) -> list[int]:
            async def observe(index: int) -> int:
                begun[name].append(index)
                await gate.wait()
                return index

            return await run_trial(count, observe, window=9, rungs=(2,), decide=keep({}, []), part=parts[name])

        with (
            load.part(2, each=1) as other,
            load.part(2, each=1) as parts["short"],
            load.part(2, each=1) as parts["long"],
        ):
            trials = [asyncio.create_task(one("short", 3)), asyncio.create_task(one("long", 9))]
            await settle()
            assert begun == {"short": [0, 1], "long": [0, 1]}
            other.asks(0)
            await settle()
            assert {name: len(indices) for name, indices in begun.items()} == {"short": 3, "long": 3}
            gate.set()
            assert await asyncio.gather(*trials) == [list(range(3)), list(range(9))]
        assert load._asked == 0

    run(main())
