"""A person as scorer: what waits, who is told, and that scores come as grades do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from genopt.scorers.human import GRADED, WAITING, Human, graded
from genopt.testing import ScorerContract, written
from genopt.types import Example, Generation, Judgment, Score, Scorer

ROW = Example("1", {"question": "How was it?", "answer": "fine"}, ("fine",))


class Desk:
    """Where texts wait; `person` grades what is there whenever the scorer looks."""

    def __init__(self, scorer: Human, *, per_look: int = 1000) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.graded: dict[str, Judgment] = {}
        self.looks = 0
        self._per_look = per_look
        scorer.remember({}, self.add)
        scorer.watch(self.look)

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        assert table == "genopt_judgments" and row["mode"] == WAITING and row["value"] is None
        self.rows.setdefault(row["key"], dict(row))

    async def look(self) -> dict[str, Judgment]:
        self.looks += 1
        for key in [key for key in self.rows if key not in self.graded][: self._per_look]:
            shown = json.loads(self.rows[key]["raw"])
            self.graded[key] = graded(self.rows[key]["raw"], str(1 + len(shown["text"]) % 5))
        still = Judgment(None, "", {}, "", WAITING, 0, 0, 0, 0.0)
        return {key: self.graded.get(key, still) for key in self.rows}


async def at_once(_: float) -> None:
    await asyncio.sleep(0)


def human(**keys: Any) -> Human:
    return Human(name="person", question="Would you send it?", sleep=at_once, **keys)


class TestContract(ScorerContract):
    def scorer(self) -> Scorer:
        scorer = human()
        Desk(scorer)
        return scorer


def test_every_caller_gets_its_grade_and_one_looks_for_all() -> None:
    async def main() -> None:
        scorer = human()
        desk = Desk(scorer, per_look=3)
        texts = ["a" * n for n in range(1, 31)]
        found = await asyncio.gather(*(scorer.score(ROW, [written(text)]) for text in texts))
        assert [score.value for (score,) in found] == [(len(text) % 5) / 4 for text in texts]
        assert desk.looks == 10

    asyncio.run(main())


def test_equal_texts_are_asked_once_and_failed_ones_never() -> None:
    async def main() -> None:
        scorer = human()
        desk = Desk(scorer)
        failed = Generation("", "error", 1, 0, 0.0, why="too long")
        found = await scorer.score(ROW, [written("aaa"), failed, written("aaa")])
        assert found == [Score(0.75, "4: meets most of it"), Score(0.0, "too long"), Score(0.75, "4: meets most of it")]
        await scorer.score(Example("2", ROW.fields, ROW.references), [written("aaa")])
        assert len(desk.rows) == 2, "another example is another question"

    asyncio.run(main())


def test_a_person_is_shown_the_question_and_the_text_and_nothing_of_who_wrote_it() -> None:
    async def shown(**keys: Any) -> dict[str, Any]:
        scorer = human(**keys)
        desk = Desk(scorer)
        await scorer.score(ROW, [written("hello")])
        (row,) = desk.rows.values()
        assert row["judge"] == scorer.digest
        found: dict[str, Any] = json.loads(row["raw"])
        return found

    found = asyncio.run(shown(levels={"1": "yes", "0": "no"}))
    assert found == {
        "name": "person",
        "question": "Would you send it?",
        "levels": {"0": "no", "1": "yes"},
        "asked": {"question": "How was it?"},
        "references": ["fine"],
        "text": "hello",
    }
    found = asyncio.run(shown(show=["answer"], reference=False))
    assert found["asked"] == {"answer": "fine"} and found["references"] == []


def test_stored_grades_are_taken_and_without_a_desk_nothing_is_waited_for() -> None:
    async def main() -> None:
        scorer = human()
        desk = Desk(scorer)
        await scorer.score(ROW, [written("aaa")])
        later, again = human(), dict(desk.graded)
        again["other"] = Judgment(None, "", {}, "", WAITING, 0, 0, 0, 0.0)
        later.remember(again, lambda table, row: None)
        assert [s.value for s in await later.score(ROW, [written("aaa"), written("b")])] == [0.75, None]
        assert (await human().score(ROW, [written("aaa")]))[0] == Score(None, "no person has graded it")

    asyncio.run(main())


def test_whoever_waits_is_told_how_many_wait_and_not_all_the_time() -> None:
    async def main() -> None:
        now = [0.0]

        async def sleep(pause: float) -> None:
            now[0] += 10.0
            await asyncio.sleep(0)

        scorer = Human(name="person", question="Good?", sleep=sleep, clock=lambda: now[0])
        told: list[str] = []
        scorer.tell = told.append
        Desk(scorer, per_look=1)
        await asyncio.gather(*(scorer.score(ROW, [written("a" * n)]) for n in range(1, 7)))
        assert told == [f"{n} texts wait for a person's grade: genopt grade STUDY" for n in (6, 3)]

    asyncio.run(main())


def test_when_the_one_who_looks_is_cancelled_another_goes_on() -> None:
    async def main() -> None:
        scorer = human()
        desk = Desk(scorer, per_look=0)
        waits = [asyncio.ensure_future(scorer.score(ROW, [written(text)])) for text in ("a", "bb", "ccc")]
        while desk.looks < 3:
            await asyncio.sleep(0)
        for task in waits[:2]:
            task.cancel()
        desk._per_look = 10
        done = await asyncio.gather(*waits, return_exceptions=True)
        assert [type(each) for each in done] == [asyncio.CancelledError, asyncio.CancelledError, list]

    asyncio.run(main())


def test_a_level_that_is_none_is_refused() -> None:
    raw = json.dumps({"levels": {"0": "no", "9": "yes"}})
    assert graded(raw, "9").value == 1.0 and graded(raw, "0").mode == GRADED
    with pytest.raises(KeyError):
        graded(raw, "5")
