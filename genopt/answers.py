"""Owns how the samples of one example become answers, and what an answer is worth. Generates nothing.

An answer is made of n samples, the first n of `most` places that belong to it: so an answer of three is the beginning
of the answer of nine, and nothing is generated twice. Who chooses among samples never sees a reference.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from genopt.extract import numbers
from genopt.metrics import answer_tokens, count_f1, mean_similarities, normalize
from genopt.spec.answer import CONSISTENCY, AnswerSpec
from genopt.tables import Row
from genopt.types import Example, Params


@dataclass(frozen=True, slots=True)
class Answers:
    """How samples become answers; as it is, every sample is an answer.

    most       places that an answer has; what a configuration does not fill stays empty
    extract    what a vote is about: "text", "last_number" or a regular expression
    by         who chooses the best: "consistency", or the scorer of this name, whose scores are stored under `key`
    reference  the row's field that holds the references: a chooser does not see it
    """

    aggregate: Literal["vote", "best", "mean"] = "mean"
    most: int = 1
    extract: str = "text"
    by: str = CONSISTENCY
    key: str = ""
    reference: str | None = None

    @classmethod
    def of(cls, spec: AnswerSpec | None, keys: Mapping[str, str], reference: str | None) -> Answers:
        """Those of a study file; `keys` are the scorers' by name."""
        if spec is None:
            return cls()
        by = spec.by or CONSISTENCY
        key = hashlib.sha256(f"chooses\0{keys[by]}".encode()).hexdigest() if by in keys else ""
        return cls(spec.aggregate, spec.most, spec.extract or "text", by, key, reference)

    def describe(self) -> dict[str, Any]:
        """As plain JSON values, for `from_description`."""
        return {"aggregate": self.aggregate, "most": self.most, "extract": self.extract, "by": self.by, "key": self.key}

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Answers:
        """Those of a stored study."""
        return cls(**description.get("answer", {}))

    @property
    def chooser(self) -> str:
        """The name of the scorer that chooses, "" where none does."""
        return self.by if self.key and self.aggregate == "best" else ""

    def places(self, first: int, count: int, n: int) -> list[int]:
        """The samples of the answers `first` .. `first` + `count` - 1, n of each."""
        return [answer * self.most + i for answer in range(first, first + count) for i in range(n)]

    def grouped(self, rows: Sequence[Row]) -> list[list[Row]]:
        """The rows by answer; both in order."""
        if self.most == 1 or len({row.id for row in rows}) == 1:  # the one text of a greedy configuration, repeated
            return [[row] for row in rows]
        return [list(members) for _, members in groupby(rows, lambda row: row.sample // self.most)]

    def chosen(self, rows: Sequence[Row]) -> list[Row]:
        """Of the samples of an observation those that are its answers; with mean all of them."""
        if self.most == 1 or self.aggregate == "mean":
            return list(rows)
        return [self._one(answer) for answer in self.grouped(rows)]

    def _one(self, answer: Sequence[Row]) -> Row:
        usable = [row for row in answer if not row.generation.failed]
        if len(usable) < 2:
            return usable[0] if usable else answer[0]
        texts = [row.generation.text for row in usable]
        if self.aggregate == "vote":
            return usable[elected(texts, self.extract)]
        if not self.key:
            return usable[most_alike(texts)]
        values = [row.scores[self.key].value if self.key in row.scores else None for row in usable]
        return usable[highest(values)]

    def charged(self, metrics: Mapping[str, float], rows: Sequence[Row]) -> dict[str, float]:
        """The metrics of an observation's answers, with what all of its samples cost."""
        found, count = dict(metrics), len(self.grouped(rows))
        if self.most > 1 and count:
            failed = any(row.generation.finish == "error" for row in rows)
            for name in ("completion_tokens", "seconds"):  # an answer costs what all of its samples do
                total = math.fsum(getattr(row.generation, name) for row in rows)
                found[name] = math.nan if failed else total / count
        return found

    def bare(self, example: Example) -> Example:
        """The example as a chooser may see it."""
        fields = {name: value for name, value in example.fields.items() if name != self.reference}
        return replace(example, fields=fields, references=())

    def settled(self, rows: Sequence[Row]) -> bool:
        """True when whoever chooses among these samples has said all it has to say."""
        several = [row for answer in self.grouped(rows) if len(answer) > 1 for row in answer]
        return not self.chooser or all(self.key in row.scores for row in several)

    async def choose(
        self, example: Example, rows: Sequence[Row], score: Callable[[Example, Sequence[Row]], Awaitable[object]]
    ) -> list[Row]:
        """The same as `chosen`, after what a chooser has to say was asked with `score`, which adds it to the rows."""
        if self.chooser and any(len(answer) > 1 for answer in self.grouped(rows)):
            await score(self.bare(example), rows)
        return self.chosen(rows)


def samples_of(params: Params, *, deterministic: bool) -> int:
    """How many samples an answer has under these settings; where they are all the same text, one."""
    n = params.get("n", 1)
    return n if isinstance(n, int) and not deterministic else 1


def elected(texts: Sequence[str], extract: str) -> int:
    """The first text that says what most of them say; of several such sayings the one that came first. A text of which
    nothing can be extracted has no vote; where none has, the first text is elected."""
    said = [extracted(text, extract) for text in texts]
    votes = Counter(word for word in said if word is not None)
    if not votes:
        return 0
    most = max(votes.values())
    return next(i for i, word in enumerate(said) if word is not None and votes[word] == most)


def extracted(text: str, extract: str) -> str | None:
    """What a text says, as far as a vote is concerned; None for nothing."""
    if extract == "text":
        return normalize(text) or None
    if extract == "last_number":
        found = numbers(text)
        return f"{found[-1].value:.12g}" if found else None
    matches = list(re.finditer(extract, text))
    if not matches:
        return None
    last = matches[-1]
    return normalize(last.group(1) or "" if last.re.groups else last.group()) or None


def most_alike(texts: Sequence[str]) -> int:
    """The text with the highest mean token F1 to the others (minimum Bayes risk decoding, Eikema and Aziz 2020, arXiv
    2005.10283); of several the first."""
    alike = mean_similarities([answer_tokens(text) for text in texts], count_f1)
    return highest([round(value, 12) for value in alike])


def highest(values: Sequence[float | None]) -> int:
    """The place of the first of the highest; what is not known is lower than all."""
    known = [-math.inf if value is None or math.isnan(value) else value for value in values]
    return known.index(max(known))
