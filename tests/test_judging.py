"""Studies with a scripted judge: what is true comes out, and a judge's own faults never look like the model's."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest

from genopt.agreement import spearman
from genopt.archive import load
from genopt.events import Note
from genopt.guards import at_worst, notes
from genopt.objectives import Constraint, Goal, Objective
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.runner import optimize_async
from genopt.scorers.judge import Judge
from genopt.spec.read import make_study
from genopt.trial import Configuration, Evaluation, Observation
from genopt.types import Example
from tests.judges import ScriptedJudge
from tests.studies import query

TEN = [round(0.05 + 0.1 * n, 2) for n in range(10)]  # skills: what the texts of a configuration are worth


def table(folder: Path, *, rows: int = 60, judge: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    own = {"kind": "tests.judges:ScriptedJudge", "model": "scripted", "options": judge or {}}
    return {
        "name": "judged",
        "storage": f"sqlite:///{folder / 'judged.db'}",
        "seed": 5,
        "dataset": {"rows": [{"id": f"r{n}", "question": f"How was {n}?"} for n in range(rows)], "holdout": 0.3},
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "tests.judges:Author", "model": "author"},
        "space": {"skill": {"choices": TEN}},
        "baseline": {"skill": TEN[3], "words": 12},
        "scorers": {"helpful": {"kind": "judge", "rubric": "Is it good?", "backend": own, "check": False}},
        "search": {"sampler": "grid", "pruner": "none", "finalists": 3},
        "budget": {"trials": 10},
    } | changes


class Run:
    """A study run to its verdict."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.folder, self.events = folder, []  # type: ignore[var-annotated]
        spec = make_study(table(folder, **changes), folder=folder)
        self.verdict = asyncio.run(optimize_async(spec, on_event=self.events.append)).verdict
        self.archive = load(f"sqlite:///{folder / 'judged.db'}#judged")

    def notes(self) -> str:
        return "\n".join(event.text for event in self.events if isinstance(event, Note))

    def means(self) -> dict[float, float]:
        """skill -> mean of the trials that measured it."""
        found = {row["params"]["skill"]: row["mean"] for row in self.archive.rows() if row["mean"] is not None}
        return dict(sorted(found.items()))


@pytest.mark.parametrize("mode", [{}, {"top_logprobs": 0}, {"top_logprobs": 0, "structured": []}])
def test_the_true_order_of_ten_configurations_comes_out(tmp_path: Path, mode: dict[str, Any]) -> None:
    """A judge with an error of 0.15 in every grade, five per cent of requests that fail, ten of replies that cannot be
    read, and one that prefers longer texts (all of these are equally long)."""
    faults = {"noise": 0.15, "failure_rate": 0.05, "parse_failure_rate": 0.1, "length_bias": 0.5, "seed": 2, **mode}
    run = Run(tmp_path, judge=faults)
    means = run.means()
    assert list(means) == TEN
    assert list(means.values()) == sorted(means.values())
    assert run.verdict.verdict == "improved" and run.verdict.params["skill"] == TEN[-1]
    assert all(row["eligible"] for row in run.archive.rows())
    assert "scorers.helpful: the judge was asked" in run.notes()


def test_a_judge_that_prefers_length_is_seen_through_at_equal_length(tmp_path: Path) -> None:
    """Longer texts are no better, and the judge likes them: the verdict's note says what length explains."""
    run = Run(
        tmp_path,
        rows=120,
        judge={"length_bias": 1.0},
        space={"words": {"choices": [12, 13, 14, 16]}},
        baseline={"skill": 0.5, "words": 12},
    )
    assert run.verdict.params["words"] == 16
    assert (
        run.verdict.note.startswith("the winner's texts are 1.") and "at equal length its gain is" in run.verdict.note
    )
    assert 'add [[objectives]] minimize = "completion_tokens"' in run.verdict.note


def test_a_trial_that_cannot_be_judged_cannot_win_and_is_told_as_the_worst(tmp_path: Path) -> None:
    run = Run(tmp_path, judge={"parse_failure_rate": 0.6, "seed": 1, "top_logprobs": 0}, budget={"trials": 3})
    assert run.verdict.verdict == "not shown"
    for row in run.archive.rows():
        if row["state"] != "complete" or row["duplicate_of"] is not None:
            continue
        assert not row["eligible"]
        assert "could not be scored: its mean leaves them out, its value takes them as the worst" in row["why"]
        assert row["value"] is None or row["value"] < row["mean"]
    missing = query(tmp_path, "SELECT COUNT(*) FROM genopt_scores WHERE value IS NULL", name="judged.db")[0][0]
    zero = query(
        tmp_path, "SELECT COUNT(*) FROM genopt_scores WHERE value = 0 AND why LIKE '%understood%'", name="judged.db"
    )
    assert missing > 10 and zero == [(0,)]


def test_judgments_are_stored_once_and_a_resumed_study_asks_for_none_again(tmp_path: Path) -> None:
    run = Run(tmp_path, budget={"trials": 3})
    stored = query(
        tmp_path, "SELECT key, judge, value, raw, mode, calls, prompt_tokens FROM genopt_judgments", name="judged.db"
    )
    texts = query(tmp_path, "SELECT DISTINCT example_id, text FROM genopt_generations", name="judged.db")
    assert len(stored) == len(texts)
    assert {row[4] for row in stored} == {"logprobs of choices"} and all(row[6] > 50 for row in stored)
    assert "judged by scripted, grades read from logprobs of choices" in run.notes()
    again = Run(tmp_path, budget={"trials": 5})
    more = query(tmp_path, "SELECT key FROM genopt_judgments", name="judged.db")
    texts = query(tmp_path, "SELECT DISTINCT example_id, text FROM genopt_generations", name="judged.db")
    assert len(more) == len(texts) > len(stored)
    assert again.verdict.verdict is not None


def test_another_way_of_reading_grades_is_another_scorer(tmp_path: Path) -> None:
    from genopt.errors import StudyError

    Run(tmp_path, budget={"trials": 2})
    with pytest.raises(StudyError, match=r"begun with another scorers\.helpful"):
        Run(tmp_path, judge={"top_logprobs": 0}, budget={"trials": 3})


def planned(spec: dict[str, Any], folder: Path) -> Plan:
    async def main() -> Plan:
        plan = await prepare(make_study(spec, folder=folder))
        await plan.aclose()
        return plan

    return asyncio.run(main())


def test_concurrency_and_retries_are_no_part_of_what_a_judge_is(tmp_path: Path) -> None:
    base = table(tmp_path)
    keys = []
    for concurrency, retries, rubric in ((1, 0, "Is it good?"), (9, 5, "Is it good?"), (1, 0, "Is it bad?")):
        own = base["scorers"]["helpful"]["backend"] | {"concurrency": concurrency}
        scorer = {"kind": "judge", "rubric": rubric, "retries": retries, "backend": own}
        keys.append(planned(base | {"scorers": {"helpful": scorer}}, tmp_path).scorer_keys["helpful"])
    assert keys[0] == keys[1] != keys[2]


def test_the_bill_counts_judge_calls(tmp_path: Path) -> None:
    checklist = [{"question": "Is it good?"}, {"question": "Is it short?"}]
    own = {"kind": "tests.judges:ScriptedJudge", "model": "scripted"}
    scorers = {"helpful": {"kind": "judge", "checklist": checklist, "backend": own}}
    plan = planned(table(tmp_path, scorers=scorers), tmp_path)
    bill = plan.bill()
    assert bill.judged == 2 * bill.total > 0
    assert planned(table(tmp_path, scorers={"short": {"kind": "length", "max": 3}}), tmp_path).bill().judged == 0


def test_a_model_that_judges_itself_is_warned_of(tmp_path: Path) -> None:
    itself = table(
        tmp_path,
        backend={"kind": "tests.judges:Both", "model": "both"},
        scorers={"helpful": {"kind": "judge", "rubric": "Is it good?"}},
    )
    plan = planned(itself, tmp_path)
    assert any("the judge is the model that it grades" in warning for warning in plan.warnings)
    assert not any("judge" in warning for warning in planned(table(tmp_path), tmp_path).warnings)
    judge = plan.scorers["helpful"]
    assert isinstance(judge, Judge) and judge.mode == "logprobs of choices"


GOAL = Goal((Objective("helpful", "maximize"),), (Constraint("toxic", at_most=0.5),))


def evaluation(*cells: tuple[float, float, float]) -> Evaluation:
    """helpful, toxic and characters of each example."""
    examples = [Example(str(n), {}) for n in range(len(cells))]
    config = Configuration({}, {}, {}, 0, "key", False)
    found = {}
    for n, (helpful, toxic, characters) in enumerate(cells):
        metrics = {"helpful": helpful, "toxic": toxic, "characters": characters}
        found[n, 0] = Observation(metrics, GOAL.utility(metrics))
    return Evaluation(config, examples, found)


def test_the_worst_is_the_lower_end_of_what_is_maximized_and_the_upper_of_what_is_not() -> None:
    holes = evaluation((0.5, 0.1, 10), (math.nan, math.nan, 20), (0.7, 0.2, 30))
    worst, best = at_worst(holes, GOAL), at_worst(holes, GOAL, best=True)
    assert [cell.metrics["helpful"] for cell in worst.cells.values()] == [0.5, 0.0, 0.7]
    assert [cell.metrics["toxic"] for cell in worst.cells.values()] == [0.1, 1.0, 0.2]
    assert [cell.metrics["helpful"] for cell in best.cells.values()] == [0.5, 1.0, 0.7]
    assert worst.utility().tolist() == [0.5, 0.0, 0.7]
    assert holes.missing() == pytest.approx(1 / 3)


def test_a_verdict_says_what_is_missing_and_what_it_would_be_at_worst() -> None:
    before = evaluation((0.5, 0.1, 10), (0.5, 0.1, 20), (math.nan, 0.1, 30), (0.5, 0.1, 10))
    after = evaluation((0.9, 0.1, 10), (math.nan, 0.1, 20), (0.9, 0.1, 30), (0.9, 0.1, 10))
    (note,) = notes(before, after, GOAL, {})
    assert "baseline 25.0% missing, 0.5000 without them, 0.3750 with them at worst" in note
    assert "winner 25.0% missing, 0.9000 without them, 0.6750 with them at worst" in note
    assert "the difference is +0.0500" in note  # (0.4 - 0.5 - 0.1 + 0.4) / 4
    assert list(notes(at_worst(before, GOAL), at_worst(after, GOAL), GOAL, {})) == []


def test_length_is_spoken_of_where_a_judge_scores_and_length_is_no_goal() -> None:
    before = evaluation(*[(0.5, 0.1, 10 + n) for n in range(10)])
    after = evaluation(*[(0.5 + 0.01 * n, 0.1, 12 + 2 * n) for n in range(10)])
    judge = {"helpful": Judge(name="helpful", rubric="r")}
    (note,) = notes(before, after, GOAL, judge)
    assert note.startswith("the winner's texts are 1.45 times as long")
    with_tokens = Goal((*GOAL.objectives, Objective("completion_tokens", "minimize")), ())
    assert list(notes(before, after, with_tokens, judge)) == []
    assert list(notes(before, after, GOAL, {})) == []


def test_the_scripted_judge_is_as_noisy_as_it_says() -> None:
    """The double itself: its error has the standard deviation that it is told."""

    async def main() -> list[float]:
        engine = ScriptedJudge(options={"noise": 0.1, "seed": 1})
        judge = Judge(name="h", rubric="Is it good?")
        await judge.attach(engine, await engine.open(), asyncio.Semaphore(8))
        found = [await judge.judge_text(Example(str(n), {}), f"good bad {n}") for n in range(300)]
        return [judgment.value or 0.0 for judgment in found]

    values = asyncio.run(main())
    mean = sum(values) / 300
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / 299)
    assert mean == pytest.approx(0.5, abs=0.02) and sd == pytest.approx(0.1, abs=0.015)
    assert spearman(values, list(range(300))) == pytest.approx(0, abs=0.15)
