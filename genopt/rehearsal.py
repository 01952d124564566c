"""Owns what a plan is tried for before anything is spent: every prompt, a space in which something can be found, and a
budget that pays for the least there is to do."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from genopt.errors import SpecError
from genopt.plan import Plan
from genopt.types import ParamValue

FEW = 64  # configurations, or ends of ranges, that are looked at one by one


def rehearse(plan: Plan) -> None:
    """Raise SpecError for what would go wrong later, and add to the plan's warnings."""
    _render_everything(plan)
    _affordable(plan)
    _searchable(plan)


def _render_everything(plan: Plan) -> None:
    """Render every row once with today's settings, so that an empty prompt is found before anything is spent."""
    config = plan.baseline()
    for example in plan.dataset.examples:
        plan.prompt.render(example, config.variables)


def _searchable(plan: Plan) -> None:
    """Raise SpecError for a space in which nothing differs from the baseline; warn of one with one configuration."""
    points = list(islice(plan.space.grid(2), FEW + 1))  # the ends of every range are in it

    def key(point: Mapping[str, ParamValue]) -> str:
        return plan.configure(plan.space.sample(lambda path, _: point[path])).key

    keys = {key(point) for point in points}
    if len(points) > FEW or len(keys) > 1:
        return
    if keys == {plan.baseline().key}:
        raise SpecError("space: all that it holds is what you run today (baseline): nothing can be better. Widen it")
    plan.warnings.append("the space holds one configuration: it is held against the baseline, and nothing is searched")


def _affordable(plan: Plan) -> None:
    """Raise SpecError when the budget cannot even pay for a baseline, one trial and the verdict."""
    budget, least = plan.spec.budget.generations, plan.least()
    if budget is not None and budget < least:
        raise SpecError(
            f"budget.generations: {budget} is too few: baseline, one trial and the verdict take {least}. Raise it,"
            " or use fewer rows (dataset.limit)"
        )
