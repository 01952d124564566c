"""Owns how a claim is made with few examples: every choice is tried on examples that come after those it was made by.

A holdout of twenty or thirty examples shows nothing but large gains, and the search would have to do without them. So
all examples are searched on, in one order, and cut into folds. What is tried on a fold is what the scores on the
examples *before* it would have chosen; its scores there, with fresh seeds, are paired with the baseline's. The claim is
about the choosing, not about one configuration: whoever chooses as this study does gains so much on examples that the
choice has not seen. What is put forward is chosen by all examples, and so rather better than what was tried.

Before, not outside. A fold's choice by all other examples would learn from more of them, but then each fold helps to
choose for every other one and their differences are correlated: the sign-flip test, which takes them for independent,
claims a gain that is not there up to twice as often as it says (see benchmarks/README.md). In one direction the
differences are a martingale (forward validation; Dawid 1984): given all that came before, each is as likely positive
as negative where nothing is better, which is all that flipping signs asks for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from genopt.field import Floats, fit

ENOUGH = 60  # examples from which a holdout is kept instead
LEAST = 12  # independent examples below which nothing can be chosen and shown
FOLDS = 8
FIRST = (4, 0.25)  # what the first choice is made by: at least so many examples, and this fraction of them


@dataclass(frozen=True)
class Fold:
    """Positions of examples: a choice is made by those `before` and tried on those `on`."""

    before: tuple[int, ...]
    on: tuple[int, ...]


def folds(groups: Sequence[Hashable]) -> tuple[Fold, ...]:
    """The folds of examples in the study's order, each with its group (None: alone): groups stay whole, in the order of
    their first examples. None of fewer than LEAST groups."""
    units: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        units.setdefault(("alone", position) if group is None else ("group", group), []).append(position)
    members = list(units.values())
    if len(members) < LEAST:
        return ()
    first = max(FIRST[0], round(FIRST[1] * len(members)))
    count = min(FOLDS, len(members) - first)
    cuts = [first + round(k * (len(members) - first) / count) for k in range(count + 1)]

    def positions(start: int, end: int) -> tuple[int, ...]:
        return tuple(sorted(position for unit in members[start:end] for position in unit))

    return tuple(Fold(positions(0, start), positions(start, end)) for start, end in pairwise(cuts))


def chosen(scores: Sequence[Floats], n_examples: int, before: Collection[int], baseline: int | None) -> int:
    """The arm that the scores on the examples `before` would put forward: the baseline when none looks better
    (None: it has to be beaten by nothing).

    `scores` as for `field.fit`: an arm's scores in the study's order, the examples once and then again. An arm without
    a score there is not chosen.
    """
    kept = np.zeros(n_examples, dtype=bool)
    kept[list(before)] = True
    known = [np.where(kept[np.arange(len(own)) % n_examples], own, math.nan) for own in scores]
    worth = np.array(fit(known, n_examples).worth)
    worth[[bool(np.isnan(own).all()) for own in known]] = -math.inf
    best = int(np.argmax(worth))
    return best if baseline is None or worth[best] > worth[baseline] else baseline
