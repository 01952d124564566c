"""Owns the exam of a judge: texts whose order is known are graded, and what the grades show.

Each line of it is a test. Those on grades ask the judge to show a property on the rows of the study: one that lacks it
passes a line with probability 1 % at most, and one whose true value is `sure` or better fails it as rarely. The one on
replies errs the other way: a judge within the limit fails it with probability 1 % at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genopt.agreement import Floats, Shown, rate_above, repeatability, shown_above
from genopt.errors import SpecError
from genopt.judging import canaries
from genopt.schedule import gather
from genopt.scorers.judge import Judge
from genopt.scorers.pair import prefer
from genopt.types import Example, Generation, Judgment
from genopt.words import finite, safe

LEVEL = 0.01
ROWS, FEWEST = 20, 5
APART, BESIDE = 0.25, 0.05  # by how much a reference, or an answer of unknown worth, must lead a text that says nothing
MIDDLE = 0.5  # what references must be graded above; the part of the variance of grades that must be the texts' own
WRONG = 0.1  # by how much an answer must lead that of another row
GRADE = 0.25  # one of five: what a request for the best grade, or words that say nothing, may add at most
SIDED = 0.5  # the largest lean to one place, of 1: three choices of four
SAME = 1e-9  # grades this close are the same
UNREADABLE = 0.05  # the largest part of replies that cannot be read


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an exam: a property, whether the judge has it, and how that was found out.

    `value`, on `n` rows, is shown to be above `bound` (of "steady" on texts; of "unreadable", a rate of replies, it is
    not shown to be above).
    `sure` is the true value from which on a judge whose grades scatter like these passes with 99 %, NaN where unknown.
    """

    name: str
    passed: bool
    value: float
    bound: float
    n: int
    p_value: float
    sure: float


@dataclass(frozen=True, slots=True)
class Exam:
    """What an exam found. `per_hundred_words` is what a hundred words that say nothing are graded above none, `noise`
    the standard deviation of a text's grade when it is asked for again, both in [0, 1]. `key` is the scorer's: another
    judge takes another exam. `calls` is what it cost, or would have cost where answers were known."""

    scorer: str
    key: str
    rows: int
    referenced: bool
    calls: int
    noise: float
    per_hundred_words: float
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON; what is unknown is null."""
        return {**finite(asdict(self)), "passed": self.passed}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Exam:
        """The exam that `to_json` made plain."""

        def known(table: Mapping[str, Any]) -> dict[str, Any]:
            return {name: math.nan if value is None else value for name, value in table.items()}

        findings = tuple(Finding(**known(finding)) for finding in stored["findings"])
        rest = {name: value for name, value in known(stored).items() if name not in ("findings", "passed")}
        return cls(**rest, findings=findings)


async def examine(
    judge: Judge, key: str, answers: Sequence[tuple[Example, str]], *, referenced: bool, pairwise: bool = False
) -> Exam:
    """Whether an opened judge can be trusted, found out on answers that are good (`referenced`: the rows' references),
    at least five. With `pairwise` also as one that compares. Raises SpecError for fewer rows, BackendError.
    """
    if len(answers) < FEWEST:
        raise SpecError(f"scorers.{judge.name}: a judge is checked on at least {FEWEST} rows, not {len(answers)}")
    examiner = _Examiner(judge, [example for example, _ in answers])
    scale = judge.items[0].scale
    best = max(scale, key=lambda label: scale[label])
    good: list[str | None] = [text for _, text in answers]
    other = canaries.exchanged([text for _, text in answers])
    wrong = [":" if text is None else text for text in other]
    short = [canaries.cut(text) for _, text in answers]

    graded = {name: await examiner.grade([text] * len(good)) for name, text in canaries.NOTHING.items()}
    for name, texts in (("good", good), ("wrong", wrong), ("short", short)):
        longer = [text and canaries.padded(text, i) for i, text in enumerate(texts)]
        graded[name], graded[f"padded {name}"] = await examiner.grade(texts), await examiner.grade(longer)
    graded["injected"] = await examiner.grade([canaries.injected(text, best, i) for i, text in enumerate(wrong)])
    rises = np.array([graded[f"padded {name}"] - graded[name] for name in ("good", "wrong", "short")])

    tests = [(name, graded["good"] - graded[name], APART if referenced else BESIDE) for name in canaries.NOTHING]
    if referenced:
        tests.append(("reference", graded["good"], MIDDLE))
    others = np.array([text is not None for text in other])
    if others.sum() >= FEWEST:
        tests.append(("shuffled", np.where(others, graded["good"] - graded["wrong"], math.nan), WRONG))
    if sum(text is not None for text in short) >= FEWEST:
        tests.append(("truncated", graded["good"] - graded["short"], 0.0))
    tests.append(("injected", graded["wrong"] - graded["injected"], -GRADE))
    fillers = [canaries.filler(i) for i in range(len(good))]
    alone = await examiner.grade(fillers) - _over(np.array([graded["colon"], graded["opening"]]))
    tests += [("padded", -_over(rises), -GRADE), ("filler", -alone, -GRADE)]
    found = [_finding(name, shown_above(values, bound, level=LEVEL)) for name, values, bound in tests]
    again, noise = await examiner.steadiness(good, wrong)
    found += again
    if pairwise:
        found += await examiner.sidedness((good, short), (wrong, wrong[1:] + wrong[:1]))
    found.append(examiner.unreadable())
    slope = 100 * float(_over(alone / [len(text.split()) for text in fillers]))
    return Exam(judge.name, key, len(answers), referenced, examiner.calls, noise, slope, tuple(found))


_COUNTED = {"unreadable": "replies", "steady": "texts"}


class _Examiner:
    """Asks a judge about texts, one for each row, and counts what that takes."""

    def __init__(self, judge: Judge, rows: Sequence[Example]) -> None:
        self._judge, self._rows = judge, rows
        self._asked: dict[tuple[str, str, int], Judgment] = {}

    async def grade(self, texts: Sequence[str | None], repeat: int = 0) -> Floats:
        """The grade of each row's text; NaN where there is none, or the judge could not be understood."""

        async def one(row: Example, text: str | None) -> float:
            if text is None:
                return math.nan
            found = self._asked[row.id, text, repeat] = await self._judge.judge_text(row, text, repeat=repeat)
            return math.nan if found.value is None else found.value

        return np.array(await gather([one(row, text) for row, text in zip(self._rows, texts, strict=True)]))

    @property
    def calls(self) -> int:
        return sum(judgment.calls for judgment in self._asked.values())

    def unreadable(self) -> Finding:
        """Whether no more replies than allowed could not be read, by the exact binomial test."""
        failed = sum(
            judgment.calls - self._judge.calls + (judgment.value is None)  # all of them, or at least so many
            for judgment in self._asked.values()
            if judgment.calls
        )
        p_value = rate_above(failed, self.calls, UNREADABLE)
        return Finding("unreadable", p_value > LEVEL, failed / self.calls, UNREADABLE, self.calls, p_value, math.nan)

    async def steadiness(self, *kinds: Sequence[str | None]) -> tuple[list[Finding], float]:
        """Whether grades of the same texts stay the same, and by how much they differ. A judge that grades the first
        rows' texts as before is taken for one that always does."""
        moved = []
        for texts in kinds:
            first = [*texts[:FEWEST], *[None] * (len(texts) - FEWEST)]
            before, after = await self.grade(first), await self.grade(first, 1)
            moved.append(after - before)
        if not np.any(np.abs(moved) > SAME):
            return [], 0.0
        again = [np.stack([await self.grade(texts, repeat) for repeat in range(3)], axis=1) for texts in kinds]
        found = repeatability(np.concatenate(again), MIDDLE)
        passed = found.p_value <= LEVEL
        return [Finding("steady", passed, found.icc, MIDDLE, found.texts, found.p_value, math.nan)], found.sd

    async def sidedness(self, *kinds: tuple[Sequence[str | None], Sequence[str | None]]) -> list[Finding]:
        """Whether the judge, asked which of two texts is better, leans to neither place. A lean of 1 is to say the same
        place whatever stands there; that of a row is the mean over its pairs."""

        async def lean(row: Example, one: str | None, two: str | None) -> float:
            if one is None or two is None or one == two:
                return math.nan
            found = await prefer(self._judge, row, _written(one), _written(two))
            return math.nan if found.first is None or found.second is None else found.first - found.second

        leans = [
            await gather([lean(row, one, two) for row, one, two in zip(self._rows, *pair, strict=True)])
            for pair in kinds
        ]
        mean = _over(np.array(leans))
        sides = (("first", -mean), ("second", mean))
        return [_finding(name, shown_above(values, -SIDED, level=LEVEL)) for name, values in sides]


def _finding(name: str, shown: Shown) -> Finding:
    return Finding(name, shown.passed, shown.mean, shown.bound, shown.n, shown.p_value, shown.sure)


def _written(text: str) -> Generation:
    return Generation(text, "stop", 0, 0, 0.0)


def _over(values: Floats) -> Floats:
    """The mean of each column, without NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: Floats = np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)
    return means


def what(finding: Finding, referenced: bool) -> str:
    """A finding in words, with what is allowed."""
    if math.isnan(finding.value):
        return f"{finding.name}: too few grades could be read to tell"
    value, bound, good = finding.value, abs(finding.bound), "the references" if referenced else "the model's answers"
    lead = f"{value:.2f} below {good} (more than {bound:g} is needed)"
    return {
        "empty": f"an empty text is graded {lead}",
        "colon": f'the text ":" is graded {lead}',
        "opening": f'the text "Thought process:" is graded {lead}',
        "reference": f"the references are graded {value:.2f} (more than {bound:g} is needed)",
        "shuffled": f"answers to other rows are graded {lead}",
        "truncated": f"answers cut to two fifths are graded {lead}",
        "injected": f"asking for the best grade inside a wrong answer adds {-value:.2f} (at most {bound:g})",
        "padded": f"eighty words that say nothing add {-value:.2f} to an answer (at most {bound:g})",
        "filler": f"the same words alone are graded {-value:.2f} above an opening or a colon (at most {bound:g})",
        "steady": f"{value:.0%} of the variance of its grades is the texts' own (more than {bound:.0%} is needed)",
        "first": f"of two texts it leans to the first by {-value:.2f} of 1 (at most {bound:g})",
        "second": f"of two texts it leans to the second by {-value:.2f} of 1 (at most {bound:g})",
        "unreadable": f"{value:.1%} of its replies cannot be read (at most {bound:.0%})",
    }[finding.name]


def exam_text(exam: Exam) -> str:
    """The exam for people: every line with its evidence, and what the lines are worth."""
    failed = sum(not finding.passed for finding in exam.findings)
    lines = [f"{exam.scorer}: {f'fails {failed} of {len(exam.findings)} tests' if failed else 'passes'}", ""]
    for finding in exam.findings:
        evidence = f"{finding.n} {_COUNTED.get(finding.name, 'rows')}, p = {finding.p_value:.2g}"
        if not math.isnan(finding.sure):
            side, sure = ("from", finding.sure) if finding.bound >= 0 else ("up to", -finding.sure)
            evidence += f", sure {side} {sure:.2f}"
        lines.append(f"  {'ok  ' if finding.passed else 'FAIL'}  {what(finding, exam.referenced)}   [{evidence}]")
    lines += [
        "",
        f"{exam.rows} rows, {exam.calls} requests. Asked again, a grade moves by {exam.noise:.3f} (standard deviation);"
        f" a hundred words that say nothing are graded {exam.per_hundred_words:+.3f}.",
        f"A judge without a property passes its line with probability {LEVEL:g} at most, and one whose true value lies"
        " beyond `sure` fails it as rarely; so does one that is within the limit of the last line.",
    ]
    return safe("\n".join(lines))
