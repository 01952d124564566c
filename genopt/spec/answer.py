"""Owns the keys of the [answer] table: how several samples become one answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import model_validator

from genopt.space import Choice, Constant, Dimension, Number
from genopt.spec._base import Table
from genopt.spec.dimensions import Choices, DimensionSpec, Range

CONSISTENCY = "consistency"
MOST = 64  # samples of an answer
NO_SELECTORS = ("human", "diversity", "distinct", "consistency", "contains")
"""Kinds that cannot choose an answer: people are asked too late, samples compared with samples have no order, and the
values of `contains` may stand in the row beside the reference."""


class AnswerSpec(Table):
    """Several samples that become one answer: how many is searched, and paid for."""

    n: DimensionSpec
    """Samples of an answer: { choices = [1, 3, 5, 9] }, { low = 1, high = 9, step = 2 } or one number."""
    aggregate: Literal["vote", "best", "mean"] = "vote"
    """vote: the answer most samples agree on; best: the sample that `by` prefers; mean: the mean of their scores."""
    extract: str | None = None
    """With vote, what is agreed on: "text" (default; case, punctuation and spaces aside), "last_number", or a regular
    expression whose last match (its first group, if it has one) counts."""
    by: str | None = None
    """With best: "consistency" (default; the sample most alike the others) or a scorer that needs no reference."""

    @model_validator(mode="after")
    def _fits(self) -> AnswerSpec:
        dimension = self.dimension()
        values: tuple[Any, ...] = ()
        match dimension:
            case Number(low, high, integer):
                values = (low, high) if integer else (float(low),)
            case Choice(choices):
                values = choices
            case Constant(value):
                values = (value,)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
                raise ValueError(f"n: {value!r} is no number of samples. Use whole numbers from 1 to {MOST}")
        if self.extract is not None and self.aggregate != "vote":
            raise ValueError(f'extract goes with aggregate = "vote", not with {self.aggregate}. Drop one of them')
        if self.by is not None and self.aggregate != "best":
            raise ValueError(f'by goes with aggregate = "best", not with {self.aggregate}. Drop one of them')
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ValueError(f"extract: {self.extract!r} is no regular expression ({error}). Correct it") from None
        return self

    def dimension(self) -> Dimension:
        """How many samples, as a dimension of the space. ValueError when it is none of numbers."""
        if isinstance(self.n, (Range, Choices)):
            return self.n.build()
        if isinstance(self.n, int):
            return Constant(self.n)
        raise ValueError("n: is no number of samples. Write n = { choices = [1, 3, 5, 9] }")

    @property
    def most(self) -> int:
        """The largest number of samples."""
        match self.dimension():
            case Number(_, high):
                return int(high)
            case Choice(values):
                return max(int(str(value)) for value in values)
            case Constant(value):
                return int(str(value))
        return 1


def answer_problems(answer: AnswerSpec | None, scorers: Mapping[str, Any], space: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong between the table and the rest of the study."""
    if answer is None:
        return
    if "n" in space:
        yield "space.n: [answer] searches n already. Keep one of them"
    if answer.by not in (None, CONSISTENCY) and answer.by not in scorers:
        known = ", ".join([CONSISTENCY, *scorers])
        yield f"answer.by: {answer.by!r} is no scorer of this study. Known: {known}"
    elif answer.by in scorers and scorers[str(answer.by)].kind in NO_SELECTORS:
        kind = scorers[str(answer.by)].kind
        yield f"answer.by: a scorer of the kind {kind} cannot choose among samples. Take a judge, or {CONSISTENCY!r}"
