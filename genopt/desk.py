"""Owns which trial comes next: budgets, repeats of known configurations, what the engine failed. Measures nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass

from genopt import pace
from genopt.errors import BackendError
from genopt.finals import enough
from genopt.outcomes import tell_duplicate
from genopt.purse import over
from genopt.session import Session
from genopt.study import Asked, Budget, Later
from genopt.trial import Configuration

MAX_FAILURES = 3  # times that a working engine fails one configuration before it is given up
MAX_DUPLICATES = 40  # repeats in a row after which the space counts as exhausted
SOON, WHILE = 0.05, 0.5  # seconds until another look at what other workers do
SMALLEST_BATCH = 4  # trials that wait for another model before the engine changes to it, at least


@dataclass
class Job:
    """A trial in flight."""

    asked: Asked
    config: Configuration
    owed: int
    """Observations that are asked for and not judged yet, at most."""

    @property
    def model(self) -> str:
        """The model that its requests name; "" where the study has only one."""
        return str(self.config.request.get("model", ""))


class Desk:
    """Hands out trials while the budgets last, and answers repeats of known configurations from the records.

    Where models are searched, the trials of one model run together: one for another model waits until enough of them
    wait to be worth the change, and then until the running ones have ended.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.first = session.plan.first_look()
        """Observations that a new trial makes before it is judged."""
        self.in_flight: dict[str, Job] = {}
        self.reason = ""
        self.spent_up = False
        """Whether it is a budget that ended the search."""
        self.aside: list[tuple[Job, BackendError]] = []
        self._failures: Counter[str] = Counter()
        self._twins: dict[str, list[Asked]] = {}
        self._waiting: list[Job] = []
        self._model = ""
        self._lock = asyncio.Lock()
        self._change = asyncio.Event()
        self._duplicates = 0
        self._told = False

    async def ask(self) -> Job | None:
        """The next configuration that is not known yet, or None when the search is over."""
        async with self._lock:
            enough = max(SMALLEST_BATCH, pace.most(self.session.plan))
            over = False
            while True:
                job = next((job for job in self._waiting if job.model == self._model), None)
                if job is not None:
                    self._waiting.remove(job)
                    return job
                if len(self._waiting) >= enough or (over and self._waiting):
                    await self._change_model()
                elif over:
                    return None
                else:
                    asked = await self._next()
                    over = asked is None
                    self._waiting += [asked] if asked is not None else []

    async def _change_model(self) -> None:
        """Wait until nothing runs, then turn to the model that most trials wait for."""
        while len(self.in_flight) > len(self._waiting):
            self._change.clear()
            await self._change.wait()
        (self._model, count), *_ = Counter(job.model for job in self._waiting).most_common(1)
        if self._model:
            self.session.note(f"model {self._model}: {count} {'trial' if count == 1 else 'trials'} together")

    async def _next(self) -> Job | None:
        """A configuration that is neither known nor on the desk, or None when none may be begun now."""
        session = self.session
        while True:
            await session.learn()
            if session.plan.spec.search.stop_when is not None:
                await session.recall()
            if why := enough(session):
                self.reason = self.reason or why
                return None
            while (reason := self.spent(self.first)) and self._running() and not self._spent_alone():
                if self._waiting:
                    return None  # these first: while nothing runs no room can appear
                await self._room()  # when a running trial is stopped early
            if reason:
                self.reason, self.spent_up = self.reason or reason, True
                if await self._others_run():
                    continue
                return None
            trials = session.plan.trials
            budget = Budget(trials, frozenset([session.plan.baseline().key]))
            try:
                asked = await session.ask(budget, [*(job.asked.number for job in self.jobs())])
            except Later:
                await asyncio.sleep(SOON)
                continue
            if asked is None and self.aside:
                await self.ask_again()
                continue
            if asked is None and (await self._others_run() or await self._died()):
                continue
            if asked is None:
                self.spent_up = trials is not None and len(session.seen) >= trials
                self.reason = f"the budget of {trials} trials is spent" if self.spent_up else "the grid is done"
                return None
            config = session.plan.configure(asked.params)
            if config.key in self.in_flight:
                self._twins.setdefault(config.key, []).append(asked)
            elif (known := session.known.get(config.key)) is not None:
                await tell_duplicate(session, asked, known)
            else:
                self._duplicates = 0
                session.seen.add(config.key)
                job = Job(asked, config, self.first)
                self.in_flight[config.key] = job
                return job
            self._duplicates += 1
            if self._duplicates >= MAX_DUPLICATES and session.plan.sampler.name != "grid":
                self.reason = f"{MAX_DUPLICATES} proposals in a row were known already: the space looks exhausted"
                return None

    def jobs(self) -> list[Job]:
        """What this worker has in hand: what runs, what the engine failed, what asked for the same as another."""
        twins = [Job(asked, job.config, 0) for key, job in self.in_flight.items() for asked in self._twins.get(key, ())]
        return [*self.in_flight.values(), *(job for job, _ in self.aside), *twins]

    def _running(self) -> int:
        """Trials that are under way, those of other workers too."""
        return len(self.in_flight) + self.session.elsewhere

    async def _room(self) -> None:
        """Return when room in the budget may have appeared: a trial ended here, or a while has passed."""
        self._change.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._change.wait(), WHILE if self.session.elsewhere else None)
        await self.session.learn()

    async def _others_run(self) -> bool:
        """Whether other workers have trials under way, after waiting a while for them: they may die, and the study is
        not over before their trials are."""
        session = self.session
        if self.aside:
            await self.ask_again()  # they may wait for these
        await session.learn()
        if not session.elsewhere or self._waiting:
            return False
        if not self._told and not self.in_flight:
            self._told = True
            one = session.elsewhere == 1
            what = "1 trial of another worker" if one else f"{session.elsewhere} trials of other workers"
            session.note(f"waiting for {what}")
        await asyncio.sleep(WHILE)
        return True

    async def _died(self) -> bool:
        """Whether a trial waits to be asked again: whoever had it may have died since the queue was last looked at."""
        if not any(trial.again for trial in await self.session.db(self.session.study.trials)):
            return False
        await asyncio.sleep(SOON)
        return True

    async def lost(self, job: Job) -> None:
        """Let a trial go that others have taken over."""
        await self.session.db(self.session.study.release, job.asked.number, "its worker was silent; asked again")
        await self.finished(job)

    async def ask_again(self) -> None:
        """Queue the trials that the engine failed again, but give a configuration up that it failed too often: one that
        no engine can answer must not bar the verdict. To be called when the engine works, or when nothing else is left.
        """
        aside, self.aside = self.aside, []
        for job, error in aside:
            key, number = job.config.key, job.asked.number
            self._failures[key] += 1
            if self._failures[key] < MAX_FAILURES:
                await self.session.db(self.session.study.release, number, f"failed: {error}")
                self.session.seen.discard(key)
            else:
                why = f"given up after {MAX_FAILURES} failures: {error}"
                await self.session.db(self.session.study.tell, job.asked, None, outcome={"why": why})
                self.session.note(f"trial {number} {why}", warning=True)

    async def finished(self, job: Job) -> None:
        """Take a trial off the desk and answer those that asked for the same configuration meanwhile."""
        self.in_flight.pop(job.config.key, None)
        known = self.session.known.get(job.config.key)
        for twin in self._twins.pop(job.config.key, []):
            if known is None:
                await self.session.db(self.session.study.release, twin.number, "its twin failed; asked again")
            else:
                await tell_duplicate(self.session, twin, known)
        self._change.set()

    def spent(self, more: int, *, by: Job | None = None) -> str:
        """Why no trial may make `more` observations beside what the others have in hand, or "" when one may: a new one,
        or the one whose job is `by`. What was begun before the study was stopped counts as one of the budget's trials
        already, so that the number of trials forbids only new ones (see `ask`)."""
        session = self.session
        owed = sum(job.owed for job in self.in_flight.values() if job is not by)
        owed += session.elsewhere * len(session.plan.tune)
        return over(session, (owed + more) * session.plan.samples)

    def _spent_alone(self) -> str:
        return over(self.session, self.first * self.session.plan.samples)
