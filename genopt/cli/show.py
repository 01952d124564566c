"""Owns the commands that read a study: best, trials, report, dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from genopt.cli._json import json_text

if TYPE_CHECKING:
    from genopt.report.files import Form

STUDY = click.argument("study", metavar="STUDY")


@click.command()
@STUDY
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def best(study: str, as_json: bool) -> None:
    """Print the settings a study arrived at.

    The winner's when the holdout showed an improvement, or that it meets the constraints and the baseline does not;
    else the baseline's. Before a verdict the leading trial's, which are mostly luck.

    \b
    genopt best study.toml
    genopt best sqlite:///support.db#support-answers --json
    """
    from genopt.archive import load
    from genopt.report import best_text

    archive = load(study)
    if as_json:
        from genopt.report import best_json

        click.echo(json_text(best_json(archive), indent=2))
    else:
        click.echo(best_text(archive))


@click.command()
@STUDY
@click.option("--jsonl", is_flag=True, help="One JSON object per line.")
def trials(study: str, jsonl: bool) -> None:
    """List the trials of a study, the best first.

    `n` is how many examples a trial was measured on: racing stops one early when it is clearly worse. ±95 % is the
    half width of the mean's interval; the best mean of many is too high, which is why the holdout decides.

    \b
    genopt trials study.toml
    genopt trials study.toml --jsonl > trials.jsonl
    """
    from genopt.archive import load
    from genopt.report import trials_text

    archive = load(study)
    if jsonl:
        for row in archive.rows():
            click.echo(json_text(row))
    else:
        click.echo(trials_text(archive))


@click.command()
@STUDY
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write a file: .html, .md, .json."
)
@click.option("--html", "form", flag_value="html", help="One HTML file: charts, the heat map, settings to copy.")
@click.option("--markdown", "form", flag_value="md", help="Markdown.")
@click.option("--json", "form", flag_value="json", help="Every number as JSON.")
def report(study: str, output: Path | None, form: Form | None) -> None:
    """Say what a study found, how sure that is, and what it cost.

    In words on the terminal; with -o as one file that asks no network for anything. The file's suffix chooses its form,
    or --html, --markdown or --json do.

    \b
    genopt report study.toml
    genopt report study.toml -o report.html
    genopt report study.toml --json > report.json
    """
    from genopt.archive import load
    from genopt.report import report_text
    from genopt.report.files import form_of, render, save

    if output is not None:
        save(load(study), output, form or form_of(output))
    elif form is not None:
        click.echo(render(load(study), form), nl=False)
    else:
        click.echo(report_text(load(study)))


@click.command()
@STUDY
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no password.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--browser/--no-browser", default=True, help="Open it in the browser.")
def dashboard(study: str, host: str, port: int, browser: bool) -> None:
    """Browse a study in optuna-dashboard, while it runs or after. Ctrl-C ends it.

    There is no password: whoever reaches the address can read and delete studies, so it listens on this machine alone
    unless --host says otherwise.

    \b
    genopt dashboard study.toml
    genopt dashboard study.toml --port 0 --no-browser
    """
    from genopt.dashboard import serve

    serve(study, host=host, port=port, browser=browser, say=lambda text: click.echo(text, err=True))
