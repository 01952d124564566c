"""Owns a comparison as one HTML file that asks nobody for anything."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from genopt.compare import Comparison, Pair
from genopt.compare.text import conclusion, mean_of_side
from genopt.errors import writing
from genopt.report.html import environment, inline
from genopt.report.svg import number
from genopt.worddiff import word_diff

MOST = 3_000_000  # characters of outputs in a page, so that it can be sent around
FIELD = 600  # characters of a field or a reference


def html_page(found: Comparison) -> str:
    """The comparison as an HTML file: the largest differences first, with filters."""
    rows: list[dict[str, Any]] = []
    room = MOST
    for pair in found.pairs:
        room -= len(pair.a.text) + len(pair.b.text)
        if room < 0:
            break
        rows.append(_row(pair, found))
    counts = {
        kind: sum(kind in row["kinds"].split() for row in rows) for kind in ("all", "different", "worse", "better")
    }
    labels = {"all": "all", "different": "another text", "worse": "B worse", "better": "B better"}
    kept = [
        (kind, labels[kind], count) for kind, count in counts.items() if kind in ("all", "different") or found.result
    ]
    return (
        environment()
        .get_template("compare.html")
        .render(
            **inline(script="compare.js"),
            found=found,
            result=found.result,
            conclusion=conclusion(found),
            mean_a=mean_of_side(found, "a"),
            mean_b=mean_of_side(found, "b"),
            left_out=found.only_a + found.only_b,
            filters=kept,
            rows=rows,
            more=len(found.pairs) - len(rows),
            number=number,
        )
    )


def write_page(found: Comparison, path: Path) -> None:
    """Write the page to a file. Raises SpecError when it cannot be written."""
    text = html_page(found)
    with writing(f"-o {path}"):
        path.write_text(text, encoding="utf-8")


def _row(pair: Pair, found: Comparison) -> dict[str, Any]:
    metric, gain = found.metric, found.gain(pair)
    change = None if math.isnan(pair.difference) else pair.difference
    kinds = ["all", *["different"] * (not pair.same)]
    kinds += ["worse"] * (gain < 0) + ["better"] * (gain > 0)
    asked = [(name, _short(value)) for name, value in pair.asked.fields.items()]
    asked += [("reference", _short(text)) for text in pair.asked.references]
    scores = "" if change is None else f"{number(pair.a.scores[str(metric)])} → {number(pair.b.scores[str(metric)])}"
    return {
        "id": pair.id,
        "kinds": " ".join(kinds),
        "change": change,
        "gain": gain,
        "scores": scores,
        "pieces": word_diff(pair.a.text, pair.b.text),
        "fields": asked,
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= FIELD else f"{text[:FIELD]}… ({len(text):,} characters)"
