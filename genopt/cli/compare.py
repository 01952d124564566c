"""Owns the command that holds two sets of outputs against each other, in the open or blind."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genopt.cli._json import json_text

if TYPE_CHECKING:
    from genopt.compare import Comparison
    from genopt.compare.blind import Choice

COLOURS = {"removed": "red", "added": "green"}
KEYS = {"1": "the first", "2": "the second", "0": "equally good", "s": "skip", "q": "quit"}


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--study", metavar="STUDY", help="Then A and B are just baseline, best or a trial's number.")
@click.option("--metric", metavar="NAME", help="What to compare by (default: the study's objective).")
@click.option(
    "--show",
    type=click.Choice(["all", "different", "worse", "better"]),
    default="different",
    show_default=True,
    help="Rows to print: those where B is worse, better, or another text.",
)
@click.option("--grep", "pattern", metavar="REGEX", help="Only rows of which either text contains this.")
@click.option("--rows", "-n", type=click.IntRange(0), default=5, show_default=True, help="How many rows to print.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write a page: compare.html.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option("--blind", is_flag=True, help="Read the rows without knowing which side wrote what, and choose.")
@click.option(
    "--labels",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("preferences.jsonl"),
    show_default=True,
    help="Where the choices of --blind are kept.",
)
@click.option("--annotator", default="me", show_default=True, help="Who chooses.")
def compare(
    a: str,
    b: str | None,
    study: str | None,
    metric: str | None,
    show: str,
    pattern: str | None,
    rows: int,
    output: Path | None,
    as_json: bool,
    blind: bool,
    labels: Path,
    annotator: str,
) -> None:
    """Hold two sets of outputs against each other, row by row, with a word-level diff and paired statistics.

    A and B are files of outputs (JSONL, CSV, ...: id, output and perhaps score), or configurations of studies:
    STUDY@baseline, STUDY@best, STUDY@12; a STUDY alone means its best. One study and nothing else means its baseline
    against its best. The largest differences come first.

    \b
    genopt compare study.toml
    genopt compare --study study.toml baseline 12 --show worse
    genopt compare mine.jsonl theirs.csv -o compare.html
    genopt compare study.toml --blind
    """
    from genopt.compare import compare as hold_against
    from genopt.compare.sides import sides
    from genopt.compare.text import pair_text, summary

    found = hold_against(*sides(a, b, study), metric)
    if blind:
        _read_blind(found, labels, annotator)
        return
    if output is not None:
        from genopt.compare.page import write_page

        write_page(found, output)
        click.echo(f"written: {output}", err=True)
    chosen = found.select(show, pattern)  # type: ignore[arg-type]
    if as_json:
        from genopt.compare.text import summary_json

        click.echo(json_text(summary_json(found), indent=2))
        return
    click.echo(summary(found))
    for pair in chosen[:rows]:
        click.echo("\n" + pair_text(pair, found.metric, _paint))
    if len(chosen) > rows:
        click.echo(f"\n{len(chosen) - rows:,} more rows: -n {len(chosen)} prints all, -o compare.html writes a page")


def _paint(text: str, change: str) -> str:
    """Colours where the terminal shows them, marks where it does not."""
    from genopt.compare.text import marked

    if sys.stdout.isatty() and change in COLOURS:
        return click.style(text, fg=COLOURS[change], strikethrough=change == "removed")
    return marked(text, change)  # type: ignore[arg-type]


def _read_blind(found: Comparison, path: Path, annotator: str) -> None:
    """Show both texts of every row that is not labelled yet, in an order that tells nothing, and keep the choice."""
    from genopt.cli import _ask
    from genopt.compare import blind
    from genopt.judging import labels

    known = blind.recall(path, found, annotator)
    waiting = [(pair, b_first) for pair, b_first in blind.order(found) if pair.id not in known]
    click.echo(f"{len(waiting)} rows to read, {len(known)} read before. The choices go to {path}.", err=True)
    for number, (pair, b_first) in enumerate(waiting, 1):
        first, second = (pair.b, pair.a) if b_first else (pair.a, pair.b)
        asked = "\n".join(f"{name}: {value}" for name, value in pair.asked.fields.items())
        _ask.show(f"row {number} of {len(waiting)}", asked)
        _ask.show("text 1", first.text)
        _ask.show("text 2", second.text)
        choices: dict[str, Choice] = {"1": "b" if b_first else "a", "2": "a" if b_first else "b", "0": "tie"}
        answer = _ask.key("Which is better?", KEYS)
        if answer is None or answer == "q":
            break
        if answer in choices:
            known[pair.id] = choices[answer]
            labels.append(path, blind.label(found, pair, choices[answer], annotator), option="--labels")
    said = blind.preference(known.values())
    if said is None:
        click.echo("Nothing was chosen.")
        return
    click.echo(
        f"A is {found.a.name}, B is {found.b.name}.\nB preferred {said.b} times, A {said.a} times, {said.ties} equal:"
        f" B {said.rate:.1%} [{said.low:.1%}, {said.high:.1%}], sign test p = {said.p_value:.3g}"
    )
