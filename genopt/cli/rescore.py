"""Owns the command that scores a study's texts again."""

from __future__ import annotations

import click

from genopt.cli._json import json_text
from genopt.cli.work import _say, run_until_signal


@click.command()
@click.argument("study", metavar="STUDY")
@click.option("--scorer", "written", required=True, metavar="TABLE", help="A scorer's kind, its table, or a TOML file.")
@click.option("--name", default="rescored", show_default=True, help="What the new score is called.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def rescore(study: str, written: str, name: str, as_json: bool) -> int:
    """Score the texts of a study with another judge, rubric or scorer, and rank its trials by that.

    Nothing is generated. The scores are kept with the study, so that the same command costs nothing the second time. A
    judge without a backend of its own is asked through the study's engine.

    \b
    genopt rescore study.toml --scorer strict.toml
    genopt rescore study.toml --scorer '{kind = "judge", rubric = "Is every claim in the reference?"}'
    genopt rescore sqlite:///support.db#support-answers --scorer rouge_l
    """
    from genopt.report.rescored import rescored_json, rescored_text
    from genopt.rescore import rescore_async
    from genopt.spec.read import read_scorer

    found = run_until_signal(rescore_async(study, read_scorer(written, name), name=name, tell=_say))
    click.echo(json_text(rescored_json(found), indent=2) if as_json else rescored_text(found))
    return 0
