"""The verdict: claimed when it is true, hardly ever when it is not, and on rows the search never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from genopt.dataset import split
from genopt.errors import ScorerError
from genopt.runner import optimize
from genopt.session import Session
from genopt.spec.read import make_study
from genopt.trial import Configuration, Evaluation
from genopt.types import Example, Generation, Request
from tests.studies import backend, generations, query, run
from tests.toy import DEFAULTS, ToyBackend, rows, study, truth

SEARCHED = {e.id for e in split([Example(row["id"], row) for row in rows(60)], holdout=0.4, seed=1)[0]}
GOOD = {"temperature": {"low": 0.3, "high": 0.9}, "top_p": {"low": 0.7, "high": 0.9}}


def test_nothing_is_claimed_where_nothing_can_be_gained(tmp_path: Path) -> None:
    """Every configuration is equal in truth: "improved" is a false claim, which 5 % of studies may make."""
    studies = 60
    claims = []
    for seed in range(studies):
        table = study(tmp_path, count=30, name=f"{seed}", seed=seed, backend=backend(flat=True), budget={"trials": 4})
        table["search"] |= {"warm_start": False}  # studies of their own
        claims.append(optimize(make_study(table, folder=tmp_path)).verdict.verdict)
    assert claims.count("improved") <= stats.binom.ppf(0.999, studies, 0.05)
    assert claims.count("worse") <= stats.binom.ppf(0.999, studies, 0.05)
    assert claims.count("not shown") >= 40


def test_a_gain_is_found(tmp_path: Path) -> None:
    """From a chance of 0.29 to about 0.8, on 40 held-out rows: shown nearly always."""
    baseline = {"temperature": 1.5, "top_p": 1.0}
    assert truth({**DEFAULTS, **baseline}) == pytest.approx(0.29)
    found = []
    for seed in range(8):
        table = study(tmp_path, count=100, name=f"{seed}", seed=seed, space=GOOD, baseline=baseline)
        verdict = optimize(make_study(table, folder=tmp_path)).verdict
        found.append(verdict.verdict)
        if verdict.verdict == "improved":
            assert verdict.difference is not None
            assert verdict.interval is not None
            assert verdict.interval[0] > 0
            assert verdict.p_value is not None
            assert verdict.p_value < verdict.level
            assert truth(dict(verdict.params)) > truth(dict(verdict.baseline_params))
    assert found.count("improved") >= 7


def test_the_verdict_is_what_the_holdout_says(tmp_path: Path) -> None:
    """Recomputed from the stored rows: fresh seeds, rows that the search never saw, paired by example."""
    table = study(tmp_path, count=100, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    verdict = run(table, tmp_path).decided()
    rows = generations(tmp_path)
    tune = {(row[1], row[4]) for row in rows if row[3] == "tune"}
    confirm = [row for row in rows if row[3] == "confirm"]
    assert not {example for example, _ in tune} & {row[1] for row in confirm}
    assert not {seed for _, seed in tune} & {row[4] for row in confirm}
    right: dict[str, dict[str, float]] = {}
    for key, example, _, _, _, text in confirm:
        right.setdefault(key, {})[example] = float(text == "yes")
    assert len(right) == 2
    means = {key: sum(values.values()) / len(values) for key, values in right.items()}
    assert sorted(means.values()) == pytest.approx([verdict.baseline_score, verdict.winner_score])
    worse, better = sorted(means, key=lambda key: means[key])
    differences = [right[better][name] - right[worse][name] for name in right[better]]
    assert verdict.difference == pytest.approx(sum(differences) / 40)
    assert (verdict.wins, verdict.losses) == (differences.count(1), differences.count(-1))
    assert verdict.ties == differences.count(0)
    assert (verdict.holdout_examples, verdict.confirm_generations) == (40, 80)
    assert verdict.search_generations == len(rows) - 80
    assert verdict.tokens == 11 * len(rows)


@pytest.mark.parametrize("repeats", [1, 2])
def test_nothing_better_than_the_baseline_is_not_shown_without_looking(tmp_path: Path, repeats: int) -> None:
    table = study(tmp_path, count=60, space={"temperature": {"low": 1.35, "high": 1.5}})
    table |= {"baseline": {"temperature": 0.6, "top_p": 0.8}, "search": {"sampler": "random", "repeats": repeats}}
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert verdict.verdict == "not shown"
    assert verdict.params == verdict.baseline_params
    assert (verdict.difference, verdict.p_value, verdict.holdout_examples) == (0.0, 1.0, 0)
    assert verdict.confirm_generations == 0
    assert not [row for row in generations(tmp_path) if row[3] == "confirm"]
    assert "no configuration looked better" in verdict.note
    assert query(tmp_path, "SELECT count(*) FROM study_user_attributes WHERE key = 'genopt:looks'") == [(0,)]


def test_those_that_may_be_best_are_measured_again_with_fresh_seeds(tmp_path: Path) -> None:
    """What two finalists and the baseline would take three times over is spent on whoever may be best."""
    table = study(tmp_path, count=60, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    table["search"] = {"sampler": "random", "pruner": "none", "finalists": 2, "replicates": 3}
    run(table, tmp_path).decided()
    sql = "SELECT config_key, count(*), count(DISTINCT sample), count(DISTINCT seed) FROM genopt_generations"
    found = query(tmp_path, sql + " WHERE phase = 'tune' AND sample > 0 GROUP BY 1")
    assert len(found) >= 2
    assert all(rows == seeds for _, rows, _, seeds in found), "no seed serves twice"
    assert sum(rows for _, rows, _, _ in found) == 3 * 36 * 3
    assert max(rows for _, rows, _, _ in found) == 108, "the leader is measured three times over"


@pytest.mark.parametrize("several", [False, True], ids=["one objective", "a front"])
def test_a_finalist_that_cannot_be_scored_is_left_out_and_paid_for_once(
    tmp_path: Path, several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = study(tmp_path, count=60, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    table |= {"budget": {"generations": 900}, "search": {"sampler": "random"}}
    if several:
        table["objectives"] = [{"maximize": "right"}, {"minimize": "characters"}]
    measure, tried = Session.measure, []

    async def measured(self: Session, config: Configuration, **options: Any) -> Evaluation:
        found = await measure(self, config, **options)
        if options.get("upto") and config.key != self.plan.baseline().key and tried[:1] in ([], [config.key]):
            tried.append(config.key)
            raise ScorerError("cannot read this")
        return found

    monkeypatch.setattr(Session, "measure", measured)
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert len(tried) == 1, "it is not tried again"
    assert ran.notes().count("a finalist is left out: cannot read this") == 1
    assert len(generations(tmp_path)) <= 900
    put_forward = {row[0] for row in generations(tmp_path) if row[3] == "confirm"}
    assert verdict.verdict and put_forward and tried[0] not in put_forward


def test_repeats_of_the_verdict_are_averaged_by_example(tmp_path: Path) -> None:
    table = study(tmp_path, count=60, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    table["search"] = {"sampler": "random", "confirm_repeats": 3, "repeats": 2}
    verdict = run(table, tmp_path).decided()
    assert verdict.holdout_examples == 24
    assert verdict.confirm_generations == 2 * 24 * 6
    assert verdict.wins + verdict.ties + verdict.losses == 24


def test_a_holdout_on_which_all_are_equal_does_not_say_that_nothing_differs(tmp_path: Path) -> None:
    """Three tune rows show a winner that no held-out row can tell from the baseline."""
    table = study(tmp_path, count=60, space={"top_k": {"low": 0, "high": 9}}, baseline={"top_k": 500})
    table["scorers"] = {"own": knows_a_few_rows}
    table["backend"] = {"kind": "tests.test_confirm:Tells", "model": "toy"}
    verdict = run(table, tmp_path).decided()
    assert (verdict.verdict, verdict.ties, verdict.interval) == ("not shown", 24, (0.0, 0.0))
    assert verdict.note == (
        "both were worth the same on all 24 examples: a difference on fewer than about 12% of such examples would"
        " likely stay unseen"
    )


class Tells(ToyBackend):
    """Writes its top_k."""

    async def generate(self, request: Request) -> Generation:
        return Generation(str(request.params["top_k"]), "stop", 10, 1, 0.0)


def knows_a_few_rows(example: Example, text: str) -> float:
    """1 for a small top_k on the rows that are searched on."""
    return float(text != "500" and example.id in SEARCHED)


def test_less_can_be_better(tmp_path: Path) -> None:
    """A minimized objective: difference above zero still means better, the scores are the metric itself."""
    table = study(tmp_path, count=100, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    table["scorers"] = {"wrong": says_no}
    table["objectives"] = [{"minimize": "wrong"}]
    ran = run(table, tmp_path)
    verdict = ran.decided()
    assert verdict.verdict == "improved"
    assert verdict.winner_score is not None
    assert verdict.baseline_score is not None
    assert 0 <= verdict.winner_score < verdict.baseline_score <= 1
    assert verdict.difference == pytest.approx(verdict.baseline_score - verdict.winner_score)
    assert all(trial.values is not None and 0 <= trial.values[0] <= 1 for trial in ran.complete())
    metrics: Any = verdict.metrics
    assert metrics["wrong"]["winner"] == pytest.approx(verdict.winner_score, abs=1e-6)


def says_no(example: object, text: str) -> float:
    """1 for a wrong answer."""
    return float(text == "no")


def test_a_winner_that_misses_a_constraint_on_the_holdout_is_not_claimed(tmp_path: Path) -> None:
    """A scorer that turns against the winner on the rows that were held out."""
    table = study(tmp_path, count=100, space=GOOD, baseline={"temperature": 1.5, "top_p": 1.0})
    first = run(table, tmp_path)
    assert first.decided().verdict == "improved"
    held = {row[1] for row in generations(tmp_path) if row[3] == "confirm"}

    def turns(example: Any, text: str) -> float:
        return 0.0 if example.id in held else 1.0

    folder = tmp_path / "bound"
    folder.mkdir()
    table |= {"storage": f"sqlite:///{folder / 'toy.db'}", "objectives": [{"maximize": "right"}]}
    table |= {"scorers": {"right": {"kind": "exact_match"}, "turns": turns}}
    verdict = run(table | {"constraints": [{"metric": "turns", "at_least": 0.5}]}, folder).decided()
    assert verdict.params == first.decided().params
    assert verdict.verdict == "not shown"
    assert "the winner misses turns >= 0.5" in verdict.note
