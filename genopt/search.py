"""Owns the search: ask, race, tell, until a budget is spent. The policy is in race."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from genopt import guards, pace, pareto, race
from genopt.confirm import shown
from genopt.desk import Desk, Job
from genopt.errors import BackendError, GenoptError, ScorerError, SpecError, StudyError
from genopt.finals import rivals, worth_of
from genopt.fronts import SURE
from genopt.objectives import MEASURED
from genopt.outcomes import adjusted, announce, known_of, outcome_of, tell, unwritten
from genopt.racing import levels
from genopt.schedule import run_study
from genopt.session import Session
from genopt.starts import enqueue_starts
from genopt.stats import TIE, UNBOUNDED, expected_sd_of_difference, minimum_detectable_effect
from genopt.trial import MAX_MISSING, Configuration, Evaluation, mean_of
from genopt.words import finite
from genopt.workers import TakenOver

FEW = 8  # observations of the baseline by which it is told what a text takes
ENDED = (
    "the study stopped because trial after trial failed. Nothing that was generated is lost: correct the engine, the"
    " scorer or the space, then run the same command"
)


async def measure_baseline(session: Session) -> Evaluation:
    """Measure what the user runs today, enter it as a trial when it lies in the space, and tell what can be shown."""
    plan = session.plan
    config = plan.baseline()
    session.enter("baseline", "what you run today", len(plan.tune) * plan.spec.search.repeats)
    await _affordable(session, config)
    evaluation = await session.measure(config)
    await _told_of(session, evaluation)
    async with session.crew.turn("baseline"):
        await session.learn()
        if config.key not in session.known or await session.db(session.study.attribute, "baseline") is None:
            await session.recall()
            await _enter_baseline(session, config, evaluation)
    values = evaluation.utility()
    per_example = plan.spec.search.confirm_repeats
    sd = expected_sd_of_difference(values[~np.isnan(values)])
    groups = {example.group or ("alone", example.id) for example in plan.holdout}  # what is independent of what
    effect = minimum_detectable_effect(sd, len(groups))
    size = "of a size that equal scores do not tell"
    if TIE * max(1.0, abs(mean_of(values))) < sd < UNBOUNDED:  # scores that are equal may differ by rounding
        size = f"below about {effect:.3f}" if effect >= 0.001 else f"below about {effect:.1g}"
    kind = "cross-fitted" if plan.folds else "held-out"
    each = "1 observation" if per_example == 1 else f"{per_example} observations"
    held_out = f"{len(plan.holdout)} {kind} examples ({each} each)"
    session.note(f"with {held_out} a true gain {size} is likely to stay unshown")
    return evaluation


async def _affordable(session: Session, config: Configuration) -> None:
    """Raise SpecError where the tokens of the budget do not even pay for the baseline, as soon as some of its texts
    tell what one takes: nothing could be tried, and much more would be spent."""
    spec, meter = session.plan.spec, session.meter
    if spec.budget.tokens is None:
        return
    await session.measure(config, upto=FEW)
    await session.learn()  # another worker may have paid for them
    if await session.db(session.study.attribute, "baseline") is not None:  # what was spent since is not the baseline's
        return
    texts = len(session.plan.tune) * (1 if config.deterministic else spec.search.repeats * config.n)
    takes = texts * meter.tokens / max(1, meter.made)
    if takes > spec.budget.tokens:
        raise SpecError(
            f"{spec.source}: budget.tokens: {spec.budget.tokens:,} is too few: the baseline's {texts:,} texts alone"
            f" take about {takes:,.0f}, by the first {meter.made:,}. Raise it, or use fewer rows (dataset.limit)"
        )


async def _told_of(session: Session, baseline: Evaluation) -> None:
    """Warn of texts that the engine could not write. Raises ScorerError where no gain over the baseline could be shown,
    whatever is spent: nothing of it was scored."""
    plan, n = session.plan, len(baseline.cells)
    if told := await unwritten(session, baseline, "the baseline's"):
        session.note(told, warning=True)
    if unknown := guards.unscored(baseline, plan.goal):
        raise ScorerError(
            f"{unknown}: none of the baseline's {n} texts could be scored, so that nothing can be compared with it",
            hint=(
                "what is measured needs texts: change [baseline] or the prompt, so that the engine can write them"
                if all(objective.metric in MEASURED for objective in plan.goal.objectives)
                else "correct the scorer: genopt check --json shows what it says of two rows, and why"
            ),
        )
    if (missing := baseline.missing()) > MAX_MISSING:
        session.note(
            f"{missing:.0%} of the baseline's texts could not be scored: its mean is that of the others, and a"
            f" configuration of which more than {MAX_MISSING:.0%} cannot be scored cannot win",
            warning=True,
        )


async def _enter_baseline(session: Session, config: Configuration, evaluation: Evaluation) -> None:
    """Enter the baseline as a finished trial; Optuna is not told of one outside the space, which would shrink what its
    samplers model."""
    plan = session.plan
    found = adjusted(session, evaluation)
    known = known_of(session, None, evaluation, found[0])
    located = _locate(session, config)
    entered = session.known.get(config.key)  # as a trial, before this study was stopped
    number = entered.number if entered is not None else None
    if located is not None and entered is None and all(math.isfinite(value) for value in known.values):
        number, trial_id = await session.db(
            session.study.enter,
            located,
            known.values,
            config={"key": config.key, "params": shown(config.params)},
            outcome=outcome_of(session, known, evaluation, found) | {"baseline": True},
            violations=known.violations,
        )
        await session.measure(config, trial_id=trial_id)
    known = replace(known, number=number)
    session.known[config.key] = known
    session.seen.add(config.key)
    stored = {"key": config.key, "params": shown(config.params), **finite(asdict(known))}
    await session.db(session.study.set_attribute, "baseline", stored)
    searched = {*plan.space.names(), *plan.space.switches(), *plan.spec.baseline}
    told = {name: value for name, value in config.params.items() if name in searched}
    announce(session, number, told, known, "complete", baseline=True)


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
    async with session.crew.turn("starts"):
        await enqueue_starts(session)
    desk = Desk(session)
    session.refit()
    n = len(plan.tune)

    async def evaluate(job: Job) -> None:
        session.refit()
        window = max(1, math.ceil(2 * plan.concurrency / spec.search.repeats))  # twice: some are being scored
        each = 1 if job.config.deterministic else spec.search.repeats * job.config.n
        with session.load.part(min(window, desk.first), each=each) as part:
            await session.recall()
            others = rivals(session) if spec.search.pruner != "none" else []
            rungs = race.looks(race.first_look(worth_of(session, others) if others else None, n), n)
            job.owed = desk.first = rungs[0] if plan.races and rungs else n
            try:
                evaluation = await session.measure(
                    job.config,
                    trial_id=job.asked.trial_id,
                    window=window,
                    rungs=rungs,
                    decide=_judge(desk, job, rungs),
                    part=part,
                )
            except TakenOver:
                return await desk.lost(job)
        await session.flush()
        await tell(session, job.asked, job.config.key, evaluation)
        await desk.finished(job)
        await desk.ask_again()

    async def fail(job: Job, error: Exception) -> None:
        if isinstance(error, StudyError):  # the storage's fault, not the configuration's
            raise error
        session.note(f"trial {job.asked.number} failed: {error}", warning=True)
        if isinstance(error, BackendError):  # is the engine to blame or the configuration? Other trials will tell
            desk.aside.append((job, error))
        else:
            await session.db(session.study.tell, job.asked, None, outcome={"why": f"{type(error).__name__}: {error}"})
        await desk.finished(job)
        announce(session, job.asked.number, job.asked.params, None, "failed", why=str(error))

    try:
        await run_study(
            desk.ask,
            evaluate,
            fail,
            trials_in_flight=pace.few(plan),
            load=session.load,
            at_most=pace.most(plan),
        )
    except StudyError:
        raise
    except GenoptError as error:  # of the last of several trials that failed
        error.hint = "; ".join(filter(None, [error.hint, ENDED]))
        raise
    finally:
        # Not only those on the desk: a trial may have been begun just when the search was cancelled.
        await asyncio.shield(session.db(session.study.release_all, "stopped; asked again"))
    await session.learn()
    await session.recall(everything=True)
    session.note(f"search ended: {desk.reason}")
    if session.seen <= {plan.baseline().key} and desk.spent_up:
        session.note("nothing but the baseline was tried, so nothing can be better: raise the budget", warning=True)


def _judge(desk: Desk, job: Job, rungs: tuple[int, ...]) -> Callable[[Evaluation, int], Awaitable[bool]]:
    """The decision at a rung: report the running mean, then go on or stop: what surely misses a constraint, what is
    worse than the best that may win, or than one other configuration in every objective where there are several, and
    what the budget does not pay for."""
    session, plan = desk.session, desk.session.plan
    sure, worse = (dict(zip(rungs, levels(rungs, alpha), strict=True)) for alpha in (SURE, race.ALPHA))

    async def decide(evaluation: Evaluation, n: int) -> bool:
        if not await worth_it(evaluation, n):
            return False
        if plan.races:
            following = [*rungs, len(plan.tune)][rungs.index(n) + 1]
            if desk.spent(following - n, by=job):
                return False
            job.owed = following - n
        return True

    async def worth_it(evaluation: Evaluation, n: int) -> bool:
        if plan.spec.search.pruner == "paired" and min(evaluation.chances(plan.goal).values(), default=1.0) < sure[n]:
            return False
        if plan.goal.several:
            return plan.spec.search.pruner != "paired" or not pareto.beaten(session, evaluation, worse[n])
        values = evaluation.utility(n)
        await session.db(session.study.report, job.asked, n, plan.goal.sign * mean_of(values))
        if plan.spec.search.pruner == "none":
            return True
        if plan.spec.search.pruner == "median":
            others = [mean_of(e.utility(n)) for e in session.evaluations.values()]
            return len(others) < 5 or mean_of(values) >= float(np.median(others))
        arms = rivals(session, evaluation)
        return race.goes_on(worth_of(session, arms), len(arms) - 1, worse[n])

    return decide
