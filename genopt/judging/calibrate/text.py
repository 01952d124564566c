"""Owns how a calibration reads on a terminal."""

from __future__ import annotations

import math

from genopt.agreement import Estimate
from genopt.judging.calibrate import Calibration
from genopt.words import safe


def calibration_text(found: Calibration) -> str:
    """The calibration for people."""
    low, high = found.scale
    lines = [
        f"{found.labels} labels from {low:g} to {high:g} by {found.annotators} annotators, of {found.texts} texts on"
        f" {found.inputs} inputs",
    ]
    for count, why in (
        (found.unmatched, "of texts the judge never saw"),
        (found.unscored, "of texts it could not score"),
    ):
        if count:
            lines.append(f"{count} more labels are {why}: left out")
    rows: list[tuple[str, Estimate | None, str]] = [
        ("Spearman", found.spearman, "judge and mean label of a text"),
        ("Kendall tau-b", found.kendall, ""),
        ("weighted kappa", found.kappa, "judge's level and each label, quadratic weights"),
        ("judge - people", found.bias, "on a scale from 0 to 1"),
        ("order", found.order, f"Kendall tau-b of {len(found.configs)} configurations' means"),
        ("length", found.length, "judge - people, longest third less shortest"),
    ]
    lines += ["", *(_estimate(*row) for row in rows if row[1] is not None)]
    if found.ceiling is not None:
        lines += [
            "",
            f"{found.ceiling.texts} texts have several labels: how far people agree",
            _estimate("people", found.ceiling.people, "Spearman of one annotator and the mean of the others"),
            _estimate("judge", found.ceiling.judge, "the judge in that annotator's place"),
        ]
        if found.ceiling.kappa is not None:
            lines.append(_estimate("kappa", found.ceiling.kappa, "of two people"))
    if found.configs:
        lines += ["", "configuration   texts   people   judge"]
        lines += [f"{c.config[:12]:14}  {c.texts:5}   {c.people:6.3f}   {c.judge:.3f}" for c in found.configs]
    lines += ["", "characters      texts   people   judge   judge - people"]
    for third in found.thirds:
        means = f"{third.people:6.3f}   {third.judge:.3f}   {_interval(third.gap)}"
        lines.append(f"{f'{third.shortest} to {third.longest}':14}  {third.texts:5}   {means}")
    return safe("\n".join(lines))


def _estimate(name: str, found: Estimate | None, meaning: str) -> str:
    return f"  {name:15} {_interval(found) if found is not None else ''}   {meaning}".rstrip()


def _interval(found: Estimate) -> str:
    value, low, high = ("?" if math.isnan(x) else f"{x:+.3f}" for x in (found.value, found.low, found.high))
    return f"{value:>6}  [{low}, {high}]"
