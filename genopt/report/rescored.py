"""Owns how a study's texts under another scorer are put in words. Scoring them is rescore.py's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from genopt.words import bound, brief, safe

if TYPE_CHECKING:
    from genopt.rescore import Rescored


def rescored_json(found: Rescored) -> dict[str, Any]:
    """Plain JSON values; what is not known is null."""
    holdout = found.holdout

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "objective": found.objective,
        "trials": [
            {
                "number": each.number,
                "role": each.role,
                "params": {k: list(v) if isinstance(v, tuple) else v for k, v in each.params.items()},
                "examples": each.examples,
                "old": number(each.old),
                "new": number(each.new),
                "partial": each.partial,
            }
            for each in found.trials
        ],
        "texts": found.texts,
        "missing": found.missing,
        "spearman": number(found.spearman),
        "kendall": number(found.kendall),
        "holdout": None
        if holdout is None
        else {
            "examples": holdout.n,
            "difference": holdout.difference,
            "interval": [holdout.low, holdout.high],
            "p_value": holdout.p_value,
        },
        "judge": {"calls": found.calls, "tokens": found.tokens},
        "warnings": list(found.warnings),
    }


def rescored_text(found: Rescored) -> str:
    """The same for people."""
    lines = [f"warning: {warning}" for warning in found.warnings]
    lines.append(f"{'trial':>8} {'n':>5} {'old':>9} {'new':>9}   settings   (old: {found.objective})")
    for each in found.trials:
        who = each.role if each.number is None else f"{each.number}"
        mark = {"winner": " (winner)", "baseline": " (baseline)"}.get(each.role, "") if each.number is not None else ""
        stopped = "   stopped early" if each.partial else ""
        lines.append(
            f"{who:>8} {each.examples:>5} {each.old:>9.4f} {each.new:>9.4f}   {brief(each.params)}{mark}{stopped}"
        )
    if not math.isnan(found.spearman):
        lines.append(f"\nThe two orders: Spearman {found.spearman:+.2f}, Kendall {found.kendall:+.2f}")
    if found.holdout is not None:
        low, high = (bound(limit, "+") for limit in (found.holdout.low, found.holdout.high))
        lines.append(
            f"Winner minus baseline on {found.holdout.n} held-out examples: {found.holdout.difference:+.4f}"
            f" [{low}, {high}], p = {found.holdout.p_value:.2g}"
        )
    lines.append(f"{found.texts:,} texts, {found.missing:,} of them could not be scored; nothing was generated.")
    if found.calls:
        lines.append(f"The judge was asked {found.calls:,} times and read and wrote {found.tokens:,} tokens.")
    return safe("\n".join(lines))
