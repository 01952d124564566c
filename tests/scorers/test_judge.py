"""The judge as a scorer: its modes, its failures, its memory, its engine. What it is shown is test_judge_prompt's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from genopt.errors import BackendError, SpecError
from genopt.scorers.judge import Judge
from genopt.testing import ScorerContract, written
from genopt.types import Example, Generation, Judgment, Scorer
from tests.judges import ScriptedJudge

ROW = Example("1", {"question": "How was it?"})
EVERY_WAY = [
    ({}, "logprobs of choices"),
    ({"structured": ["schema"]}, "logprobs"),
    ({"top_logprobs": 0}, "json"),
    ({"top_logprobs": 0, "structured": []}, "regex"),
]


def judged(
    use: Callable[[Judge, ScriptedJudge], Awaitable[Any]], options: dict[str, Any] | None = None, **keys: Any
) -> Any:
    """What `use` gives with a judge on a scripted engine of four slots."""

    async def main() -> Any:
        engine = ScriptedJudge(options=options)
        judge = Judge(name="helpful", **({"rubric": "Is it good?"} if "checklist" not in keys else {}), **keys)
        await judge.attach(engine, await engine.open(), asyncio.Semaphore(4))
        engine.transcript.clear()
        try:
            return await use(judge, engine)
        finally:
            await judge.aclose()

    return asyncio.run(main())


async def one(judge: Judge, _: ScriptedJudge) -> Judgment:
    return await judge.judge_text(ROW, "good good good bad bad")


class TestContract(ScorerContract):
    def scorer(self) -> Scorer:
        return _Attached(name="helpful", rubric="Is it right?")


class _Attached(Judge):
    """A judge that attaches itself to a scripted engine before it scores."""

    async def score(self, example: Example, generations: Any) -> Any:
        if not hasattr(self, "_asker"):
            engine = ScriptedJudge()
            await self.attach(engine, await engine.open(), asyncio.Semaphore(4))
        return await super().score(example, generations)


@pytest.mark.parametrize(("options", "mode"), EVERY_WAY)
def test_the_best_way_an_engine_has_is_taken(options: dict[str, Any], mode: str) -> None:
    judgment = judged(one, options)
    assert judgment.mode == mode and judgment.calls == 1
    exact = "logprobs" in mode  # worth 0.6, between the grades 3 (0.5) and 4 (0.75)
    assert judgment.value == pytest.approx(0.6 if exact else 0.5)
    assert sum(judgment.probabilities.values()) == pytest.approx(1)
    assert judgment.why == ("3: 0.60, 4: 0.40" if exact else "3: It reads so.")


@pytest.mark.parametrize(("options", "mode"), EVERY_WAY)
def test_a_checklist_is_the_weight_answered_yes(options: dict[str, Any], mode: str) -> None:
    checklist = [{"question": "Is it good?", "weight": 2.0}, {"question": "Is it long?", "weight": -1.0}]
    judgment = judged(one, options, checklist=checklist)
    assert judgment.value == pytest.approx(0.3 if "logprobs" in mode else 0.5)
    assert judgment.calls == 2


def test_other_levels_have_their_own_scale() -> None:
    judgment = judged(one, levels={"0": "wrong", "2": "half", "9": "right"})
    assert judgment.probabilities == pytest.approx({"0": 0, "2": 0.8, "9": 0.2})
    assert judgment.value == pytest.approx(0.8 * 2 / 9 + 0.2)


def test_samples_are_averaged_and_are_not_the_same_reply() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Judgment:
        judgment = await judge.judge_text(ROW, "good bad good")
        assert len({request.seed for request in engine.transcript}) == 9
        assert all(request.params["temperature"] == 0.7 for request in engine.transcript)
        return judgment

    judgment = judged(use, {"unsteady": 0.3}, mode="samples", samples=9)
    assert judgment.calls == 9
    assert 0.4 < judgment.value < 0.9 and judgment.value * 36 == pytest.approx(round(judgment.value * 36))
    assert len([p for p in judgment.probabilities.values() if p > 0]) > 1


def test_a_mode_that_is_asked_for_and_cannot_be_had_is_refused() -> None:
    with pytest.raises(SpecError, match=r'scorers.helpful.mode: "logprobs" cannot be had: scripted 1 tells no log'):
        judged(one, {"top_logprobs": 0}, mode="logprobs")
    with pytest.raises(SpecError, match=r"gives no grade that can be read.*I would rather not say"):
        judged(one, {"parse_failure_rate": 1.0})


def test_an_engine_that_refuses_log_probabilities_it_said_it_has_is_asked_another_way() -> None:
    class Refusing(ScriptedJudge):
        async def generate(self, request: Any) -> Generation:
            if request.top_logprobs:
                raise BackendError("400: logprobs are not supported with this model", retryable=False)
            return await super().generate(request)

    async def main() -> str:
        engine, judge = Refusing(), Judge(name="h", rubric="Is it good?")
        await judge.attach(engine, await engine.open(), asyncio.Semaphore(1))
        return judge.mode

    assert asyncio.run(main()) == "json"


def test_blank_and_failed_texts_have_the_lowest_score_without_a_call() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        texts = ["", " \n\t ", "\u200b\u2060\ufeff", "\x07"]
        failed = [Generation("good", "degenerate", 1, 1, 0.0), Generation("good", "error", 1, 0, 0.0, why="too long")]
        scores = await judge.score(ROW, [*map(written, texts), *failed])
        return scores, engine.transcript

    scores, transcript = judged(use)
    assert [score.value for score in scores] == [0.0] * 6
    assert transcript == []
    assert [score.why for score in scores[-2:]] == ["degenerate", "too long"]


def test_a_reply_that_cannot_be_read_is_asked_for_again_and_then_missing() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        engine.options["parse_failure_rate"] = 1.0
        scores = await judge.score(ROW, [written("good")])
        return scores[0], engine.transcript

    score, transcript = judged(use, {"top_logprobs": 0}, retries=3)
    assert score.value is None
    assert score.why == 'the judge could not be understood: the reply is no JSON: "I would rather not say."'
    assert [request.params["temperature"] for request in transcript] == [0.0, 0.3, 0.3, 0.3]
    assert len({request.seed for request in transcript}) == 4


def test_most_unreadable_replies_are_made_up_for_by_asking_again() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        engine.options["parse_failure_rate"] = 0.3
        found = [await judge.judge_text(ROW, f"good {n}") for n in range(200)]
        return [judgment for judgment in found if judgment.value is None], [judgment.calls for judgment in found]

    missing, calls = judged(use, {"top_logprobs": 0})
    assert len(missing) < 20  # 0.3 ** 3 of 200 is 5
    assert 1.2 < sum(calls) / 200 < 1.6


def test_equal_texts_of_one_example_are_judged_once_also_at_the_same_time() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> int:
        engine.options["delay"] = 0.01
        await asyncio.gather(*(judge.score(ROW, [written("good"), written("bad")]) for _ in range(20)))
        await judge.score(Example("2", {"question": "Another?"}), [written("good")])
        await judge.judge_text(ROW, "good", repeat=1)
        return len(engine.transcript)

    assert judged(use) == 4


def test_who_waits_for_a_cancelled_judgment_gets_one() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Judgment:
        engine.options["delay"] = 0.02
        first = asyncio.ensure_future(judge.judge_text(ROW, "good"))
        second = asyncio.ensure_future(judge.judge_text(ROW, "good"))
        await asyncio.sleep(0.005)
        first.cancel()
        found = await second
        assert first.cancelled()
        return found

    assert judged(use).value == 1.0


def test_remembered_judgments_are_not_asked_for_and_new_ones_are_handed_on() -> None:
    rows: list[Any] = []

    async def ask(judge: Judge, engine: ScriptedJudge) -> tuple[Judgment, int]:
        judge.remember(known, lambda table, row: rows.append((table, row)))
        judgment = await judge.judge_text(ROW, "good bad")
        return judgment, len(engine.transcript)

    known: dict[str, Judgment] = {}
    first, calls = judged(ask)
    assert calls == 1 and [table for table, _ in rows] == ["genopt_judgments"]
    known[rows[0][1]["key"]] = first
    assert judged(ask) == (first, 0)
    assert len(rows) == 1
    for changed in (
        {"rubric_": "Is it bad?"},
        {"params": {"top_p": 0.5}},
        {"levels": {"1": "a", "2": "b"}},
        {"seed": 3},
    ):
        keys = {name.rstrip("_"): value for name, value in changed.items()}
        assert judged_with(ask, keys)[1] == 1, changed


def judged_with(use: Any, keys: dict[str, Any]) -> Any:
    """The same with other keys."""

    async def main() -> Any:
        engine = ScriptedJudge()
        judge = Judge(name="helpful", **({"rubric": "Is it good?"} | keys))
        await judge.attach(engine, await engine.open(), asyncio.Semaphore(4))
        engine.transcript.clear()
        return await use(judge, engine)

    return asyncio.run(main())


def test_the_engine_s_failures_are_no_judgments() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        pauses: list[float] = []

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)

        judge._asker.sleep = sleep
        engine.options["failure_rate"] = 1.0
        with pytest.raises(BackendError, match="busy"):
            await judge.score(ROW, [written("good")])
        engine.options["failure_rate"] = 0.0
        assert (await judge.score(ROW, [written("good")]))[0].value == 1.0
        return pauses

    assert judged(use) == [0.5, 2.0, 8.0]


def test_the_study_s_slots_are_kept_to_and_an_own_engine_has_its_own() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> int:
        engine.options["delay"] = 0.002
        await asyncio.gather(*(judge.judge_text(ROW, f"good {n}") for n in range(30)))
        return engine.most

    assert judged(use) == 4
    own = {"kind": "tests.judges:ScriptedJudge", "model": "own", "concurrency": 7, "options": {"delay": 0.002}}

    async def other(judge: Judge, engine: ScriptedJudge) -> Any:
        await asyncio.gather(*(judge.judge_text(ROW, f"good {n}") for n in range(30)))
        assert engine.transcript == []
        mine = judge._own
        assert isinstance(mine, ScriptedJudge)
        await judge.aclose()
        return mine.most, mine.closed, judge.identity["model"]

    assert judged(other, backend=own) == (7, 1, "own")


def test_params_are_the_engine_s_and_explicit() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        await judge.judge_text(ROW, "good")
        return engine.transcript[0].params

    assert judged(use) == {"temperature": 0.0, "max_tokens": 1, "top_p": 1.0}
    assert judged(use, params={"temperature": 1, "top_p": 0.5}) == {"temperature": 1.0, "max_tokens": 1, "top_p": 0.5}
    with pytest.raises(SpecError) as caught:
        judged(use, params={"temprature": 1.0, "top_p": 0.0})
    assert list(caught.value.problems) == [
        "scorers.helpful.params.temprature: is no parameter of the judge's engine. Did you mean 'temperature'?",
        "scorers.helpful.params.top_p: 0.0 is outside (0, 1]. Correct it",
    ]


def test_a_model_that_grades_itself_is_warned_of() -> None:
    async def warnings(judge: Judge, engine: ScriptedJudge) -> tuple[str, ...]:
        return await judge.prepare([ROW, Example("2", {"question": "?"}, ("yes",))])

    itself, partly = judged(warnings)
    assert itself.startswith("scorers.helpful: the judge is the model that it grades")
    assert partly == "scorers.helpful: 1 of 2 rows have no reference: they are judged without one"
    own = {"kind": "tests.judges:ScriptedJudge", "model": "own"}
    assert judged(warnings, backend=own) == (partly,)
    assert judged(warnings, backend=own, reference=False) == ()


def test_what_judging_cost_is_counted() -> None:
    async def use(judge: Judge, engine: ScriptedJudge) -> Any:
        before = judge.usage.calls, judge.usage.tokens
        judgment = await judge.judge_text(ROW, "good")
        await judge.judge_text(ROW, "good")
        spent = judgment.prompt_tokens + judgment.completion_tokens
        return before[0], judge.usage.calls, judge.usage.tokens - before[1] == spent

    assert judged(use) == (1, 2, True)
