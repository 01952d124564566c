"""Owns how much of a gain is owed to more samples an answer, and how much to the settings of each sample.

Anybody gets better answers by asking nine times and voting: a claim about settings must not be paid for that way. So
the winner is also held against itself with one sample an answer, on the same examples and the same texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genopt.heldout import Pick, answers
from genopt.session import Session
from genopt.stats import PairedResult, paired
from genopt.trial import Evaluation

SETTINGS, SAMPLES = "settings", "more samples"


async def sample_split(
    session: Session, before: Evaluation, after: Evaluation, tried: Sequence[Pick], *, level: float
) -> Mapping[str, Any] | None:
    """The paired difference on the holdout in two parts that add up to it: "settings" (what was `tried` with one sample
    an answer against the baseline) and "more samples" (that against itself with one), each with its interval; None
    where one is taken anyway. Its first samples are there already: nothing is generated, but some may be
    scored."""
    plan = session.plan
    most = max(pick.config.n for pick in tried)
    if most == 1:
        return None
    alone = [
        pick if pick.config.n == 1 else Pick(plan.configure({**pick.config.params, "n": 1}), pick.examples)
        for pick in tried
    ]
    (single,) = await answers(session, alone)
    groups = [example.group for example in plan.holdout]

    def part(better: Evaluation, worse: Evaluation) -> dict[str, Any]:
        found = paired(better.utility(), worse.utility(), groups=groups, level=level, seed=plan.spec.seed)
        return _plain(found, better, worse)

    return {"n": most, SETTINGS: part(single, before), SAMPLES: part(after, single)}


def _plain(found: PairedResult, better: Evaluation, worse: Evaluation) -> dict[str, Any]:
    tokens = [each.means().get("completion_tokens") for each in (worse, better)]
    return {
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p_value": found.p_value,
        "completion_tokens": [None if value is None or math.isnan(value) else round(value, 2) for value in tokens],
    }
