"""Owns how far the budgets reach: whether something may still be begun, and what the choice among the best may take.

How a budget is split between the search and the choice is `race.Split`, the same as in simulated studies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from genopt.race import Split, step
from genopt.session import Session
from genopt.trial import Evaluation

ENTERED = "finals"  # study attribute: what was spent when the search had ended


def over(session: Session, ahead: int) -> str:
    """Why the search may not take `ahead` generations more, in words, or ""."""
    plan = session.plan
    bill = plan.bill()
    for calls, words in _reaches(session):
        split = Split.of(calls, bill.confirm, finals=plan.finals)
        if session.meter.generations + ahead > split.search + 1e-9:
            left = max(0, int(calls) - session.meter.generations)
            if left >= bill.confirm:
                return f"the budget of {words} is spent, but for the verdict"
            return f"the budget of {words} is spent: of the verdict's {bill.confirm:,} generations it pays for {left:,}"
    return ""


def _reaches(session: Session) -> Iterator[tuple[float, str]]:
    """What each budget allows in generations, the study's first to its last, as far as one costs what it has cost."""
    budget, meter = session.plan.spec.budget, session.meter
    if budget.generations is not None:
        yield budget.generations, f"{budget.generations:,} generations"
    if budget.tokens is not None and meter.tokens:
        yield budget.tokens * meter.generations / meter.tokens, f"{budget.tokens:,} tokens"
    if budget.hours is not None and meter.generations:
        yield budget.hours * 3600 * meter.generations / session.elapsed(), f"{budget.hours:g} hours"


@dataclass(frozen=True, slots=True)
class Spent:
    """What a study has spent, and of that on the observations that configurations may be chosen by."""

    generations: int
    tokens: int
    seconds: float
    observed: int
    observed_tokens: int


class Purse:
    """What is left for the choice. It goes by what the observations that are looked at took, whoever made them and
    when, so that every worker, and a study that is taken up again, decide alike. What is harvested takes nothing."""

    def __init__(self, session: Session, entered: Spent, slots: int) -> None:
        self._session, self._entered, self._slots = session, entered, slots

    @classmethod
    async def open(cls, session: Session) -> Purse:
        """The purse as the search left it, whoever was the first to look into it."""
        meter, budget = session.meter, session.plan.spec.budget.model_dump()
        async with session.crew.turn(ENTERED):
            stored: Any = await session.db(session.study.attribute, ENTERED)
            alike = stored is not None and stored["spent"].keys() == {each.name for each in fields(Spent)}
            if alike and stored["budget"] == budget:
                return cls(session, Spent(**stored["spent"]), stored.get("slots", 1))
            entered = Spent(meter.generations, meter.tokens, session.elapsed(), *_looked_at(session))
            kept = {"budget": budget, "spent": asdict(entered), "slots": session.plan.concurrency}
            await session.db(session.study.set_attribute, ENTERED, kept)
        return cls(session, entered, session.plan.concurrency)

    def part(self, room: int, arms: int) -> int:
        """At least so many observations each of `arms` gets in one round where the usual steps would leave slots of the
        engine empty: as many as fill it twice over, as far as the `room` goes, since every round waits for its longest
        text. By the engine of the worker that opened the purse, so that all go in the same rounds."""
        plan = self._session.plan
        slots = self._slots // plan.samples
        if plan.spec.search.stop_when is not None or arms * step(0, len(plan.tune)) >= slots:
            return 1
        return min(2 * slots, room) // arms

    def room(self, may_win: Sequence[Evaluation]) -> int:
        """How many more observations the choice may take, when `may_win` are those to measure: the verdict is kept
        back, at the price of the dearest of them."""
        plan, entered, budget = self._session.plan, self._entered, self._session.plan.spec.budget
        observed, observed_tokens = _looked_at(self._session)
        since, bill = observed - entered.observed, plan.bill()
        rooms: list[float] = []
        if plan.finals is not None:
            rooms.append((plan.finals - since) / plan.samples)
        calls = math.inf if budget.generations is None else float(budget.generations)
        if budget.hours is not None and entered.seconds > 0:
            calls = min(calls, budget.hours * 3600 * entered.generations / entered.seconds)
        if calls < math.inf:
            rooms.append((calls - bill.confirm - entered.generations - since) / plan.samples)
        if budget.tokens is not None:
            each = max((_tokens(arm) / len(arm.cells) for arm in may_win if arm.cells), default=0.0) or 1.0
            left = budget.tokens - entered.tokens - (observed_tokens - entered.observed_tokens)
            rooms.append((left / each - bill.confirm / plan.answers.most) / plan.spec.search.repeats)
        return max(0, int(min(rooms)))


def _looked_at(session: Session) -> tuple[int, int]:
    """For how many texts the engine was asked for all observations so far, and how many tokens those took."""
    arms = {**session.parked, **session.evaluations}.values()
    cells = [cell for arm in arms for cell in arm.cells.values()]
    return sum(cell.asked for cell in cells), sum(cell.tokens for cell in cells)


def _tokens(arm: Evaluation) -> float:
    """Tokens of all its observations, harvested or not, of the mean answer of each; one that was never written counts
    nothing. An answer tells what all its samples wrote, and each of them reads the prompt."""
    metrics = [cell.metrics for cell in arm.cells.values()]
    found = [each.get("prompt_tokens", 0.0) * arm.config.n + each.get("completion_tokens", 0.0) for each in metrics]
    return sum(tokens for tokens in found if not math.isnan(tokens))
