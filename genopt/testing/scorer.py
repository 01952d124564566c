"""Owns the contract of a scorer. Knows no scorer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from genopt.types import Example, Generation, Scorer


class ScorerContract:
    """What every scorer must keep. Override `scorer`, and `cases` if the scorer reads particular fields.

    unit_interval  False for a scorer that says its scores are not in [0, 1]
    """

    unit_interval: bool = True

    def scorer(self) -> Scorer:
        """A fresh scorer."""
        raise NotImplementedError("override scorer()")

    def cases(self) -> list[tuple[Example, list[Generation]]]:
        """Examples with generations to score: several per example, and not all equally good."""
        return [
            (
                Example(f"case-{n}", {"question": f"What is {n} + {n}?"}, (str(2 * n),)),
                [written(f"The answer is {2 * n}."), written(str(2 * n + 1)), written(str(2 * n))],
            )
            for n in range(1, 5)
        ]

    def run(self, scenario: Callable[[Scorer], Awaitable[None]]) -> None:
        """Run a scenario with a scorer, and close it."""

        async def session() -> None:
            scorer = self.scorer()
            try:
                await scenario(scorer)
            finally:
                await scorer.aclose()

        asyncio.run(session())

    def test_it_is_a_scorer(self) -> None:
        scorer = self.scorer()
        assert isinstance(scorer, Scorer) and scorer.name
        assert set(scorer.needs) <= {"references", "repeats"}

    def test_one_score_per_generation_in_range(self) -> None:
        async def scenario(scorer: Scorer) -> None:
            for example, generations in self.cases():
                scores = await scorer.score(example, generations)
                assert len(scores) == len(generations)
                for score in scores:
                    if self.unit_interval and score.value is not None:
                        assert 0.0 <= score.value <= 1.0

        self.run(scenario)

    def test_scores_follow_the_order_of_the_generations(self) -> None:
        async def scenario(scorer: Scorer) -> None:
            for example, generations in self.cases():
                forward = [score.value for score in await scorer.score(example, generations)]
                backward = [score.value for score in await scorer.score(example, generations[::-1])]
                assert backward[::-1] == pytest.approx(forward)

        self.run(scenario)

    def test_an_empty_text_is_scored_or_refused_without_an_error(self) -> None:
        async def scenario(scorer: Scorer) -> None:
            example, generations = self.cases()[0]
            scores = await scorer.score(example, [written("")] * len(generations))
            assert len(scores) == len(generations)

        self.run(scenario)

    def test_concurrent_scores_are_the_sequential_ones(self) -> None:
        async def scenario(scorer: Scorer) -> None:
            cases = self.cases()
            one_by_one = [await scorer.score(*case) for case in cases]
            at_once = await asyncio.gather(*(scorer.score(*case) for case in cases))
            for first, second in zip(one_by_one, at_once, strict=True):
                assert [s.value for s in second] == pytest.approx([s.value for s in first])

        self.run(scenario)

    def test_closing_twice_is_fine(self) -> None:
        async def scenario(scorer: Scorer) -> None:
            await scorer.score(*self.cases()[0])
            await scorer.aclose()
            await scorer.aclose()

        self.run(scenario)


def written(text: str) -> Generation:
    """A finished generation with this text."""
    return Generation(text, "stop", 10, max(1, len(text) // 4), 0.01)
