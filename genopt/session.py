"""Owns the running state of one open study: who measures, and what is known so far. What it has cost is meter.py's.

One thread owns Optuna and all reads of the database; the writer's thread owns all writes of rows; the event loop owns
everything else.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from genopt import pace
from genopt.database import PATIENCE, Patience
from genopt.events import Listener, Note, Stage
from genopt.leases import LEASE
from genopt.liveness import as_worker
from genopt.meter import Account, Meter
from genopt.plan import Plan
from genopt.progress import Ticker
from genopt.recall import Known, known_from, recalled
from genopt.schedule import Load, Part, run_trial
from genopt.store import Store
from genopt.study import Asked, Budget, Study, open_study
from genopt.trial import Configuration, Evaluation, Memory, Observation, Observer
from genopt.types import Example, Phase
from genopt.workers import Crew, Share, TakenOver
from genopt.writer import Writer

T = TypeVar("T")
TOGETHER = 32  # configurations whose rows are read at once
GRACE = 10.0  # seconds that a database which is away is waited for by one who wants to stop


class Session:
    """One worker on one study; use `open_session`, then `close`."""

    def __init__(self, plan: Plan, emit: Listener, *, lease: float = LEASE, wait: float = PATIENCE) -> None:
        self.plan, self.emit = plan, emit
        self.evaluations: dict[str, Evaluation] = {}
        self.parked: dict[str, Evaluation] = {}
        self.unscored: set[str] = set()  # finalists that could not be scored, or were refused every answer
        self.known: dict[str, Known] = {}
        self.seen: set[str] = set()
        self.elsewhere = 0  # trials that other workers have in flight
        self.load = Load(plan.concurrency)
        self._learnt: dict[str, Any] = {}
        self._recalling = asyncio.Lock()
        self._others: list[tuple[str, float, bool]] | None = None
        self._looked = -math.inf
        self.worker = as_worker(lease)
        self.patience = Patience(plan.spec.url, seconds=wait, tell=self._warn)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task = asyncio.current_task()  # which a stop cancels
        self._places = {e.id: at for side in (plan.holdout, plan.tune) for at, e in enumerate(side)}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genopt-study")
        self.store: Store
        self.study: Study
        self.writer: Writer
        self.observer: Observer
        self.crew: Crew
        self.meter = Meter()
        self.account = Account(self.meter, self.worker.id)
        self.ticker = Ticker(plan, self.meter, emit, best=self.best, known=self.known, elapsed=self.elapsed)

    async def db(self, action: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run something on the thread that owns the database, again while it is away: it must bear that."""
        self._loop = asyncio.get_running_loop()
        if self._task is not None and self._task.cancelling():  # also where what asks is shielded from that
            self.patience.hurry(GRACE)
        return await self._loop.run_in_executor(self._thread, self.patience, lambda: action(*args, **kwargs))

    async def ask(self, budget: Budget, in_flight: Sequence[int]) -> Asked | None:
        """The next trial (see Study.ask); `in_flight` are the numbers of those that this worker has in hand."""
        begun = False

        def attempt() -> Asked | None:
            nonlocal begun
            if begun:  # the database went away meanwhile: what was begun then is begun again
                self.study.release_all("the storage went away; asked again", but=in_flight)
            begun = True
            return self.study.ask(lambda params: self.plan.configure(params).key, budget=budget)

        return await self.db(attempt)

    async def open(self) -> None:
        """Open or make the study, once its server answers, and enter this worker's lease. Raises StudyError."""
        plan, spec, me = self.plan, self.plan.spec, self.worker
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
            proxy=spec.storage_proxy,
        )
        await self.db(self.store.create)
        await self.db((leases := self.store.leases).join, self.worker, self.study.id)
        self.writer = Writer(spec.url, me.id, beat=me.beat, patience=self.patience)
        self.crew = Crew(self.db, leases, self.study, self.worker, self.writer, self.note)
        self.account.count(await self.db(leases.workers, self.study.id))

    async def start(self) -> None:
        """Begin to work: the observer, what dead workers left, what is known."""
        plan, spec = self.plan, self.plan.spec
        self.observer = plan.observer(self.study.id, self.writer, self.meter, on_generation=self.ticker.tick)
        for scorer in plan.scorers.values():
            stored = partial(self.db, self.store.judgments, getattr(scorer, "digest", ""))
            if hasattr(scorer, "remember"):
                scorer.remember(await stored(), self.writer.add)
            if hasattr(scorer, "watch"):
                scorer.watch(stored)
        await self.learn()
        if plan.spec.search.sampler == "grid":
            await self.db(self.study.use_grid, spec.search.grid_points)

    async def learn(self, *, after: float = 0.0) -> None:
        """Take up what earlier runs and other workers asked, found and paid, and put back what the dead left; cheap
        while no other worker is at work. Nothing happens within `after` seconds of the last time."""
        if time.monotonic() - self._looked < after:
            return
        self._looked = time.monotonic()
        workers = await self.crew.look()
        self.account.count(workers)
        others = [(worker.id, worker.heartbeat, worker.closed) for worker in workers if worker.id != self.worker.id]
        if others == self._others and all(closed for *_, closed in others):
            return
        self._others = others
        at_work = {worker.id: worker for worker in workers if not worker.closed}
        self.elsewhere = 0
        strays: set[str | None] = set()
        for trial in await self.db(self.study.trials):
            if trial.worker == self.worker.id:
                continue
            if trial.state == "running":
                self.elsewhere += trial.worker in at_work
                strays |= {trial.worker} - at_work.keys()
            if not (key := trial.config.get("key")):
                continue
            self.seen.add(key)
            found = trial.state == "complete" and trial.values and "duplicate_of" not in trial.outcome
            if found and key not in self.known:
                self.known[key] = known_from(trial)
                self._learnt[key] = trial.config["params"]
        for worker in strays:
            await self.crew.bury(next((each for each in workers if each.id == worker), None))

    async def recall(self, *, everything: bool = False) -> None:
        """Have at hand the evaluations of what was learnt: all that a race goes by, else only that of the one that
        leads, unless `everything` is wanted. Apart from learning, which need not wait for so many rows."""
        async with self._recalling:
            wanted = list(self._learnt)
            if not everything and self.plan.spec.search.pruner == "none":
                wanted = [key for key in (self._leader(),) if key in self._learnt]
            configs = [self.plan.configure(self._learnt.pop(key)) for key in wanted]
            missing = [c for c in configs if c.key not in self.evaluations and c.key not in self.parked]
            for some in (missing[at : at + TOGETHER] for at in range(0, len(missing), TOGETHER)):
                stored = await self.db(self.store.rows_of, self.study.id, [config.key for config in some], "tune")
                for config in some:
                    known = self.known[config.key]
                    upto = known.n if known.stopped_early else None
                    found = recalled(self.observer, config, stored[config.key], self.plan.tune, upto)
                    if found is None:
                        await self.measure(config, upto=upto)
                    else:
                        self._keep(found)

    def _keep(self, evaluation: Evaluation) -> None:
        key, whole = evaluation.config.key, len(evaluation.cells) >= len(evaluation.examples)
        self.parked.pop(key, None)
        (self.evaluations if whole else self.parked)[key] = evaluation

    def _warn(self, text: str) -> None:
        """A warning from another thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(partial(self.note, text, warning=True))

    async def close(self) -> None:
        """Commit everything and end the lease; safe after a failed `open`."""
        self.patience.hurry(GRACE)
        if not hasattr(self, "writer"):
            self.patience.end()  # nothing is held yet that could be lost
        else:
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
        upto: int | None = None,
        trial_id: int | None = None,
        window: int | None = None,
        rungs: Sequence[int] = (),
        decide: Callable[[Evaluation, int], Awaitable[bool]] | None = None,
        part: Part | None = None,
    ) -> Evaluation:
        """The evaluation of a configuration on the tune split (or `examples`), made as far as it is not stored yet.

        The first replicate of all examples comes first; `upto` ends it after so many observations. With `rungs`,
        `decide(evaluation, n)` may stop it; the evaluation then holds the first n examples.
        """
        examples = self.plan.tune if examples is None else examples
        window = window or 2 * max(1, self.plan.concurrency // self.plan.spec.search.repeats)
        await self.flush()
        self.observer.asker.called_off.pop(config.key, None)
        evaluation = Evaluation(config, examples)
        rounds = 1 if config.deterministic else replicates  # the same text again says nothing new
        cells = [(position, replicate) for replicate in range(rounds) for position in range(len(examples))][:upto]
        share = Share(
            *(self.crew, self.observer, config, phase, examples, cells),
            places=self._places,
            read=partial(self.memory, config, phase),
            flush=self.flush,
        )
        before = self.evaluations.get(config.key) or self.parked.get(config.key)
        had = before.cells if before is not None and phase == "tune" and trial_id is None else {}
        made: dict[int, Observation] = {index: had[cell] for index, cell in enumerate(cells) if cell in had}

        async def observe(index: int) -> Observation:
            if index not in made:
                await share.hold(index)
                position, replicate = cells[index]
                made[index] = await self.observer.observe(
                    config, share.memory, examples[position], replicate, phase, trial_id
                )
            return made[index]

        async def look(prefix: list[Observation]) -> bool:
            evaluation.cells = dict(zip(cells, prefix, strict=False))
            await self.flush()
            await self.learn(after=2.0)
            await self.recall()
            return decide is None or await decide(evaluation, len(prefix))

        try:
            if rungs:  # a trial, which is this worker's
                await share.take()
            else:
                await share.spread(observe, window)
            found = await run_trial(
                len(cells), observe, window=window, rungs=rungs, decide=look, ahead=pace.ahead(self.plan), part=part
            )
        except TakenOver:
            if rungs:
                raise
            again = partial(self.measure, config, examples=examples, phase=phase, replicates=replicates, upto=upto)
            return await again(trial_id=trial_id, window=window)
        except Exception:
            beside = self.observer.asker.called_off.pop(config.key, 0)
            self.observer.fail(beside)  # they were asked beside what failed, and for nothing
            await share.done()
            raise
        await share.done()
        evaluation.cells = dict(zip(cells, found, strict=False))
        if phase == "tune":
            self._keep(evaluation)
        return evaluation

    async def memory(self, config: Configuration, phase: Phase, of: Sequence[str] | None = None) -> Memory:
        """A configuration's stored rows (`of` some examples), by (id, sample); what they may be cut of is recalled."""
        await self.observer.harvest.recall(config.kin, phase, partial(self.db, self.store.donors, self.study.id))
        rows = await self.db(self.store.rows, self.study.id, config.key, phase, of)
        return {(row.example_id, row.sample): row for row in rows}

    def refit(self) -> None:
        """Ask for as much at once as the engine takes by now."""
        self.plan.refit()
        self.load.resize(self.plan.concurrency)

    def elapsed(self) -> float:
        """Seconds in which anybody worked on this study, until now."""
        return self.account.elapsed()

    def enter(self, stage: Stage, detail: str = "", planned: int = 0) -> None:
        """Tell listeners, and who looks at the workers, that a stage begins."""
        self.ticker.enter(stage, detail, planned)
        self.writer.stage = stage

    def note(self, text: str, *, warning: bool = False) -> None:
        """Tell listeners something."""
        self.emit(Note(text, "warning" if warning else "info"))

    def best(self) -> tuple[str, Evaluation] | None:
        """The eligible configuration with the highest mean so far, by key; of any worker's, once it is learnt."""
        best = self._leader(self.evaluations)
        return None if best is None else (best, self.evaluations[best])

    def _leader(self, among: Container[str] | None = None) -> str | None:
        """The key of the eligible configuration with the highest mean."""
        best: str | None = None
        for key, known in self.known.items():  # often, and over every trial: one plain loop
            better = best is None or known.mean > self.known[best].mean
            if better and known.eligible and not known.stopped_early and (among is None or key in among):
                best = key
        return best
