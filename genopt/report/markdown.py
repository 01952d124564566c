"""Owns the report as Markdown: the same facts as the page, in words and tables. What others wrote stands in code."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from genopt.report import charts, heatmap
from genopt.report.facts import Facts
from genopt.report.front import bound_lines, front_note, front_rows
from genopt.report.material import Material
from genopt.report.reckoning import facts_of
from genopt.report.svg import number
from genopt.report.toml import toml_text
from genopt.report.wording import commands, cost_rows, data_rows, settings_title, targets, versions
from genopt.words import brief, safe

MOST = 30  # configurations in the table


def markdown_report(material: Material) -> str:
    """The report as Markdown."""
    facts = facts_of(material)
    parts = [f"# {plain(facts.name)}", f"**{facts.sentence}**", *_evidence(facts), f"## {settings_title(facts)}"]
    parts += [fenced(target.text) for target in targets(material.archive, facts)[:1]]
    if held := facts.held_out:
        level = f"{100 * held.result.level:.4g} % interval"
        rows = [("objective", held.baseline, held.winner, held.result.difference, held.result.low, held.result.high)]
        rows += [
            (c.name, c.baseline, c.winner, c.difference.value, c.difference.low, c.difference.high)
            for c in held.metrics
        ]
        parts += ["## Before and after", table(
            ("on the holdout", "baseline", "winner", "difference", level),
            [(code(n), number(a), number(b), number(d, "+"), f"[{number(x, '+')}, {number(y, '+')}]")
             for n, a, b, d, x, y in rows],
        )]  # fmt: skip
    if facts.settings:
        parts.append("## Which settings are good for all?")
        for sheet in heatmap.sheets(material, facts):
            parts.append((f"Model {code(sheet.model)}: " if sheet.model else "") + heatmap.answer(sheet))
    if facts.importances:
        rows_of = [
            (code(i.name), f"{i.share:.0%}", f"{i.low:.0%} to {i.high:.0%}", f"{i.p_value:.2g}")
            for i in facts.importances
        ]
        parts += ["## What mattered", table(("parameter", "explains", "95 % interval", "p"), rows_of)]
    if facts.verdict and facts.verdict.get("front"):
        head, rows_told = front_rows(facts.verdict)
        parts += ["## Front", table(head, [[*map(plain, row[:-1]), code(row[-1])] for row in rows_told])]
        parts += [plain(front_note(facts.verdict))]
    elif facts.front:
        chosen = [s for s in facts.settings if s.key in facts.front]
        parts += ["## Front", table(
            ("trial", *map(code, facts.metrics), "settings"),
            [(charts.called(s), *(charts.gain_text(v).replace("+", "") for v in s.values), code(brief(s.params)))
             for s in chosen],
        )]  # fmt: skip
    shown = facts.settings[:MOST]
    parts += ["## Configurations", table(
        ("trial", "score", "gain over the baseline", "examples", "good for", "settings"),
        [(charts.called(s), number(s.score), charts.gain_text(s.gain), f"{s.examples}", f"{s.good} of {s.units}",
          code(brief(s.params))) for s in shown],
    )]  # fmt: skip
    if len(facts.settings) > MOST:
        parts.append(f"The {len(facts.settings) - MOST} that gain less are in the JSON form.")
    parts += ["## Cost", table(("", ""), cost_rows(facts)), "## Data", table(("", ""), _coded(data_rows(facts)))]
    parts += ["## To reproduce", f"Made with {versions()}.", fenced(toml_text(facts.spec)), fenced(commands(facts))]
    return "\n\n".join(parts) + "\n"


def _evidence(facts: Facts) -> Iterable[str]:
    if held := facts.held_out:
        yield (
            f"{number(held.baseline)} → {number(held.winner)} on {held.result.n} examples, won {held.result.wins}, tied"
            f" {held.result.ties}, lost {held.result.losses}; p = {held.result.p_value:.2g}"
        )
    for told in bound_lines(facts.verdict.get("constraints") if facts.verdict else None):
        yield plain(told.strip())
    if facts.verdict and facts.verdict["note"]:
        yield plain(facts.verdict["note"])


def _coded(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, code(value)) for name, value in rows]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; its cells are finished Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def plain(text: str) -> str:
    """Text whose characters mean nothing to Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~-])", r"\\\1", safe(text).replace("\n", " "))


def code(text: str) -> str:
    """Text as code on one line, also within a table."""
    shown = safe(text).replace("\n", " ").replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall(r"`+", shown)), default=0) + 1)
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def fenced(text: str) -> str:
    """Text as a block of code that nothing in it can end."""
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", text)), default=0) + 1)
    return f"{fence}\n{safe(text).rstrip()}\n{fence}"
