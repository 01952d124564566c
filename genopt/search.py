"""Owns the search: ask, race, tell, until a budget is spent. The arithmetic is in racing and objectives."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from genopt import racing
from genopt.confirm import shown
from genopt.errors import BackendError
from genopt.events import TrialDone
from genopt.schedule import run_study
from genopt.session import Known, Session
from genopt.stats import UNBOUNDED, expected_sd_of_difference, mean_se, minimum_detectable_effect
from genopt.study import Asked
from genopt.trial import MAX_MISSING, Configuration, Evaluation, mean_of
from genopt.types import Params

MAX_FAILURES = 3  # times that a working engine fails one configuration before it is given up
MAX_DUPLICATES = 40  # repeats in a row after which the space counts as exhausted


@dataclass
class Job:
    """A trial in flight."""

    asked: Asked
    config: Configuration


async def measure_baseline(session: Session) -> Evaluation:
    """Measure what the user runs today, enter it as a trial when it lies in the space, and tell what can be shown."""
    plan = session.plan
    config = plan.baseline()
    session.enter("baseline", "what you run today", len(plan.tune) * plan.spec.search.repeats)
    evaluation = await session.measure(config)
    await session.learn()
    if config.key not in session.known or await session.db(session.study.attribute, "baseline") is None:
        await _enter_baseline(session, config, evaluation)
    values = evaluation.utility()
    per_example = plan.spec.search.confirm_repeats
    sd = expected_sd_of_difference(values[~np.isnan(values)])
    effect = minimum_detectable_effect(sd, len(plan.holdout))
    size = f"below about {effect:.3f}" if 0 < sd < UNBOUNDED else "of a size that equal scores do not tell"
    held_out = f"{len(plan.holdout)} held-out examples ({per_example} observation each)"
    session.note(f"with {held_out} a true gain {size} is likely to stay unshown")
    return evaluation


async def _enter_baseline(session: Session, config: Configuration, evaluation: Evaluation) -> None:
    """Enter the baseline as a finished trial; Optuna is not told of one outside the space, which would shrink what its
    samplers model."""
    plan = session.plan
    known = _known(session, None, evaluation, None)
    located = _locate(session, config)
    entered = session.known.get(config.key)  # as a trial, before this study was stopped
    number = entered.number if entered is not None else None
    if located is not None and entered is None and all(math.isfinite(value) for value in known.values):
        number, trial_id = await session.db(
            session.study.enter,
            located,
            known.values,
            config={"key": config.key, "params": shown(config.params)},
            outcome=_outcome(known, evaluation) | {"baseline": True},
            violations=known.violations,
        )
        await session.measure(config, trial_id=trial_id)
    known = replace(known, number=number)
    session.known[config.key] = known
    session.seen.add(config.key)
    stored = {"key": config.key, "params": shown(config.params), **_finite(asdict(known))}
    await session.db(session.study.set_attribute, "baseline", stored)
    searched = {*plan.space.names(), *plan.space.switches(), *plan.spec.baseline}
    told = {name: value for name, value in config.params.items() if name in searched}
    _announce(session, number, told, known, "complete", baseline=True)


def _locate(session: Session, config: Configuration) -> dict[str, Any] | None:
    """The baseline's place in the space, or None when no trial could be equal to it."""
    plan = session.plan
    answers = plan.space.locate(config.params)
    if answers is None:
        return None

    def answer(path: str, _: Any) -> Any:
        return answers[path]

    same = plan.configure(plan.space.sample(answer)).key == config.key
    return answers if same else None


async def search(session: Session) -> None:
    """Run trials until a budget is spent or the space is exhausted."""
    plan, spec = session.plan, session.plan.spec
    session.enter(
        "search", f"{plan.sampler.name} ({plan.sampler.why}), {spec.search.pruner} pruner", plan.bill().search
    )
    desk = Desk(session)
    window = max(1, math.ceil(2 * plan.concurrency / (spec.search.trials_in_flight * spec.search.repeats)))

    async def evaluate(job: Job) -> None:
        rungs = racing.rungs(len(plan.tune))
        evaluation = await session.measure(
            job.config, trial_id=job.asked.trial_id, window=window, rungs=rungs, decide=_judge(session, job, rungs)
        )
        told = None
        incumbent = _incumbent(session)
        if len(evaluation.cells) < len(plan.tune) and incumbent is not None:
            n = len(evaluation.cells)
            told = racing.adjusted_mean(evaluation.utility(n), incumbent.utility(n), mean_of(incumbent.utility()))
        await session.flush()
        await _tell(session, job, evaluation, told=told)
        await desk.finished(job)
        await desk.ask_again()

    async def fail(job: Job, error: Exception) -> None:
        session.note(f"trial {job.asked.number} failed: {error}", warning=True)
        if isinstance(error, BackendError):  # is the engine to blame or the configuration? Other trials will tell
            desk.aside.append((job, error))
        else:
            await session.db(session.study.tell, job.asked, None, outcome={"why": f"{type(error).__name__}: {error}"})
        await desk.finished(job)
        _announce(session, job.asked.number, job.asked.params, None, "failed", why=str(error))

    try:
        await run_study(desk.ask, evaluate, fail, trials_in_flight=spec.search.trials_in_flight)
    finally:
        # Not only those on the desk: a trial may have been begun just when the search was cancelled.
        await asyncio.shield(session.db(session.study.release_all, "stopped; asked again"))
    await session.learn()
    await session.recall()
    session.note(f"search ended: {desk.reason}")


class Desk:
    """Hands out trials while the budgets last, and answers repeats of known configurations from the records."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.in_flight: dict[str, Job] = {}
        self.reason = ""
        self.aside: list[tuple[Job, BackendError]] = []
        self._failures: Counter[str] = Counter()
        self._twins: dict[str, list[Asked]] = {}
        self._lock = asyncio.Lock()
        self._change = asyncio.Event()
        self._duplicates = 0

    async def ask(self) -> Job | None:
        """The next configuration that is not known yet, or None when the search is over."""
        session = self.session
        async with self._lock:
            while True:
                while (reason := self._spent(len(self.in_flight))) and self.in_flight and not self._spent(0):
                    self._change.clear()  # room may appear when a running trial is stopped early
                    await self._change.wait()
                if reason:
                    self.reason = self.reason or reason
                    return None
                await session.learn()
                trials = session.plan.trials
                fresh = trials is None or len(session.seen) < trials
                asked = await session.db(
                    session.study.ask, lambda params: session.plan.configure(params).key, fresh=fresh
                )
                if asked is None and self.aside:
                    await self.ask_again()
                    continue
                if asked is None:
                    self.reason = "the grid is done" if fresh else f"the budget of {trials} trials is spent"
                    return None
                config = session.plan.configure(asked.params)
                if config.key in self.in_flight:
                    self._twins.setdefault(config.key, []).append(asked)
                elif (known := session.known.get(config.key)) is not None:
                    await _tell_duplicate(session, asked, known)
                else:
                    self._duplicates = 0
                    session.seen.add(config.key)
                    job = Job(asked, config)
                    self.in_flight[config.key] = job
                    return job
                self._duplicates += 1
                if self._duplicates >= MAX_DUPLICATES and session.plan.sampler.name != "grid":
                    self.reason = f"{MAX_DUPLICATES} proposals in a row were known already: the space looks exhausted"
                    return None

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
                await _tell_duplicate(self.session, twin, known)
        self._change.set()

    def _spent(self, running: int) -> str:
        """Why no further trial may start beside `running` others, or "". What was begun before the study was stopped
        counts as one of the budget's trials already, so that the number of trials forbids only new ones (see `ask`)."""
        session, plan = self.session, self.session.plan
        budget, meter = plan.spec.budget, session.meter
        ahead = (running + 1) * len(plan.tune) * plan.spec.search.repeats + plan.bill().reserve
        if budget.generations is not None and meter.generations + ahead > budget.generations:
            return f"the budget of {budget.generations:,} generations is spent, but for the verdict"
        each = meter.tokens / meter.generations if meter.generations else 0.0
        if budget.tokens is not None and meter.tokens + ahead * each > budget.tokens:
            return f"the budget of {budget.tokens:,} tokens is spent, but for the verdict"
        if budget.hours is not None:
            seconds = session.elapsed() / meter.generations if meter.generations else 0.0
            if session.elapsed() + ahead * seconds > budget.hours * 3600:
                return f"the budget of {budget.hours:g} hours is spent, but for the verdict"
        return ""


def _judge(session: Session, job: Job, rungs: tuple[int, ...]) -> Callable[[Evaluation, int], Awaitable[bool]]:
    """The decision at a rung: report the running mean, then go on or stop."""
    plan = session.plan

    async def decide(evaluation: Evaluation, n: int) -> bool:
        values = evaluation.utility(n)
        if plan.goal.several:
            return True
        await session.db(session.study.report, job.asked, n, plan.goal.sign * mean_of(values))
        incumbent = _incumbent(session)
        if incumbent is None or plan.spec.search.pruner == "none":
            return True
        if plan.spec.search.pruner == "median":
            others = [mean_of(e.utility(n)) for e in session.evaluations.values()]
            return len(others) < 5 or mean_of(values) >= float(np.median(others))
        groups = [example.group for example in plan.tune]
        decision = racing.decide(values, incumbent.utility(), look=rungs.index(n) + 1, looks=rungs, groups=groups)
        return decision.keep

    return decide


def _incumbent(session: Session) -> Evaluation | None:
    best = session.best()
    return None if best is None else best[1]


def _known(session: Session, number: int | None, evaluation: Evaluation, told: float | None) -> Known:
    """What an evaluation is worth; `told` is the adjusted mean of a trial that was stopped early."""
    goal = session.plan.goal
    values = evaluation.utility()
    n = int(np.count_nonzero(~np.isnan(values)))
    mean, se = mean_se(values)
    means = evaluation.means()
    violations = goal.violations(means)
    eligible = (
        all(violation <= 0 for violation in violations.values()) and evaluation.missing() <= MAX_MISSING and n > 0
    )
    worth = mean if told is None else told
    return Known(number, goal.values(worth, means), mean, se, n, told is not None, eligible, violations)


async def _tell(session: Session, job: Job, evaluation: Evaluation, *, told: float | None) -> None:
    """Finish a trial: remember it, tell the sampler, tell the listeners."""
    known = _known(session, job.asked.number, evaluation, told)
    before = session.best()
    outcome = _outcome(known, evaluation)
    values = known.values if all(math.isfinite(value) for value in known.values) else None
    await session.db(session.study.tell, job.asked, values, outcome=outcome, violations=known.violations)
    session.known[job.config.key] = known
    after = session.best()
    leads = after is not None and after[0] == job.config.key and (before is None or before[0] != after[0])
    kind = "stopped early" if known.stopped_early else "complete"
    _announce(session, job.asked.number, job.asked.params, known, kind, best=leads, why=outcome.get("why", ""))


def _outcome(known: Known, evaluation: Evaluation) -> dict[str, Any]:
    """What is kept with a finished trial. JSON knows no NaN, so an unknown number is null."""
    outcome: dict[str, Any] = {
        "n": known.n,
        "mean": known.mean,
        "se": known.se,
        "stopped_early": known.stopped_early,
        "eligible": known.eligible,
        "violations": dict(known.violations),
        "metrics": {name: round(value, 6) for name, value in evaluation.means().items() if math.isfinite(value)},
    }
    missing = evaluation.missing()
    if missing > MAX_MISSING:
        outcome["why"] = f"{missing:.0%} of its observations could not be scored"
    elif not known.eligible:
        outcome["why"] = "misses " + ", ".join(name for name, violation in known.violations.items() if violation > 0)
    return _finite(outcome)


async def _tell_duplicate(session: Session, asked: Asked, known: Known) -> None:
    outcome = {"duplicate_of": known.number, "n": known.n, "mean": known.mean, "se": known.se}
    outcome |= {"stopped_early": known.stopped_early, "eligible": known.eligible}
    await session.db(session.study.tell, asked, known.values, outcome=_finite(outcome), violations=known.violations)
    _announce(session, asked.number, asked.params, known, "duplicate")


def _announce(
    session: Session,
    number: int | None,
    params: Params,
    known: Known | None,
    outcome: Any,
    *,
    best: bool = False,
    why: str = "",
    baseline: bool = False,
) -> None:
    mean, se, n = (known.mean, known.se, known.n) if known else (math.nan, math.nan, 0)
    session.emit(TrialDone(number, params, mean, se, n, len(session.plan.tune), outcome, best, why, baseline))


def _finite(outcome: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity."""
    return {k: _plain_number(v) for k, v in outcome.items()}


def _plain_number(value: Any) -> Any:
    if isinstance(value, dict):
        return _finite(value)
    if isinstance(value, (list, tuple)):
        return [_plain_number(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
