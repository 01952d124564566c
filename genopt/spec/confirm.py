"""Owns the keys of what is asked about the winner besides the verdict: [confirm] and [audit]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genopt.spec._base import Table
from genopt.spec.judge import Judge, JudgeBackend


class ConfirmSpec(Table):
    """What is asked about winner and baseline on the holdout, besides the verdict's own comparison."""

    pairwise: str | None = None
    """A judge of [scorers], asked in both orders which of the two texts is better."""


class AuditSpec(Table):
    """A second judge that grades the holdout's texts alone, by the rubric of the first: does it see the gain, too?"""

    judge: str | None = None
    """The judge of [scorers] whose rubric it grades by (default: the only one)."""
    backend: JudgeBackend
    """Its engine: another model than the judge's, best of another family."""


def judges_of(scorers: Mapping[str, Any]) -> dict[str, Judge]:
    """The judges among the scorers."""
    return {name: table for name, table in scorers.items() if isinstance(table, Judge)}


def second_judge(audit: AuditSpec, scorers: Mapping[str, Any]) -> tuple[str, Judge]:
    """The name of the judge that is audited, and its table with the second engine. KeyError when there is no such."""
    judges = judges_of(scorers)
    name = audit.judge or (next(iter(judges)) if len(judges) == 1 else "")
    return name, judges[name].model_copy(update={"backend": audit.backend})


def opinions_wanted(confirm: ConfirmSpec, audit: AuditSpec | None) -> dict[str, Any]:
    """What is asked for, as plain values; empty when nothing is."""
    asked = {"confirm": confirm.model_dump(exclude_defaults=True), "audit": audit.model_dump() if audit else None}
    return {name: value for name, value in asked.items() if value}


def confirm_problems(confirm: ConfirmSpec, audit: AuditSpec | None, scorers: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the two tables."""
    judges = judges_of(scorers)
    known = f"Judges: {', '.join(judges)}" if judges else "No scorer here is a judge"
    if confirm.pairwise is not None and confirm.pairwise not in judges:
        yield f"confirm.pairwise: {confirm.pairwise!r} is no judge. {known}"
    if audit is not None and audit.judge is None and len(judges) != 1:
        yield f"audit.judge: has to say whose rubric to grade by. {known}"
    elif audit is not None and audit.judge is not None and audit.judge not in judges:
        yield f"audit.judge: {audit.judge!r} is no judge. {known}"
