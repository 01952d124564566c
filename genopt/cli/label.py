"""Owns `genopt label`: a person grades texts of a study blind, for `genopt judge calibrate`."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from genopt.judging.labelling import Item, Task


@click.command()
@click.argument("study", metavar="STUDY")
@click.option(
    "-o", "output", type=click.Path(path_type=Path, dir_okay=False), default=Path("labels.jsonl"), show_default=True,
    help="Where labels are added.",
)  # fmt: skip
@click.option("--annotator", metavar="NAME", help="Who labels (default: your login).")
@click.option("--rows", type=click.IntRange(1), default=50, show_default=True, help="How many texts.")
@click.option(
    "--order", type=click.Choice(["hard", "random"]), default="hard", show_default=True,
    help="Hard: where judges differ or doubt most. Random: what correlations of all texts are estimated from.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, help="Another order of the texts.")
def label(study: str, output: Path, annotator: str | None, rows: int, order: str, seed: int) -> None:
    """Grade texts of a study blind: which configuration wrote one is not shown.

    One key gives the grade; u takes the last one back, s skips a text, q ends. The same command goes on where it was.
    Then: genopt judge calibrate labels.jsonl --study STUDY

    \b
    genopt label study.toml
    genopt label study.toml --annotator ann --rows 100 --order random
    """
    from genopt.archive import load
    from genopt.judging import labelling, labels

    archive = load(study)
    who = annotator or getpass.getuser()
    done = labels.read(str(output)) if output.exists() and output.stat().st_size else None
    items = labelling.items_of(archive, seed=seed, order="hard" if order == "hard" else "random")[:rows]
    waiting = labelling.left(items, done, who)
    if not items:
        click.echo("the study has no texts yet", err=True)
    elif not waiting:
        click.echo(f"{who} has labelled all {len(items)} texts: raise --rows for more", err=True)
    given = _ask_all(waiting, labelling.task_of(archive), output, who)
    click.echo(f"{given} labels added to {output}", err=True)


def _ask_all(items: Sequence[Item], task: Task, output: Path, who: str) -> int:
    """How many texts got a label. The last label is held back until the next key, so that it can be taken back."""
    from genopt.cli import _ask
    from genopt.judging import labelling, labels

    held: tuple[int, str] | None = None
    given = at = 0
    try:
        while at < len(items) or held is not None:
            if at < len(items):
                _show(items[at], f"{at + 1} of {len(items)}")
                pressed = _ask.key(task.question, {**task.levels, "u": "undo", "s": "skip", "q": "quit"})
            else:
                pressed = _ask.key("that was the last", {"u": "undo", "q": "quit"})
            if pressed == "u":
                at, held = (held[0], None) if held is not None else (at, None)
                continue
            if held is not None:
                labels.append(output, labelling.row_of(items[held[0]], held[1], task, who))
                given, held = given + 1, None
            if pressed in (None, "q"):
                break
            if pressed != "s":
                held = at, str(pressed)
            at += 1
    finally:
        if held is not None:  # Ctrl-C
            labels.append(output, labelling.row_of(items[held[0]], held[1], task, who))
    return given


def _show(item: Item, place: str) -> None:
    from genopt.cli import _ask

    click.echo(place, err=True)
    for name, value in item.fields.items():
        if value not in (list(item.references), *item.references):
            _ask.show(name, str(value))
    for reference in item.references:
        _ask.show("a good answer", reference)
    _ask.show("the text", item.text)
