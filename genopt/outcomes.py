"""Owns what a finished trial was worth, and telling it: to the records, to the sampler, to whoever listens."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from genopt import guards
from genopt.events import TrialDone
from genopt.finals import standing
from genopt.pareto import estimated
from genopt.recall import Known
from genopt.session import Session
from genopt.stats import mean_se
from genopt.study import Asked
from genopt.trial import MAX_MISSING, Evaluation
from genopt.types import Params
from genopt.words import finite


def known_of(session: Session, number: int | None, evaluation: Evaluation, estimate: float) -> Known:
    """What an evaluation is worth; `estimate` is that of `adjusted`.

    Of a trial that was stopped early, the sampler is told what it would have reached on all examples. Where more than
    MAX_MISSING could not be scored, it is the mean with what is missing at its worst.
    """
    goal = session.plan.goal
    values = evaluation.utility()
    n = int(np.count_nonzero(~np.isnan(values)))
    mean, se = mean_se(values)
    means = evaluation.means()
    violations = goal.violations(means)
    eligible = (
        all(violation <= 0 for violation in violations.values()) and evaluation.missing() <= MAX_MISSING and n > 0
    )
    stopped = len(evaluation.cells) < len(session.plan.tune)
    worth = estimate if stopped else mean
    if stopped and goal.several:
        means |= estimated(session, evaluation)
    if evaluation.missing() > MAX_MISSING:
        worst = guards.at_worst(evaluation, goal)
        worth, means = mean_se(worst.utility())[0], worst.means()
    return Known(number, goal.values(worth, means), mean, se, n, stopped, eligible, violations)


async def tell(session: Session, asked: Asked, key: str, evaluation: Evaluation) -> None:
    """Finish a trial: remember it, tell the sampler, tell the listeners."""
    found = adjusted(session, evaluation)
    known = known_of(session, asked.number, evaluation, found[0])
    before = session.best()
    outcome = outcome_of(session, known, evaluation, found)
    if said := await unwritten(session, evaluation, "its", but=MAX_MISSING):
        outcome["why"] = "; ".join(filter(None, [said, outcome.get("why")]))
    values = known.values if all(math.isfinite(value) for value in known.values) else None
    await session.db(session.study.tell, asked, values, outcome=outcome, violations=known.violations)
    session.known[key] = known
    after = session.best()
    leads = after is not None and after[0] == key and (before is None or before[0] != after[0])
    kind = "stopped early" if known.stopped_early else "complete"
    announce(session, asked.number, asked.params, known, kind, best=leads, why=outcome.get("why", ""))


async def unwritten(session: Session, evaluation: Evaluation, whose: str, *, but: float = 0.0) -> str:
    """How many texts the engine could not write, and why not; "" where they are no more than a fraction of `but`."""
    if (failed := guards.unwritten(evaluation)) <= but:
        return ""
    rows = (await session.memory(evaluation.config, "tune")).values()
    why = next((row.generation.why for row in rows if row.generation.finish == "error" and row.generation.why), "")
    return f"{failed:.0%} of {whose} texts could not be written, and count as the worst" + (f": {why}" if why else "")


def adjusted(session: Session, evaluation: Evaluation) -> tuple[float, float]:
    """The utility of a configuration as if it had seen the whole tune split, and its standard error.

    Both by the model of all configurations and examples in `genopt.field`: the estimate is not shrunken, and the error
    is what is the configuration's own in it: that of a comparison with the other configurations on the same examples,
    in which the examples' difficulty has no part. It is above 0; (NaN, NaN) where nothing was scored, and where nobody
    goes by it: the model looks at every trial so far.
    """
    asked_for = session.plan.spec.search.pruner != "none" or session.plan.sampler.name == "hgp"
    if not asked_for or np.isnan(evaluation.series()).all():
        return math.nan, math.nan
    field = standing(session, evaluation)[1]
    return float(field.raw[-1]), float(field.se[-1])


def outcome_of(session: Session, known: Known, evaluation: Evaluation, found: tuple[float, float]) -> dict[str, Any]:
    """What is kept with a finished trial; its estimate, `found` by `adjusted`, on the scale of the sampler."""
    estimate, se = found if evaluation.missing() <= MAX_MISSING else (math.nan, math.nan)
    return kept(known, evaluation, session.plan.goal.sign * estimate, se)


def kept(known: Known, evaluation: Evaluation, estimate: float, estimate_se: float) -> dict[str, Any]:
    """What is kept with a trial of this estimate. JSON knows no NaN, so an unknown number is null.

    `mean` and `se` are those of the scores alone, `estimate` and `estimate_se` what the sampler goes by.
    """
    missing = evaluation.missing()
    outcome: dict[str, Any] = {
        "n": known.n,
        "mean": known.mean,
        "se": known.se,
        "estimate": estimate,
        "estimate_se": estimate_se,
        "stopped_early": known.stopped_early,
        "eligible": known.eligible,
        "violations": dict(known.violations),
        "metrics": {name: round(value, 6) for name, value in evaluation.means().items() if math.isfinite(value)},
    }
    if missing > MAX_MISSING:
        unscored = f"{missing:.0%} of its observations could not be scored"
        outcome["why"] = f"{unscored}: its mean leaves them out, its value takes them as the worst"
    elif not known.eligible:
        outcome["why"] = "misses " + ", ".join(name for name, violation in known.violations.items() if violation > 0)
    return finite(outcome)


async def tell_duplicate(session: Session, asked: Asked, known: Known) -> None:
    outcome = {"duplicate_of": known.number, "n": known.n, "mean": known.mean, "se": known.se}
    outcome |= {"stopped_early": known.stopped_early, "eligible": known.eligible}
    await session.db(session.study.tell, asked, known.values, outcome=finite(outcome), violations=known.violations)
    announce(session, asked.number, asked.params, known, "duplicate")


def announce(
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
