"""Owns what a new study takes over from an old one in the same storage: every generation that still holds."""

from __future__ import annotations

from genopt.errors import StudyError
from genopt.session import Session
from genopt.space import SearchSpace
from genopt.study import open_study


async def fork_from(session: Session, source: str) -> None:
    """Copy what still holds of the study `source`, and queue its configurations that lie in the new space.

    A generation holds when its example is unchanged and the study's seed is the same; prompt, engine and parameters are
    part of its key, so that rows of a changed prompt are simply never asked for. Raises StudyError.
    """
    plan, study = session.plan, session.study
    if study.name == source:
        raise StudyError(f"--fork: {source!r} is the study itself", hint="give the new study another name")
    if await session.db(study.attribute, "forked_from") is not None:
        return
    old = await session.db(open_study, plan.spec.url, source, SearchSpace({}), create=False)
    before = await session.db(session.store.example_digests, old.id)
    same = [name for name, (digest, _) in plan.digests().items() if before.get(name) == digest]
    described = await session.db(old.attribute, "study") or {}
    copied = 0
    if described.get("seed") == plan.spec.seed:
        copied = await session.db(session.store.copy, old.id, study.id, same)
    queued: set[str] = set()
    for trial in await session.db(old.trials):
        params = trial.config.get("params")
        if trial.state != "complete" or params is None or trial.config["key"] in queued:
            continue
        answers = plan.space.locate({n: tuple(v) if isinstance(v, list) else v for n, v in params.items()})
        if answers is not None and len(queued) < (plan.trials or len(queued) + 1) - 1:
            queued.add(trial.config["key"])
            await session.db(study.enqueue, answers)
    await session.db(study.set_attribute, "forked_from", source)
    session.note(f"forked from {source}: {copied} generations taken over, {len(queued)} configurations asked again")
