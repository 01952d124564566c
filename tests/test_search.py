"""The search: what is asked, what is told, when it stops, and what a fault costs."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from genopt.archive import load
from genopt.desk import Desk
from genopt.errors import BackendError, ScorerError, SpecError, StudyError
from genopt.events import Note
from genopt.field import fit
from genopt.finals import Further
from genopt.prepare import prepare
from genopt.purse import Purse
from genopt.report.markdown import markdown_report
from genopt.report.material import collect
from genopt.runner import optimize_async
from genopt.search import measure_baseline
from genopt.session import Session
from genopt.spec.read import make_study
from genopt.study import TrialRecord
from genopt.types import BackendInfo, Example, Generation, Request
from tests.studies import Ran, backend, generations, opened, query, run
from tests.toy import ToyBackend, study

COARSE = {
    "top_p": {"choices": [0.6, 0.9]},
    "decoding": {"greedy": {"temperature": 0.0}, "sampling": {"temperature": {"choices": [0.3, 0.6, 0.9]}}},
}  # eight points, seven configurations: greedy does not care for top_p
OUTSIDE = {"temperature": 1.2, "top_p": 1.0}


def answers(ran: Ran) -> dict[tuple[str, str], float]:
    """(config_key, example_id) -> 1.0 for a right answer, of every first sample on the tune split."""
    return {
        (key, example): float(text == "yes")
        for key, example, sample, phase, _, text in generations(ran.folder)
        if sample == 0 and phase == "tune"
    }


def tune_ids(table: dict[str, Any], folder: Path) -> list[str]:
    """The ids of the tune split in the study's order."""

    async def main() -> list[str]:
        plan = await prepare(make_study(table, folder=folder))
        await plan.aclose()
        return [example.id for example in plan.tune]

    return asyncio.run(main())


def no_trial_is_open(ran: Ran) -> bool:
    return all(trial.state in ("complete", "failed") for trial in ran.trials)


@pytest.mark.parametrize("in_flight", [1, 4])
def test_equal_configurations_are_told_and_never_generated_twice(tmp_path: Path, in_flight: int) -> None:
    """Proposals of a space with few points repeat, also while the first is still in flight."""
    table = study(tmp_path, count=30, space=COARSE, baseline=OUTSIDE, budget={"trials": 8}, backend=backend(delay=0.01))
    table["search"] = {"sampler": "random", "pruner": "none", "trials_in_flight": in_flight}
    ran = run(table, tmp_path)
    ran.decided()
    first: dict[str, TrialRecord] = {trial.config["key"]: trial for trial in ran.complete()}
    assert len(first) == len(ran.complete()) == 7, "the baseline outside the space counts, but is no trial"
    twins = [trial for trial in ran.trials if "duplicate_of" in trial.outcome]
    assert twins
    for twin in twins:
        original = first[twin.config["key"]]
        assert twin.state == "complete"
        assert twin.values == original.values
        assert twin.outcome["duplicate_of"] == original.number
        assert twin.number != original.number
    different = [t for t in twins if t.config["params"] != first[t.config["key"]].config["params"]]
    assert different, "greedy with another top_p is the same configuration"
    assert ran.decided().trials == 8
    assert Counter(event.outcome for event in ran.told()) == {"complete": 8, "duplicate": len(twins)}
    tune = [row for row in generations(tmp_path) if row[3] == "tune" and row[2] == 0]
    assert len(tune) == 18 * 8
    assert no_trial_is_open(ran)


def test_nothing_is_requested_twice(tmp_path: Path) -> None:
    """What the engine was asked is what the table holds: nothing was paid for and thrown away."""
    log = tmp_path / "log.jsonl"
    table = study(tmp_path, count=30, space=COARSE, backend=backend(delay=0.01, log=str(log)), budget={"trials": 9})
    ran = run(table, tmp_path)
    verdict = ran.decided()
    rows = len(generations(tmp_path))
    assert len(log.read_text().splitlines()) == rows
    assert verdict.search_generations + verdict.confirm_generations == rows


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    ran = run(study(tmp_path, count=30, space=COARSE, baseline=OUTSIDE, budget={"trials": 50}), tmp_path)
    ran.decided()
    assert len({trial.config["key"] for trial in ran.complete()}) == 7
    assert "the space looks exhausted" in ran.notes()
    assert no_trial_is_open(ran)


def test_a_stopped_trial_is_told_what_it_would_have_reached(tmp_path: Path) -> None:
    """Reconstructed from the rows: its estimate by the model of all that was known when it ended, which never says that
    the few examples it saw are harder or easier than the rest."""
    space = {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}}
    baseline = {"temperature": 0.6, "top_p": 0.8}
    table = study(tmp_path, count=80, space=space, baseline=baseline, budget={"trials": 12})
    table["search"] = {"sampler": "random", "pruner": "paired", "trials_in_flight": 1}
    ran = run(table, tmp_path)
    ran.decided()
    ids, right = tune_ids(table, tmp_path), answers(ran)
    stopped = [trial for trial in ran.complete() if trial.outcome["stopped_early"]]
    assert len(stopped) >= 3
    known: dict[str, list[float]] = {}
    for trial in ran.complete():
        key, n = trial.config["key"], trial.outcome["n"]
        assert trial.values is not None
        known[key] = [right[key, name] for name in ids[:n]]
        field = fit([known[other] for other in sorted(known) if other != key] + [known[key]], len(ids))
        assert trial.outcome["estimate_se"] == pytest.approx(field.se[-1])
        assert trial.outcome["estimate"] == pytest.approx(field.raw[-1])
        assert trial.outcome["mean"] == pytest.approx(sum(known[key]) / n)
        if trial.outcome["stopped_early"]:
            assert n < len(ids)
            assert trial.values[0] == pytest.approx(field.raw[-1])
        else:
            assert n == len(ids)
            assert trial.values[0] == pytest.approx(trial.outcome["mean"])
    early = [event for event in ran.told() if event.outcome == "stopped early"]
    assert [event.n for event in early] == [trial.outcome["n"] for trial in stopped]


def test_stopping_early_cancels_and_saves(tmp_path: Path) -> None:
    space = {"temperature": {"low": 1.3, "high": 1.5}}
    table = study(tmp_path, count=120, space=space, baseline={"temperature": 0.6, "top_p": 0.8}, budget={"trials": 6})
    table |= {"search": {"sampler": "random", "pruner": "paired"}, "backend": backend(delay=0.01)}
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert [trial.outcome["stopped_early"] for trial in ran.complete()] == [True] * 5
    assert verdict.verdict == "not shown"
    assert verdict.search_generations < 0.6 * 6 * 72
    values = [trial.values for trial in ran.complete()]
    assert all(value is not None and value[0] < 0.85 for value in values)


def test_the_median_pruner_stops_below_the_median(tmp_path: Path) -> None:
    table = study(tmp_path, count=60, budget={"trials": 20}, space={"temperature": {"low": 0.1, "high": 1.9}})
    table["search"] = {"sampler": "random", "pruner": "median", "trials_in_flight": 1}
    ran = run(table, tmp_path)
    ran.decided()
    outcomes = [trial.outcome["stopped_early"] for trial in ran.complete()]
    assert not any(outcomes[:4]), "five are needed to have a median"
    assert any(outcomes)


@pytest.mark.parametrize("limit", [200, 333, 500])
def test_the_budget_of_generations_holds_with_the_verdict(tmp_path: Path, limit: int) -> None:
    table = study(tmp_path, count=40, budget={"generations": limit}, backend=backend(delay=0.002))
    log = tmp_path / "log.jsonl"
    table["backend"]["options"]["log"] = str(log)
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert verdict.verdict is not None
    assert len(ran.complete()) >= 1
    assert len(log.read_text().splitlines()) == len(generations(tmp_path)) <= limit
    assert f"the budget of {limit} generations is spent" in ran.notes()
    assert no_trial_is_open(ran)


def test_the_budget_of_generations_is_used(tmp_path: Path) -> None:
    """What early stops leave over is searched on with, not left lying."""
    table = study(tmp_path, count=60, budget={"generations": 1200}, search={"sampler": "random", "pruner": "paired"})
    ran = run(table, tmp_path)
    ran.decided()
    assert 1200 - 36 - 5 * 36 - 48 < query(tmp_path, "SELECT count(*) FROM genopt_generations")[0][0] <= 1200
    assert any(trial.outcome["stopped_early"] for trial in ran.complete())


def test_a_budget_that_cannot_pay_for_a_verdict_is_refused(tmp_path: Path) -> None:
    """The least is exact: with it one trial is run beside the baseline."""
    table = study(tmp_path, count=40, budget={"generations": 60}, search={"sampler": "random"})
    with pytest.raises(SpecError, match=r"budget.generations: 60 is too few: .* take (\d+)") as caught:
        asyncio.run(prepare(make_study(table, folder=tmp_path)))
    least = int(str(caught.value).rpartition("take ")[2].split(".")[0].split()[0])
    ran = run(table | {"budget": {"generations": least}}, tmp_path)
    assert ran.decided().verdict is not None
    assert len([trial for trial in ran.trials if not trial.outcome.get("baseline")]) == 1
    with pytest.raises(SpecError, match="too few"):
        asyncio.run(prepare(make_study(table | {"budget": {"generations": least - 1}}, folder=tmp_path)))


@pytest.mark.parametrize("limit", [3000, 5000])
def test_the_budget_of_tokens_holds_with_the_verdict(tmp_path: Path, limit: int) -> None:
    ran = run(study(tmp_path, count=40, budget={"tokens": limit}), tmp_path)
    assert ran.decided().verdict is not None
    assert 0.5 * limit < ran.decided().tokens <= limit
    assert len(ran.complete()) >= 1


def test_the_budget_of_tokens_holds_where_every_sample_of_an_answer_reads_the_prompt(tmp_path: Path) -> None:
    """An answer of five reads the ten tokens of its prompt five times, and writes one token as often."""
    table = study(tmp_path, count=40, budget={"tokens": 40_000})
    ran = run(table | {"answer": {"aggregate": "vote", "n": {"choices": [1, 3, 5]}}}, tmp_path)
    assert 0.5 * 40_000 < ran.decided().tokens <= 40_000


def test_a_budget_of_tokens_that_does_not_pay_for_the_baseline_ends_the_study_at_its_first_texts(
    tmp_path: Path,
) -> None:
    """24 texts of 11 tokens; what was generated is there when the budget is raised."""
    table = study(tmp_path, count=40, budget={"tokens": 240})
    ran = run(table, tmp_path)
    assert isinstance(ran.error, SpecError)
    assert "budget.tokens: 240 is too few: the baseline's 24 texts alone take about 264, by the first 8" in str(
        ran.error
    )
    before = generations(tmp_path)
    assert len(before) == 8
    assert run(table | {"budget": {"tokens": 3000}}, tmp_path).decided().tokens <= 3000
    assert set(before) < set(generations(tmp_path))


def test_a_worker_that_made_none_of_the_baseline_s_texts_refuses_a_budget_of_tokens_as_well(tmp_path: Path) -> None:
    table = study(tmp_path, count=40, budget={"tokens": 240})

    async def beside() -> None:
        async with opened(table, tmp_path) as (_, session, _):
            for work in (optimize_async(make_study(table, folder=tmp_path)), measure_baseline(session)):
                with pytest.raises(SpecError, match="240 is too few"):
                    await work

    asyncio.run(beside())
    assert len(generations(tmp_path)) == 8


def test_what_others_take_is_not_held_against_a_baseline_that_is_paid_for(tmp_path: Path) -> None:
    """Its 24 texts have 30 tokens each, those of the search more than ten times as many; it is no trial itself."""
    table = study(tmp_path, count=40, space={"top_k": {"low": 300, "high": 320}}, baseline={"top_k": 20})
    table["backend"] = {"kind": "tests.test_admissible:Wordy", "model": "toy"}
    spent = run(table | {"budget": {"tokens": 20_000}}, tmp_path).decided().tokens
    assert spent > 10_000
    assert run(table | {"budget": {"tokens": 2_000}}, tmp_path).decided().tokens == spent


def test_what_can_be_shown_is_told_of_scores_that_differ(tmp_path: Path) -> None:
    """0.1 + 0.2 is not 0.3 to a computer: the mean of equal scores may differ from them by rounding."""

    def told(name: str, function: Any, **search: Any) -> str:
        folder = tmp_path / name
        folder.mkdir()
        table = study(folder, scorers={"own": function}, budget={"trials": 1})
        table["search"] |= search
        return run(table, folder).notes()

    assert "24 held-out examples (1 observation each) a true gain of a size that equal scores do not tell" in told(
        "equal", lambda example, text: 0.02 + (1e-17 if example.id in ("r1", "r2", "r3") else 0)
    )
    assert "(2 observations each)" in told("twice", lambda example, text: 0.5, confirm_repeats=2)
    small = told("small", lambda example, text: 0.5 + 0.0001 * (text == "yes"))
    assert re.search(r"a true gain below about \de-05 is likely", small)


def test_the_budget_of_hours_holds_with_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that every generation moves on by 3.6 seconds, 0.4 hours are 400 generations; here in two goes."""
    monkeypatch.setattr(Session, "elapsed", lambda session: session.meter.generations * 3.6)
    for hours in (0.25, 0.4):
        ran = run(study(tmp_path, count=40, budget={"hours": hours}), tmp_path)
        assert ran.decided().verdict is not None
        assert 600 * hours < len(generations(tmp_path)) <= 1000 * hours
        assert f"the budget of {hours} hours is spent" in ran.notes()
        assert no_trial_is_open(ran)


def test_a_broken_engine_stops_the_study_with_its_last_error(tmp_path: Path) -> None:
    ran = run(study(tmp_path, count=40, backend=backend(broken_after=60, delay=0.002)), tmp_path)
    assert isinstance(ran.error, BackendError)
    assert str(ran.error) == "the engine is broken"
    assert "trial after trial failed" in ran.error.hint and "run the same command" in ran.error.hint
    assert ran.error.exit_code == 1
    failed = [event for event in ran.told() if event.outcome == "failed"]
    last = max(i for i, event in enumerate(ran.told()) if event.outcome != "failed")  # answered before the engine broke
    in_a_row = len(ran.told()) - 1 - last
    assert len(failed) >= 2
    assert in_a_row <= 5 + 3 + 3, (
        "three more may fail in the other lanes meanwhile, and three that were told out of turn"
    )
    assert not [trial for trial in ran.trials if trial.state == "running"]
    stored = set(generations(tmp_path))
    assert 24 <= len(stored) <= 60
    # Repaired, the same command goes on with what was asked.
    again = run(study(tmp_path, count=40), tmp_path)
    assert again.decided().verdict is not None
    assert no_trial_is_open(again)
    assert stored <= set(generations(tmp_path))
    assert again.decided().trials == 6
    assert len({trial.config["key"] for trial in again.complete()} | {again.archive.baseline["key"]}) == 6


@pytest.mark.parametrize("in_flight", [1, 4])
def test_a_configuration_that_the_engine_cannot_answer_is_given_up(tmp_path: Path, in_flight: int) -> None:
    table = study(tmp_path, count=40, budget={"trials": 12}, baseline=OUTSIDE)
    table["backend"] = backend(refuses=["top_p", 0.9, 0.99])
    table["space"] = {"top_p": {"low": 0.5, "high": 1.0}, "temperature": {"low": 0.1, "high": 1.5}}
    table["search"] = {"sampler": "random", "pruner": "none", "trials_in_flight": in_flight}
    ran = run(table, tmp_path)
    assert ran.decided().trials == 12
    assert no_trial_is_open(ran)
    refused = [trial for trial in ran.trials if 0.9 <= trial.config["params"]["top_p"] < 0.99]
    assert refused and {trial.state for trial in refused} == {"failed"}
    assert set(Counter(trial.config["key"] for trial in refused).values()) == {3}
    assert "given up after 3 failures: refused" in ran.notes()
    assert len({trial.config["key"] for trial in ran.trials} | {ran.archive.baseline["key"]}) == 12


def test_calls_that_fail_count_against_the_budget_also_of_a_study_that_is_taken_up_again(tmp_path: Path) -> None:
    """The engine refuses a tenth of the space, and breaks on the way: in both goes together it is asked no more often
    than the budget says, but for what the verdict keeps; what was asked beside a call that failed, and called off with
    it, is among that."""
    log = tmp_path / "requests.jsonl"
    table = study(tmp_path, count=60, budget={"generations": 672}, baseline={"temperature": 0.6, "top_p": 0.8})
    table["space"] = {"top_p": {"low": 0.5, "high": 1.0}, "temperature": {"low": 0.1, "high": 1.5}}
    table["search"] = {"sampler": "random", "trials_in_flight": 1}
    refuses = {"refuses": ["top_p", 0.9, 0.95], "log": str(log), "delay": 0.002}
    first = run(table | {"backend": backend(broken_after=300, **refuses)}, tmp_path)
    assert isinstance(first.error, BackendError)
    ran = run(table | {"backend": backend(**refuses)}, tmp_path)
    asked, made = len(log.read_text().splitlines()), len(generations(tmp_path))
    spent, confirm = ran.archive.spent, ran.decided().confirm_generations
    assert spent.failed >= 5 + 3, "five in a row ended the first go; one configuration, at least, was given up"
    assert asked == made + spent.failed
    assert 672 - 48 - 36 < asked - confirm <= 672 - 48
    assert f"{spent.failed} calls of the engine made no text" in ran.notes()
    assert f"{spent.failed}, which made no text" in markdown_report(collect(ran.archive))


def test_a_broken_engine_fails_the_baseline_at_once(tmp_path: Path) -> None:
    ran = run(study(tmp_path, count=40, backend=backend(broken=True)), tmp_path)
    assert isinstance(ran.error, BackendError)
    assert re.match(r"it was asked about the row 'r\d+'; where that alone is to blame, leave it out", ran.error.hint)
    assert ran.trials == []


def test_a_scorer_that_raises_fails_its_trial_and_not_the_study(tmp_path: Path) -> None:
    """One row, and it alone, makes the scorer raise when it is answered wrongly."""
    table = study(tmp_path, count=60, baseline={"temperature": 0.6, "top_p": 0.8}, budget={"trials": 12})
    ids = tune_ids(table, tmp_path)
    right = answers(run(table, tmp_path))
    keys = {key for key, _ in right}
    wrong = {name: {key for key in keys if not right[key, name]} for name in ids}
    baseline = load(f"sqlite:///{tmp_path / 'toy.db'}#toy").baseline["key"]
    hated = next(name for name in ids if baseline not in wrong[name] and 2 <= len(wrong[name]) <= 4)

    def hates(example: Example, text: str) -> float:
        if example.id == hated and text == "no":
            raise ValueError("cannot read this")
        return float(text == "yes")

    (tmp_path / "again").mkdir()
    again = table | {"storage": f"sqlite:///{tmp_path / 'again' / 'toy.db'}", "scorers": {"right": hates}}
    ran = run(again, tmp_path / "again")
    assert ran.decided().verdict is not None
    failed = [trial for trial in ran.trials if trial.state == "failed"]
    assert {trial.config["key"] for trial in failed} == wrong[hated]
    why = {trial.outcome["why"].partition(":")[0] for trial in failed}
    assert "ScorerError" in why <= {"ScorerError", "its twin failed; asked again"}
    assert {trial.config["key"] for trial in ran.complete()} | {baseline} == keys - wrong[hated]
    assert no_trial_is_open(ran)


def test_a_scorer_that_always_raises_stops_the_study(tmp_path: Path) -> None:
    calls: list[str] = []

    def breaks(example: Example, text: str) -> float:
        calls.append(text)
        if len(calls) > 60:
            raise ValueError("cannot read this")
        return 1.0

    table = study(tmp_path, count=60, scorers={"right": breaks}, budget={"trials": 30})
    ran = run(table, tmp_path)
    assert isinstance(ran.error, ScorerError)
    assert "cannot read this" in str(ran.error) and "run the same command" in ran.error.hint
    assert 2 <= len([event for event in ran.told() if event.outcome == "failed"]) <= 5 + 3
    assert not [trial for trial in ran.trials if trial.state == "running"]


def test_a_storage_that_fails_is_not_told_as_trials_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Session.measure

    async def measure(session: Session, *args: Any, **options: Any) -> Any:
        if options.get("rungs"):
            raise StudyError("the disk is full", hint="free it")
        return await plain(session, *args, **options)

    monkeypatch.setattr(Session, "measure", measure)
    ran = run(study(tmp_path, count=60), tmp_path)
    assert isinstance(ran.error, StudyError) and ran.error.hint == "free it"


def test_a_trial_with_too_many_missing_scores_cannot_win(tmp_path: Path) -> None:
    """The scorer cannot read wrong answers; what is left looks perfect, and must not be believed."""

    def blind(example: Example, text: str) -> float | None:
        return 1.0 if text == "yes" else None

    table = study(tmp_path, count=60, scorers={"right": blind}, budget={"trials": 6})
    ran = run(table, tmp_path)
    assert ran.decided().verdict == "not shown"
    for trial in ran.complete():
        assert trial.outcome["eligible"] is False
        assert "could not be scored" in trial.outcome["why"]
    assert len(ran.complete()) >= 5
    warned = [event.text for event in ran.events if isinstance(event, Note) and event.level == "warning"]
    assert any("of the baseline's texts could not be scored" in text for text in warned)


def test_a_baseline_of_which_nothing_could_be_scored_ends_the_study_at_once(tmp_path: Path) -> None:
    def forgets_to_return(example: Example, text: str) -> None:
        """As in `text == "yes"` without return."""

    table = study(tmp_path, count=60, scorers={"right": forgets_to_return}, budget={"trials": 6})
    ran = run(table, tmp_path)
    assert isinstance(ran.error, ScorerError) and "right: none of the baseline's 36 texts" in str(ran.error)
    assert ran.trials == [] and ran.archive.spent.generations == 36


def test_a_baseline_of_which_nothing_is_measured_is_not_blamed_on_a_scorer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_long(self: ToyBackend, request: Request) -> Generation:
        return Generation("", "error", 10, 0, 0.0, why="the prompt is too long")

    monkeypatch.setattr(ToyBackend, "generate", too_long)
    ran = run(study(tmp_path, count=40, objectives=[{"minimize": "completion_tokens"}]), tmp_path)
    assert isinstance(ran.error, ScorerError) and "completion_tokens: none of the baseline's 24" in str(ran.error)
    assert "change [baseline] or the prompt" in ran.error.hint and "scorer" not in ran.error.hint


def test_a_baseline_whose_texts_could_not_be_written_is_told_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = ToyBackend.generate

    async def too_long(self: ToyBackend, request: Request) -> Generation:
        if int(request.example_id[1:]) % 2:
            return Generation("", "error", 10, 0, 0.0, why="the prompt takes 5000 tokens")
        return await answer(self, request)

    monkeypatch.setattr(ToyBackend, "generate", too_long)
    ran = run(study(tmp_path, count=60, budget={"trials": 2}), tmp_path)
    told = next(event for event in ran.events if isinstance(event, Note) and event.level == "warning")
    assert "of the baseline's texts could not be written, and count as the worst: the prompt takes 5000" in told.text
    (trial,) = (trial for trial in ran.complete() if not trial.outcome.get("baseline"))
    assert "of its texts could not be written, and count as the worst: the prompt takes 5000" in trial.outcome["why"]


def test_what_a_trial_was_not_asked_for_is_not_called_unwritten(tmp_path: Path) -> None:
    """Whatever order the engine answers in, settings that are seldom right are stopped beside a baseline that is."""
    table = study(tmp_path, count=60, space={"temperature": {"choices": [1.8, 1.9, 2.0]}}, budget={"trials": 3})
    ran = run(table | {"search": {"sampler": "grid"}, "baseline": {"temperature": 0.6, "top_p": 0.8}}, tmp_path)
    assert any(trial.outcome["stopped_early"] for trial in ran.complete())
    assert not [trial.outcome["why"] for trial in ran.complete() if "why" in trial.outcome]


def test_few_missing_scores_are_borne(tmp_path: Path) -> None:
    ids = tune_ids(study(tmp_path, count=60), tmp_path)

    def nearly(example: Example, text: str) -> float | None:
        return None if example.id == ids[3] else float(text == "yes")

    ran = run(study(tmp_path, count=60, scorers={"right": nearly}, budget={"trials": 6}), tmp_path)
    assert ran.decided().verdict is not None
    assert all(trial.outcome["eligible"] and trial.outcome["n"] == 35 for trial in ran.complete())


def test_what_misses_a_constraint_cannot_win(tmp_path: Path) -> None:
    """The second scorer forbids what the first likes: temperatures that answer right most often."""
    space = {"temperature": {"choices": [0.6, 0.9, 1.1]}}
    table = study(tmp_path, count=100, space=space, baseline={"temperature": 1.4, "top_p": 0.8})
    table["search"] = {"sampler": "grid", "pruner": "none"}
    table["scorers"] = {"right": {"kind": "exact_match"}, "wrong": wrong}
    free = run(table | {"objectives": [{"maximize": "right"}], "name": "toy"}, tmp_path)
    assert free.decided().params["temperature"] == 0.6
    bound = {"objectives": [{"maximize": "right"}], "constraints": [{"metric": "wrong", "at_least": 0.25}]}
    (tmp_path / "bound").mkdir()
    table["storage"] = f"sqlite:///{tmp_path / 'bound' / 'toy.db'}"
    ran = run(table | bound, tmp_path / "bound")
    best = [trial for trial in ran.complete() if trial.config["params"]["temperature"] == 0.6]
    assert [trial.outcome["eligible"] for trial in best] == [False]
    assert best[0].outcome["violations"]["wrong >= 0.25"] > 0
    assert "misses wrong >= 0.25" in best[0].outcome["why"]
    assert ran.decided().params["temperature"] in (0.9, 1.1)


def wrong(example: Example, text: str) -> float:
    """1 for a wrong answer."""
    return float(text == "no")


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        (
            {"at_most": 0.5},
            "no configuration met completion_tokens <= 0.5; the baseline misses completion_tokens <= 0.5",
        ),
        ({"at_least": 0.5}, "no configuration looked better than the baseline while searching"),
    ],
)
def test_a_study_without_a_winner_says_what_was_in_the_way(tmp_path: Path, limit: dict[str, float], told: str) -> None:
    table = study(tmp_path, count=60, budget={"trials": 4}, baseline={"temperature": 0.6, "top_p": 0.8})
    table["space"] = {"temperature": {"low": 1.3, "high": 1.5}, "top_p": {"choices": [0.5]}}
    table["constraints"] = [{"metric": "completion_tokens", **limit}]
    assert run(table, tmp_path).decided().note == told


def test_a_grid_asks_every_point_once_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    """Also with a baseline in the space, which is a trial of its own."""
    space = {
        "temperature": {"low": 0.2, "high": 1.2},
        "top_k": {"choices": [0, 5, 9]},
        "top_p": {"choices": [0.8, 1.0]},
    }
    table = study(tmp_path, count=30, space=space, baseline={"temperature": 0.2, "top_k": 5, "top_p": 0.8})
    table |= {"search": {"sampler": "grid", "pruner": "none", "grid_points": 3}, "budget": {"trials": 40}}
    parts = [*range(5, 14, 4), 40]
    for trials in parts:
        ran = run(table | {"budget": {"trials": trials}}, tmp_path)
        ran.decided()
    points = {(t, k, p) for t in (0.2, 0.7, 1.2) for k in (0, 5, 9) for p in (0.8, 1.0)}
    params = [trial.config["params"] for trial in ran.trials if not trial.outcome.get("baseline")]
    asked = Counter((round(p["temperature"], 6), p["top_k"], p["top_p"]) for p in params)
    assert asked == dict.fromkeys(points, 1)
    assert len(ran.complete()) == 18
    assert "the grid is done" in ran.notes()


def test_several_objectives_reach_a_verdict_on_the_first(tmp_path: Path) -> None:
    table = study(tmp_path, count=40, objectives=[{"maximize": "right"}, {"minimize": "characters"}])
    table |= {"search": {"sampler": "nsga2"}, "budget": {"trials": 20}}
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert verdict.objective == "maximize right, minimize characters"
    assert verdict.verdict in ("improved", "not shown", "worse")
    for trial in ran.complete():
        assert trial.values is not None
        right, characters = trial.values
        assert characters == pytest.approx(3 * right + 2 * (1 - right)), "yes has three characters, no has two"
    if verdict.holdout_examples:
        assert verdict.difference == pytest.approx((verdict.winner_score or 0) - (verdict.baseline_score or 0))


def test_the_gaussian_process_searches_a_small_space(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    space = {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}}
    table = study(tmp_path, count=40, space=space, search={"sampler": "gp"}, budget={"trials": 14})
    ran = run(table, tmp_path)
    assert ran.decided().verdict is not None
    assert len({trial.config["key"] for trial in ran.complete()}) >= 13
    assert no_trial_is_open(ran)


def test_a_baseline_in_the_space_is_the_first_trial(tmp_path: Path) -> None:
    baseline = {"decoding": "sampling", "temperature": 1.2, "top_p": 0.9}
    ran = run(study(tmp_path, count=30, baseline=baseline), tmp_path)
    first, *others = ran.trials
    assert first.number == 0
    assert first.outcome["baseline"] is True
    assert {path.rpartition(".")[2]: value for path, value in first.answers.items()}["temperature"] == 1.2
    assert not any(trial.outcome.get("baseline") for trial in others)
    assert ran.decided().trials == 6 == len(ran.complete())
    assert ran.told()[0].number == 0
    used = query(tmp_path, "SELECT count(*) FROM genopt_trial_rows WHERE trial_id = ?", first.trial_id)
    assert used == [(18,)]


def test_a_baseline_outside_the_space_is_no_trial(tmp_path: Path) -> None:
    ran = run(study(tmp_path, count=30, baseline={"temperature": 1.9, "top_p": 1.0}), tmp_path)
    verdict = ran.decided()
    assert not any(trial.outcome.get("baseline") for trial in ran.trials)
    assert all(trial.config["params"]["temperature"] <= 1.5 for trial in ran.trials)
    assert verdict.trials == 6 == len(ran.complete()) + 1
    assert ran.told()[0].number is None
    assert verdict.baseline_params["temperature"] == 1.9
    stored = ran.archive.rows()[0]
    assert stored["number"] is None
    assert stored["mean"] == pytest.approx(ran.told()[0].mean)


def test_an_interrupted_baseline_entry_is_completed(tmp_path: Path) -> None:
    """Killed between the trial and the note about it, the study still knows its baseline."""
    baseline = {"decoding": "sampling", "temperature": 1.2, "top_p": 0.9}
    table = study(tmp_path, count=30, baseline=baseline)

    async def main() -> None:
        from genopt.search import measure_baseline

        async with opened(table, tmp_path) as (_, session, _engine):
            attribute = session.study.set_attribute

            def killed(key: str, value: Any) -> None:
                if key == "baseline":
                    raise KeyError("killed")
                attribute(key, value)

            session.study.set_attribute = killed  # type: ignore[method-assign]
            with pytest.raises(KeyError):
                await measure_baseline(session)

    asyncio.run(main())
    ran = run(table, tmp_path)
    ran.decided()
    assert ran.archive.baseline["number"] == 0
    assert [trial.number for trial in ran.trials if trial.outcome.get("baseline")] == [0]


def test_trials_of_one_model_run_together(tmp_path: Path) -> None:
    models = {"small": 0.0, "big": 0.3, "huge": -0.3}
    space = study(tmp_path)["space"] | {"model": {"choices": list(models)}}
    table = study(tmp_path, space=space, budget={"trials": 24}, backend=backend(models=models, delay=0.002))
    table["search"] = {"sampler": "random", "pruner": "none", "trials_in_flight": 4}
    ran = run(table, tmp_path)
    assert ran.decided().params["model"] == "big"
    assert len({trial.config["key"] for trial in ran.complete()}) == 24
    assert no_trial_is_open(ran)
    changes = [event.text for event in ran.events if isinstance(event, Note) and event.text.startswith("model ")]
    assert 3 <= len(changes) <= 24 / 4 + 3, changes  # four wait at least, but for those left when the budget ends


def test_a_model_is_part_of_what_a_configuration_is(tmp_path: Path) -> None:
    space = study(tmp_path)["space"] | {"model": {"choices": ["small", "big"]}}
    table = study(tmp_path, space=space, backend=backend(models={"small": 0.0, "big": 0.0}))

    async def keys() -> set[str]:
        async with opened(table, tmp_path) as (plan, _, engine):
            assert plan.models == {"small": {"digest": "of small"}, "big": {"digest": "of big"}}
            chosen = {"top_p": 0.9, "decoding": "sampling", "temperature": 0.5}
            assert engine.opened == 1
            return {plan.configure({**chosen, "model": name}).key for name in ("small", "big")}

    assert len(asyncio.run(keys())) == 2


def test_a_search_that_cannot_bring_enough_ends_and_says_so(tmp_path: Path) -> None:
    """Every configuration is equal in truth, and a budget of 60 trials is not needed to see it."""
    table = study(tmp_path, count=60, backend=backend(flat=True), budget={"trials": 60})
    table["search"] = {"sampler": "random", "stop_when": {"gain_below": 0.05}}
    ran = run(table, tmp_path)
    assert 10 <= ran.decided().trials < 60
    assert "search ended: " in ran.notes()
    assert "going on is expected to bring" in ran.notes() or "are not likely to show one below" in ran.notes()
    assert no_trial_is_open(ran)


@pytest.mark.parametrize("budget", [{"generations": 900}, {"tokens": 11_000}])
def test_choosing_takes_a_share_of_the_budget_and_the_search_no_more_than_the_rest(
    tmp_path: Path, budget: dict[str, int]
) -> None:
    """Where texts are what is counted, the finalists get what is kept for them, and no trial asks beyond a look."""
    space = {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}}
    table = study(tmp_path, count=60, space=space, baseline={"temperature": 1.5, "top_p": 1.0}, budget=budget)
    table["search"] = {"sampler": "random", "pruner": "paired"}
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert verdict.verdict is not None
    [(stored,)] = query(tmp_path, "SELECT value_json FROM study_user_attributes WHERE key = 'genopt:finals'")
    entered = json.loads(stored)["spent"]
    spent = {"generations": verdict.search_generations + verdict.confirm_generations, "tokens": verdict.tokens}
    for name, limit in budget.items():
        assert entered[name] < 0.7 * limit
        assert entered[name] < spent[name] <= limit
    looked_at = query(tmp_path, "SELECT count(*) FROM genopt_generations WHERE phase = 'tune' AND sample = 0")[0][0]
    assert looked_at >= entered["observed"] >= 0.95 * entered["generations"], "what was made was looked at"


@pytest.mark.parametrize("budget", [{"generations": 500}, {"trials": 12}])
def test_an_engine_of_many_slots_is_filled_within_the_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: dict[str, int]
) -> None:
    """More trials than the few that there are in any case, and fewer, larger rounds of those that may be best."""
    rounds: dict[int, int] = {}
    plain = Further.measure

    async def counted(further: Further, arms: Any) -> bool:
        done = await plain(further, arms)
        rounds[slots] = rounds.get(slots, 0) + done
        return done

    monkeypatch.setattr(Further, "measure", counted)
    most, made = {}, {}
    for slots in (16, 512):
        folder = tmp_path / str(slots)
        folder.mkdir()
        engine = backend(delay=0.05, concurrency=slots, idle_is_free=True)
        table = study(folder, count=60, budget=budget, baseline=OUTSIDE, backend=engine)
        table["search"] = {"sampler": "random", "pruner": "paired"}
        flying: list[int] = []
        monkeypatch.setattr(Desk, "finished", observed(flying, Desk.finished))
        ran = run(table, folder)
        verdict = ran.decided()
        most[slots], made[slots] = max(flying), verdict.search_generations + verdict.confirm_generations
        assert no_trial_is_open(ran)
        assert len(generations(folder)) == made[slots] <= budget.get("generations", 12 * 36 + 5 * 36 + 48)
        assert verdict.trials <= budget.get("trials", 900)
    assert most[16] <= 4 < most[512]
    assert rounds[512] < rounds[16]


class Learning(ToyBackend):
    """Opens for 4 requests at once, and finds when it has written some that 24 fit, or `fits`."""

    peaks: ClassVar[dict[str, int]] = {}

    async def open(self) -> BackendInfo:
        return replace(await super().open(), concurrency=4)

    async def generate(self, request: Request) -> Generation:
        known = "known" if self.requests > 30 else "guessed"
        self.peaks[known] = max(self.peaks.get(known, 0), self.running + 1)
        return await super().generate(request)

    def stats(self) -> dict[str, float]:
        return {"concurrency": 4 if self.requests <= 30 else self.options.get("fits", 24)}


@pytest.mark.parametrize(("asked", "fits", "most"), [("auto", 24, 24), ("auto", 2, 4), (6, 24, 6)])
def test_as_much_is_asked_at_once_as_the_engine_says_by_then(
    tmp_path: Path, asked: str | int, fits: int, most: int
) -> None:
    """An engine that learns how many texts fit is asked for so many once the baseline is known; a study that says how
    many requests are in flight is right."""
    Learning.peaks.clear()
    engine = {"kind": "tests.test_search:Learning", "model": "toy", "concurrency": asked}
    engine["options"] = {"delay": 0.01, "fits": fits}
    table = study(tmp_path, count=100, budget={"trials": 12}, baseline=OUTSIDE, backend=engine)
    ran = run(table, tmp_path)
    ran.decided()
    assert Learning.peaks == {"guessed": 4 if asked == "auto" else asked, "known": most}


def observed(flying: list[int], finished: Any) -> Any:
    """`finished`, noting how many trials are in flight."""

    async def noted(desk: Desk, job: Any) -> None:
        flying.append(len(desk.in_flight))
        await finished(desk, job)

    return noted


def test_all_choose_in_the_rounds_of_whoever_began_to(tmp_path: Path) -> None:
    """Whatever engine they have: else they would not decide alike."""
    parts = []
    for slots in (512, 16, 512):
        table = study(tmp_path, count=100, backend=backend(concurrency=slots))

        async def main(table: dict[str, Any] = table) -> None:
            async with opened(table, tmp_path) as (_, session, _engine):
                parts.append((await Purse.open(session)).part(1000, 4))

        asyncio.run(main())
    assert parts == [250, 250, 250]


def test_a_trial_whose_worker_dies_at_the_very_end_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last look at the queue, where it still runs, and the count of what others run, where it does not."""
    real, put = Desk._others_run, []

    async def dies(desk: Desk) -> bool:
        found = await real(desk)
        if not put:
            put.append(await desk.session.db(desk.session.study.enqueue, {}, proposal=77, retry_of=1))
        return found

    monkeypatch.setattr(Desk, "_others_run", dies)
    table = study(tmp_path, budget={"trials": 3})
    table["search"] |= {"trials_in_flight": 1}
    ran = run(table, tmp_path)
    assert put and ran.error is None
    assert query(tmp_path, "SELECT count(*) FROM trials WHERE state = 'WAITING'") == [(0,)]
    assert [trial.state for trial in ran.trials if trial.proposal == 77] == ["complete"]
