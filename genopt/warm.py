"""Owns what a new study begins with that was known before: the best settings that earlier studies in the same storage
found for the same model, and those that the model itself recommends.

They are asked like any other proposal: nothing that was measured elsewhere is believed. What must not be begun with
are settings that were chosen by the very rows on which the claim will be made; and whoever begins where a study ended
that has looked at the same holdout looks at it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from genopt.database import Patience
from genopt.errors import StudyError
from genopt.plan import Plan
from genopt.session import Session
from genopt.space import SearchSpace
from genopt.spec import StudySpec
from genopt.stats import shrink
from genopt.study import TrialRecord, list_studies, open_study, read_studies
from genopt.types import Params

KEPT = 3  # configurations of earlier studies that are asked
LATEST = 20  # studies that are looked through for the same model, the latest first


@dataclass(frozen=True)
class Source:
    """An earlier study on the same model."""

    name: str
    study_id: int
    trials: Sequence[TrialRecord]
    baseline: Mapping[str, Any]
    looks: Sequence[Any]


async def check_earlier(
    spec: StudySpec, tell: Callable[[str], None], *, fork_of: str | None = None, wait: float = 0.0
) -> None:
    """Raise StudyError when a study to begin with is not there: the one that `search.warm_start` names, or that this
    one is to be a fork of. A database that is away is waited for, `wait` seconds at most, and `tell` told."""
    rule = spec.search.warm_start
    named = {"search.warm_start": rule} if isinstance(rule, str) and rule != "auto" else {}
    named |= {} if fork_of is None else {"--fork": fork_of}
    if not named:
        return

    def look() -> None:
        for option, name in named.items():
            try:
                open_study(spec.url, name, SearchSpace({}), create=False).close()
            except StudyError as error:
                raise type(error)(f"{option}: {name!r} cannot be begun with: {error}", hint=error.hint) from error

    def told(text: str) -> None:
        loop.call_soon_threadsafe(tell, text)

    loop = asyncio.get_running_loop()
    patience = Patience(spec.url, seconds=wait, tell=told)
    try:
        await asyncio.to_thread(patience, look)
    finally:
        patience.end()  # where it is stopped meanwhile


async def warm_starts(session: Session) -> list[tuple[str, Params]]:
    """Names and settings to begin with, the likeliest first; none where the study was begun before, or is a fork.

    The looks that earlier studies have taken at examples held out here are taken over.
    """
    plan, study, rule = session.plan, session.study, session.plan.spec.search.warm_start
    if rule is False or await session.db(study.attribute, "warm_start") is not None:
        return []
    found: list[tuple[str, Params]] = []
    used: list[str] = []
    if len(session.seen) <= 1 and await session.db(study.attribute, "forked_from") is None:
        if plan.info.recommended:
            found.append(("what the model recommends", plan.info.recommended))
        looks = list(await session.db(study.attribute, "looks") or [])
        for source in await session.db(partial(_sources, plan)):
            if len(used) >= KEPT or not (settings := best_of(source, plan)):
                continue
            split = {example.id: side for example, side in await session.db(session.store.examples, source.study_id)}
            digests = await session.db(session.store.example_digests, source.study_id)
            same = {e.id for e, digest, _ in plan.digested() if digests.get(e.id) == digest}
            held = same & {example.id for example in plan.holdout}
            if any(split[name] != "holdout" for name in held):
                words = f"rows held out here chose the settings of {source.name}"
                if rule == "auto":
                    session.note(f"{words}: it is not begun with")
                    continue
                session.note(f"{words}: the verdict is not clean of them", warning=True)
            if held:
                looks += [look for look in source.looks if look not in looks]
            for name, params in settings[: KEPT - len(used)]:
                used.append(source.name)
                found.append((name, params))
        if looks:
            await session.db(study.set_attribute, "looks", looks)
    await session.db(study.set_attribute, "warm_start", used)
    return found


def best_of(source: Source, plan: Plan) -> list[tuple[str, Params]]:
    """The searched settings of its best trials that look better than its own baseline, pulled back by how uncertain
    each is, or meet the constraints that it misses; what this space does not have is left out."""
    whole = [
        trial
        for trial in source.trials
        if trial.state == "complete"
        and trial.outcome.get("mean") is not None
        and not any(trial.outcome.get(mark) for mark in ("duplicate_of", "stopped_early", "baseline"))
        and trial.outcome.get("eligible", True)
    ]
    if not whole or source.baseline.get("mean") is None:
        return []
    outcomes = [source.baseline, *(trial.outcome for trial in whole)]
    worth = shrink([float(o["mean"]) for o in outcomes], [float(o.get("se") or 0.0) for o in outcomes]).means
    missed = any((violation or 0) > 0 for violation in (source.baseline.get("violations") or {}).values())
    searched = plan.space.names() | plan.space.switches()
    ranked = sorted(range(len(whole)), key=lambda i: -worth[i + 1])
    found: list[tuple[str, Params]] = []
    for i in ranked[:KEPT]:
        params = whole[i].config.get("params", {})
        mine: Params = {n: tuple(v) if isinstance(v, list) else v for n, v in params.items() if n in searched}
        if mine and (missed or worth[i + 1] > worth[0]):
            found.append((f"trial {whole[i].number} of {source.name}", mine))
    return found


def _sources(plan: Plan) -> list[Source]:
    """The studies to begin with, the latest first: the one that is named, or those on the same model."""
    rule, own = plan.spec.search.warm_start, plan.spec.name
    names = [str(rule)]
    if rule == "auto":
        names = [each.name for each in list_studies(plan.spec.url) if each.ours and each.name != own][::-1][:LATEST]
        if not names:
            return []
    found = []
    for name, old in zip(names, read_studies(plan.spec.url, names), strict=True):
        described = old.attribute("study") or {}
        if rule != "auto" or same_model(described.get("backend", {}), plan.info.identity):
            baseline, looks = old.attribute("baseline") or {}, old.attribute("looks") or []
            found.append(Source(name, old.id, old.trials(), baseline, looks))
    return found


def same_model(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two engines run the same weights: by their digest where both tell it, else by the model's name."""
    if one.get("digest") and other.get("digest"):
        return one["digest"] == other["digest"]
    return bool(one.get("model")) and one.get("model") == other.get("model")
