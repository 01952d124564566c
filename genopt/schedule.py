"""Owns concurrency: the only file that creates tasks. Knows no study, backend or storage: it is handed callables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Load:
    """What is asked of an engine at once, in requests, and who waits for that to be less than its `capacity`."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._asked = capacity, 0
        self._room = asyncio.Event()
        self._ahead: dict[asyncio.Event, None] = {}
        self.add(0)

    def add(self, requests: int) -> None:
        """So many more are asked; fewer where it is negative."""
        self._asked += requests
        if not self.full:
            (next(iter(self._ahead), None) or self._room).set()

    def resize(self, capacity: int) -> None:
        """The engine takes so many from now on."""
        self._capacity = capacity
        self.add(0)

    @property
    def full(self) -> bool:
        return self._asked >= self._capacity

    async def room(self) -> None:
        """Return as soon as the engine could take more than all that asks for it."""
        while self.full or self._ahead:
            await self._room.wait()
            self._room.clear()

    @contextmanager
    def spare(self, room: asyncio.Event) -> Iterator[None]:
        """Set `room` when there is some meanwhile and nobody else's turn."""
        self._ahead[room] = None
        try:
            yield
        finally:
            del self._ahead[room]
            self.add(0)

    @contextmanager
    def part(self, observations: int, *, each: int) -> Iterator[Part]:
        """Enter so many observations of `each` requests for the time being."""
        part = Part(self, each)
        part.asks(observations)
        try:
            yield part
        finally:
            part.asks(0)


class Part:
    """What one measurement has in its load."""

    def __init__(self, load: Load, each: int) -> None:
        self.load, self._each, self._asked = load, each, 0

    def asks(self, observations: int) -> None:
        """Now it has so many under way."""
        self.load.add((observations - self._asked) * self._each)
        self._asked = observations


async def run_trial(
    count: int,
    observe: Callable[[int], Awaitable[R]],
    *,
    window: int,
    rungs: Sequence[int] = (),
    decide: Callable[[list[R]], Awaitable[bool]] | None = None,
    ahead: bool = True,
    part: Part | None = None,
) -> list[R]:
    """The observations 0 .. count-1 in order, or a shorter prefix when `decide` said stop at a rung.

    At most `window` observations run at once. `decide` is asked once per rung, with exactly the first `rung`
    observations: completion order favours short answers, so only the contiguous prefix is ever judged. Those beyond a
    rung are begun before it is decided only if they may run `ahead`, and not while the load of its `part`, which is
    told how many run, is full without them: nobody may need them. When the trial is stopped, fails or is cancelled,
    what is still running is cancelled before this returns.
    """
    results: list[R | None] = [None] * count
    finished = bytearray(count)
    progress = asyncio.Event()
    failure: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()
    free, started, done = window, 0, 0

    async def one(index: int) -> None:
        nonlocal free
        try:
            results[index] = await observe(index)
            finished[index] = 1
        except asyncio.CancelledError:
            failure.append(RuntimeError(f"observation {index} was cancelled by what it waited for"))
            progress.set()  # when this trial itself cancels, nobody listens any more
            raise
        except Exception as error:
            failure.append(error)
        free += 1  # here, and not when the task is seen to be done: the loop below wakes before that
        progress.set()

    def start() -> None:
        nonlocal started, free
        task = asyncio.create_task(one(started))
        running.add(task)
        task.add_done_callback(running.discard)
        started += 1
        free -= 1

    def told() -> None:
        if part is not None:
            part.asks(window - free)

    def prefix_of(done: int) -> list[R]:
        return [result for result in results[:done] if result is not None]

    looks = list(rungs)
    try:
        while done < count:
            due = looks[0] if looks else count
            while started < due and free > 0:
                start()
            told()
            while ahead and started < count and free > 0 and not (part is not None and part.load.full):
                start()
                told()
            more = ahead and started < count and free > 0
            with part.load.spare(progress) if part is not None and more else nullcontext():
                await progress.wait()
            progress.clear()
            if failure:
                raise failure[0]
            while done < count and finished[done]:
                done += 1
            while looks and done >= looks[0] and decide is not None:
                rung = looks.pop(0)
                if not await decide(prefix_of(rung)):
                    return prefix_of(rung)
        return prefix_of(count)
    finally:
        await cancel_all(running)


async def run_study(
    ask: Callable[[], Awaitable[T | None]],
    evaluate: Callable[[T], Awaitable[None]],
    fail: Callable[[T, Exception], Awaitable[None]],
    *,
    trials_in_flight: int,
    load: Load | None = None,
    at_most: int = 0,
    patience: int = 5,
) -> None:
    """Keep `trials_in_flight` trials running until `ask` gives None; and more, `at_most` in all, while `load` has room
    for them: those are asked for one by one and as late as that allows, so that each is proposed knowing what it can.

    `evaluate` enters its part in `load` before it waits for anything. A trial whose evaluation raises goes to
    `fail`; `patience` failures in a row end the study with the last error.
    """
    failures, over = 0, False
    one_asks = asyncio.Lock()

    async def ask_when_there_is_room(*, first: bool) -> T | None:
        async with one_asks:
            if load is not None:
                await load.room()
            return None if over and first else await ask()

    async def lane(when_there_is_room: bool) -> None:
        nonlocal failures, over
        first = True
        while (trial := await (ask_when_there_is_room(first=first) if when_there_is_room else ask())) is not None:
            first = False  # who had a trial asks again: it may have failed or been let go, and nobody else be left
            try:
                await evaluate(trial)
            except Exception as error:
                failures += 1
                await fail(trial, error)
                if failures >= patience:
                    raise
            else:
                failures = 0
        over = True

    further = max(0, at_most - trials_in_flight) if load is not None else 0
    await run_all([partial(lane, False)] * trials_in_flight + [partial(lane, True)] * further)


async def run_all(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run jobs side by side; the first error cancels the others and is raised as it is."""

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        await job()

    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(run(job))
    except BaseExceptionGroup as errors:
        first = errors.exceptions[0]
    if first is not None:
        raise first  # out here it keeps its own cause, in whose place the handler would put the group, or nothing


async def cancel_all(tasks: set[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until each has let go of what it held."""
    for task in list(tasks):
        task.cancel()
    if tasks:
        await asyncio.gather(*tasks, return_exceptions=True)


async def gather(jobs: Sequence[Awaitable[R]]) -> list[R]:
    """The results of jobs side by side, in order; the first error cancels the others."""
    if len(jobs) == 1:
        return [await jobs[0]]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
