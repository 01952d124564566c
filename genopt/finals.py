"""Owns who is put forward: the best configurations are measured further until one of them is chosen.

What is decided is decided by `genopt.race`, on the scores of every configuration so far, those that were stopped early
among them: nothing that looks good again is lost.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from genopt import race
from genopt.conclusions import shown_to_miss
from genopt.errors import ScorerError
from genopt.field import Field, fit
from genopt.purse import Purse
from genopt.schedule import gather
from genopt.session import Session
from genopt.stats import mean_se, minimum_detectable_effect
from genopt.trial import MAX_MISSING, Configuration, Evaluation

T = TypeVar("T")


@dataclass(frozen=True)
class Candidate:
    """A configuration with its gain over the baseline on the tune split (utility), adjusted for the examples it saw and
    pulled back by how uncertain it is; its worth where there is no baseline to beat."""

    key: str
    evaluation: Evaluation
    shrunken: float


def arms_of(session: Session, *more: Evaluation) -> list[Evaluation]:
    """Every measured configuration that could win, `more` of them in flight at the end. A trial that cannot be scored
    cannot win, and no more can a finalist."""
    flying, base = {evaluation.config.key for evaluation in more} | session.unscored, session.plan.baseline().key
    found = {**session.parked, **session.evaluations}
    arms = [found[key] for key in sorted(found) if key not in flying and (key == base or sound(found[key]))]
    return [*arms, *more]


def standing(session: Session, *more: Evaluation) -> tuple[list[Evaluation], Field]:
    """The same, and what they are worth."""
    arms = arms_of(session, *more)
    return arms, worth_of(session, arms)


def rivals(session: Session, *more: Evaluation) -> list[Evaluation]:
    """Those that a trial may lose to, and `more` of them in flight at the end: what is shown to miss a constraint is
    not put forward, so that to be worse is no reason to be set aside, and how far such ones lie apart says nothing of
    those that may win."""
    arms, goal = arms_of(session, *more), session.plan.goal
    known = len(arms) - len(more) if goal.constraints else 0
    return [arm for arm in arms[:known] if not shown_to_miss(arm, goal)] + arms[known:]


def worth_of(session: Session, arms: Sequence[Evaluation]) -> Field:
    """What configurations are worth, by themselves alone."""
    return fit([evaluation.series() for evaluation in arms], len(session.plan.tune))


def sound(evaluation: Evaluation) -> bool:
    """Whether enough of it could be scored to be put forward."""
    return bool(evaluation.cells) and evaluation.missing() <= MAX_MISSING


def enough(session: Session) -> str:
    """Why `search.stop_when` ends the search now, in words; "" while going on is worth it.

    It ends when what going on can bring at most is expected to be less than what was said to be worth it (see
    `race.prospect`; how many configurations are to come is told by the budget of trials, else it is as many as were
    tried), or when with this many held-out examples even the best gain that is still likely would not be shown. Only
    those that meet all constraints count; where the baseline does not, no gain over it has to be shown.
    """
    rule, plan = session.plan.spec.search.stop_when, session.plan
    if rule is None or plan.goal.several or len(session.seen) < race.FEW:
        return ""
    arms = arms_of(session)
    base = next(i for i, arm in enumerate(arms) if arm.config.key == plan.baseline().key)
    met, able = feasible(session, arms[base]), admitted(session, arms, base)
    if not met and able == [base]:
        return ""  # nothing meets the constraints so far
    if len(session.seen) - (len(arms) - len({base, *able})) < race.FEW:
        return ""  # how far those to come may lie apart is told by those that meet them
    field, base = worth_of(session, [arms[i] for i in able]), able.index(base) if met else 0
    left = len(session.seen) if plan.trials is None else max(0, plan.trials - len(session.seen))
    found = race.prospect(field, base, left, np.random.default_rng(plan.spec.seed))
    if found.gain < rule.gain_below:
        return f"going on is expected to bring {found.gain:.4f}, less than gain_below = {rule.gain_below:g}"
    if not met:  # what is looked for is not a gain over the baseline
        return ""
    sd = field.noise * math.sqrt(2)  # of a difference of two configurations on one example
    least = minimum_detectable_effect(sd, len({e.group or ("alone", e.id) for e in plan.holdout}))
    if found.reach < least:
        return (
            f"a gain is likely to stay below {found.reach:.4f}, and {len(plan.holdout)} held-out examples are not "
            f"likely to show one below {least:.4f}"
        )
    return ""


async def choose_winner(session: Session, baseline: Evaluation) -> Candidate | None:
    """The configuration to put forward, or None when nothing looks better than the baseline. Where that misses a
    constraint, it is the best of those that meet them all, better than the baseline or not.

    The best are measured on, on examples that they have not seen and then with fresh seeds, until what the budget or
    `search.replicates` allow is spent or one alone is left.
    """
    spec, plan = session.plan.spec.search, session.plan
    key = baseline.config.key
    rng = np.random.default_rng(plan.spec.seed)
    below = 0.0 if spec.stop_when is None else spec.stop_when.gain_below
    further = Further(session, await Purse.open(session), baseline)
    while True:
        arms = arms_of(session)
        base = next(i for i, arm in enumerate(arms) if arm.config.key == key)
        able = admitted(session, arms, base)
        most = [further.most(arms[i]) for i in able]
        field = worth_of(session, [arms[i] for i in able])
        promoted = race.promote(field, [len(arms[i].cells) for i in able], most, rng, arms=spec.finalists)
        chosen = [able[place] for place in promoted]
        today = able.index(base) if base in able else None
        if not chosen or (below and race.prospect(field, today or 0, 0, rng).gain < below):
            break
        if not await further.measure([arms[i] for i in chosen]):
            break
    await remember(session, arms)
    least, sure = 0.0 if today is not None else -math.inf, reliable(session, arms, able)
    gains = [
        Candidate(
            arms[i].config.key, arms[i], float(field.worth[place] - (0.0 if today is None else field.worth[today]))
        )
        for place, i in enumerate(able)
        if i in sure and i != base
    ]
    best = max(gains, key=lambda candidate: (candidate.shrunken, len(candidate.evaluation.cells)), default=None)
    return best if best is not None and best.shrunken > least else None


class Further:
    """Measures configurations further, a part of the tune split at a time, while the purse has room."""

    def __init__(self, session: Session, purse: Purse, baseline: Evaluation) -> None:
        self._session, self._purse, self._baseline, self._entered = session, purse, baseline, False
        self._lost = 0  # observations of finalists that could not be scored: paid for, and nobody has them

    def most(self, arm: Evaluation) -> int:
        """How many observations of a configuration there may be: what is certain says nothing new when asked again."""
        n = len(self._session.plan.tune)
        return n if arm.config.deterministic else self._session.plan.rounds * n

    async def measure(self, arms: Sequence[Evaluation]) -> bool:
        """The next part of each, on examples that it has not seen and then with fresh seeds; False where there is no
        room for any."""
        session, room = self._session, self._purse.room([self._baseline, *arms]) - self._lost
        if room < 1:
            return False
        if not self._entered:
            planned = session.plan.bill().finalists
            session.enter("finalists", f"the best {len(arms)} further, then with fresh seeds", planned)
            self._entered = True
        upto: dict[str, int] = {}
        least = self._purse.part(room, len(arms))
        for arm in arms:
            have = len(arm.cells)
            more = min(max(race.step(have, len(session.plan.tune)), least), self.most(arm) - have, room)
            if more > 0:
                upto[arm.config.key] = have + more
                room -= more
        await by_model([arm.config for arm in arms if arm.config.key in upto], partial(self._one, upto))
        await session.flush()
        return True

    async def _one(self, upto: Mapping[str, int], config: Configuration) -> None:
        session, plan = self._session, self._session.plan
        window = max(1, 2 * plan.concurrency // (plan.spec.search.repeats * len(upto)))
        try:
            await session.measure(config, replicates=plan.rounds, upto=upto[config.key], window=window)
        except ScorerError as error:
            if config.key == self._baseline.config.key:
                raise
            before = session.evaluations.get(config.key) or session.parked[config.key]
            self._lost += upto[config.key] - len(before.cells)
            session.unscored.add(config.key)
            session.note(f"a finalist is left out: {error}", warning=True)


async def remember(session: Session, arms: Sequence[Evaluation]) -> None:
    """Keep what those are worth that were stopped early and have seen the whole tune split since: a finished trial
    cannot be changed."""
    taken_up: dict[str, dict[str, Any]] = {}
    for arm in arms:
        known = session.known.get(arm.config.key)
        if known is None or not known.stopped_early or len(arm.cells) < len(session.plan.tune):
            continue
        values = arm.utility()
        mean, se = mean_se(values)
        n = int(np.count_nonzero(~np.isnan(values)))
        known = replace(known, n=n, mean=mean, se=se, eligible=feasible(session, arm), stopped_early=False)
        session.known[arm.config.key] = known
        taken_up[arm.config.key] = {
            name: getattr(known, name) for name in ("n", "mean", "se", "eligible", "stopped_early")
        }
    if taken_up:
        await session.db(session.study.set_attribute, "taken_up", taken_up)


async def by_model(configs: Sequence[Configuration], measure: Callable[[Configuration], Awaitable[T]]) -> list[T]:
    """What was found of each, in order. Those of one model run side by side, one model after the other: an engine that
    holds one at a time would otherwise do little but change models."""
    found: dict[str, T] = {}
    for model in dict.fromkeys(config.request.get("model") for config in configs):
        together = [config for config in configs if config.request.get("model") == model]
        measured = await gather([measure(config) for config in together])
        found |= {config.key: evaluation for config, evaluation in zip(together, measured, strict=True)}
    return [found[config.key] for config in configs]


def admitted(session: Session, arms: Sequence[Evaluation], base: int) -> list[int]:
    """Those that may be put forward: what could be scored and meets every constraint, and the baseline. One that misses
    a constraint has to be beaten by nothing, and is left only where nothing meets them all."""
    able = [i for i, arm in enumerate(arms) if feasible(session, arm) and (i == base or sound(arm))]
    return able or [base]


def reliable(session: Session, arms: Sequence[Evaluation], among: Sequence[int]) -> list[int]:
    """Those that meet every constraint as surely as is asked for; all where none does."""
    goal = session.plan.goal
    return [i for i in among if not goal.doubtful(arms[i].chances(goal))] or list(among)


def feasible(session: Session, evaluation: Evaluation) -> bool:
    """Whether its means meet every constraint."""
    if not session.plan.goal.constraints:
        return True
    return all(v <= 0 for v in session.plan.goal.violations(evaluation.means()).values())
