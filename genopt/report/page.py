"""Owns the report as one HTML file that asks nobody for anything: style, script, drawings and texts are inside.

Everything that a model, a data set or a user wrote is text: Jinja2 escapes it, drawings escape it, and the script only
ever sets text. The page's own policy forbids every request and any script but its own, by hash.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from genopt.report import charts, heatmap
from genopt.report.facts import Facts, Setting
from genopt.report.front import bound_lines, front_note, front_rows
from genopt.report.html import environment, inline
from genopt.report.material import Material
from genopt.report.reckoning import facts_of
from genopt.report.svg import number
from genopt.report.toml import toml_text
from genopt.report.wording import commands, cost_rows, data_rows, settings_title, targets, versions
from genopt.types import Example
from genopt.worddiff import word_diff
from genopt.words import brief, safe

TEXTS = 3_000_000  # bytes that the heat map's texts take in a page, so that it can be sent around
SHOWN = 5  # examples that gained most, and as many that lost most
Shown = tuple[str, float | None, int]
DIFFED = 5_000  # characters of a text that is shown with what changed
FIELD = 600  # characters of a field or a reference


def html_report(material: Material, facts: Facts | None = None) -> str:
    """The whole report as one HTML file."""
    facts = facts or facts_of(material)
    maps = heatmap.sheets(material, facts) if facts.settings else ()
    return (
        environment()
        .get_template("page.html")
        .render(
            facts=facts,
            held=facts.held_out,
            level=f"{100 * (1 - facts.verdict['level']):.4g} %" if facts.verdict else "95 %",
            minimized=facts.directions == ("minimize",),
            **inline(script="page.js"),
            settings_title=settings_title(facts),
            targets=targets(material.archive, facts),
            charts=_charts(facts),
            pairs=_pairs(material, facts),
            grouped=any(sheet.grouped for sheet in maps),
            sheets=[_sheet(sheet, index) for index, sheet in enumerate(maps)],
            cost=cost_rows(facts),
            data=data_rows(facts),
            versions=versions(),
            study_file=toml_text(facts.spec),
            description=json.dumps(facts.description, ensure_ascii=False, indent=2),
            commands=commands(facts),
            front=front_rows(facts.verdict) if facts.verdict and facts.verdict.get("front") else None,
            front_note=front_note,
            bounds=bound_lines(facts.verdict.get("constraints") if facts.verdict else None),
            data_json=_script_json(_data(material, facts, maps)),
            number=number,
            called=charts.called,
            gain_text=charts.gain_text,
            brief=brief,
        )
    )


def _charts(facts: Facts) -> dict[str, Any]:
    shown = [s for s in facts.settings if s.role != "baseline"]
    held, found, logs = facts.held_out, facts.importances, _logarithmic(facts.description.get("space", {}))
    return {
        "history": Markup(charts.history(facts)),
        "difference": Markup(charts.difference(held)) if held else "",
        "changes": Markup(charts.changes(held)) if held else "",
        "importance": Markup(charts.importance(found)),
        "responses": [Markup(charts.response(each, shown, log=each.name in logs)) for each in found],
        "interaction": Markup(charts.grid(facts.interaction)) if facts.interaction else "",
        "front": Markup(charts.front(facts)) if facts.front else "",
    }


def _logarithmic(space: Mapping[str, Any]) -> set[str]:
    """The parameters whose logarithm was searched, in whatever branch."""
    found: set[str] = set()
    for name, dimension in space.items():
        if isinstance(dimension, Mapping):
            found |= {name} if dimension.get("log") is True else _logarithmic(dimension)
    return found


def _sheet(sheet: heatmap.Sheet, index: int) -> dict[str, Any]:
    return {
        "model": sheet.model,
        "answer": heatmap.answer(sheet),
        "drawing": Markup(heatmap.drawing(sheet, index)),
        "scale": sheet.scale,
        "noun": sheet.noun,
        "left_out": sheet.left_out,
        "columns_left_out": sheet.columns_left_out,
    }


def _pairs(material: Material, facts: Facts) -> list[dict[str, Any]]:
    """The holdout examples that changed most, with the words that changed."""
    held = facts.held_out
    if held is None:
        return []
    frame = material.frame[(material.frame["phase"] == "confirm") & (material.frame["sample"] == 0)]
    columns = frame[["config_key", "example_id", "text"]]
    texts = {(key, name): text for key, name, text in columns.itertuples(index=False)}
    tried, baseline = material.archive.tried(), material.archive.baseline["key"]
    winner = next((key for key, (_, role) in material.archive.roles().items() if role == "winner"), "")

    def pieces(name: str) -> Any:
        return word_diff(*(_short(texts[key, name], DIFFED) for key in (baseline, tried.get(name, winner))))

    changed = [pair for pair in held.pairs if pair[1] != pair[2]]
    up = [pair for pair in reversed(changed) if pair[2] > pair[1]][:SHOWN]
    down = [pair for pair in changed if pair[2] < pair[1]][:SHOWN]
    return [
        {
            "id": name,
            "change": after - before,
            "fields": _fields(material.examples[name][0], facts),
            "references": [_short(reference) for reference in material.examples[name][0].references],
            "pieces": pieces(name),
        }
        for name, before, after in (*up, *down)
    ]


def _data(material: Material, facts: Facts, maps: Sequence[heatmap.Sheet]) -> dict[str, Any]:
    """What the heat maps show when a cell is chosen."""
    tune = [example for example, side in material.examples.values() if side != "holdout"]
    place, units = {example.id: index for index, example in enumerate(tune)}, material.units("tune")
    members: dict[str, list[int]] = {}
    for example in tune:
        members.setdefault(units[example.id], []).append(place[example.id])
    baseline = facts.setting("baseline")
    return {
        "baseline": baseline.key if baseline else None,
        "elsewhere": "This text is not in the page. genopt export study.toml --data rows.jsonl writes all of them.",
        "examples": [
            {"id": e.id, "fields": _fields(e, facts), "references": [_short(text) for text in e.references]}
            for e in tune
        ],
        "settings": {s.key: {"name": charts.called(s), "params": brief(s.params)} for s in facts.settings},
        "sheets": [
            {
                "rows": [setting.key for setting in sheet.settings],
                "columns": [
                    {"name": name, "examples": members[name] if sheet.grouped else [place[name]]}
                    for name in sheet.columns
                ],
                "gains": [[_rounded(value) for value in row] for row in sheet.gains.tolist()],
            }
            for sheet in maps
        ],
        "texts": _texts(material, heatmap.told(facts), place),
    }


def _texts(material: Material, chosen: Sequence[Setting], place: Mapping[str, int]) -> dict[str, list[Shown | None]]:
    """config_key -> of each example the first text, cut so that all of them fit into a page, with the utility of all of
    its texts and how many there are."""
    frame = material.frame
    rows = frame[(frame["phase"] == "tune") & frame["config_key"].isin([s.key for s in chosen])]
    utility = rows.groupby(["config_key", "example_id"])["utility"].agg(["mean", "size"])
    first = rows[rows["sample"] == 0]
    whole = len(_script_json(first["text"].tolist()).encode())
    longest = int(first["text"].str.len().max()) if len(first) else 0
    width = longest if whole <= TEXTS else max(200, int(first["text"].str.len().mean() * TEXTS / whole))
    found: dict[str, list[Shown | None]] = {s.key: [None] * len(place) for s in chosen}
    worth = {key: (_rounded(mean), int(size)) for key, mean, size in utility.itertuples()}
    for key, name, text in first[["config_key", "example_id", "text"]].itertuples(index=False):
        found[key][place[name]] = (_short(text, width), *worth[key, name])
    return found


def _fields(example: Example, facts: Facts) -> list[tuple[str, str]]:
    """What was asked, without what is shown anyway: the example's name, its group and its references."""
    table = facts.spec.get("dataset", {})
    hidden = (table.get("id"), table.get("reference"), table.get("group"))
    return [
        (name, _short(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
        for name, value in example.fields.items()
        if name not in hidden and value != example.id
    ]


def _short(text: str, width: int = FIELD) -> str:
    return text if len(text) <= width else f"{text[:width]}… ({len(text):,} characters)"


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


def _script_json(data: Any) -> Markup:
    """JSON that no text inside can end: every < is written as its escape."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return safe(value)
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value

    text = json.dumps(plain(data), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))
