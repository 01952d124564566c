"""Owns a study with several objectives and no weights: who is beaten, who is on the front, and what the holdout says of
the front. The arithmetic is in fronts.

Members of the front are chosen by the posterior means of all configurations (genopt.field), each pulled back by how
uncertain it is: the front of the raw means is made of the lucky. Then they answer the holdout with fresh seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from genopt import fronts
from genopt.claims import max_t
from genopt.conclusions import Conclusion, barred, constrained, misses, shown_to_miss
from genopt.confirm import Verdict, compared, looked, nobody, shown, verdict_of
from genopt.field import Field, fit
from genopt.finals import Candidate, Further, admitted, arms_of, feasible, reliable, remember
from genopt.fronts import Floats
from genopt.heldout import Pick, answers
from genopt.objectives import Goal
from genopt.purse import Purse
from genopt.session import Session
from genopt.stats import UNBOUNDED, PairedResult, look_level, paired
from genopt.trial import Evaluation, mean_of
from genopt.unanswered import unanswered, without

DOUBT = 0.05  # the chance to be on the front, or not to be, below which a configuration is not measured further


def standings(session: Session, *more: Evaluation) -> tuple[list[Evaluation], list[Floats], list[Field]]:
    """Every measured configuration that could win, `more` of them in flight at the end; the utilities of
    each in the order of measuring, (observations, objectives); and what they are worth in each objective."""
    arms, goal = arms_of(session, *more), session.plan.goal
    columns = range(len(goal.objectives))
    scores = [np.array([goal.utilities(cell.metrics) for cell in arm.cells.values()]) for arm in arms]
    scores = [each.reshape(len(each), len(columns)) for each in scores]
    return arms, scores, [fit([each[:, k] for each in scores], len(session.plan.tune)) for k in columns]


def beaten(session: Session, evaluation: Evaluation, level: float) -> bool:
    """Whether some configuration that meets the constraints is better in every objective (see fronts.beaten_by)."""
    arms, scores, fields = standings(session, evaluation)
    rivals = [i for i, arm in enumerate(arms[:-1]) if feasible(session, arm)]
    return fronts.beaten_by(fields, scores, len(arms) - 1, level, rivals) is not None


def estimated(session: Session, evaluation: Evaluation) -> dict[str, float]:
    """The mean of each objective's metric as if the whole tune split had been seen, not pulled back."""
    goal = session.plan.goal
    fields = standings(session, evaluation)[2]
    return {o.metric: o.sign * float(field.raw[-1]) for o, field in zip(goal.objectives, fields, strict=True)}


async def choose_front(session: Session, baseline: Evaluation) -> list[Evaluation]:
    """The configurations to put forward: at most `search.front`, the baseline among them where nothing beats it.

    Those of which it is least clear whether they are on the front are measured on first, on examples that they have not
    seen and then with fresh seeds, until what `search.finalists` and `search.replicates` allow is spent or all is
    clear. What was stopped early may come back so. Members have seen the whole tune split and meet the constraints as
    surely as is asked for, where any does. A baseline that misses a constraint beats nobody, and is a member only where
    nothing meets them all.
    """
    spec, plan = session.plan.spec.search, session.plan
    rng = np.random.default_rng(plan.spec.seed)
    further = Further(session, await Purse.open(session), baseline)
    while True:
        arms, _, fields = standings(session)
        base = next(i for i, arm in enumerate(arms) if arm.config.key == baseline.config.key)
        able = admitted(session, arms, base)
        share = fronts.membership(fields, able, rng)
        open_ = [i for i in able if len(arms[i].cells) < further.most(arms[i]) and DOUBT <= share[i] <= 1 - DOUBT]
        if not open_:
            break
        doubtful = sorted(open_, key=lambda i: (abs(share[i] - 0.5), arms[i].config.key))
        if not await further.measure([arms[i] for i in doubtful[: spec.finalists]]):
            break
    await remember(session, arms)
    complete = [i for i in able if len(arms[i].cells) >= len(plan.tune)] or able
    complete = reliable(session, arms, complete)
    worth = np.array([field.worth for field in fields]).T
    members = [i for i, on in zip(complete, fronts.front(worth[complete]), strict=True) if on]
    return [arms[members[place]] for place in fronts.thinned(worth[members], spec.front)]


@dataclass(frozen=True)
class Front:
    """What the holdout says of the members of a front, the baseline's measurements beside them.

    `p_values` are two-sided, of each member against the baseline in each objective, corrected for all of them
    together; NaN where the member is the baseline. `knee` is the place of the one that is suggested, among the members
    that meet the constraints (all, where none does); `shares` say how sure the front and the knee are.
    """

    goal: Goal
    baseline: Evaluation
    members: Sequence[Evaluation]
    p_values: Floats
    knee: fronts.Knee
    shares: fronts.Shares
    level: float

    def shown(self, place: int, what: Literal["better", "worse"]) -> list[str]:
        """The objectives in which a member is shown to be better, or worse, than the baseline."""
        sign = 1 if what == "better" else -1
        return [
            objective.metric
            for k, objective in enumerate(self.goal.objectives)
            if self.p_values[place, k] < self.level
            and sign * objective.sign * self._against(place, objective.metric).difference > 0
        ]

    def behind(self, place: int) -> list[str]:
        """The objectives in which a member's mean is worse than the baseline's, shown or not."""
        against = ((o, self._against(place, o.metric)) for o in self.goal.objectives)
        return [objective.metric for objective, result in against if objective.sign * result.difference < 0]

    def _against(self, place: int, metric: str) -> PairedResult:
        values, before = (each.metric(metric) for each in (self.members[place], self.baseline))
        return paired(values, before, groups=self._groups, level=1 - self.level, resamples=0)

    @property
    def _groups(self) -> list[str | None]:
        return [example.group for example in self.baseline.examples]

    def to_json(self, place: int, number: int | None) -> dict[str, Any]:
        """A member as plain JSON: in each objective the mean and the difference to the baseline (in units of the
        metric, more may be worse), each with its interval; how sure its place on the front and each constraint is."""
        member, better, worse = self.members[place], self.shown(place, "better"), self.shown(place, "worse")
        is_baseline = member.config.key == self.baseline.config.key
        objectives = {}
        for k, objective in enumerate(self.goal.objectives):
            values = member.metric(objective.metric)
            mean = paired(values, np.zeros(values.size), groups=self._groups, level=1 - self.level, resamples=0)
            change = self._against(place, objective.metric)
            objectives[objective.metric] = {
                "mean": mean.difference,
                "interval": _limits(mean.low, mean.high),
                "difference": change.difference,
                "difference_interval": _limits(change.low, change.high),
                "p_value": None if is_baseline else float(self.p_values[place, k]),
                "shown": "better" if objective.metric in better else "worse" if objective.metric in worse else "",
                "behind": objective.metric in self.behind(place),
            }
        return {
            "trial": number,
            "baseline": is_baseline,
            "params": shown(member.config.params),
            "objectives": objectives,
            "constraints": {name: round(chance, 6) for name, chance in member.chances(self.goal).items()},
            "front": round(float(self.shares.front[place]), 4),
            "knee": round(float(self.shares.knee[place]), 4),
        }


def _limits(low: float, high: float) -> list[float | None]:
    return [None if abs(limit) >= UNBOUNDED else limit for limit in (low, high)]


def held_out(goal: Goal, baseline: Evaluation, members: Sequence[Evaluation], *, level: float, seed: int) -> Front:
    """What the holdout says of `members`, all measured on it as the baseline was."""
    groups = [example.group for example in baseline.examples]
    values = np.stack([[o.sign * member.metric(o.metric) for o in goal.objectives] for member in members])
    before = np.stack([o.sign * baseline.metric(o.metric) for o in goal.objectives])
    others = [place for place, member in enumerate(members) if member.config.key != baseline.config.key]
    claims = [(values[place, k], before[k]) for place in others for k in range(len(before))]
    p_values = np.full(values.shape[:2], np.nan)
    p_values[others] = np.reshape(max_t(claims, groups=groups, seed=seed), (len(others), len(before)))
    meet = [i for i, member in enumerate(members) if not goal.doubtful(member.chances(goal))] or range(len(members))
    kept = values[list(meet)].transpose(0, 2, 1)
    knee = fronts.knee([[mean_of(column) for column in each.T] for each in kept])
    found = fronts.shares(kept, groups=groups, seed=seed)
    shares = fronts.Shares(np.zeros(len(members)), np.zeros(len(members)))
    shares.front[list(meet)], shares.knee[list(meet)] = found.front, found.knee
    return Front(goal, baseline, members, p_values, replace(knee, place=list(meet)[knee.place]), shares, level)


async def confirm_front(
    session: Session, baseline: Evaluation, members: Sequence[Evaluation]
) -> tuple[Verdict, Candidate | None]:
    """The verdict on the knee of the front, and the knee: None where that is the baseline.

    "improved" where the knee is shown better than the baseline in at least one objective and its mean is behind in
    none, "worse" where it is shown worse in one and better in none. What gives one for another, or perhaps does so, is
    a trade: "not shown", and the note says which. That no loss is shown on few examples is no sign that there is none.
    Without an improvement it is "admissible" as with one objective (see Verdict), a trade or not.
    """
    plan, base = session.plan, baseline.config
    configs = {base.key: base, **{member.config.key: member.config for member in members}}
    if len(configs) == 1:
        why = nobody(session, baseline, "no configuration looked better than the baseline in any objective")
        return await _kept(session, baseline, why), None
    look = await looked(session, sorted(configs))
    sides = [[Pick(config, plan.holdout)] for config in configs.values()]
    texts = sum(pick.generations(plan.spec.search.repeats) for (pick,) in sides) * plan.spec.search.confirm_repeats
    session.enter(
        "confirm",
        f"the front's {len(members)} configurations and the baseline on {len(plan.holdout)} examples the search never"
        " saw" + (f" (look {look} at them: held to {look_level(look):.3g})" if look > 1 else ""),
        texts,
    )
    before, *_ = measured = await answers(session, *sides)
    found = held_out(
        plan.goal,
        before,
        [each for each in measured if each.config.key in {member.config.key for member in members}],
        level=look_level(look),
        seed=plan.spec.seed,
    )
    numbers = [session.known[member.config.key].number for member in found.members]
    parts: dict[str, Any] = {
        "front": tuple(found.to_json(place, number) for place, number in enumerate(numbers)),
        "knee": {
            "trial": numbers[found.knee.place],
            "share": round(float(found.shares.knee[found.knee.place]), 4),
            "distance": round(found.knee.distance, 4),
            "suggested": bool(found.shown(found.knee.place, "better") or shown_to_miss(before, plan.goal))
            and not barred(found.members[found.knee.place], plan.goal),
        },
        "level": look_level(look),
        "look": look,
    }
    after = found.members[found.knee.place]
    answered = {each.config.key: ([Pick(each.config, plan.holdout)], each) for each in measured}
    today = answered.pop(base.key)
    lacking = {key: await unanswered(session, today, side) for key, side in answered.items()}
    if after.config.key == base.key:
        pairs = zip(found.members, numbers, strict=True)
        told = [lacking[each.config.key].told(f"trial {n}") for each, n in pairs if each.config.key in lacking]
        why = "; ".join(filter(None, ["the knee of the front is what you run today", *told]))
        verdict = await _kept(session, baseline, why)
        return replace(verdict, **parts), None
    winner = Candidate(after.config.key, after, float(np.nan))
    result = replace(compared(session, before, after, look), p_value=float(found.p_values[found.knee.place, 0]))
    session.meter.harvested, session.meter.saved_tokens = await session.db(session.store.harvested, session.study.id)

    def drawn(names: set[str]) -> tuple[Conclusion, str]:
        sides = [without(each, names) for each in (before, *found.members)]
        rest = held_out(plan.goal, sides[0], sides[1:], level=found.level, seed=plan.spec.seed)
        return _conclusion(replace(rest, knee=replace(rest.knee, place=found.knee.place)), numbers)

    conclusion = lacking[after.config.key].judged(_conclusion(found, numbers), drawn)
    verdict = verdict_of(session, base, winner, (result, before, after), look=look, conclusion=conclusion)
    return replace(verdict, **parts), winner


def _conclusion(found: Front, numbers: Sequence[int | None]) -> tuple[Conclusion, str]:
    """What the holdout shows of the knee, and what has to be said with it."""
    place, after = found.knee.place, found.members[found.knee.place]
    better, worse = found.shown(place, "better"), found.shown(place, "worse")
    notes = [misses("the baseline", found.baseline, found.goal)]
    kind: Conclusion = "not shown"
    if better and (behind := found.behind(place)):
        perhaps = [name for name in behind if name not in worse]
        paid = [f"worse in {', '.join(worse)}"] if worse else []
        paid += [f"perhaps worse in {', '.join(perhaps)}"] if perhaps else []
        notes.append(f"a trade: better in {', '.join(better)}, {' and '.join(paid)} than the baseline")
    elif better or worse:
        kind = "improved" if better else "worse"
    kind, why = constrained(kind, found.baseline, after, found.goal)
    notes.append(why)
    for other, number in enumerate(numbers):
        gains = found.shown(other, "better")
        if other != place and gains and not found.behind(other):
            notes.append(f"trial {number} of the front is better in {', '.join(gains)}, too, and behind in nothing")
    return kind, "; ".join(filter(None, notes))


async def _kept(session: Session, baseline: Evaluation, note: str) -> Verdict:
    """The verdict that nothing but the baseline is put forward."""
    session.meter.harvested, session.meter.saved_tokens = await session.db(session.store.harvested, session.study.id)
    return verdict_of(session, baseline.config, None, None, note=note)
