"""Owns how a comparison reads on a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

from genopt.compare import Comparison, Pair
from genopt.stats import UNBOUNDED
from genopt.worddiff import Change, word_diff
from genopt.words import safe

Paint = Callable[[str, Change], str]
MARKS: dict[Change, str] = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
LONGEST = 2000  # characters of a pair's texts that are shown


def marked(text: str, change: Change) -> str:
    """The way to show a change without colours: [-removed-]{+added+}."""
    return MARKS[change].format(text)


def summary(found: Comparison) -> str:
    """Who is compared, on what, and whether the difference can be chance."""
    lines = [f"A  {_who(found.a.name, found.a.about)}", f"B  {_who(found.b.name, found.b.about)}", ""]
    equal = sum(pair.same for pair in found.pairs)
    lines.append(f"{len(found.pairs)} examples on both sides, {equal} with the same text")
    for count, side in ((found.only_a, "A"), (found.only_b, "B")):
        if count:
            lines.append(f"{count} {'example' if count == 1 else 'examples'} only on side {side}: left out")
    result = found.result
    if result is None or found.p_value is None:
        return safe("\n".join([*lines, "No scores on both sides: only the texts are compared."]))
    means = [mean_of_side(found, "a"), mean_of_side(found, "b")]
    bounds = [f"{bound:+.4f}" if abs(bound) < UNBOUNDED else "?" for bound in (result.low, result.high)]
    lines += [
        f"{found.metric}: A {means[0]:.4f}, B {means[1]:.4f}",
        f"B - A {result.difference:+.4f}   95 % interval [{bounds[0]}, {bounds[1]}]   p = {found.p_value:.3g}"
        f" ({found.test})",
        f"B better on {result.wins}, equal on {result.ties}, worse on {result.losses}",
        "",
        conclusion(found),
    ]
    return safe("\n".join(lines))


def summary_json(found: Comparison) -> dict[str, Any]:
    """The same numbers as plain JSON."""
    result = found.result
    return {
        "a": found.a.name,
        "b": found.b.name,
        "metric": found.metric,
        "examples": len(found.pairs),
        "same_text": sum(pair.same for pair in found.pairs),
        "only_a": found.only_a,
        "only_b": found.only_b,
        "difference": None if result is None else result.difference,
        "interval": None if result is None else [_known(result.low), _known(result.high)],
        "p_value": found.p_value,
        "test": found.test or None,
        "wins": None if result is None else result.wins,
        "ties": None if result is None else result.ties,
        "losses": None if result is None else result.losses,
        "examples_needed": found.needed,
        "conclusion": conclusion(found),
    }


def _known(bound: float) -> float | None:
    return bound if abs(bound) < UNBOUNDED else None


def conclusion(found: Comparison) -> str:
    """One sentence: is a difference shown, and how many rows would it take?"""
    result, p = found.result, found.p_value
    if result is None or p is None:
        return "Nothing is scored on both sides."
    if p < 0.05 and result.difference:
        return (
            f"{'B' if found.sign * result.difference > 0 else 'A'} is better: so large a difference is hardly chance."
        )
    more = ""
    if found.needed is not None:
        more = f" If the true difference is {result.difference:+.4f}, showing it takes about {found.needed:,} examples."
    return f"No difference is shown.{more}"


def pair_text(pair: Pair, metric: str | None, paint: Paint = marked) -> str:
    """One example: what was asked, the scores, and the texts as a diff from A to B."""
    head = f"--- {pair.id}"
    if not math.isnan(pair.difference):
        head += f"   {metric} {pair.a.scores[str(metric)]:.4g} -> {pair.b.scores[str(metric)]:.4g}"
    lines = [safe(head)]
    lines += [safe(f"    {name}: {_short(value)}") for name, value in pair.asked.fields.items()]
    lines += [safe(f"    reference: {_short(reference)}") for reference in pair.asked.references[:3]]
    if pair.same:
        return "\n".join([*lines, "    (the same text)", safe(_short(pair.a.text, LONGEST))])
    pieces = word_diff(pair.a.text, pair.b.text)
    return "\n".join([*lines, _short("".join(paint(safe(piece.text), piece.change) for piece in pieces), LONGEST)])


def mean_of_side(found: Comparison, side: Literal["a", "b"]) -> float:
    """The mean score of one side over the examples that both sides have a score for; NaN without any."""
    scored = [pair for pair in found.pairs if not math.isnan(pair.difference)]
    known = [getattr(pair, side).scores[str(found.metric)] for pair in scored]
    return math.fsum(known) / len(known) if known else math.nan


def _who(name: str, about: str) -> str:
    return f"{name}   {about}" if about else name


def _short(value: object, width: int = 200) -> str:
    text = str(value)
    return text if len(text) <= width else f"{text[:width]}... ({len(text):,} characters)"
