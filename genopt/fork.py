"""Owns what a new study takes over from an old one in the same storage: every generation that still holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

from genopt.errors import StudyError
from genopt.plan import Plan
from genopt.session import Session
from genopt.space import SearchSpace
from genopt.study import open_study
from genopt.types import Params, ParamValue


async def fork_from(session: Session, source: str) -> None:
    """Copy what still holds of the study `source`, and queue its configurations that lie in the new space.

    A generation holds when its example is unchanged and the study's seed is the same; prompt, engine and parameters are
    part of its key, so that rows of a changed prompt are simply never asked for. The looks at a holdout that shares
    examples with the old study's data are taken over too. Raises StudyError.
    """
    plan, study = session.plan, session.study
    already = await session.db(study.attribute, "forked_from")
    if already == source:
        return
    if already is not None or any(trial.config for trial in await session.db(study.trials)):
        raise StudyError(
            f"--fork: the study {study.name!r} exists already and is no fork of {source!r}",
            hint="give the new study another name",
        )
    old = await session.db(open_study, plan.spec.url, source, SearchSpace({}), create=False)
    before = await session.db(session.store.example_digests, old.id)
    same = [example.id for example, digest, _ in plan.digested() if before.get(example.id) == digest]
    described = await session.db(old.attribute, "study") or {}
    if any(described.get(key) != plan.description()[key] for key in ("seed", "dataset.holdout")):
        session.note(
            f"rows held out now may have been tuned on in {source}, whose configurations are asked again: the verdict"
            " is not clean of them",
            warning=True,
        )
    copied = 0
    if described.get("seed") == plan.spec.seed:
        copied = await session.db(session.store.copy, old.id, study.id, same)
    await session.db(study.set_attribute, "taken_over", asdict(await session.db(session.store.spent, study.id)))
    queued = {plan.baseline().key}  # which is measured anyway
    for trial in await session.db(old.trials):
        params = trial.config.get("params")
        if trial.state != "complete" or params is None:
            continue
        located = locate(plan, {n: tuple(v) if isinstance(v, list) else v for n, v in params.items()})
        if located is not None and located[0] not in queued and len(queued) < (plan.trials or math.inf):
            queued.add(located[0])
            await session.db(study.enqueue, located[1])
    if {example.id for example in plan.holdout} & before.keys():  # a holdout that was looked at stays looked at
        await session.db(study.set_attribute, "looks", await session.db(old.attribute, "looks") or [])
    await session.db(study.set_attribute, "forked_from", source)
    session.note(
        f"forked from {source}: {copied:,} generations taken over, {len(queued) - 1} configurations asked again"
    )


def locate(plan: Plan, params: Params) -> tuple[str, Mapping[str, ParamValue]] | None:
    """The place of parameters in the new space, and their key there; None when they do not lie in it."""
    answers = plan.space.locate(params)
    if answers is None:
        return None
    return plan.configure(plan.space.sample(lambda path, _: answers[path])).key, answers
