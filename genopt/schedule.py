"""Owns concurrency: the only file that creates tasks. Knows no study, backend or storage: it is handed callables."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def run_trial(
    count: int,
    observe: Callable[[int], Awaitable[R]],
    *,
    window: int,
    rungs: Sequence[int] = (),
    decide: Callable[[list[R]], Awaitable[bool]] | None = None,
    ahead: bool = True,
) -> list[R]:
    """The observations 0 .. count-1 in order, or a shorter prefix when `decide` said stop at a rung.

    At most `window` observations run at once. `decide` is asked once per rung, with exactly the first `rung`
    observations: completion order favours short answers, so only the contiguous prefix is ever judged. Those beyond a
    rung are begun before it is decided only if they may run `ahead`. When the trial is stopped, fails or is cancelled,
    what is still running is cancelled before this returns.
    """
    results: list[R | None] = [None] * count
    finished = bytearray(count)
    progress = asyncio.Event()
    failure: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()
    free = window

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

    def prefix_of(done: int) -> list[R]:
        return [result for result in results[:done] if result is not None]

    started = done = 0
    looks = list(rungs)
    try:
        while done < count:
            limit = count if ahead or not looks else looks[0]
            while started < limit and free > 0:
                task = asyncio.create_task(one(started))
                running.add(task)
                task.add_done_callback(running.discard)
                started += 1
                free -= 1
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
    patience: int = 5,
) -> None:
    """Keep `trials_in_flight` trials running until `ask` gives None.

    A trial whose evaluation raises goes to `fail`; `patience` failures in a row end the study with the last error.
    """
    failures = 0

    async def lane() -> None:
        nonlocal failures
        while (trial := await ask()) is not None:
            try:
                await evaluate(trial)
            except Exception as error:
                failures += 1
                await fail(trial, error)
                if failures >= patience:
                    raise
            else:
                failures = 0

    await run_all([lane] * trials_in_flight)


async def run_all(jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Run jobs side by side; the first error cancels the others and is raised as it is."""

    async def run(job: Callable[[], Awaitable[None]]) -> None:
        await job()

    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(run(job))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


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
