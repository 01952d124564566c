"""Owns what is asked about a verdict besides its own comparison: the judge's choice between the two texts of every
held-out example, and a second judge's opinion of them. Neither changes the verdict; both are told with it.

Every answer is stored as a judgment, so that a study that is gone on with asks nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from genopt.agreement import kendall
from genopt.confirm import Verdict
from genopt.errors import GenoptError
from genopt.finals import Candidate
from genopt.heldout import Pick, stored
from genopt.schedule import gather
from genopt.scorers import make_scorer
from genopt.scorers.judge import Judge
from genopt.scorers.pair import Preference, prefer
from genopt.session import Session
from genopt.spec.confirm import second_judge
from genopt.stats import UNBOUNDED, PairedResult, interval, paired
from genopt.tables import Row
from genopt.trial import Configuration
from genopt.types import Example, Generation

Pair = tuple[Example, Row, Row]  # an example and what winner and baseline wrote for one of its samples


async def with_opinions(
    session: Session, verdict: Verdict, baseline: Configuration, winner: Candidate | None
) -> Verdict:
    """The verdict with what the study's [confirm] and [audit] ask for, as numbers in `opinions` and in words in `note`.

    A judge that fails for good costs its opinion and no more: the note says why.
    """
    spec = session.plan.spec
    if winner is None or (spec.confirm.pairwise is None and spec.audit is None):
        return verdict
    pairs = await _pairs(session, baseline, stored(session, winner.evaluation.config, verdict.folds))
    opinions: dict[str, Any] = {}
    notes = [verdict.note]
    for name, wanted, ask, tell in (
        ("pairwise", spec.confirm.pairwise is not None, _compared, _compared_text),
        ("audit", spec.audit is not None, _audited, _audited_text),
    ):
        if wanted:
            try:
                opinions[name] = await ask(session, pairs, verdict)
                notes.append(tell(opinions[name]))
            except GenoptError as error:
                notes.append(f"{name}: not asked, since {error}")
    await session.flush()
    return replace(verdict, opinions=opinions, note="; ".join(filter(None, notes)))


async def _pairs(session: Session, baseline: Configuration, tried: Sequence[Pick]) -> list[Pair]:
    """What both wrote on the holdout, sample by sample; a deterministic one wrote the same every time."""
    spec = session.plan.spec.search
    found: list[Pair] = []
    for pick in tried:
        configs = (pick.config, baseline)
        rows = [await session.memory(config, "confirm") for config in configs]
        count = 1 if all(config.deterministic for config in configs) else spec.repeats * spec.confirm_repeats
        for example in pick.examples:
            for sample in range(count):
                samples = (0 if config.deterministic else sample for config in configs)
                one, other = (memory.get((example.id, number)) for memory, number in zip(rows, samples, strict=True))
                if one is not None and other is not None:
                    found.append((example, one, other))
    return found


async def _compared(session: Session, pairs: Sequence[Pair], verdict: Verdict) -> dict[str, Any]:
    """The winner's win rate: the mean over examples of the points it earned, 1/2 where nobody won."""
    name = str(session.plan.spec.confirm.pairwise)
    judge = session.plan.scorers[name]
    assert isinstance(judge, Judge)
    session.note(f"{name} compares the two texts of {len(pairs)} held-out examples, in both orders")
    asked: list[Preference] = await gather(
        [prefer(judge, example, one.generation, other.generation) for example, one, other in pairs]
    )
    points = _by_example(session, pairs, [preference.points for preference in asked])
    known = [preference for preference in asked if preference.points is not None]
    result = paired(
        points, np.full(len(points), 0.5), groups=_groups(session), level=1 - verdict.level, seed=session.plan.spec.seed
    )
    return {
        "judge": name,
        "examples": result.n,
        "win_rate": 0.5 + result.difference if result.n else None,
        "interval": rate_interval(0.5 + result.difference, result),
        "level": verdict.level,
        "p_value": result.p_value,
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "inconsistent": sum(each.swayed for each in known) / len(known) if known else None,
        "missing": len(asked) - len(known),
    }


async def _audited(session: Session, pairs: Sequence[Pair], verdict: Verdict) -> dict[str, Any]:
    """The second judge's scores of the same texts, against the first's."""
    plan = session.plan
    assert plan.spec.audit is not None
    name, table = second_judge(plan.spec.audit, plan.spec.scorers)
    judge = make_scorer("audit", table, plan.spec.folder, seed=plan.spec.seed)
    assert isinstance(judge, Judge)
    judge.tell = session.note
    try:
        await judge.attach(plan.backend, plan.info, plan.slots)
        judge.remember(await session.db(session.store.judgments, judge.digest), session.writer.add)
        session.note(f"a second judge grades the texts of {len(pairs)} held-out examples")

        async def grade(example: Example, generation: Generation) -> float | None:
            return (await judge.score(example, [generation]))[0].value

        graded = await gather([grade(example, row.generation) for example, *rows in pairs for row in rows])
        model = judge.identity.get("model", "")
    finally:
        await judge.aclose()
    key = plan.scorer_keys[name]
    first = [row.scores[key].value if key in row.scores else None for _, *rows in pairs for row in rows]
    both = [(a, b) for a, b in zip(first, graded, strict=True) if a is not None and b is not None]
    tau = kendall([a for a, _ in both], [b for _, b in both])
    result = paired(
        _by_example(session, pairs, graded[::2]),
        _by_example(session, pairs, graded[1::2]),
        groups=_groups(session),
        level=1 - verdict.level,
        seed=plan.spec.seed,
    )
    before = paired(_by_example(session, pairs, first[::2]), _by_example(session, pairs, first[1::2]))
    return {
        "judge": name,
        "model": model,
        "examples": result.n,
        "texts": len(both),
        "kendall": None if math.isnan(tau) else tau,
        "difference": result.difference,
        "interval": [result.low, result.high] if result.se < UNBOUNDED else None,
        "level": verdict.level,
        "p_value": result.p_value,
        "same_sign": bool(np.sign(result.difference) == np.sign(before.difference)),
        "missing": sum(value is None for value in graded),
    }


def _groups(session: Session) -> list[str | None]:
    return [example.group for example in session.plan.holdout]


def _by_example(session: Session, pairs: Sequence[Pair], values: Sequence[float | None]) -> list[float]:
    """The mean over each held-out example's samples; NaN where one of them is missing."""
    found: dict[str, list[float]] = {}
    for (example, _, _), value in zip(pairs, values, strict=True):
        found.setdefault(example.id, []).append(math.nan if value is None else value)
    return [float(np.mean(found.get(example.id, [math.nan]))) for example in session.plan.holdout]


def rate_interval(rate: float, result: PairedResult) -> list[float] | None:
    """The interval of a rate in [0, 1] whose clustered error and level `result` has; None where the data cannot tell.

    Wilson's (1927) with the effective sample size that the error stands for, rate (1 - rate) / se^2, at most the number
    of examples, and Student's t (Korn and Graubard 1998; Franco et al. 2019, doi 10.1093/jssam/smy019): unlike rate +-
    t se it has a width where every example was won, and stays within [0, 1].
    """
    if result.clusters < 2:
        return None
    t = interval(0.0, 1.0, result.clusters, result.level)[1]
    spread = rate * (1 - rate)
    n = min(result.n, spread / result.se**2) if spread > 0 and result.se > 0 else result.clusters
    middle = (rate + t**2 / (2 * n)) / (1 + t**2 / n)
    half = t / (1 + t**2 / n) * math.sqrt(spread / n + t**2 / (4 * n**2))
    return [max(0.0, middle - half), min(1.0, middle + half)]


def _compared_text(found: Mapping[str, Any]) -> str:
    if found["win_rate"] is None:
        return f"asked which text is better, {found['judge']} could not be understood"
    return (
        f"asked which text is better, {found['judge']} prefers the winner's in {found['win_rate']:.1%} of"
        f" {found['examples']} examples{_range(found, '.1%')} (both orders, a tie is half; the order alone decided"
        f" {found['inconsistent']:.0%})"
    )


def _audited_text(found: Mapping[str, Any]) -> str:
    tau = "cannot be told" if found["kendall"] is None else f"is {found['kendall']:.2f}"
    agrees = "sees the difference, too" if found["same_sign"] else "does not see the difference"
    return (
        f"a second judge ({found['model']}) {agrees}: {found['difference']:+.4f}{_range(found, '+.4f')}; Kendall's tau"
        f" with {found['judge']} over {found['texts']} texts {tau}"
    )


def _range(found: Mapping[str, Any], shape: str) -> str:
    if found["interval"] is None:
        return ""
    low, high = (format(limit, shape) for limit in found["interval"])
    return f", {100 * (1 - found['level']):.4g} % interval [{low}, {high}]"
