"""Owns working beside others: who else is at work, what the dead left behind, and who does what of the work at hand.

Whatever several workers could do is claimed first, then looked up (another may have done it just before), then done,
committed, and only then given back: so nothing is made twice, and what a dead worker claimed is free again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from genopt.errors import StudyError
from genopt.leases import Leases, Worker
from genopt.liveness import gone, shown
from genopt.schedule import run_all, run_trial
from genopt.study import Study
from genopt.trial import Configuration, Memory, Observer
from genopt.types import Example, Phase
from genopt.writer import Writer

BLOCK = 8  # examples that are claimed together, at least
BLOCKS = 64  # parts of a large dataset: each is claimed, and read, by itself
WARY = 0.75  # of a lease: after so much silence nothing new is begun, since others may soon take over
SET = 5.0  # seconds by which a clock must leap to count as set


class TakenOver(StudyError):
    """Others took this worker for dead and what it had in hand for theirs."""


class Database(Protocol):
    """Runs something on the thread that owns the database."""

    def __call__(self, action: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]: ...


class Crew:
    """The workers of a study as one of them, `me`, sees them."""

    def __init__(
        self, db: Database, leases: Leases, study: Study, me: Worker, writer: Writer, note: Callable[[str], None]
    ) -> None:
        self._db, self._leases, self._study, self.me, self._writer = db, leases, study, me, writer
        self._note = note
        self._ahead: float | None = None
        self._wary_until = 0.0
        self._heard: dict[str, tuple[float, float]] = {}  # worker -> its heartbeat, and when that was new here
        self._told = False
        study.share(_Held(leases, study.id, me.id))

    async def look(self) -> list[Worker]:
        """Every worker the study ever had; the work of those that have died is put back first."""
        workers: list[Worker] = await self._db(self._leases.workers, self._study.id)
        trusted = self._trusted(workers)
        others = [worker for worker in workers if worker.id != self.me.id and not worker.closed]
        dead = [worker for worker in others if gone(worker) or (self._silent(worker) > worker.lease and trusted)]
        for worker in dead:
            await self.bury(worker)
        return await self._db(self._leases.workers, self._study.id) if dead else workers

    def _silent(self, worker: Worker) -> float:
        """Seconds since a worker was heard of: by the database's clock, or longer by the one here, where the other was
        set back and the heartbeat seems to lie ahead."""
        now = time.monotonic()
        heartbeat, since = self._heard.get(worker.id, (None, now))
        if heartbeat != worker.heartbeat:
            since = now
        self._heard[worker.id] = worker.heartbeat, since
        return max(worker.age, now - since)

    def _trusted(self, workers: Sequence[Worker]) -> bool:
        """Whether silence says that a worker is dead: not just after the database's clock was set, or was away for
        long, when all of them look old."""
        if time.monotonic() - self._writer.renewed > self.me.lease / 2:
            self._wary_until = time.monotonic() + self.me.lease / 2
        self._wary_until = max(self._wary_until, self._writer.back + self.me.lease / 2)
        me = next((worker for worker in workers if worker.id == self.me.id), None)
        if me is not None:
            ahead = me.heartbeat + me.age - time.monotonic()
            if self._ahead is not None and abs(ahead - self._ahead) > SET:
                self._wary_until = time.monotonic() + self.me.lease / 2
            self._ahead = ahead
        return time.monotonic() >= self._wary_until

    async def bury(self, worker: Worker | None) -> None:
        """Put the trials of a worker that is gone back into the queue, free what it claimed and end its lease."""
        who = None if worker is None else worker.id
        name = f"bury {who}"
        if not await self.claim([name]):
            return
        try:
            for trial in await self._db(self._study.trials):
                if trial.state == "running" and trial.worker == who:
                    await self._db(self._study.release, trial.number, "its worker is gone; asked again")
            if worker is not None:
                await self._db(self._leases.end, worker.id)
                if not worker.closed:
                    self._note(f"the worker {shown(worker)} is gone; its work is taken over")
        finally:
            await asyncio.shield(self.release([name]))

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        """Only one worker at a time is inside; what the one before did is to be looked up there."""
        name = f"turn {name}"
        pause = 0.02
        while not await self.claim([name]):
            await self.look()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.5)
        try:
            yield
        finally:
            await asyncio.shield(self.release([name]))

    async def fit(self, lost: int) -> None:
        """Return when this worker's lease is not about to end. Raises TakenOver when it did end since it had been
        `lost` so many times: others have what it had in hand."""
        while time.monotonic() - self._writer.renewed > WARY * self.me.lease:
            if not self._told:
                self._note("the lease of this worker could not be renewed; it waits before it begins anything new")
            self._told = True
            await asyncio.sleep(0.2)
        self._told = False
        if self._writer.lost != lost:
            raise TakenOver("others took this worker for dead, and its trial over")

    @property
    def lost(self) -> int:
        """How often this worker's lease has ended so far."""
        return self._writer.lost

    async def claim(self, names: Sequence[str]) -> set[str]:
        """Which of the names are this worker's now."""
        found: dict[str, str] = await self._db(self._leases.claim, self._study.id, self.me.id, names)
        return {name for name, worker in found.items() if worker == self.me.id}

    async def held(self, names: Sequence[str]) -> set[str]:
        """Which of the names are claimed, by whomever."""
        found: set[str] = await self._db(self._leases.held, self._study.id, names)
        return found

    async def release(self, names: Sequence[str]) -> None:
        """Give claims back."""
        if names:
            await self._db(self._leases.release, self._study.id, self.me.id, names)


class _Held:
    """Claims as the study's queue takes them, on the thread that owns the database."""

    def __init__(self, leases: Leases, study_id: int, worker: str) -> None:
        self._leases, self._study_id, self._worker = leases, study_id, worker

    def take(self, name: str) -> bool:
        return self._leases.claim(self._study_id, self._worker, [name]).get(name) == self._worker

    def free(self, name: str) -> None:
        self._leases.release(self._study_id, self._worker, [name])


class Share:
    """The rows of one configuration, made by several workers without one being made twice.

    `cells` are (position in `examples`, replicate). `memory` fills with the rows of all workers; a cell's row is this
    worker's to make once `hold` has returned and it is not there.
    """

    def __init__(
        self,
        crew: Crew,
        observer: Observer,
        config: Configuration,
        phase: Phase,
        examples: Sequence[Example],
        cells: Sequence[tuple[int, int]],
        *,
        places: dict[str, int],
        read: Callable[[Sequence[str] | None], Awaitable[Memory]],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        self.memory: Memory = {}
        self._crew, self._read, self._flush = crew, read, flush
        self._lost = crew.lost
        self._lock = asyncio.Lock()
        self._mine: set[str] = set()
        self._blocks: dict[str, list[int]] = {}
        self._block_of: list[str] = []
        self._config, self._examples, self._cells, self._observer = config, examples, cells, observer
        self._size = max(BLOCK, -(-len(examples) // BLOCKS))  # the same for every worker
        self._full: set[str] = set()
        for index, (position, replicate) in enumerate(cells):
            place = places.get(examples[position].id, position)
            name = f"{phase} {config.key} {replicate} {place // self._size}"
            self._block_of.append(name)
            self._blocks.setdefault(name, []).append(index)

    async def take(self) -> None:
        """Claim all that nobody else has in hand, and read what is stored."""
        self._mine |= await self._crew.claim(list(self._blocks))
        await self.refresh()

    async def refresh(self, name: str | None = None) -> None:
        """Read what is stored by now: of the examples of a block, or of all."""
        block = None if name is None else {self._examples[self._cells[index][0]].id for index in self._blocks[name]}
        for place, row in (await self._read(None if block is None else sorted(block))).items():
            known = self.memory.setdefault(place, row)
            for key, score in row.scores.items():
                known.scores.setdefault(key, score)

    async def hold(self, index: int) -> None:
        """Return when the cell is stored, or this worker's to make. Raises TakenOver."""
        await self._crew.fit(self._lost)
        name = self._block_of[index]
        pause = 0.05
        while name not in self._mine and not self._done(index):
            async with self._lock:  # one asks for all that wait
                if name not in self._mine and not self._done(index):
                    await self._crew.look()
                    self._mine |= await self._crew.claim([name])
                    await self.refresh(name)
            if name not in self._mine and not self._done(index):
                await asyncio.sleep(pause)
                pause = min(2 * pause, 0.5)

    async def spread(self, observe: Callable[[int], Awaitable[Any]], window: int) -> None:
        """Have every cell made, together with whoever else is at it: each takes the next block that is free."""
        await self.refresh()

        async def lane() -> None:
            while (name := await self._next()) is not None:
                block = [index for index in self._blocks[name] if not self._done(index)]

                async def one(at: int, block: list[int] = block) -> Any:
                    return await observe(block[at])

                await run_trial(len(block), one, window=min(window, self._size))
                await self._flush()
                await self._give([name])

        await run_all([lane] * max(1, window // self._size))

    async def _next(self) -> str | None:
        """The next block that is this worker's to make, None when all is stored."""
        async with self._lock:
            pause = 0.05
            while True:
                open_ = [name for name in self._blocks if name not in self._mine and not self._stored(name)]
                if not open_:
                    return None
                held = await self._crew.held(open_)
                free = next((name for name in open_ if name not in held), None)
                if free is None:
                    await self._crew.look()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, 0.5)
                    await self.refresh()
                elif await self._crew.claim([free]):
                    await self.refresh(free)
                    if not self._stored(free):
                        self._mine.add(free)
                        return free
                    await self._crew.release([free])

    def _done(self, index: int) -> bool:
        """Whether a cell's rows are in memory with all their scores: then it costs nothing."""
        position, replicate = self._cells[index]
        repeats, answers = self._observer.repeats, self._observer.answers
        own = answers.places(replicate * repeats, repeats, self._config.n)
        samples = [0] if self._config.deterministic else own
        rows = [row for sample in samples if (row := self.memory.get((self._examples[position].id, sample)))]
        if len(rows) < len(samples) or not answers.settled(rows):
            return False
        keys = self._observer.scorer_keys.values()
        return all(key in row.scores for row in answers.chosen(rows) for key in keys)

    def _stored(self, name: str) -> bool:
        if name not in self._full and all(self._done(index) for index in self._blocks[name]):
            self._full.add(name)
        return name in self._full

    async def _give(self, names: Sequence[str]) -> None:
        self._mine -= set(names)
        await self._crew.release(names)

    async def done(self) -> None:
        """Commit what was made, then give back what is claimed still."""
        await self._flush()
        await self._give(list(self._mine))
