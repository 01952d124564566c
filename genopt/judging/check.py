"""Owns the check of a study's judges before they are paid for: once for each judge, kept with the study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from genopt.errors import SpecError
from genopt.judging.exam import FEWEST, ROWS, Exam, examine, what
from genopt.schedule import run_trial
from genopt.scorers.judge import Judge
from genopt.session import Session
from genopt.types import Example


@dataclass(frozen=True, slots=True)
class Answers:
    """Rows with a good answer each: its reference (`referenced`), or what the baseline wrote."""

    rows: Sequence[tuple[Example, str]]
    referenced: bool


async def check_judges(session: Session) -> None:
    """Warn of every judge of a started session that fails its check. Raises SpecError where it is to be `strict`."""
    problems: list[str] = []
    judges = [scorer for scorer in session.plan.scorers.values() if isinstance(scorer, Judge) and scorer.check]
    answers = await good_answers(session) if judges else Answers([], True)
    for judge in judges:
        if len(answers.rows) < FEWEST:
            session.note(f"scorers.{judge.name}: the judge is not checked: that takes {FEWEST} answers", warning=True)
            continue
        failed = failures(await check_judge(session, judge, answers))
        if judge.strict:
            problems += failed
        for failure in failed if not judge.strict else ():
            session.note(f"the judge fails its check: {failure}", warning=True)
    if problems:
        raise SpecError(
            problems,
            hint="give the judge a better model or rubric (genopt judge show prints what it is sent), or go on all the"
            " same with strict = false",
        )


def failures(exam: Exam) -> list[str]:
    """What a judge fails by, as lines for people."""
    return [
        f"scorers.{exam.scorer}: {what(finding, exam.referenced)}" for finding in exam.findings if not finding.passed
    ]


async def check_judge(session: Session, judge: Judge, answers: Answers) -> Exam:
    """The exam of one judge of a started session: the stored one where it is of this judge and no shorter, else a new
    one, which is stored. Raises SpecError for fewer than five answers, BackendError."""
    plan = session.plan
    key, name = plan.scorer_keys[judge.name], f"judge_check.{judge.name}"
    pairwise = plan.spec.confirm.pairwise == judge.name
    stored = await session.db(session.study.attribute, name)
    if stored is not None:
        exam = Exam.from_json(stored)
        compared = any(finding.name == "first" for finding in exam.findings)
        if exam.key == key and exam.rows >= len(answers.rows) and compared >= pairwise:
            return exam
    session.note(f"scorers.{judge.name}: checking the judge on {len(answers.rows)} rows")
    exam = await examine(judge, key, answers.rows, referenced=answers.referenced, pairwise=pairwise)
    await session.flush()
    await session.db(session.study.set_attribute, name, exam.to_json())
    return exam


async def good_answers(session: Session, rows: int = ROWS) -> Answers:
    """Rows to tune on with a good answer each: their references, or else what the baseline writes, which stays with the
    study as its first texts."""
    plan = session.plan
    known = [(example, text) for example in plan.tune for text in example.references[:1] if text.strip()]
    if len(known) >= FEWEST:
        return Answers(known[:rows], True)
    config, examples = plan.baseline(), plan.tune[:rows]
    memory = await session.memory(config, "tune")

    async def observe(index: int) -> tuple[Example, str]:
        await session.observer.observe(config, memory, examples[index], 0, "tune", None)
        return examples[index], memory[examples[index].id, 0].generation.text

    written = await run_trial(len(examples), observe, window=2 * plan.concurrency)
    return Answers([(example, text) for example, text in written if text.strip()], False)
