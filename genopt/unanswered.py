"""Owns what the held-out examples allow to say that the engine would not answer: how many, of which side, and whether
a claim stands without them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from genopt.asking import FORK
from genopt.conclusions import Conclusion
from genopt.handed import REFUSED
from genopt.heldout import Pick
from genopt.session import Session
from genopt.trial import Evaluation

SHOWN = 3  # names of examples in a note


@dataclass(frozen=True)
class Unanswered:
    """The held-out examples of which a text was never written, by side, each with the reason; `n` are held out.

    Such a text is scored lowest, as it is in the search. So one that both sides lack is a tie, and one that the
    baseline alone lacks is a gain: what is claimed has to be shown by the examples alone that were not refused.
    """

    n: int
    baseline: Mapping[str, str]
    winner: Mapping[str, str]

    @property
    def refused(self) -> set[str]:
        """The examples that the engine refused one side or the other."""
        return {name for side in (self.baseline, self.winner) for name in _refused(side)}

    @property
    def nothing(self) -> bool:
        """Whether the engine refused the winner everything, and not the baseline."""
        return len(_refused(self.winner)) == self.n > len(_refused(self.baseline))

    def judged(
        self, conclusion: tuple[Conclusion, str], rest: Callable[[set[str]], tuple[Conclusion, str]]
    ) -> tuple[Conclusion, str]:
        """The conclusion as far as it may be drawn, with what is to be said; `rest` draws it without some examples."""
        if not self.baseline and not self.winner:
            return conclusion
        kind, note = conclusion
        refused, why = self.refused, ""
        left = self.n - len(refused)
        if not left:
            kind, note, why = "not shown", "", "no example is left that both answered, so that nothing can be compared"
        elif kind in ("improved", "admissible") and left < self.n / 2:
            kind, why = "not shown", f"the {left} that both answered are too few for a verdict"
        elif kind in ("improved", "admissible") and refused and rest(refused)[0] != kind:
            kind, why = (
                "not shown",
                f"the {left} that both answered do not show it, and a gain over refusals is none",
            )
        todo = f"leave such rows out, or correct what makes the engine refuse them {FORK}" if why else ""
        return kind, "; ".join(filter(None, [self.told(), why, todo, note]))

    def told(self, other: str = "the winner") -> str:
        """How many examples each side lacks, and why; "" where none. `other` is who is held against the baseline."""
        if not self.baseline and not self.winner:
            return ""
        sides = [f"{len(side)} by {who}" for who, side in (("the baseline", self.baseline), (other, self.winner))]
        both = len(self.baseline.keys() & self.winner.keys())
        of_both = f" ({both} by neither)" if both else ""
        reasons = {**self.winner, **self.baseline}
        names = sorted(reasons)
        listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        return (
            f"of {self.n} held-out examples {' and '.join(sides)} could not be answered{of_both}, and their texts are"
            f" scored lowest: {listed}: {reasons[names[0]]}"
        )


def _refused(side: Mapping[str, str]) -> set[str]:
    return {name for name, why in side.items() if why.startswith(REFUSED)}


async def unanswered(
    session: Session, baseline: tuple[Sequence[Pick], Evaluation], winner: tuple[Sequence[Pick], Evaluation]
) -> Unanswered:
    """What of the holdout was not answered to either side, whose picks and answers these are."""
    sides = [await _unwritten(session, *side) for side in (baseline, winner)]
    return Unanswered(len(session.plan.holdout), *sides)


async def _unwritten(session: Session, side: Sequence[Pick], found: Evaluation) -> dict[str, str]:
    lost = {
        found.examples[position].id
        for (position, _), cell in found.cells.items()
        if math.isnan(cell.metrics.get("characters", math.nan))
    }
    why: dict[str, str] = {}
    for pick in side if lost else ():
        mine = lost & {example.id for example in pick.examples}
        for (name, _), row in sorted((await session.memory(pick.config, "confirm")).items()):
            if name in mine and row.generation.finish == "error":
                why.setdefault(name, row.generation.why)
    return why


def without(evaluation: Evaluation, names: set[str]) -> Evaluation:
    """The evaluation, as if nothing were known of these examples."""
    kept = {cell: seen for cell, seen in evaluation.cells.items() if evaluation.examples[cell[0]].id not in names}
    return replace(evaluation, cells=kept)
