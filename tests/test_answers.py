"""Answers made of several samples: votes, the best by who sees no reference, their cost, and where a gain is from."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.answers import Answers, elected, extracted, highest, most_alike
from genopt.archive import load
from genopt.errors import SpecError
from genopt.export import export, settings
from genopt.observations import read
from genopt.prepare import prepare
from genopt.report import verdict_text
from genopt.rescore import rescore_async
from genopt.spec.read import make_study, read_scorer
from genopt.tables import Row
from genopt.types import Example, Generation, Request, Score
from tests.studies import backend, opened, query, run
from tests.toy import ToyBackend, study


def row(sample: int, text: str = "x", *, finish: Any = "stop", score: float | None = None, tokens: int = 3) -> Row:
    scores = {} if score is None else {"key": Score(score)}
    return Row(sample, "r1", sample, Generation(text, finish, 10, tokens, 0.5), scores)


# --- one answer of several texts


@pytest.mark.parametrize(
    ("texts", "extract", "chosen"),
    [
        (["Paris.", "London", "paris"], "text", 0),
        (["London", "Paris", "the Paris"], "text", 1),
        (["a", "b", "b", "a"], "text", 0),  # of equally many the one that came first
        (["it is 41", "so 42", "= 42.0 km", "41 or 42"], "last_number", 1),
        (["no number", "17", "none"], "last_number", 1),
        (["none", "nothing"], "last_number", 0),
        (["1,000", "10", "1000"], "last_number", 0),
        (["A: (b)", "I say (c)", "(a) or (c)"], r"\((\w)\)", 1),
        (["yes", "no", "no way"], "yes|no", 1),
        (["", "", "word"], "text", 2),
    ],
)
def test_the_first_text_with_the_most_votes_is_elected(texts: list[str], extract: str, chosen: int) -> None:
    assert elected(texts, extract) == chosen


def test_what_a_text_says() -> None:
    assert extracted("It costs $1,234.50", "last_number") == "1234.5"
    assert extracted("25%", "last_number") == extracted("so 25", "last_number")
    assert extracted("(a) then (B)", r"\((\w)\)") == extracted("b", "text")
    assert extracted("nothing here", r"\d+") is None
    assert extracted("x", r"(a)?x") is None


def test_the_most_alike_is_the_one_nearest_to_all_others() -> None:
    assert most_alike(["a b c", "a b d", "x y z"]) == 0
    assert most_alike(["x y z", "a b c", "a b d", "a b"]) == 3
    assert highest([None, 0.2, 0.9, float("nan"), 0.9]) == 2
    assert highest([None, None]) == 0


def test_an_answer_of_three_is_the_beginning_of_the_answer_of_nine() -> None:
    answers = Answers("vote", 9)
    assert answers.places(0, 1, 3) == [0, 1, 2] == answers.places(0, 1, 9)[:3]
    assert answers.places(2, 2, 3) == [18, 19, 20, 27, 28, 29]
    plain = Answers()
    assert plain.places(2, 3, 1) == [2, 3, 4]
    rows = [row(n) for n in (18, 19, 20, 27, 28)]
    assert [[r.sample for r in group] for group in answers.grouped(rows)] == [[18, 19, 20], [27, 28]]


def test_who_is_chosen() -> None:
    rows = [row(0, "no"), row(1, "yes"), row(2, "yes"), row(9, "no"), row(10, "no"), row(11, "yes")]
    assert [r.sample for r in Answers("vote", 9).chosen(rows)] == [1, 9]
    assert Answers("mean", 9).chosen(rows) == rows
    assert Answers().chosen(rows) == rows
    scored = [row(0, score=0.2), row(1, score=0.8), row(2), row(3, finish="degenerate", score=1.0)]
    assert [r.sample for r in Answers("best", 9, by="judge", key="key").chosen(scored)] == [1]
    failed = [row(0, finish="error"), row(1, finish="error")]
    assert [r.sample for r in Answers("vote", 9).chosen(failed)] == [0]
    greedy = [row(0), row(0)]  # the only text, for scorers that want two
    assert Answers("vote", 9).chosen(greedy) == greedy


def test_an_answer_costs_what_its_samples_do() -> None:
    rows = [row(0, tokens=3), row(1, tokens=4), row(9, tokens=5), row(10, tokens=6)]
    measured = {"completion_tokens": 1.0, "right": 0.5}
    charged = Answers("vote", 9).charged(measured, rows)
    assert charged == {"completion_tokens": 9.0, "right": 0.5, "seconds": 1.0}
    assert Answers().charged(measured, rows) == measured
    broken = Answers("vote", 9).charged(measured, [*rows, row(11, finish="error")])
    assert np.isnan(broken["completion_tokens"])


def test_who_chooses_sees_no_reference() -> None:
    seen: list[Example] = []

    async def score(example: Example, rows: Sequence[Row]) -> None:
        seen.append(example)
        for each in rows:
            each.scores["key"] = Score(float(each.sample))

    answers = Answers("best", 4, by="judge", key="key", reference="answer")
    example = Example("r1", {"question": "?", "answer": "42"}, ("42",), "g")
    chosen = asyncio.run(answers.choose(example, [row(0), row(1), row(4)], score))
    assert [r.sample for r in chosen] == [1, 4]
    assert seen == [Example("r1", {"question": "?"}, (), "g")]
    asyncio.run(answers.choose(example, [row(0)], score))
    assert len(seen) == 1  # there is nothing to choose


# --- what a study file may say


def asked(folder: Path, answer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return study(folder, answer=answer, **changes)


@pytest.mark.parametrize(
    ("answer", "changes", "said"),
    [
        ({}, {}, "answer.n: is missing"),
        ({"n": {"choices": [0, 3]}}, {}, "n: 0 is no number of samples. Use whole numbers from 1 to 64"),
        ({"n": {"low": 1.0, "high": 9.0}}, {}, "n: 1.0 is no number of samples"),
        ({"n": "many"}, {}, "n: is no number of samples. Write n = { choices = [1, 3, 5, 9] }"),
        ({"n": 3, "aggregate": "best", "extract": "text"}, {}, 'extract goes with aggregate = "vote"'),
        ({"n": 3, "by": "right"}, {}, 'by goes with aggregate = "best"'),
        ({"n": 3, "extract": "(a"}, {}, "extract: '(a' is no regular expression"),
        ({"n": 3, "aggregate": "best", "by": "rigth"}, {}, "answer.by: 'rigth' is no scorer of this study"),
        ({"n": 3, "aggregate": "best", "by": "right"}, {}, "answer.by: right compares with references"),
        (
            {"n": 3, "aggregate": "best", "by": "has"},
            {
                "scorers": {"right": {"kind": "exact_match"}, "has": {"kind": "contains", "field": "answer"}},
                "objectives": [{"maximize": "right"}],
            },
            "answer.by: a scorer of the kind contains cannot choose among samples",
        ),
        ({"n": 3}, {"space": {"n": {"low": 1, "high": 3}, "top_p": {"low": 0.5, "high": 1.0}}}, "space.n: [answer]"),
        ({"n": 3}, {"baseline": {"n": 5}}, "baseline.n: 5 is no number of samples from 1 to answer.n's largest, 3"),
        ({"n": 3, "aggregate": "median"}, {}, "answer.aggregate: 'median' is not"),
    ],
)
def test_a_mistake_is_told_before_anything_is_spent(
    tmp_path: Path, answer: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError) as caught:
        asyncio.run(prepare(make_study(asked(tmp_path, answer, **changes), folder=tmp_path)))
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1, caught.value.problems


def test_without_the_table_n_is_no_setting(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"baseline\.n: is neither a parameter"):
        asyncio.run(prepare(make_study(study(tmp_path, baseline={"n": 3}), folder=tmp_path)))


def test_configurations_differ_in_n_unless_they_are_greedy(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(asked(tmp_path, {"n": {"choices": [1, 3, 9]}}), tmp_path) as (plan, _, _):
            one, three, nine = (
                plan.configure({"decoding": "sampling", "temperature": 0.7, "top_p": 0.9, "n": n}) for n in (1, 3, 9)
            )
            assert len({one.key, three.key, nine.key}) == 3
            assert one.kin == three.kin == nine.kin != ""
            assert [c.n for c in (one, three, nine)] == [1, 3, 9]
            assert "n" not in three.request
            assert "n" not in three.variables
            greedy = [plan.configure({"decoding": "greedy", "temperature": 0.0, "top_p": 0.9, "n": n}) for n in (1, 9)]
            assert greedy[0].key == greedy[1].key
            assert [c.n for c in greedy] == [1, 1]
            assert plan.baseline().n == 1
            assert plan.over_baseline({"n": 3}).n == 3
            assert plan.bill().confirm == 2 * 24 * 9

    asyncio.run(main())


# --- through a study


def voting(folder: Path, **changes: Any) -> dict[str, Any]:
    """A study whose answers are votes of up to nine samples."""
    table = study(
        folder,
        count=150,
        answer={"n": {"choices": [1, 3, 9]}},
        space={"temperature": {"low": 0.6, "high": 1.2, "step": 0.3}},
        baseline={"temperature": 0.9, "top_p": 0.8},
        search={"sampler": "grid", "pruner": "none", "trials_in_flight": 2},
        budget={"trials": 9},
        backend=backend(seeded=True),
    )
    return table | changes


def test_samples_are_nested_and_each_is_generated_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(voting(tmp_path), tmp_path) as (plan, session, engine):
            nine, three, one = (plan.configure({"temperature": 0.6, "n": n}) for n in (9, 3, 1))
            best = await session.measure(nine)
            assert engine.requests == 9 * len(plan.tune) == session.meter.search_generations
            some, single = await session.measure(three), await session.measure(one)
            assert engine.requests == 9 * len(plan.tune)
            assert session.meter.harvested == 4 * len(plan.tune)
            tokens = [evaluation.means()["completion_tokens"] for evaluation in (best, some, single)]
            assert tokens == [9.0, 3.0, 1.0]
            accuracy = [evaluation.means()["right"] for evaluation in (best, some, single)]
            assert accuracy[0] > accuracy[2] + 0.02
            fresh = await session.measure(three, replicates=2)
            assert engine.requests == 12 * len(plan.tune)  # a replicate has samples of its own
            assert {replicate for _, replicate in fresh.cells} == {0, 1}
            for position, example in enumerate(plan.tune):  # by hand, from what is stored
                query_rows = query(
                    tmp_path,
                    "SELECT text FROM genopt_generations WHERE config_key = ? AND example_id = ? AND sample < 9"
                    " AND phase = 'tune' ORDER BY sample",
                    three.key,
                    example.id,
                )
                texts = [text for (text,) in query_rows]
                assert len(texts) == 3
                assert some.cells[position, 0].metrics["right"] == float(texts.count("yes") >= 2)

    asyncio.run(main())


def test_unchosen_samples_are_not_scored(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(voting(tmp_path), tmp_path) as (plan, session, _):
            await session.measure(plan.configure({"temperature": 0.6, "n": 9}))
            await session.flush()
            assert len(query(tmp_path, "SELECT 1 FROM genopt_generations")) == 9 * len(plan.tune)
            assert len(query(tmp_path, "SELECT 1 FROM genopt_scores")) == len(plan.tune)

    asyncio.run(main())


def test_the_verdict_tells_settings_from_samples(tmp_path: Path) -> None:
    ran = run(voting(tmp_path), tmp_path)
    verdict = ran.decided()
    assert verdict.verdict == "improved"
    assert verdict.params["n"] == 9
    assert verdict.baseline_params["n"] == 1
    split = verdict.split
    assert split is not None
    assert split["n"] == 9
    parts = [split["settings"]["difference"], split["more samples"]["difference"]]
    assert sum(parts) == pytest.approx(verdict.difference)
    assert parts[1] > 0
    for name in ("settings", "more samples"):
        low, high = split[name]["interval"]
        assert low <= split[name]["difference"] <= high
    assert split["more samples"]["completion_tokens"] == [1.0, 9.0]
    assert verdict.confirm_generations == 10 * 60  # nine and one on 60 rows: the split generates nothing
    text = verdict_text(verdict.to_json())
    assert "of which, with 9 samples an answer:" in text
    assert "tokens 1 -> 9" in text
    assert "  n                    9   (was 1)" in text
    archive = load(f"sqlite:///{tmp_path / 'toy.db'}#toy")
    notes = export(settings(archive), "vllm").notes
    assert any(note.startswith("n = 9: ask 9 times with different seeds, and take what most") for note in notes)
    assert not any("n = " in note for note in export(settings(archive, "baseline"), "vllm").notes)
    frame = read(archive.url, archive.id, goal=archive.goal, description=archive.description, roles=archive.roles())
    held = frame[(frame["phase"] == "confirm") & (frame["role"] == "winner")].drop_duplicates("example_id")
    assert held["metric.right"].mean() == pytest.approx(verdict.winner_score)
    assert set(held["metric.completion_tokens"]) == {9.0}


def test_a_baseline_that_writes_nothing_has_no_tokens_to_tell(tmp_path: Path) -> None:
    """What is not known is null: NaN is no JSON, and no number for people."""
    table = voting(tmp_path, baseline={"temperature": 2.0})
    table["backend"] = {"kind": "tests.test_answers:TooHot", "model": "toy"}
    verdict = run(table, tmp_path).decided()
    assert verdict.split is not None
    assert verdict.split["settings"]["completion_tokens"] == [None, 1.0]
    json.dumps(verdict.to_json(), allow_nan=False)
    assert "nan" not in verdict_text(verdict.to_json()).lower()


class TooHot(ToyBackend):
    """Writes nothing at temperature 2."""

    async def generate(self, request: Request) -> Generation:
        if request.params["temperature"] == 2.0:
            return Generation("", "error", 10, 0, 0.0, why="too hot")
        return await super().generate(request)


def test_the_same_texts_are_scored_again(tmp_path: Path) -> None:
    run(voting(tmp_path), tmp_path)
    where = f"sqlite:///{tmp_path / 'toy.db'}#toy"
    again = asyncio.run(rescore_async(where, read_scorer("exact_match", "again")))
    assert all(each.old == pytest.approx(each.new) for each in again.trials)
    assert again.spearman == pytest.approx(1.0)


def test_the_best_by_a_scorer_and_by_consistency(tmp_path: Path) -> None:
    scorers = {"right": {"kind": "exact_match"}, "short": {"kind": "length", "max": 2, "unit": "characters"}}
    for by in ("short", "consistency"):
        (folder := tmp_path / by).mkdir()
        table = voting(
            folder,
            answer={"n": 3, "aggregate": "best", "by": by},
            scorers=scorers,
            objectives=[{"maximize": "right"}],
        )

        async def main(folder: Path = folder, table: dict[str, Any] = table) -> float:
            async with opened(table, folder) as (plan, session, _):
                found = await session.measure(plan.configure({"temperature": 0.6, "n": 3}))
                return found.means()["right"]

        accuracy = asyncio.run(main())
        if by == "short":  # "no" is short: it is chosen wherever one of three says it
            texts = query(folder, "SELECT example_id, text FROM genopt_generations ORDER BY example_id, sample")
            by_example: dict[str, list[str]] = {}
            for example, text in texts:
                by_example.setdefault(example, []).append(text)
            assert accuracy == np.mean(["no" not in said for said in by_example.values()])
        else:
            assert accuracy > 0.5


def test_more_samples_of_greedy_texts_change_nothing(tmp_path: Path) -> None:
    table = voting(tmp_path, search={"repeats": 2, "sampler": "grid"})

    async def main() -> None:
        async with opened(table, tmp_path) as (plan, session, engine):
            found = await session.measure(plan.configure({"temperature": 0.0, "n": 9}))
            assert engine.requests == len(plan.tune)
            assert found.means()["completion_tokens"] == 1.0

    asyncio.run(main())
