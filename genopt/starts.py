"""Owns the starting points of a search, asked before a sampler proposes: presets and tables of the study file, and what
is known from before (see warm)."""

from __future__ import annotations

from collections.abc import Mapping

from genopt.plan import Plan
from genopt.presets import PRESETS, fit
from genopt.session import Session
from genopt.spec.dimensions import Value
from genopt.types import Params, ParamValue
from genopt.warm import warm_starts


async def enqueue_starts(session: Session) -> None:
    """Queue the configurations of `search.start` that were not queued before, each fitted into the space.

    Those that are known already, the baseline among them, are not asked again.
    """
    plan, study = session.plan, session.study
    wanted = [(_name(start), _params(start)) for start in plan.spec.search.start]
    warm = await warm_starts(session)
    wanted += warm
    before = list(await session.db(study.attribute, "starts") or [])
    fresh = {name: params for name, params in wanted if name not in before}
    if not fresh:
        return
    taken = {plan.baseline().key, *session.seen}
    told: list[str] = []
    for name, params in fresh.items():
        fitted = fit(plan.space, params, plan.today, lambda sampled: plan.configure(sampled).params)
        if fitted is None and (name, params) in warm:
            continue
        if fitted is None:
            session.note(f"search.start: nothing of {name} is searched; it is left out", warning=True)
            continue
        exact = plan.space.locate(params) if (name, params) in warm else None  # to the last digit
        answers = fitted.answers if exact is None else exact
        key = _key(plan, answers)
        if key not in taken:
            taken.add(key)
            told.append(name + (f" (with {', '.join(fitted.changes)})" if fitted.changes else ""))
            await session.db(study.enqueue, answers)
    await session.db(study.set_attribute, "starts", [*before, *fresh])
    if told:
        session.note(f"starting with {'; '.join(told)}")


def _key(plan: Plan, answers: Mapping[str, ParamValue]) -> str:
    return plan.configure(plan.space.sample(lambda path, _: answers[path])).key


def _params(start: str | Mapping[str, Value]) -> Params:
    """The parameters of a preset's name or of a table."""
    if isinstance(start, str):
        return PRESETS[start].params
    return {name: tuple(value) if isinstance(value, list) else value for name, value in start.items()}


def _name(start: str | Mapping[str, Value]) -> str:
    return start if isinstance(start, str) else ", ".join(f"{name} = {value!r}" for name, value in start.items())
