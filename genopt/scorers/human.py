"""Owns a person as a scorer: what waits to be graded, and what was graded. How a person is asked is `genopt grade`'s.

A text that is to be graded is a judgment of the mode WAITING whose `raw` holds all that a person is shown; its grade is
the same row in the mode GRADED. What configuration wrote it stands in neither.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from genopt.scorers._judge_engine import digest
from genopt.scorers._judge_items import LEVELS
from genopt.scorers._judge_prompt import asked_in
from genopt.scorers._plain import NOTHING, Plain
from genopt.tables import judgment_row
from genopt.types import Example, Generation, Judgment, Score

WAITING, GRADED = "waiting", "a person"
TELL_EVERY = 30.0  # seconds between lines that say how many texts wait

Look = Callable[[], Awaitable[Mapping[str, Judgment]]]


class Human(Plain):
    """Scores with the grade that a person gave, on [0, 1] from the lowest level to the highest.

    `remember` and `watch` come first: `score` then puts texts where `genopt grade` finds them, and returns once they
    are graded, which may take days; without them every score is missing. Equal texts of one example are graded once.
    """

    needs = NOTHING

    def __init__(
        self,
        *,
        name: str,
        question: str,
        levels: Mapping[str, str] | None = None,
        reference: bool = True,
        show: Sequence[str] | None = None,
        pause: float = 1.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.tell: Callable[[str], None] = lambda text: None
        self.question, self.levels = question, dict(sorted((levels or LEVELS).items()))
        self._reference, self._show = reference, show
        self.digest = digest([question, self.levels, reference, show])
        self._pause, self._sleep, self._clock = pause, sleep, clock
        self._known: dict[str, Judgment] = {}
        self._waiting: dict[str, int] = {}
        self._add: Callable[[str, Mapping[str, Any]], None] = lambda table, row: None
        self._look: Look | None = None
        self._looking = False
        self._news = asyncio.Event()
        self._told = -TELL_EVERY

    async def prepare(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """What the person in question should know."""
        return (f"scorers.{self.name}: every text waits for a person's grade. Run: genopt grade STUDY",)

    def remember(self, known: Mapping[str, Judgment], add: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Take stored grades by key, and hand every text that has none to `add` as a row of the judgments."""
        self._take(known)
        self._add = add

    def watch(self, look: Look) -> None:
        """Wait for grades: `look` reads all stored judgments of this scorer."""
        self._look = look

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, in order, once every one of them is graded."""
        keys = [self.key(example, generation.text) for generation in generations]
        for key, generation in zip(keys, generations, strict=True):
            if key not in self._known and not generation.failed:
                self._add("genopt_judgments", judgment_row(key, self.digest, self._question_about(example, generation)))
        found = []
        for key, generation in zip(keys, generations, strict=True):
            if generation.failed:
                found.append(Score(0.0, generation.why or generation.finish))
                continue
            await self._graded(key)
            judgment = self._known.get(key)
            found.append(Score(judgment.value, judgment.why) if judgment else Score(None, "no person has graded it"))
        return found

    async def _graded(self, key: str) -> None:
        """Return once the text is graded, or nobody will be asked. One caller looks for all that wait."""
        if self._look is None:
            return
        self._waiting[key] = self._waiting.get(key, 0) + 1
        try:
            while key not in self._known:
                if self._looking:
                    await self._news.wait()
                    continue
                self._looking = True
                try:
                    await self._sleep(self._pause)
                    self._say()
                    self._take(await self._look())
                finally:  # also when cancelled: somebody else who waits looks on
                    self._looking = False
                    news, self._news = self._news, asyncio.Event()
                    news.set()
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    def _take(self, known: Mapping[str, Judgment]) -> None:
        self._known |= {key: judgment for key, judgment in known.items() if judgment.mode == GRADED}

    def _say(self) -> None:
        """Tell how many wait, every now and then."""
        left = sum(key not in self._known for key in self._waiting)
        if left and self._clock() - self._told >= TELL_EVERY:
            self._told = self._clock()
            self.tell(f"{left} {'text waits' if left == 1 else 'texts wait'} for a person's grade: genopt grade STUDY")

    def key(self, example: Example, text: str) -> str:
        """The key of the grade of a text, whatever wrote it."""
        return digest([self.digest, example.id, dict(example.fields), list(example.references), text])

    def _question_about(self, example: Example, generation: Generation) -> Judgment:
        """The text, and all that a person is shown with it, as a judgment that is still to be made."""
        shown = {
            "name": self.name,
            "question": self.question,
            "levels": self.levels,
            "asked": asked_in(example, self._show),
            "references": list(example.references) if self._reference else [],
            "text": generation.text,
        }
        raw = json.dumps(shown, ensure_ascii=False)
        return Judgment(None, "", {}, raw, WAITING, 0, 0, 0, 0.0)


def graded(raw: str, label: str) -> Judgment:
    """The judgment of a person who gave this level to what `raw` shows. KeyError for a level that is none."""
    levels = json.loads(raw)["levels"]
    meaning, low, high = levels[label], int(min(levels)), int(max(levels))
    value = (int(label) - low) / (high - low)
    return Judgment(value, f"{label}: {meaning}", {label: 1.0}, raw, GRADED, 0, 0, 0, 0.0)
