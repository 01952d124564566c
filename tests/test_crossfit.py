"""With few examples every choice is tried on examples that come after those it was made by."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.compare.sides import sides
from genopt.crossfit import LEAST, chosen, folds
from genopt.errors import SpecError
from genopt.prepare import prepare
from genopt.race import simulate
from genopt.report import verdict_text
from genopt.report.material import collect
from genopt.report.reckoning import facts_of
from genopt.spec.read import make_study
from genopt.stats import paired
from tests.studies import backend, query, run
from tests.test_stats import rng
from tests.toy import rows, study

TODAY = {"decoding": "sampling", "temperature": 1.4, "top_p": 1.0}


# ---------------------------------------------------------------- folds and choices


@pytest.mark.parametrize("n", [12, 13, 20, 30, 50, 59, 200])
def test_folds_are_one_pass_over_all_but_the_first_examples(n: int) -> None:
    parts = folds([None] * n)
    first = len(parts[0].before)
    assert first == max(4, round(n / 4)) and len(parts) == 8
    assert [at for part in parts for at in part.on] == list(range(first, n))
    assert all(part.before == tuple(range(part.on[0])) and part.on for part in parts)


def test_groups_stay_whole_and_count_as_one() -> None:
    groups = [f"g{i % 15}" if i % 4 else None for i in range(80)]
    parts = folds(groups)
    for part in parts:
        assert not {groups[at] for at in part.before} & {groups[at] for at in part.on} - {None}
        assert sorted({*part.before, *part.on}) == sorted([*part.before, *part.on])
    assert folds([str(i % (LEAST - 1)) for i in range(80)]) == folds([None] * (LEAST - 1)) == ()


def test_a_choice_knows_nothing_of_the_fold_and_what_comes_after_it() -> None:
    r = rng(1)
    n, scores = 30, [r.random(size) for size in (30, 30, 75, 8, 20)]
    for part in folds([None] * n):
        later = [position for position in range(n) if position not in part.before]
        spoilt = []
        for own in scores:
            wild = own.copy()
            wild[np.isin(np.arange(own.size) % n, later)] = 100 * r.random()
            spoilt.append(wild)
        assert chosen(scores, n, part.before, 0) == chosen(spoilt, n, part.before, 0)
    better = [np.full(30, 0.2), np.full(30, 0.9), np.full(4, 0.1)]
    assert chosen(better, n, range(10), 0) == 1
    assert chosen(better[::-1], n, range(10), 1) == 1  # the baseline, when none looks better
    assert chosen([np.full(30, 0.5), *([np.full(4, 1.0)] * 3)], 30, range(4, 20), 0) == 0  # nothing is known of these


# ---------------------------------------------------------------- error and power against known truth


def table(r: np.random.Generator, n: int, *, gain: float = 0.0) -> Any:
    """25 configurations whose scores depend on the example as much as on chance; the first is the baseline, and a
    quarter of the others are better by `gain`."""
    truth = np.where(np.arange(25) % 4 == 1, gain, 0.0)
    ability = truth[:, None] + 0.35 * r.normal(size=(25, n)) + 0.3 * r.normal(size=n)
    return ability[:, :, None] + 0.35 * r.normal(size=(25, n, 3))


def claims(n: int, runs: int, gain: float, *, crossfit: bool) -> Counter[str]:
    found: Counter[str] = Counter()
    for seed in range(runs):
        done = simulate(table(rng([seed, n]), n, gain=gain), 12 * n, seed, crossfit=crossfit)  # type: ignore[arg-type]
        if done.winner != 0 and done.p_value < 0.05:
            found["up" if done.holdout_estimate > done.baseline_estimate else "down"] += 1
    return found


@pytest.mark.parametrize("n", [12, 30])
def test_where_nothing_is_better_no_more_is_claimed_than_the_level_allows(n: int) -> None:
    """The search is raced, so that what it has seen of each configuration depends on all examples."""
    runs = 80
    found = claims(n, runs, 0.0, crossfit=True)
    assert found.total() <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)
    assert found["up"] <= 0.025 * runs + 2.5 * np.sqrt(0.025 * 0.975 * runs)


def test_more_is_shown_than_by_a_holdout_at_the_same_calls() -> None:
    ours, holdout = (claims(30, 40, 0.45, crossfit=crossfit)["up"] for crossfit in (True, False))
    assert ours >= holdout + 6


def test_each_fold_helping_to_choose_for_every_other_would_claim_too_much() -> None:
    """Why the folds go one way: sampling leaves nothing to chance, so that all is the examples' own."""
    r, runs, n, k = rng(5), 500, 30, 5
    both = one_way = 0
    for turn in range(runs):
        scores = r.normal(size=(30, n))
        fold = np.arange(n) * k // n
        for forward in (False, True):
            d = np.zeros(n)
            for part in range(k):
                before = fold < part if forward else fold != part
                if before.any():
                    d[fold == part] = (scores[int(np.argmax(scores[:, before].mean(axis=1)))] - scores[0])[fold == part]
            found = paired(d, np.zeros(n), resamples=399, seed=turn).p_value < 0.05
            one_way, both = (one_way + found, both) if forward else (one_way, both + found)
    assert both > 0.075 * runs
    assert one_way <= 0.05 * runs + 2 * np.sqrt(0.05 * 0.95 * runs)


# ---------------------------------------------------------------- whole studies


def small(folder: Path, count: int = 40, **changes: Any) -> dict[str, Any]:
    dataset = {"rows": rows(count)}
    table = study(folder, dataset=dataset, baseline=TODAY, budget={"trials": 12}, search={"sampler": "random"})
    return table | changes


def test_a_small_study_claims_its_choosing_and_every_number_can_be_had_from_its_rows(tmp_path: Path) -> None:
    ran = run(small(tmp_path), tmp_path)
    verdict = ran.decided()
    assert (verdict.verdict, verdict.holdout_examples) == ("improved", 30)
    assert len(verdict.folds) == 8 and "with 30 cross-fitted examples" in ran.notes()
    answered: dict[tuple[str, str], list[float]] = {}
    for key, example, value in query(
        tmp_path,
        "SELECT g.config_key, g.example_id, s.value FROM genopt_generations g"
        " JOIN genopt_scores s ON s.generation_id = g.id WHERE g.phase = 'confirm'",
    ):
        answered.setdefault((key, example), []).append(value)
    base = ran.archive.baseline["key"]
    tried = [(fold["key"], example) for fold in verdict.folds for example in fold["examples"]]
    differences = [np.mean(answered[pair]) - np.mean(answered[base, pair[1]]) for pair in tried]
    assert len({example for _, example in tried}) == 30
    assert verdict.difference == pytest.approx(np.mean(differences))
    assert verdict.confirm_generations == sum(map(len, answered.values())) <= 60  # nothing else was asked
    known = {trial.config["key"]: trial.config["params"] for trial in ran.complete()}
    assert all(known[fold["key"]].items() <= fold["params"].items() for fold in verdict.folds if fold["key"] != base)
    facts = facts_of(collect(ran.archive))
    assert facts.examples == {"tune": 40, "holdout": 30}
    assert facts.held_out is not None
    assert (facts.held_out.result.difference, facts.held_out.result.p_value) == (verdict.difference, verdict.p_value)
    assert facts.held_out.winner == pytest.approx(verdict.winner_score)
    told = verdict_text(verdict.to_json())
    assert told.startswith("Improved: choosing as this study did beats the baseline by +")
    assert "on 30 examples by turns (cross-fitting: 8 folds" in told
    assert all("on the tune split" in side.about for side in sides(f"sqlite:///{tmp_path / 'toy.db'}#toy", None))


def test_a_fold_is_chosen_by_nothing_that_comes_after_it(tmp_path: Path) -> None:
    """The recorded choice follows from the stored scores of the examples before it."""
    ran = run(small(tmp_path, 24), tmp_path)
    scores: dict[str, dict[tuple[str, int], float]] = {}
    stored = query(
        tmp_path,
        "SELECT g.config_key, g.example_id, g.sample, s.value FROM genopt_generations g"
        " JOIN genopt_scores s ON s.generation_id = g.id WHERE g.phase = 'tune'",
    )
    for key, example, sample, value in stored:
        scores.setdefault(key, {})[example, sample] = value
    plan = asyncio.run(prepare(make_study(small(tmp_path, 24), folder=tmp_path)))
    order = [example.id for example in plan.tune]
    keys = sorted(scores)
    series = [np.array([scores[key][e, s] for s in range(3) for e in order if (e, s) in scores[key]]) for key in keys]
    base = keys.index(ran.archive.baseline["key"])
    for fold, part in zip(ran.decided().folds, plan.folds, strict=True):
        assert [order[at] for at in part.on] == fold["examples"]
        seen = [own for own in series if own.size]
        assert keys[chosen(seen, len(order), part.before, base)] == fold["key"]


def test_a_second_run_asks_nothing_and_a_raised_budget_is_another_look(tmp_path: Path) -> None:
    table = small(tmp_path, 24, budget={"trials": 6})
    first = run(table, tmp_path).decided()
    assert run(table, tmp_path).decided() == first
    second = run(table | {"budget": {"trials": 9}}, tmp_path).decided()
    assert second.look == (1 if [f["key"] for f in second.folds] == [f["key"] for f in first.folds] else 2)
    changed = run(table | {"dataset": {"rows": rows(24), "holdout": 0.4}}, tmp_path)
    assert "dataset.holdout" in str(changed.error)


def test_which_way_the_claim_is_made_is_the_data_s_and_the_user_s(tmp_path: Path) -> None:
    def ways(**dataset: Any) -> tuple[str, int, int]:
        plan = asyncio.run(prepare(make_study(small(tmp_path) | {"dataset": dataset}, folder=tmp_path)))
        return ("folds" if plan.folds else "holdout"), len(plan.tune), len(plan.holdout)

    grouped = [row | {"doc": f"d{i % 20}"} for i, row in enumerate(rows(100))]
    assert ways(rows=rows(59)) == ("folds", 59, 44)
    assert ways(rows=rows(60)) == ("holdout", 42, 18)
    assert ways(rows=rows(40), holdout=0.3) == ("holdout", 28, 12)
    assert ways(rows=rows(60), holdout="cross-fitting") == ("folds", 60, 45)
    assert ways(rows=grouped, group="doc") == ("folds", 100, 75)
    with pytest.raises(SpecError, match=r"11 rows are too few to choose by and to show anything with: that takes 12"):
        ways(rows=rows(11))
    with pytest.raises(SpecError, match=r"100 rows are only 11 groups by doc, and those .*: too few .* takes 12"):
        ways(rows=[row | {"doc": f"d{i % 11}"} for i, row in enumerate(grouped)], group="doc")


def test_flat_settings_are_left_alone(tmp_path: Path) -> None:
    verdict = run(small(tmp_path, 24, budget={"trials": 6}, backend=backend(flat=True)), tmp_path).decided()
    assert verdict.verdict == "not shown"
