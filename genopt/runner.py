"""Owns a whole study: open or resume it, baseline, search, finalists, verdict; and leaves nothing half done on the way
out, whatever ends it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from genopt.confirm import Verdict, confirm
from genopt.database import PATIENCE
from genopt.errors import SpecError, StudyError
from genopt.events import Decided, Listener, Note, silence
from genopt.finals import Candidate, choose_winner
from genopt.fork import fork_from
from genopt.guards import usage_notes
from genopt.judging.check import check_judges
from genopt.judging.pairwise import with_opinions
from genopt.leases import LEASE
from genopt.pareto import choose_front, confirm_front
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.report.front import to_use
from genopt.search import measure_baseline, search
from genopt.session import Session
from genopt.spec import StudySpec
from genopt.spec.confirm import opinions_wanted
from genopt.spec.read import as_study
from genopt.trial import Evaluation
from genopt.warm import check_earlier

T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What `optimize` returns: the verdict, and where the study is kept."""

    verdict: Verdict
    url: str
    name: str

    @property
    def params(self) -> dict[str, Any]:
        """The settings to use: the winner's where it is shown to improve on the baseline, or to meet constraints that
        this misses; else the baseline's."""
        return dict(to_use(self.verdict.to_json()))


def optimize(
    spec: StudySpec | Mapping[str, Any] | str | Path, *, on_event: Listener = silence, fork: str | None = None
) -> Result:
    """Run a study to its verdict, or go on with one that was stopped. Works in a notebook too.

    `spec` is a StudySpec, a study file's tables as a dict, or the path of one; `fork` names a new study that takes over
    what still holds of the old one. Raises SpecError, StudyError, BackendError or ScorerError; what was paid for by
    then is kept.
    """
    return run(optimize_async(spec, on_event=on_event, fork=fork))


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, from synchronous code; in a thread of its own where a loop runs (notebooks).

    Interrupting the caller (the notebook's stop button) cancels the work and waits until it has ended.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    ended = threading.Event()  # an interrupted Thread.join takes the thread for ended
    results: list[T] = []
    errors: list[BaseException] = []
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = []

    async def main() -> T:
        running.append((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    def target() -> None:
        try:
            results.append(asyncio.run(main()))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    thread = threading.Thread(target=target, name="genopt")
    thread.start()
    try:
        ended.wait()
    except BaseException:
        for loop, task in running:
            with contextlib.suppress(RuntimeError):  # it ended meanwhile
                if task is not None:
                    loop.call_soon_threadsafe(task.cancel)
        ended.wait()
        raise
    if errors:
        raise errors[0]
    return results[0]


async def optimize_async(
    spec: StudySpec | Mapping[str, Any] | str | Path,
    *,
    on_event: Listener = silence,
    fork: str | None = None,
    lease: float = LEASE,
    wait: float = PATIENCE,
) -> Result:
    """The same inside a running event loop. Cancelling it stops cleanly: everything observed is committed.

    After `lease` seconds without a heartbeat other workers take this one for dead; a database that does not answer is
    waited for, `wait` seconds at most.
    """
    spec = as_study(spec)
    source = None if fork is None else spec.name
    if fork is not None:
        if not fork.strip():
            raise SpecError("--fork: is empty. Give the new study a name")
        if fork == source:
            raise StudyError(f"--fork: {source!r} is the study itself", hint="give the new study another name")
        spec = spec.model_copy(update={"name": fork, "storage": spec.url})  # the default storage goes by the name

    def tell(text: str) -> None:
        on_event(Note(text))

    plan = await prepare(spec, tell=tell, stored=partial(check_earlier, spec, tell, fork_of=source, wait=wait))
    try:
        return await _run(plan, on_event, source, lease, wait)
    finally:
        await asyncio.shield(plan.aclose())


async def _run(plan: Plan, on_event: Listener, source: str | None, lease: float, wait: float) -> Result:
    session = Session(plan, on_event, lease=lease, wait=wait)
    try:
        await session.open()
        async with session.crew.turn("begin"):
            await check_unchanged(session)
            if source is not None:
                await fork_from(session, source)
        budget = plan.spec.budget.model_dump() | {"repeats": plan.spec.search.confirm_repeats}
        budget |= opinions_wanted(plan.spec.confirm, plan.spec.audit)
        budget |= {f"confidence of {c}": c.confidence for c in plan.goal.constraints}
        verdict = await _reached(session, budget)
        if verdict is not None:
            await session.crew.look()  # a worker that died after it leaves its lease and its claims
            session.note("this study reached its verdict before; raise the budget to search on")
        else:
            verdict = await _decide(session, budget)
        on_event(Decided(verdict.to_json()))
        return Result(verdict, plan.spec.url, plan.spec.name)
    finally:
        await asyncio.shield(session.close())


async def _decide(session: Session, budget: Mapping[str, Any]) -> Verdict:
    """Search, and judge what was found; together with whatever other workers do so."""
    plan = session.plan
    await session.start()
    for warning in plan.warnings:
        session.note(warning, warning=True)
    async with session.crew.turn("judges"):
        await check_judges(session)
    baseline = await measure_baseline(session)
    await search(session)
    verdict, winner = await _judge(session, baseline)
    async with session.crew.turn("verdict"):
        reached = await _reached(session, budget)  # by another worker, just now
        if reached is None:
            await session.learn()
            reached = await with_opinions(session, verdict, baseline.config, winner)
            await session.flush()
            await session.learn()  # what others paid for since the verdict was worded
            reached = replace(reached, **_cost(session))
            await session.db(session.study.set_attribute, "verdict", {**reached.to_json(), "budget": budget})
    for note in usage_notes(plan.scorers):
        session.note(note)
    if failed := session.meter.failed:
        calls = "call of the engine" if failed == 1 else "calls of the engine"
        session.note(f"{failed:,} {calls} made no text: failed, or called off with one that did; budgets count them")
    session.enter("done")
    return reached


def _cost(session: Session) -> dict[str, Any]:
    """What the study has cost until now, all its workers together, as a verdict has it."""
    meter = session.meter
    names = ("search_generations", "confirm_generations", "tokens")
    return {name: getattr(meter, name) for name in names} | {"trials": len(session.seen)}


async def _judge(session: Session, baseline: Evaluation) -> tuple[Verdict, Candidate | None]:
    """The verdict, and who it is about."""
    session.observer.asker.settled = session.observer.request(baseline.config, session.plan.tune[0], 0, "tune")
    if session.plan.goal.several:
        return await confirm_front(session, baseline, await choose_front(session, baseline))
    while True:
        winner = await choose_winner(session, baseline)
        verdict = await confirm(session, session.evaluations[baseline.config.key], winner)
        if winner is None or winner.key not in session.unscored:
            return verdict, winner


async def _reached(session: Session, budget: Mapping[str, Any]) -> Verdict | None:
    """The verdict that the study reached within this budget, if it did."""
    stored = await session.db(session.study.attribute, "verdict")
    return Verdict.from_json(stored) if stored is not None and stored.get("budget") == budget else None


async def check_unchanged(session: Session) -> None:
    """Record what the study is, or raise StudyError naming what changed since it was begun."""
    now = session.plan.description()
    sampler = [session.plan.sampler.name, session.plan.sampler.why]  # may change, and is then recorded anew
    before = await session.db(session.study.attribute, "study")
    if before is None:
        await session.db(session.store.remember_examples, session.study.id, session.plan.digested())
        await session.db(session.study.set_attribute, "sampler", sampler)
        await session.db(session.study.set_attribute, "spec", session.plan.spec.portable())
        await session.db(session.study.set_attribute, "study", now)
        return
    changed = changes(before, now)
    if changed:
        raise StudyError(
            f"{session.plan.spec.source}: the study {session.plan.spec.name!r} was begun with another "
            + ", ".join(changed),
            hint="undo the change, or go on in a new study that reuses what still holds: --fork NEW_NAME",
        )
    if await session.db(session.study.attribute, "sampler") != sampler:
        await session.db(session.study.set_attribute, "sampler", sampler)


def changes(before: Any, now: Any, key: str = "") -> list[str]:
    """The keys whose values differ, as dotted paths."""
    if isinstance(before, dict) and isinstance(now, dict):
        found: list[str] = []
        for name in sorted(before.keys() | now.keys()):
            found += changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)
        return found
    return [] if before == now else [key]
