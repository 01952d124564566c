"""Owns the scorers that compare the samples of one example with each other. Knows no references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from genopt import metrics
from genopt.scorers._plain import REPEATS, Plain
from genopt.types import Example, Generation, Score

_ALONE = "only one sample of this example was left to compare"


class Diversity(Plain):
    """How different a sample is from the others of its example: 1 - mean similarity to them.

    Similarity is the Jaccard index of the sets of word n-grams; a text of fewer than `n` words has one shorter n-gram,
    and two blank texts are equal. The mean over samples is 1 - mean pairwise similarity.
    """

    needs = REPEATS

    def __init__(self, *, name: str, n: int = 2) -> None:
        self.name = name
        self._n = n

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per sample, None for a single one."""
        if len(generations) < 2:
            return [Score(None, _ALONE)] * len(generations)
        sets = [frozenset(metrics.ngrams(metrics.words(generation.text), self._n)) for generation in generations]
        return [Score(min(max(1 - mean, 0.0), 1.0)) for mean in metrics.mean_similarities(sets, metrics.jaccard)]


class Distinct(Plain):
    """Distinct-n: different word n-grams over all n-grams in the samples of an example together (Li et al. 2016).

    Every sample gets the same score; samples without a word get 0. It falls with the length of the texts, so only
    compare texts of like length.
    """

    needs = REPEATS

    def __init__(self, *, name: str, n: int = 2) -> None:
        self.name = name
        self._n = n

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """The same score for every sample, None for a single one."""
        if len(generations) < 2:
            return [Score(None, _ALONE)] * len(generations)
        grams = [gram for g in generations for gram in metrics.ngrams(metrics.words(g.text), self._n)]
        if not grams:
            return [Score(0.0, "the samples hold no words")] * len(generations)
        return [Score(len(set(grams)) / len(grams))] * len(generations)


class Consistency(Plain):
    """How alike a sample is to the others of its example: its mean token F1 with them, or the share it equals."""

    needs = REPEATS

    def __init__(self, *, name: str, by: Literal["token_f1", "exact"] = "token_f1") -> None:
        self.name = name
        self._by = by

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per sample, None for a single one."""
        if len(generations) < 2:
            return [Score(None, _ALONE)] * len(generations)
        texts = [generation.text for generation in generations]
        if self._by == "exact":
            normal = [metrics.normalize(text) for text in texts]
            means = metrics.mean_similarities(normal, lambda a, b: float(a == b))
        else:
            means = metrics.mean_similarities([metrics.answer_tokens(text) for text in texts], metrics.count_f1)
        return [Score(min(mean, 1.0)) for mean in means]
