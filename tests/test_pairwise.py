"""What is asked about a verdict besides it: a judge's choice in both orders, and a second judge's opinion."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.errors import BackendError, SpecError
from genopt.judging.pairwise import rate_interval
from genopt.prepare import prepare
from genopt.scorers.judge import PROBE
from genopt.spec.read import make_study
from genopt.stats import paired
from genopt.types import BackendInfo, Generation, Request
from tests.judges import ScriptedJudge, worth
from tests.studies import Ran, generations, query, run

HONEST = {"kind": "tests.judges:ScriptedJudge", "model": "scripted"}
OTHER = {"kind": "tests.judges:ScriptedJudge", "model": "of another family", "options": {"noise": 0.05, "seed": 3}}


class Away(ScriptedJudge):
    """A judge that is not there."""

    async def open(self) -> BackendInfo:
        raise BackendError("the second judge is away")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(model, prompt) of every request that any scripted judge is sent."""
    made: list[tuple[str, str]] = []
    generate = ScriptedJudge.generate

    async def counted(self: ScriptedJudge, request: Request) -> Generation:
        made.append((self.model, request.messages[-1].content))
        return await generate(self, request)

    monkeypatch.setattr(ScriptedJudge, "generate", counted)
    return made


def study(folder: Path, *, judge: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    rows = [{"id": f"r{n}", "question": f"How was number {n}?", "book": f"b{n // 2}"} for n in range(40)]
    table: dict[str, Any] = {
        "name": "toy",
        "storage": f"sqlite:///{folder / 'toy.db'}",
        "seed": 1,
        "dataset": {"rows": rows, "holdout": 0.5, "group": "book"},
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "tests.judges:Author", "model": "author"},
        "space": {"skill": {"low": 0.3, "high": 0.55}},
        "baseline": {"skill": 0.3},
        "scorers": {"helpful": {"kind": "judge", "rubric": "Is it good?", "backend": judge or HONEST, "check": False}},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials": 4},
        "confirm": {"pairwise": "helpful"},
    }
    return table | changes


def written(folder: Path, ran: Ran) -> list[tuple[str, str]]:
    """(what the winner wrote, what the baseline wrote) of every held-out example, from the database."""
    winner = next(t for t in ran.trials if t.number == ran.decided().trial)
    texts: dict[tuple[bool, str], str] = {
        (key == winner.config["key"], example): text
        for key, example, _, phase, _, text in generations(folder)
        if phase == "confirm"
    }
    return [(texts[True, example], text) for (won, example), text in texts.items() if not won]


def test_an_honest_judge_s_win_rate_is_the_true_one(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    ran = run(study(tmp_path, audit={"backend": OTHER}), tmp_path)
    verdict = ran.decided()
    assert verdict.verdict == "improved" and verdict.opinions is not None
    pairs = written(tmp_path, ran)
    truth = [0.5 if worth(a) == worth(b) else float(worth(a) > worth(b)) for a, b in pairs]
    found = verdict.opinions["pairwise"]
    assert found["win_rate"] == pytest.approx(sum(truth) / len(truth)) and found["examples"] == len(pairs) == 20
    assert (found["wins"], found["ties"], found["losses"]) == (truth.count(1.0), truth.count(0.5), truth.count(0.0))
    low, high = found["interval"]
    assert 0.5 < low < found["win_rate"] <= high <= 1.0 and found["p_value"] < 0.05
    assert found["inconsistent"] == 0 and found["missing"] == 0
    assert f"prefers the winner's in {found['win_rate']:.1%} of 20 examples" in verdict.note
    second = verdict.opinions["audit"]
    assert second["model"] == "of another family" and second["texts"] == 40
    assert second["same_sign"] and 0.6 < second["kendall"] < 1 and second["interval"][0] > 0
    assert "a second judge (of another family) sees the difference, too" in verdict.note
    assert ran.archive.verdict is not None and ran.archive.verdict["opinions"]["pairwise"] == found
    audited = [prompt for model, prompt in calls if model == "of another family" and PROBE not in prompt]
    assert 0 < len(audited) <= 40, "the second judge sees texts of the holdout alone"


def test_the_interval_of_a_rate_holds_the_truth_as_often_as_it_says() -> None:
    """Clusters of two examples that agree half of the time, a quarter of the points halves; and rates near 1."""
    rng = np.random.default_rng(5)
    for chance in (0.55, 0.7, 0.95):
        held = 0
        for _ in range(2000):
            own, shared = rng.random((20, 2)) < chance, rng.random((20, 1)) < chance
            points = np.where(rng.random((20, 1)) < 0.5, shared, own).astype(float)
            points = np.where(rng.random((20, 2)) < 0.25, 0.5, points).ravel()
            groups = [f"g{n // 2}" for n in range(40)]
            result = paired(points, np.full(40, 0.5), groups=groups, resamples=10)
            low, high = rate_interval(0.5 + result.difference, result) or (1.0, 0.0)
            held += low <= 0.75 * chance + 0.125 <= high
        assert held / 2000 > 0.935, chance


def test_a_rate_of_one_is_not_certain_and_one_example_says_nothing() -> None:
    result = paired([1.0] * 20, [0.5] * 20)
    low, high = rate_interval(1.0, result) or (0.0, 0.0)
    assert 0.75 < low < 0.9 and high == 1.0
    assert rate_interval(1.0, paired([1.0], [0.5])) is None
    ties = rate_interval(0.5, paired([0.5] * 20, [0.5] * 20))
    assert ties is not None and ties[0] < 0.35 and ties[1] > 0.65


def test_a_judge_that_goes_by_the_order_has_said_nothing(tmp_path: Path) -> None:
    judge = HONEST | {"options": {"position_bias": 2.0}}
    ran = run(study(tmp_path, judge=judge), tmp_path)
    verdict = ran.decided()
    assert verdict.opinions is not None
    found = verdict.opinions["pairwise"]
    differ = sum(a != b for a, b in written(tmp_path, ran))
    assert found["win_rate"] == 0.5 and found["inconsistent"] == differ / 20 >= 0.9 and found["ties"] == 20
    assert f"the order alone decided {differ / 20:.0%}" in verdict.note


def test_nothing_is_judged_twice_and_what_is_wanted_later_is_asked_later(
    tmp_path: Path, calls: list[tuple[str, str]]
) -> None:
    first = run(study(tmp_path), tmp_path).decided()
    asked, rows = len(calls), len(generations(tmp_path))
    again = run(study(tmp_path), tmp_path).decided()
    probes = [each for each in calls[asked:] if PROBE in each[1]]
    assert len(calls) - asked == len(probes) == 1 and again == first
    asked = len(calls)
    later = run(study(tmp_path, audit={"backend": OTHER}), tmp_path).decided()
    assert later.opinions is not None and first.opinions is not None
    assert later.opinions["pairwise"] == first.opinions["pairwise"]
    new = [model for model, prompt in calls[asked:] if PROBE not in prompt]
    assert new and set(new) == {"of another family"}
    assert len(generations(tmp_path)) == rows
    stored = query(tmp_path, "SELECT count(*), count(DISTINCT key) FROM genopt_judgments")[0]
    assert stored[0] == stored[1] > 40


def test_a_second_judge_that_is_away_costs_its_opinion_alone(tmp_path: Path) -> None:
    table = study(tmp_path, audit={"backend": {"kind": "tests.test_pairwise:Away", "model": "x"}}, confirm={})
    verdict = run(table, tmp_path).decided()
    assert verdict.verdict == "improved" and verdict.opinions == {}
    assert "audit: not asked, since the second judge is away" in verdict.note


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"confirm": {"pairwise": "kind"}}, "confirm.pairwise: 'kind' is no judge. Judges: helpful"),
        ({"audit": {"judge": "kind", "backend": OTHER}}, "audit.judge: 'kind' is no judge. Judges: helpful"),
        (
            {"scorers": {"exact": {"kind": "length", "max": 3}}, "confirm": {}, "audit": {"backend": OTHER}},
            "audit.judge: has to say whose rubric to grade by. No scorer here is a judge",
        ),
    ],
)
def test_names_that_are_no_judges_are_told(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_study(study(tmp_path) | changes, folder=tmp_path)
    assert why in str(caught.value)


def test_the_bill_counts_what_is_asked_besides_the_verdict(tmp_path: Path) -> None:
    def judged(**changes: Any) -> int:
        async def planned() -> int:
            plan = await prepare(make_study(study(tmp_path, **changes), folder=tmp_path))
            try:
                return plan.bill().judged
            finally:
                await plan.aclose()

        return asyncio.run(planned())

    alone = judged(confirm={})
    assert judged() == alone + 40, "20 examples, two orders"
    assert judged(audit={"backend": OTHER}) == alone + 80, "and 20 texts of each side"


def test_an_audit_whose_engine_does_not_exist_is_found_before_anything_is_spent(tmp_path: Path) -> None:
    table = study(tmp_path, audit={"backend": {"kind": "opneai", "model": "x"}})
    with pytest.raises(SpecError, match=r"audit.backend.kind.*'openai'"):
        asyncio.run(prepare(make_study(table, folder=tmp_path)))
