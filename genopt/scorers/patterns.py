"""Owns the scorers that look for something inside one text: a number, texts that must occur, a pattern.
How numbers and texts are found is extract.py's. Knows no model and no other sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import regex

from genopt import extract, metrics
from genopt.errors import SpecError
from genopt.scorers._plain import NO_REFERENCE, NOTHING, REFERENCES, Plain
from genopt.types import Example, Generation, Score

PATTERN_SECONDS = 1.0
_FLAGS = {"a": regex.ASCII, "i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL, "x": regex.VERBOSE}


class Numeric(Plain):
    """1 when the last (or first) number of the text equals that of a reference, 0 otherwise, also without a number.

    `tolerance` is absolute or relative to the larger number, whichever is wider. "25%" equals "25" and "0.25".
    """

    needs = REFERENCES

    def __init__(self, *, name: str, tolerance: float = 1e-6, which: Literal["last", "first"] = "last") -> None:
        self.name = name
        self._tolerance = tolerance
        self._index = -1 if which == "last" else 0
        self._references: dict[str, extract.Number | None] = {}

    async def prepare(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """A warning when references hold no number. Raises SpecError when none does."""
        bad = [e for e in examples if e.references and not self._wanted(e)]
        if bad and len(bad) == len(examples):
            raise SpecError(f"scorers.{self.name}: no reference holds a number. Choose another kind")
        if bad:
            return (f"scorers.{self.name}: {len(bad)} of {len(examples)} rows have no number in their references",)
        return ()

    def _number(self, text: str) -> extract.Number | None:
        found = extract.numbers(text)
        return found[self._index] if found else None

    def _wanted(self, example: Example) -> list[extract.Number]:
        for text in example.references:
            if text not in self._references:
                self._references[text] = self._number(text)
        return [number for number in map(self._references.get, example.references) if number]

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, None when no reference holds a number."""
        wanted = self._wanted(example)
        if not wanted:
            why = "no reference holds a number" if example.references else NO_REFERENCE
            return [Score(None, why)] * len(generations)
        return [self._one(generation.text, wanted) for generation in generations]

    def _one(self, text: str, wanted: Sequence[extract.Number]) -> Score:
        found = self._number(text)
        if found is None:
            return Score(0.0, "the answer holds no number")
        if any(extract.numbers_equal(found, number, self._tolerance) for number in wanted):
            return Score(1.0)
        return Score(0.0, f"found {found.value:g}, expected {' or '.join(f'{n.value:g}' for n in wanted)}")


class Contains(Plain):
    """Whether texts occur as whole words: `values`, or the texts in a field of the row, or else any of the references.

    `mode` says whether all of them have to occur, any of them, or gives the fraction that does. "a|b" is one text that
    may be written in two ways. With the references, one is enough whatever the mode, and "|" has no meaning.
    """

    def __init__(
        self,
        *,
        name: str,
        values: Sequence[str] | None = None,
        field: str | None = None,
        mode: Literal["all", "any", "fraction"] = "all",
        case_sensitive: bool = False,
    ) -> None:
        self.name = name
        self.needs = REFERENCES if values is None and field is None else NOTHING
        self._values = None if values is None else tuple(values)
        self._field = field
        self._mode = mode if self.needs == NOTHING else "any"
        self._case_sensitive = case_sensitive
        self._patterns: dict[str, regex.Pattern[str]] = {}
        if values is not None and field is not None:
            raise SpecError(f"scorers.{name}: values and field exclude each other. Drop one")
        if values is not None and not values:
            raise SpecError(f"scorers.{name}: values is empty. Name the texts to look for")
        for value in values or ():
            try:
                self._pattern(value)
            except ValueError:
                raise SpecError(f"scorers.{name}: values: {value!r} holds nothing to look for. Drop it") from None

    async def prepare(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """A warning when rows have nothing in the field. Raises SpecError when none has."""
        if self._field is None:
            return ()
        bad = sum(not self._wanted(example) for example in examples)
        if bad and bad == len(examples):
            known = sorted({key for example in examples for key in example.fields})
            raise SpecError(
                f"scorers.{self.name}: field: no row has texts in {self._field!r}. Fields: {', '.join(known)}"
            )
        if bad:
            return (f"scorers.{self.name}: {bad} of {len(examples)} rows have no text in {self._field!r}",)
        return ()

    def _pattern(self, value: str) -> regex.Pattern[str]:
        if value not in self._patterns:
            alternatives = [value] if self.needs == REFERENCES else value.split("|")
            self._patterns[value] = extract.finder(alternatives, case_sensitive=self._case_sensitive)
        return self._patterns[value]

    def _wanted(self, example: Example) -> Sequence[str]:
        if self._values is not None:
            return self._values
        if self._field is None:
            found: Any = example.references
        else:
            found = example.fields.get(self._field)
            found = found if isinstance(found, (list, tuple)) else [found]
        return [str(value) for value in found if value is not None and str(value).replace("|", "").strip()]

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, None when the row names no text to look for."""
        wanted = self._wanted(example)
        if not wanted:
            why = NO_REFERENCE if self._field is None else f"the row has no text in {self._field!r}"
            return [Score(None, why)] * len(generations)
        return [self._one(metrics.fold(generation.text), wanted) for generation in generations]

    def _one(self, text: str, wanted: Sequence[str]) -> Score:
        missing = [value for value in wanted if not self._pattern(value).search(text)]
        if self._mode == "any":
            return Score(0.0, f"none found of {_quoted(missing)}") if len(missing) == len(wanted) else Score(1.0)
        why = f"missing: {_quoted(missing)}" if missing else ""
        return Score(float(not missing) if self._mode == "all" else 1 - len(missing) / len(wanted), why)


class Regex(Plain):
    """1 when a pattern is found, 0 otherwise; with `group`, 1 when that group equals a reference in normal form.

    Of several matches the last one counts, or with match="any" one is enough. A search that takes more than a second
    gives None. Raises SpecError for a wrong pattern, flag or group.
    """

    def __init__(
        self,
        *,
        name: str,
        pattern: str,
        flags: str = "",
        group: int | str | None = None,
        match: Literal["any", "last"] = "last",
    ) -> None:
        self.name = name
        self.needs = NOTHING if group is None else REFERENCES
        self._group = group
        self._match = match
        wrong = sorted(set(flags) - set(_FLAGS))
        if wrong:
            raise SpecError(f"scorers.{name}: flags: unknown {', '.join(wrong)}. Known: {', '.join(_FLAGS)}")
        try:
            self._pattern = regex.compile(pattern, sum(_FLAGS[letter] for letter in set(flags)))
        except regex.error as error:
            raise SpecError(f"scorers.{name}: pattern: {error}. Correct {pattern!r}") from None
        named = isinstance(group, str) and group not in self._pattern.groupindex
        if named or (isinstance(group, int) and not 0 <= group <= self._pattern.groups):
            known = ", ".join(map(str, (*range(self._pattern.groups + 1), *self._pattern.groupindex)))
            raise SpecError(f"scorers.{name}: group: the pattern has no group {group!r}. It has {known}")

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation."""
        if self._group is not None and not example.references:
            return [Score(None, NO_REFERENCE)] * len(generations)
        wanted = {metrics.normalize(reference) for reference in example.references}
        return [self._one(generation.text, wanted) for generation in generations]

    def _one(self, text: str, wanted: set[str]) -> Score:
        try:
            if self._group is None:
                found = self._pattern.search(text, timeout=PATTERN_SECONDS)
                return Score(1.0) if found else Score(0.0, "the pattern was not found")
            groups = [match[self._group] for match in self._pattern.finditer(text, timeout=PATTERN_SECONDS)]
        except TimeoutError:
            return Score(None, f"the search took more than {PATTERN_SECONDS:g} s")
        if not groups:
            return Score(0.0, "the pattern was not found")
        extracted = [group for group in groups if group is not None] if self._match == "any" else groups[-1:]
        if any(group is not None and metrics.normalize(group) in wanted for group in extracted):
            return Score(1.0)
        return Score(0.0, f"extracted {_quoted([group or '' for group in extracted])}")


def _quoted(texts: Sequence[str], most: int = 3) -> str:
    """Texts as a sentence shows them: in quotes, cut to a readable length and number."""
    shown = ", ".join(f'"{text if len(text) <= 60 else text[:57] + "..."}"' for text in texts[:most])
    return shown + (f" and {len(texts) - most} more" if len(texts) > most else "")
