"""Owns who answers the held-out examples for the winner: the winner itself, or in each fold what had been chosen before
it (see crossfit)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genopt.crossfit import chosen
from genopt.finals import admitted, arms_of, by_model, reliable
from genopt.session import Session
from genopt.trial import Configuration, Evaluation
from genopt.types import Example


@dataclass(frozen=True)
class Pick:
    """A configuration and the examples that it answers."""

    config: Configuration
    examples: Sequence[Example]

    def generations(self, repeats: int) -> int:
        """How many texts that takes at most."""
        return len(self.examples) * (1 if self.config.deterministic else repeats * self.config.n)


def picks(session: Session, winner: Configuration) -> list[Pick]:
    """Who is tried on which held-out examples, in one piece or fold by fold."""
    plan = session.plan
    if not plan.folds:
        return [Pick(winner, plan.holdout)]
    arms = arms_of(session)
    scores = [arm.series() for arm in arms]
    base = next(i for i, arm in enumerate(arms) if arm.config.key == plan.baseline().key)
    found = []
    for fold in plan.folds:
        parts = [_part(arm, fold.before) for arm in arms]
        able = admitted(session, parts, base)
        today = {base} & {*able}
        able = sorted({*today, *reliable(session, parts, able)})
        best = chosen([scores[i] for i in able], len(plan.tune), fold.before, able.index(base) if today else None)
        found.append(Pick(arms[able[best]].config, [plan.tune[position] for position in fold.on]))
    return found


def _part(arm: Evaluation, positions: Sequence[int]) -> Evaluation:
    """What is known of some of the examples alone."""
    return replace(arm, cells={cell: seen for cell, seen in arm.cells.items() if cell[0] in positions})


def stored(session: Session, winner: Configuration, folds: Sequence[Mapping[str, Any]]) -> list[Pick]:
    """The picks that a verdict of this session's keeps as `folds`."""
    if not folds:
        return [Pick(winner, session.plan.holdout)]
    measured = {**session.parked, **session.evaluations}
    examples = {example.id: example for example in session.plan.holdout}
    return [Pick(measured[fold["key"]].config, [examples[name] for name in fold["examples"]]) for fold in folds]


async def answers(session: Session, *sides: Sequence[Pick]) -> list[Evaluation]:
    """Each side's evaluation on the holdout with fresh seeds, in one piece; what two sides share is made once."""
    plan = session.plan
    configs: dict[str, Configuration] = {}
    wanted: dict[str, dict[str, Example]] = {}
    for pick in (pick for side in sides for pick in side):
        configs[pick.config.key] = pick.config
        wanted.setdefault(pick.config.key, {}).update({example.id: example for example in pick.examples})

    async def measure(config: Configuration) -> Evaluation:
        return await session.measure(
            config,
            examples=[example for example in plan.holdout if example.id in wanted[config.key]],
            phase="confirm",
            replicates=plan.spec.search.confirm_repeats,
            window=max(1, plan.concurrency // plan.spec.search.repeats),
        )

    measured = dict(zip(configs, await by_model(list(configs.values()), measure), strict=True))
    await session.flush()
    return [_joined(side, measured, plan.holdout) for side in sides]


def _joined(side: Sequence[Pick], measured: Mapping[str, Evaluation], holdout: Sequence[Example]) -> Evaluation:
    """What the picks answered, as if one configuration had: that of the last."""
    place = {example.id: position for position, example in enumerate(holdout)}
    joined = Evaluation(side[-1].config, holdout)
    for pick in side:
        mine = {example.id for example in pick.examples}
        found = measured[pick.config.key]
        for (position, replicate), cell in found.cells.items():
            if (name := found.examples[position].id) in mine:
                joined.cells[place[name], replicate] = cell
    return joined
