"""Owns the commands about a study's judges."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from genopt.cli._json import json_text
from genopt.cli.work import OUTSIDE, SET, STUDY_FILE, _say, run_until_signal

if TYPE_CHECKING:
    from genopt.judging.exam import Exam
    from genopt.scorers.judge import Judge
    from genopt.spec import StudySpec
    from genopt.types import Example, Request, Scorer

SCORER = click.option("--scorer", metavar="NAME", help="Which judge, where the study has several.")


@click.group()
def judge() -> None:
    """See what a study's judge is shown, and whether it can be trusted.

    \b
    genopt judge show study.toml                                 exactly what is sent about a row
    genopt judge check study.toml                                texts whose order is known, before you pay
    genopt judge calibrate labels.jsonl --study study.toml       against people, afterwards
    """


@judge.command()
@STUDY_FILE
@SET
@OUTSIDE
@SCORER
@click.option("--example", metavar="ID", help="The row (default: the first to tune on).")
@click.option("--text", help="The text to be graded (default: the row's reference).")
def show(
    study: Path,
    overrides: tuple[str, ...],
    allow_outside: bool,
    scorer: str | None,
    example: str | None,
    text: str | None,
) -> int:
    """Print exactly what a judge is sent about a row.

    The judge's engine is opened and asked once, to find out how grades can be read from it: that decides the last line.

    \b
    genopt judge show study.toml --example ticket-17 --text "Have you tried turning it off?"
    """
    from genopt.spec.read import read_study
    from genopt.words import safe

    spec = read_study(study, overrides=overrides, allow_outside=allow_outside)
    who, row, requests = run_until_signal(_requests(spec, scorer, example, text))
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


@judge.command()
@STUDY_FILE
@SET
@OUTSIDE
@SCORER
@click.option("--rows", type=click.IntRange(5), help="How many rows it is examined on (default: 20).")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(
    study: Path,
    overrides: tuple[str, ...],
    allow_outside: bool,
    scorer: str | None,
    rows: int | None,
    as_json: bool,
) -> int:
    """Find out whether a judge can be trusted, before it is paid for.

    It grades texts whose order is known: references, nothing, answers to other rows, cut and padded ones, ones that ask
    for the best grade. What it got wrong is told with how far it is off. Without references the baseline answers some
    rows first. The result stays with the study, so that optimize does not ask again. Exit code 1: it fails.

    \b
    genopt judge check study.toml
    genopt judge check study.toml --scorer helpful --rows 50 --json
    """
    from genopt.judging.exam import ROWS, exam_text
    from genopt.spec.read import read_study

    spec = read_study(study, overrides=overrides, allow_outside=allow_outside)
    exam = run_until_signal(_checked(spec, scorer, rows or ROWS))
    click.echo(json_text(exam.to_json(), indent=2) if as_json else exam_text(exam))
    return 0 if exam.passed else 1


async def _checked(spec: StudySpec, scorer: str | None, rows: int) -> Exam:
    from genopt.events import Event, Note
    from genopt.judging.check import check_judge, good_answers
    from genopt.prepare import prepare
    from genopt.runner import check_unchanged
    from genopt.session import Session

    def say(event: Event) -> None:
        if isinstance(event, Note):
            _say(event.text)

    plan = await prepare(spec, tell=_say)
    session = Session(plan, say)
    try:
        judge = judge_of(plan.scorers, scorer)
        await session.open()
        await check_unchanged(session)
        await session.start()
        return await check_judge(session, judge, await good_answers(session, rows))
    finally:
        await asyncio.shield(session.close())
        await asyncio.shield(plan.aclose())


@judge.command()
@click.argument("labels", metavar="LABELS", type=click.Path(dir_okay=False))
@click.option("--study", metavar="STUDY", help="The study whose judge graded the labelled texts.")
@SCORER
@click.option("--judge-scores", metavar="FILE", help="The judge's scores: rows of id, output and score (or level).")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def calibrate(labels: str, study: str | None, scorer: str | None, judge_scores: str | None, as_json: bool) -> None:
    """Hold a judge against people's labels.

    LABELS has rows of id, output and label, best also annotator (genopt label writes them). The judge's scores come
    from a study, from a file, or from the rows themselves ("score": in [0, 1], or "level": on the labels' scale).
    Intervals are of 95 % and resample whole inputs.

    \b
    genopt judge calibrate labels.jsonl --study study.toml
    genopt judge calibrate labels.jsonl --judge-scores scores.jsonl --json
    """
    from genopt.archive import load
    from genopt.judging import calibrate as calibration
    from genopt.judging import labels as files
    from genopt.judging.calibrate.text import calibration_text

    people = files.read(labels)
    if study is not None and judge_scores is not None:
        raise click.UsageError("--study and --judge-scores both give the judge's scores. Choose one")
    if study is not None:
        archive = load(study)
        judged = calibration.scores_of(archive, calibration.choose_scorer(archive, scorer))
    else:
        judged = calibration.scores_in(people if judge_scores is None else files.read(judge_scores, scores=True))
    found = calibration.calibrate(people, judged)
    if as_json:
        click.echo(json_text(found.to_json(), indent=2))
    else:
        click.echo(calibration_text(found))


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
