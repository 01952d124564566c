"""Owns the running state of one open study: who measures, what is known so far, what it has cost.

One thread owns Optuna and all reads of the database; the writer's thread owns all writes of rows; the event loop owns
everything else.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

from genopt.events import Event, Listener, Note, Progress, Stage, StageStarted
from genopt.plan import Plan
from genopt.schedule import run_trial
from genopt.stats import mean_se
from genopt.store import Spent, Store, Worker
from genopt.study import Study, TrialRecord, open_study
from genopt.trial import Configuration, Evaluation, Memory, Meter, Observation, Observer, Rate
from genopt.types import Example, Phase
from genopt.writer import Writer

T = TypeVar("T")
LEASE = 60.0  # seconds without a heartbeat after which a worker counts as dead


@dataclass(frozen=True, slots=True)
class Known:
    """What a finished configuration was found to be worth (utility), and what the sampler was told."""

    number: int | None
    values: tuple[float, ...]
    mean: float
    se: float
    n: int
    stopped_early: bool
    eligible: bool
    violations: Mapping[str, float]


class Session:
    """One worker on one study; use `open_session`, then `close`."""

    def __init__(self, plan: Plan, emit: Listener) -> None:
        self.plan, self.emit = plan, emit
        self.evaluations: dict[str, Evaluation] = {}
        self.known: dict[str, Known] = {}
        self.seen: set[str] = set()
        self._learnt: dict[str, Any] = {}
        self._others: list[Worker] | None = None
        self.worker = Worker(uuid.uuid4().hex, socket.gethostname(), process_name(), time.time(), time.time(), False)
        self.rate = Rate()
        self.stage: Stage = "opening"
        self._planned = 0
        self._last_progress = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genopt-study")
        self.store: Store
        self.study: Study
        self.writer: Writer
        self.observer: Observer
        self.meter: Meter
        self.elapsed_before = 0.0
        self.started = time.monotonic()

    async def db(self, action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run something on the thread that owns the database."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, lambda: action(*args, **kwargs))

    async def open(self) -> None:
        """Open or make the study, take the lease, and free what dead workers left behind. Raises StudyError."""
        plan, spec = self.plan, self.plan.spec
        self.store = Store(spec.url)
        self.study = await self.db(
            open_study,
            spec.url,
            spec.name,
            plan.space,
            directions=plan.goal.directions,
            seed=spec.seed,
            sampler=plan.sampler.name,
            worker=self.worker.id,
            live=plan.live,
        )
        await self.db(self.store.create)
        spent = await self.db(self.store.spent, self.study.id)
        taken_over = await self.db(self.study.attribute, "taken_over") or {}  # by a fork, which did not pay for it
        own = {name: count - taken_over.get(name, 0) for name, count in asdict(spent).items()}
        self.meter = Meter.start(Spent(**own))
        others = await self.db(self.store.workers, self.study.id)
        self.elapsed_before = sum(max(0.0, worker.heartbeat - worker.started) for worker in others)

    async def start(self) -> None:
        """Begin to work: the lease, the writer, the observer."""
        plan, spec = self.plan, self.plan.spec
        await self.db(self.store.join, self.worker, self.study.id)
        self.writer = Writer(spec.url, self.worker.id)
        self.observer = plan.observer(self.study.id, self.writer, self.meter, on_generation=self._tick)
        for scorer in plan.scorers.values():
            stored = partial(self.db, self.store.judgments, getattr(scorer, "digest", ""))
            if hasattr(scorer, "remember"):
                scorer.remember(await stored(), self.writer.add)
            if hasattr(scorer, "watch"):
                scorer.watch(stored)
        await self.release_the_dead()
        await self.learn()
        await self.recall()
        if plan.spec.search.sampler == "grid":
            await self.db(self.study.use_grid, spec.search.grid_points)

    async def release_the_dead(self) -> None:
        """Fail the trials of workers that are gone, and queue their configurations again."""
        workers = {worker.id: worker for worker in await self.db(self.store.workers, self.study.id)}
        for trial in await self.db(self.study.trials):
            if trial.state == "running" and trial.worker != self.worker.id:
                owner = workers.get(trial.worker or "")
                if owner is None or not alive(owner):
                    await self.db(self.study.release, trial.number, "its worker is gone; asked again")

    async def learn(self) -> None:
        """Take up what earlier runs and other workers asked and found; cheap while no other worker is at work."""
        workers = await self.db(self.store.workers, self.study.id)
        others = [worker for worker in workers if worker.id != self.worker.id]
        if others == self._others and all(worker.closed for worker in others):
            return
        self._others = others
        for trial in await self.db(self.study.trials):
            key = trial.config.get("key")
            if not key or trial.worker == self.worker.id:
                continue
            self.seen.add(key)
            found = trial.state == "complete" and trial.values and "duplicate_of" not in trial.outcome
            if found and key not in self.known:
                self.known[key] = known_from(trial)
                self._learnt[key] = trial.config["params"]

    async def recall(self) -> None:
        """Make the evaluations of what was learnt, from stored rows."""
        while self._learnt:
            key, params = self._learnt.popitem()
            if not self.known[key].stopped_early and key not in self.evaluations:
                await self.measure(self.plan.configure(params))

    async def close(self) -> None:
        """Commit everything and end the lease; safe after a failed `open`."""
        if hasattr(self, "writer"):
            await asyncio.to_thread(self.writer.close)
        if hasattr(self, "study"):
            await self.db(self.study.close)
        if hasattr(self, "store"):
            await self.db(self.store.close)
        await asyncio.to_thread(self._thread.shutdown)

    async def flush(self) -> None:
        """Return when everything observed so far is committed. Raises StudyError when it cannot be."""
        await asyncio.wrap_future(self.writer.flush())

    async def measure(
        self,
        config: Configuration,
        *,
        examples: Sequence[Example] | None = None,
        phase: Phase = "tune",
        replicates: int = 1,
        trial_id: int | None = None,
        window: int | None = None,
        rungs: Sequence[int] = (),
        decide: Callable[[Evaluation, int], Awaitable[bool]] | None = None,
    ) -> Evaluation:
        """The evaluation of a configuration on the tune split (or `examples`), made as far as it is not stored yet.

        The first replicate of all examples comes first. With `rungs`, `decide(evaluation, n)` may stop it; the
        evaluation then holds the first n examples.
        """
        examples = self.plan.tune if examples is None else examples
        await self.flush()
        memory = await self.memory(config, phase)
        evaluation = Evaluation(config, examples)
        rounds = 1 if config.deterministic else replicates  # the same text again says nothing new
        cells = [(position, replicate) for replicate in range(rounds) for position in range(len(examples))]

        async def observe(index: int) -> Observation:
            position, replicate = cells[index]
            return await self.observer.observe(config, memory, examples[position], replicate, phase, trial_id)

        async def look(prefix: list[Observation]) -> bool:
            evaluation.cells = dict(zip(cells, prefix, strict=False))
            await self.flush()
            return decide is None or await decide(evaluation, len(prefix))

        slots = max(1, self.plan.concurrency // self.plan.spec.search.repeats)
        found = await run_trial(len(cells), observe, window=window or 2 * slots, rungs=rungs, decide=look)
        evaluation.cells = dict(zip(cells, found, strict=False))
        if phase == "tune" and len(found) >= len(examples):
            self.evaluations[config.key] = evaluation
        return evaluation

    async def memory(self, config: Configuration, phase: Phase) -> Memory:
        """The stored rows of a configuration, by (example id, sample)."""
        rows = await self.db(self.store.rows, self.study.id, config.key, phase)
        return {(row.example_id, row.sample): row for row in rows}

    def elapsed(self) -> float:
        """Seconds that workers have spent on this study, this one included."""
        return self.elapsed_before + time.monotonic() - self.started

    def enter(self, stage: Stage, detail: str = "", planned: int = 0) -> None:
        """Tell listeners that a stage begins."""
        self.stage, self._planned = stage, self.meter.generations + planned
        self.emit(StageStarted(stage, detail, planned))

    def note(self, text: str, *, warning: bool = False) -> None:
        """Tell listeners something."""
        self.emit(Note(text, "warning" if warning else "info"))

    def best(self) -> tuple[str, Evaluation] | None:
        """The eligible configuration with the highest mean so far, by key."""
        best: str | None = None
        for key, known in self.known.items():  # often, and over every trial: one plain loop
            better = best is None or known.mean > self.known[best].mean
            if better and known.eligible and not known.stopped_early and key in self.evaluations:
                best = key
        return None if best is None else (best, self.evaluations[best])

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_progress < 0.25:
            return
        self._last_progress = now
        self.emit(self._progress(*self.rate.mark(self.meter)))

    def _progress(self, generations_per_second: float, tokens_per_second: float) -> Event:
        best = self.best()
        interval = None
        if best is not None:
            mean, se = mean_se(best[1].utility())
            interval = (mean, mean - 1.96 * se, mean + 1.96 * se)
        done, planned = self.meter.generations, max(self._planned, 1)
        budget = self.plan.trials
        if self.stage == "search" and budget and self.known:
            each = self.meter.search_generations / len(self.known)
            planned = round(done + max(0, budget - len(self.known)) * each)
        fraction = min(1.0, done / planned)
        left = (planned - done) / generations_per_second if generations_per_second > 0 else None
        hours = self.plan.spec.budget.hours
        if hours is not None:
            left_of_budget = max(0.0, hours * 3600 - self.elapsed())
            left = left_of_budget if left is None else min(left, left_of_budget)
        return Progress(
            stage=self.stage,
            trials=len(self.known),
            trial_budget=budget,
            best=interval,
            generations=done,
            tokens=self.meter.tokens,
            generations_per_second=generations_per_second,
            tokens_per_second=tokens_per_second,
            fraction=fraction,
            seconds_left=left if left is None or math.isfinite(left) else None,
            engine=self.engine_stats(),
        )

    def engine_stats(self) -> Mapping[str, float]:
        """What the engine is doing, where it tells."""
        stats = getattr(self.plan.backend, "stats", None)
        found: Mapping[str, float] = {} if stats is None else stats()
        return found


def known_from(trial: TrialRecord) -> Known:
    """What a stored trial was found to be worth."""
    outcome = trial.outcome
    mean, se = outcome.get("mean"), outcome.get("se")
    return Known(
        trial.number,
        trial.values or (),
        math.nan if mean is None else mean,
        math.nan if se is None else se,
        outcome.get("n", 0),
        bool(outcome.get("stopped_early")),
        bool(outcome.get("eligible", True)),
        {name: math.inf if v is None else v for name, v in outcome.get("violations", {}).items()},
    )


def process_name() -> str:
    """This process, told apart from a later one with the same number where the system says when it began."""
    return f"{os.getpid()}:{_began(os.getpid())}"


def _began(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def alive(worker: Worker) -> bool:
    """False when a worker said goodbye, let its lease run out, or is a process of this host that is gone."""
    if worker.closed or time.time() - worker.heartbeat > LEASE:
        return False
    if worker.host != socket.gethostname():
        return True
    pid, _, began = worker.process.partition(":")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not began or _began(int(pid)) == began
