"""Owns the claim: which one configuration is put forward, and whether the holdout shows that it beats the baseline.

The winner is chosen on the tune split by a shrunken estimate of its paired gain over the baseline, after the best few
were measured again with fresh seeds; never by the raw maximum, which is mostly luck. Then that one winner and the
baseline answer the holdout, which the search never saw, with fresh seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from genopt import guards
from genopt.conclusions import Conclusion, bounds, concluded, misses, rounded
from genopt.finals import Candidate, arms_of, feasible
from genopt.heldout import Pick, answers, picks
from genopt.samples import sample_split
from genopt.session import Session
from genopt.stats import PairedResult, look_level, paired
from genopt.trial import Configuration, Evaluation, mean_of
from genopt.types import Params
from genopt.unanswered import unanswered, without

SCHEMA = 1


@dataclass(frozen=True)
class Verdict:
    """The outcome of a study; its fields are those of `optimize --json`.

    `verdict`: "improved" or "worse" when the holdout shows a difference at the look's level, "not shown" when it does
    not (keep the baseline), None when nothing was confirmed. "admissible" where it shows no improvement, but that the
    baseline misses a constraint, and that the winner meets all as surely as is asked for: the winner's settings are to
    be used, and the numbers say what that costs. `difference` is winner minus baseline on the holdout, in
    units of the objective, > 0 is better; `interval` holds it with confidence 1 - `level`. `harvested` texts of
    `saved_tokens` were had from others that were generated: the other numbers are without them. `split` is the part of
    the difference that comes from the settings, and the one from more samples an answer, where the winner takes more.
    `constraints` says of each how sure it is that winner and baseline meet it on the holdout. `front` and `knee` are of
    a study with several objectives (see pareto.Front): there the winner is the knee, the numbers of the claim are
    those of the first objective, and the p-value is corrected for all that is compared.
    With `folds` (cross-fitting) the numbers are not those of `params` but of the choosing: in each fold (`key`,
    `params`, `examples`) what the examples before it chose answered its examples.
    """

    schema: int
    verdict: Conclusion | None
    params: Mapping[str, Any]
    baseline_params: Mapping[str, Any]
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    winner_score: float | None
    baseline_score: float | None
    holdout_examples: int
    trials: int
    search_generations: int
    confirm_generations: int
    tokens: int
    level: float = 0.05
    look: int = 1
    wins: int = 0
    ties: int = 0
    losses: int = 0
    objective: str = ""
    trial: int | None = None
    searched: tuple[str, ...] = ()
    note: str = ""
    metrics: Mapping[str, Any] | None = None
    opinions: Mapping[str, Any] | None = None
    harvested: int = 0
    saved_tokens: int = 0
    split: Mapping[str, Any] | None = None
    constraints: Mapping[str, Any] | None = None
    front: tuple[Mapping[str, Any], ...] = ()
    knee: Mapping[str, Any] | None = None
    folds: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Verdict:
        """The verdict that `to_json` described; keys that are no fields are left out."""
        names = {field.name for field in fields(cls)}
        kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items() if k in names}
        return cls(**kept)


async def confirm(session: Session, baseline: Evaluation, winner: Candidate | None) -> Verdict:
    """The verdict: winner and baseline on the holdout with fresh seeds, compared example by example. A winner that is
    refused everything there is among the session's `unscored` after that: another is to be put forward."""
    plan, meter = session.plan, session.meter
    if winner is None:
        meter.harvested, meter.saved_tokens = await session.db(session.store.harvested, session.study.id)
        return verdict_of(
            session,
            baseline.config,
            None,
            None,
            note=nobody(
                session,
                baseline,
                "no configuration looked better than the baseline while searching"
                + (", but for what was left out" if session.unscored else ""),
            ),
        )
    repeats = plan.spec.search.confirm_repeats
    tried = picks(session, winner.evaluation.config)
    look = await looked(session, winner.key, [pick.config.key for pick in tried] if plan.folds else None)
    today = [Pick(baseline.config, plan.holdout)]
    session.enter(
        "confirm",
        (
            f"what each of {len(tried)} folds would choose by the examples before it, and the baseline, on"
            f" {len(plan.holdout)} examples"
            if plan.folds
            else f"winner and baseline on {len(plan.holdout)} examples the search never saw"
        )
        + (f" (look {look} at them: held to {look_level(look):.3g})" if look > 1 else ""),
        sum(pick.generations(plan.spec.search.repeats) for pick in (*today, *tried)) * repeats,
    )
    before, after = await answers(session, today, tried)
    result = compared(session, before, after, look)
    split = await sample_split(session, before, after, tried, level=1 - look_level(look))
    meter.harvested, meter.saved_tokens = await session.db(session.store.harvested, session.study.id)
    folds = [
        {"key": pick.config.key, "params": shown(pick.config.params), "examples": [e.id for e in pick.examples]}
        for pick in tried
    ]
    lacking = await unanswered(session, (today, before), (tried, after))
    if lacking.nothing and not plan.folds:
        session.unscored.add(winner.key)
        session.note(f"the winner is left out, since it is {next(iter(lacking.winner.values()))}", warning=True)

    def drawn(names: set[str]) -> tuple[Conclusion, str]:
        sides = without(before, names), without(after, names)
        return concluded(compared(session, *sides, look), *sides, plan.goal, look_level(look))

    conclusion = lacking.judged(concluded(result, before, after, plan.goal, look_level(look)), drawn)
    found = verdict_of(session, baseline.config, winner, (result, before, after), look=look, conclusion=conclusion)
    return replace(found, split=split, folds=tuple(folds) if plan.folds else ())


def nobody(session: Session, baseline: Evaluation, otherwise: str) -> str:
    """Why there is no winner, in words: nothing met the constraints, or `otherwise`."""
    constraints = session.plan.goal.constraints
    others = [arm for arm in arms_of(session) if arm.config.key != baseline.config.key]
    if constraints and others and not any(feasible(session, arm) for arm in others):
        tried = "no configuration but the baseline" if feasible(session, baseline) else "no configuration"
        return f"{tried} met {' and '.join(map(str, constraints))}"
    return otherwise


def compared(session: Session, before: Evaluation, after: Evaluation, look: int) -> PairedResult:
    """Winner and baseline on the holdout, held to the level of this look."""
    plan = session.plan
    return paired(
        after.utility(),
        before.utility(),
        groups=[example.group for example in plan.holdout],
        level=1 - look_level(look),
        seed=plan.spec.seed,
    )


async def looked(session: Session, who: str | list[str], tried: list[str] | None = None) -> int:
    """Which look at the holdout this is; looking once more at the same is none. `tried`: what answers it for `who`."""
    signature: dict[str, Any] = {"key": who, "repeats": session.plan.spec.search.confirm_repeats}
    if tried is not None:
        signature["tried"] = tried
    async with session.crew.turn("looks"):
        looks: list[dict[str, Any]] = list(await session.db(session.study.attribute, "looks") or [])
        if signature not in looks:
            looks.append(signature)
            await session.db(session.study.set_attribute, "looks", looks)
    return looks.index(signature) + 1


def verdict_of(
    session: Session,
    baseline: Configuration,
    winner: Candidate | None,
    held_out: tuple[PairedResult, Evaluation, Evaluation] | None,
    *,
    look: int = 1,
    note: str = "",
    conclusion: tuple[Conclusion, str] = ("not shown", ""),
) -> Verdict:
    """The verdict of what was measured on the holdout, where that was: what it comes to is the `conclusion`."""
    plan, meter = session.plan, session.meter
    level = look_level(look)
    common: dict[str, Any] = {
        "schema": SCHEMA,
        "baseline_params": shown(baseline.params),
        "trials": len(session.seen),
        "search_generations": meter.search_generations,
        "confirm_generations": meter.confirm_generations,
        "tokens": meter.tokens,
        "harvested": meter.harvested,
        "saved_tokens": meter.saved_tokens,
        "level": level,
        "look": look,
        "objective": plan.goal.title,
        "searched": tuple(sorted({*plan.space.names(), *plan.space.switches(), *plan.spec.baseline})),
    }
    if winner is None or held_out is None:
        return Verdict(
            verdict="not shown",
            params=shown(baseline.params),
            difference=0.0,
            interval=(0.0, 0.0),
            p_value=1.0,
            winner_score=None,
            baseline_score=None,
            holdout_examples=0,
            note="; ".join(filter(None, [note, misses("the baseline", session.evaluations[baseline.key], plan.goal)])),
            **common,
        )
    result, before, after = held_out
    kind, note = conclusion
    note = "; ".join(filter(None, [note, *guards.notes(before, after, plan.goal, plan.scorers)]))
    sign = plan.goal.sign
    number = session.known[winner.key].number
    return Verdict(
        verdict=kind,
        params=shown(winner.evaluation.config.params),
        difference=result.difference,
        interval=(result.low, result.high),
        p_value=result.p_value,
        winner_score=sign * mean_of(after.utility()),
        baseline_score=sign * mean_of(before.utility()),
        holdout_examples=result.n,
        wins=result.wins,
        ties=result.ties,
        losses=result.losses,
        trial=number,
        note=note,
        metrics=_metrics(before, after, {*plan.goal.metrics(), *plan.scorers, "completion_tokens"}),
        constraints=bounds(before, after, plan.goal) or None,
        **common,
    )


def _metrics(before: Evaluation, after: Evaluation, names: set[str]) -> dict[str, Any]:
    """Mean of each of these metrics on the holdout, winner and baseline."""
    old, new = before.means(), after.means()
    return {name: {"winner": rounded(new.get(name)), "baseline": rounded(old.get(name))} for name in sorted(names)}


def shown(params: Params) -> dict[str, Any]:
    """Parameters as plain JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
