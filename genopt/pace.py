"""Owns how much a search has under way: trials in flight, and examples that are asked for ahead of a decision. Pure."""

from __future__ import annotations

import math

from genopt.plan import Plan
from genopt.race import Split

FEW, MANY = 4, 64  # trials in flight: in any case where the engine takes so many requests, and at most
FINE, ROUNDS = 6, 2  # rounds of trials in a search at least: where that is enough, and so that no slot is empty


def ahead(plan: Plan) -> bool:
    """Whether what nobody may need is asked for while slots are free: where that costs next to nothing."""
    return not plan.races or (plan.info.idle_is_free and not plan.counted)


def few(plan: Plan) -> int:
    """How many trials are in flight in any case: as asked for; else a few, so that the engine has work while one is
    judged, or as many as fill it with their first looks, if they are no large part of the search: what is asked for
    ahead of a look instead is often in vain."""
    if (wanted := plan.spec.search.trials_in_flight) != "auto":
        return wanted
    least = min(FEW, plan.concurrency)
    if plan.counted:
        return least
    filling = math.ceil(plan.concurrency / (plan.first_look() * plan.samples))
    return max(least, min(filling, (plan.trials or MANY) // FINE, MANY))


def most(plan: Plan) -> int:
    """How many there may be while slots are free: no more where the first looks of the few fill them or a free slot
    saves work, and never so many that those proposed without knowing each other are most of the search."""
    least, trials = few(plan), plan.trials
    if plan.spec.search.trials_in_flight != "auto" or least * plan.first_look() * plan.samples >= plan.concurrency:
        return least
    if not (plan.counted or plan.info.idle_is_free):  # a free slot saves work
        return least
    if (calls := plan.spec.budget.generations) is not None:  # one costs something between a look and all examples
        search = Split.of(calls, plan.bill().confirm, finals=plan.finals).search
        paid = int(2 * search // ((plan.first_look() + len(plan.tune)) * plan.samples))
        trials = paid if trials is None else min(trials, paid)
    return max(least, min(MANY, math.ceil((trials or MANY) / ROUNDS)))
