"""Owns how much of a gain is owed to more samples an answer, and how much to the settings of each sample.

Anybody gets better answers by asking nine times and voting: a claim about settings must not be paid for that way. So
the winner is also held against itself with one sample an answer, on the same examples and the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genopt.session import Session
from genopt.stats import PairedResult, paired
from genopt.trial import Evaluation

SETTINGS, SAMPLES = "settings", "more samples"


async def sample_split(
    session: Session, before: Evaluation, after: Evaluation, *, level: float
) -> Mapping[str, Any] | None:
    """The paired difference on the holdout in two parts that add up to it: "settings" (the winner with one sample an
    answer against the baseline) and "more samples" (the winner against itself with one), each with its interval; None
    where the winner takes one anyway. Its first samples are there already: nothing is generated, but some may be
    scored."""
    plan = session.plan
    if after.config.n == 1:
        return None
    single = await session.measure(
        plan.configure({**after.config.params, "n": 1}),
        examples=plan.holdout,
        phase="confirm",
        replicates=plan.spec.search.confirm_repeats,
    )
    await session.flush()
    groups = [example.group for example in plan.holdout]

    def part(better: Evaluation, worse: Evaluation) -> dict[str, Any]:
        found = paired(better.utility(), worse.utility(), groups=groups, level=level, seed=plan.spec.seed)
        return _plain(found, better, worse)

    return {"n": after.config.n, SETTINGS: part(single, before), SAMPLES: part(after, single)}


def _plain(found: PairedResult, better: Evaluation, worse: Evaluation) -> dict[str, Any]:
    tokens = [each.means().get("completion_tokens") for each in (worse, better)]
    return {
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p_value": found.p_value,
        "completion_tokens": [None if value is None else round(value, 2) for value in tokens],
    }
