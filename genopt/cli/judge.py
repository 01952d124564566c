"""Owns the commands about a study's judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genopt.cli.work import SET, STUDY_FILE, Stopped, _say, run_until_signal

if TYPE_CHECKING:
    from genopt.scorers.judge import Judge
    from genopt.spec import StudySpec
    from genopt.types import Example, Request, Scorer

SCORER = click.option("--scorer", metavar="NAME", help="Which judge, where the study has several.")


@click.group()
def judge() -> None:
    """See what a study's judge is shown, and whether it can be trusted."""


@judge.command()
@STUDY_FILE
@SET
@SCORER
@click.option("--example", metavar="ID", help="The row (default: the first to tune on).")
@click.option("--text", help="The text to be graded (default: the row's reference).")
def show(study: Path, overrides: tuple[str, ...], scorer: str | None, example: str | None, text: str | None) -> int:
    """Print exactly what a judge is sent about a row.

    The judge's engine is opened and asked once, to find out how grades can be read from it: that decides the last line.

    \b
    genopt judge show study.toml --example ticket-17 --text "Have you tried turning it off?"
    """
    from genopt.words import safe
    from genopt.spec.read import read_study

    try:
        who, row, requests = run_until_signal(_requests(read_study(study, overrides=overrides), scorer, example, text))
    except Stopped as stopped:
        return stopped.code
    click.echo(safe(f"{who.name} on row {row.id}, grades read from {who.mode}"))
    for request in requests:
        for message in request.messages:
            click.echo(f"\n--- {message.role}\n{safe(message.content)}")
        click.echo("\n--- parameters")
        for key, value in request.params.items():
            click.echo(safe(f"{key} = {value}"))
        if request.choices:
            click.echo(f"kept to {', '.join(request.choices)}")
        if request.schema is not None:
            click.echo(f"kept to the schema {dict(request.schema)}")
        if request.top_logprobs:
            click.echo(f"{request.top_logprobs} log probabilities")
    return 0


async def _requests(
    spec: StudySpec, scorer: str | None, example: str | None, text: str | None
) -> tuple[Judge, Example, list[Request]]:
    from genopt.prepare import prepare

    plan = await prepare(spec, tell=_say)
    try:
        judge = judge_of(plan.scorers, scorer)
        rows = {row.id: row for row in (*plan.tune, *plan.holdout)}
        if example is not None and example not in rows:
            raise click.UsageError(f"--example: there is no row {example!r}. The first are {', '.join(list(rows)[:3])}")
        row = rows[example] if example is not None else plan.tune[0]
        if text is None:
            text = row.references[0] if row.references else "The text to be graded stands here."
        asked = [(judge.messages(row, text, item), item.scale) for item in judge.items]
        return judge, row, [judge.request(messages, scale) for messages, scale in asked]
    finally:
        await plan.aclose()


def judge_of(scorers: Mapping[str, Scorer], name: str | None) -> Judge:
    """The judge of that name among a plan's scorers, or the only one. Raises UsageError."""
    from genopt.scorers.judge import Judge

    judges = {n: s for n, s in scorers.items() if isinstance(s, Judge)}
    if not judges:
        raise click.UsageError('the study has no judge. Add one: [scorers.helpful] kind = "judge", rubric = "..."')
    if name is None and len(judges) > 1:
        raise click.UsageError(f"the study has several judges. Say --scorer {' | '.join(judges)}")
    if name is not None and name not in judges:
        raise click.UsageError(f"--scorer: {name!r} is no judge here. The judges are {', '.join(judges)}")
    return judges[name] if name is not None else next(iter(judges.values()))
