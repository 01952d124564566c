"""Makes examples and generations for the tests of scorers, and the similarities that some of them put together from the
metrics. The laws every scorer keeps are in `obeys`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from genopt import metrics
from genopt.types import Example, Generation, Score, Scorer

ODD_TEXTS = ("", "  \n", "plain words", "猫が好き", "🙂", "{}", "-1.5%", "a|b", "\N{ZERO WIDTH SPACE}", "x" * 5000)


def example(*references: str, id: str = "1", **fields: Any) -> Example:
    """An example with these references and fields."""
    return Example(id, fields, tuple(references))


def generation(text: str, tokens: int = 1) -> Generation:
    """A text that ended by itself."""
    return Generation(text, "stop", 1, tokens, 0.0)


def scores(scorer: Scorer, given: Example, *texts: str) -> list[Score]:
    """What the scorer says of these texts, in a fresh event loop."""
    return asyncio.run(scorer.score(given, [generation(text) for text in texts]))


def values(scorer: Scorer, given: Example, *texts: str) -> list[float | None]:
    """The values alone."""
    return [score.value for score in scores(scorer, given, *texts)]


def obeys(scorer: Scorer, given: Example, texts: Sequence[str] = ODD_TEXTS) -> None:
    """Assert what holds for every scorer: one score per text, in [0, 1] or None with a reason, repeatable, closable."""
    assert isinstance(scorer, Scorer)
    assert scorer.needs <= {"references", "repeats"}
    first = scores(scorer, given, *texts)
    assert len(first) == len(texts)
    for score in first:
        assert isinstance(score, Score)
        assert score.why if score.value is None else 0.0 <= score.value <= 1.0
    assert scores(scorer, given, *texts) == first
    assert scores(scorer, given) == []
    asyncio.run(scorer.aclose())
    asyncio.run(scorer.aclose())


def exact(text: str, reference: str) -> float:
    """1 for equal normal forms, as ExactMatch and Consistency have it."""
    return float(metrics.normalize(text) == metrics.normalize(reference))


def token_f1(text: str, reference: str) -> float:
    """F1 of the answers' tokens, as TokenF1 and Consistency have it."""
    return metrics.count_f1(metrics.answer_tokens(text), metrics.answer_tokens(reference))


def rouge_n(text: str, reference: str, n: int = 1) -> float:
    """F1 of the n-grams, as RougeN has it."""
    return metrics.count_f1(metrics.ngram_counts(text, n), metrics.ngram_counts(reference, n))


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words, as RougeL has it."""
    return metrics.lcs_f1(metrics.words(text), metrics.words(reference))
