"""Owns the scorers that look at one text as a whole: its likeness to the references, its length.
What is looked for inside a text is patterns.py's, the arithmetic metrics.py's. Knows no model and no other sample.

A scorer that compares takes the best of the example's references; an example without one gets None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from genopt import metrics
from genopt.errors import SpecError
from genopt.scorers._plain import NO_REFERENCE, NOTHING, REFERENCES, Plain

# Found here, too, by study files and subclasses that name them so.
from genopt.scorers.patterns import Contains as Contains
from genopt.scorers.patterns import Numeric as Numeric
from genopt.scorers.patterns import Regex as Regex
from genopt.types import Example, Generation, Score


class _Likeness(Plain):
    """Best of `compare(form(text), form(reference))` over the references; a reference's form is made once."""

    needs = REFERENCES

    def __init__(self, name: str, form: Callable[[str], Any], compare: Callable[[Any, Any], float]) -> None:
        self.name = name
        self._form = form
        self._compare = compare
        self._forms: dict[str, Any] = {}

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, None without a reference."""
        if not example.references:
            return [Score(None, NO_REFERENCE)] * len(generations)
        wanted = [self._reference(reference) for reference in example.references]
        scores = []
        for generation in generations:
            form = self._form(generation.text)
            scores.append(Score(max(self._compare(form, reference) for reference in wanted)))
        return scores

    def _reference(self, text: str) -> Any:
        if text not in self._forms:
            self._forms[text] = self._form(text)
        return self._forms[text]


class ExactMatch(_Likeness):
    """1 when the text equals a reference, 0 otherwise; `normalize` ignores case, punctuation, articles and spacing."""

    def __init__(self, *, name: str, normalize: bool = True) -> None:
        super().__init__(name, metrics.normalize if normalize else str.strip, lambda a, b: float(a == b))


class TokenF1(_Likeness):
    """F1 over the words of the normal forms, as SQuAD has it."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name, metrics.answer_tokens, metrics.count_f1)


class RougeL(_Likeness):
    """ROUGE-L F1: the longest common subsequence of words, without stemming."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name, metrics.words, metrics.lcs_f1)


class RougeN(_Likeness):
    """ROUGE-N F1: shared n-grams of words, without stemming."""

    def __init__(self, *, name: str, n: int = 2) -> None:
        super().__init__(name, lambda text: metrics.ngram_counts(text, n), metrics.count_f1)


class Chrf(_Likeness):
    """chrF on [0, 1]; chrF++ with `word_order` 2."""

    def __init__(self, *, name: str, word_order: Literal[0, 2] = 0) -> None:
        super().__init__(name, str, lambda a, b: metrics.chrf(a, b, word_order=word_order))


class Levenshtein(_Likeness):
    """1 - edit distance / length of the longer text, over characters; case and punctuation count."""

    def __init__(self, *, name: str) -> None:
        super().__init__(name, str.strip, metrics.levenshtein)


class Bleu(Plain):
    """Sentence BLEU on [0, 1] against all references together, which is how BLEU uses several.

    `tokenize` is sacreBLEU's: the default suits languages with spaces, "zh" Chinese, "char" any other without.
    """

    needs = REFERENCES

    def __init__(self, *, name: str, tokenize: metrics.BleuTokenizer = "13a") -> None:
        self.name = name
        self._tokenize = tokenize

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, None without a reference."""
        if not example.references:
            return [Score(None, NO_REFERENCE)] * len(generations)
        return [Score(metrics.bleu(g.text, example.references, tokenize=self._tokenize)) for g in generations]


class Length(Plain):
    """1 when the length is within [min, max], falling linearly to 0 with the relative distance to the bound.

    Words are those of `metrics.words`, characters exclude the blanks around the text, tokens are the engine's count.
    """

    needs = NOTHING

    def __init__(
        self,
        *,
        name: str,
        min: float | None = None,
        max: float | None = None,
        unit: Literal["words", "characters", "tokens"] = "words",
    ) -> None:
        self.name = name
        if min is None and max is None:
            raise SpecError(f"scorers.{name}: needs min, max or both")
        if min is not None and max is not None and min > max:
            raise SpecError(f"scorers.{name}: min ({min:g}) is larger than max ({max:g}). Swap them")
        self._min, self._max, self._unit = min, max, unit

    def _size(self, generation: Generation) -> int:
        if self._unit == "tokens":
            return generation.completion_tokens
        return len(metrics.words(generation.text) if self._unit == "words" else generation.text.strip())

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation."""
        scores = []
        for size in map(self._size, generations):
            value = metrics.within(size, self._min, self._max)
            bound = f"at least {self._min:g}" if self._min is not None and size < self._min else f"at most {self._max}"
            scores.append(Score(value, "" if value == 1 else f"{size} {self._unit}, wanted {bound}"))
        return scores
