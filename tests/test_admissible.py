"""A baseline that misses a constraint: a winner that meets them all takes its place, at whatever loss; what is not sure
of either stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from genopt import conclusions
from genopt.cli.work import _settings
from genopt.conclusions import MISSED
from genopt.crossfit import chosen
from genopt.dashboard.notes import study_note
from genopt.events import StageStarted
from genopt.export import settings
from genopt.objectives import Constraint, Goal, Objective
from genopt.report import verdict_text
from genopt.report.files import render
from genopt.runner import Result
from genopt.stats import paired
from genopt.trial import Configuration, Evaluation, Observation
from genopt.types import Example, Generation, Request
from tests.studies import Ran, run
from tests.toy import ToyBackend, rows, study, uniform

BOUND = "completion_tokens <= 40"
TODAY = {"temperature": 0.6, "top_p": 0.8, "top_k": 60}  # the best answers there are, at 60 tokens each
LONG = {"temperature": {"choices": [0.6]}, "top_k": {"choices": [70, 80]}}


class Wordy(ToyBackend):
    """The toy engine, whose texts have top_k tokens on average, up to `spread` more or fewer; those that are `long`
    (above 40) are right by so much more often."""

    async def _answer(self, request: Request, better: float) -> Generation:
        top_k = request.params["top_k"]
        assert isinstance(top_k, int)
        found = await super()._answer(request, better + (self.options.get("long", 0.0) if top_k > 40 else 0.0))
        share = 2 * uniform("length", request.seed, request.example_id) - 1
        return replace(found, completion_tokens=top_k + round(self.options.get("spread", 5) * share))


def table(folder: Path, space: dict[str, Any], *, spread: int = 5, **changes: Any) -> dict[str, Any]:
    made = study(folder, count=200, space=space, baseline=TODAY, objectives=[{"maximize": "right"}])
    made["backend"] = {"kind": "tests.test_admissible:Wordy", "model": "toy", "options": {"spread": spread}}
    made["constraints"] = [{"metric": "completion_tokens", "at_most": 40.0}]
    made["search"] = {"sampler": "grid", "pruner": "none", "warm_start": False}
    return made | {"budget": {"trials": 12}} | changes


def short(*temperatures: float) -> dict[str, Any]:
    """Short texts at these temperatures, and long ones that answer as the baseline does."""
    return {"mode": {"short": {"temperature": {"choices": list(temperatures)}, "top_k": {"choices": [30]}},
                     "long": LONG}}  # fmt: skip


@pytest.fixture(scope="module")
def at_a_loss(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("loss")
    found = run(table(folder, short(1.1, 1.3, 1.5)), folder)
    assert found.error is None, found.error
    return found


def test_a_winner_that_loses_nothing_takes_the_place_of_a_baseline_that_misses_a_bound(tmp_path: Path) -> None:
    verdict = run(table(tmp_path, short(0.65, 1.5)), tmp_path).decided()
    assert verdict.verdict == "admissible"
    assert (verdict.params["temperature"], verdict.params["top_k"]) == (0.65, 30)
    assert verdict.interval is not None and verdict.interval[0] < 0 < verdict.interval[1]
    assert verdict.constraints is not None
    assert verdict.constraints[BOUND]["winner"]["probability"] >= 0.9
    assert verdict.constraints[BOUND]["baseline"]["probability"] <= MISSED
    assert f"the baseline misses {BOUND}" in verdict.note
    told = verdict_text(verdict.to_json())
    low, high = verdict.interval
    assert told.startswith(
        "Admissible: the winner meets every constraint, which the baseline does not; on data the search never saw"
        f" neither gain nor loss is shown: {verdict.difference:+.4f} [{low:+.4f}, {high:+.4f}]."
    )
    assert "\nSettings to use:\n" in told and "30   (was 60)" in told and "Keep" not in told


def test_the_best_of_what_meets_the_bounds_wins_and_its_loss_is_said(at_a_loss: Ran) -> None:
    """Truth: the short texts are right less often by 0.25, 0.35 and 0.45; the long ones as often as the baseline's."""
    verdict = at_a_loss.decided()
    assert (verdict.verdict, verdict.params["mode"], verdict.params["temperature"]) == ("admissible", "short", 1.1)
    assert verdict.difference is not None and verdict.interval is not None and verdict.p_value is not None
    assert verdict.difference < 0 and verdict.p_value < verdict.level
    low, high = verdict.interval
    loss = f"at a shown loss of {-verdict.difference:.4f} [{-high:.4f}, {-low:.4f}] on data the search never saw."
    assert loss in verdict_text(verdict.to_json()).splitlines()[0]


def test_every_place_that_names_settings_names_the_winner_s(at_a_loss: Ran) -> None:
    archive, verdict = at_a_loss.archive, at_a_loss.decided()
    assert Result(verdict, archive.url, archive.name).params == verdict.params
    assert _settings("best", Path(f"{at_a_loss.folder / 'toy.db'}#toy")) == verdict.params
    exported = settings(archive)
    assert (exported.params["temperature"], exported.title) == (1.1, f"toy, the winner (trial {verdict.trial})")
    headline = "Admissible: the winner meets every constraint, which the baseline does not, at a shown loss of"
    page, words, told = (render(archive, form) for form in ("html", "md", "json"))
    assert f'<h1 class="admissible">{headline}' in page and "<h2>Settings to use</h2>" in page
    assert f"**{headline}" in words and "## Settings to use" in words
    assert json.loads(told)["sentence"].startswith(headline)
    assert headline in study_note(archive.verdict, "toy") and "Settings to use" in study_note(archive.verdict, "toy")


def test_a_gain_is_an_improvement_as_before(tmp_path: Path) -> None:
    made = table(tmp_path, short(0.6, 0.7), baseline={**TODAY, "temperature": 1.5})
    verdict = run(made, tmp_path).decided()
    assert verdict.verdict == "improved" and f"the baseline misses {BOUND}" in verdict.note


def test_a_baseline_that_is_not_shown_to_miss_is_kept(tmp_path: Path) -> None:
    """Its texts have 41 tokens on average, up to 30 more or fewer: on 80 examples nobody can say whether they are too
    long. While searching they are."""
    made = table(tmp_path, short(0.65), baseline={**TODAY, "top_k": 41}, spread=30, seed=3)
    ran = run(made, tmp_path)
    verdict = ran.decided()
    assert ran.archive.baseline["violations"][BOUND] > 0
    assert verdict.constraints is not None and verdict.constraints[BOUND]["winner"]["probability"] >= 0.9
    assert verdict.constraints[BOUND]["baseline"]["probability"] > MISSED
    assert (verdict.verdict, Result(verdict, "", "").params) == ("not shown", verdict.baseline_params)


def test_a_winner_that_does_not_surely_meet_the_bounds_is_not_used(tmp_path: Path) -> None:
    space = {"temperature": {"choices": [0.65]}, "top_k": {"choices": [40, 70]}}
    verdict = run(table(tmp_path, space, spread=30, seed=12), tmp_path).decided()
    assert verdict.constraints is not None and verdict.params["top_k"] == 40
    assert verdict.constraints[BOUND]["baseline"]["probability"] <= MISSED
    assert MISSED < verdict.constraints[BOUND]["winner"]["probability"] < 0.9
    assert (verdict.verdict, Result(verdict, "", "").params) == ("not shown", verdict.baseline_params)
    assert f"the winner meets {BOUND} with 78% confidence, and 90% is asked for" in verdict.note


def test_the_knee_of_a_front_that_meets_the_bounds_is_used_though_it_is_a_trade(tmp_path: Path) -> None:
    """Short texts are too short here: what meets the bound is dearer, and beaten by the baseline in every objective."""
    made = table(tmp_path, short(0.6, 1.3), objectives=[{"maximize": "right"}, {"minimize": "completion_tokens"}])
    made |= {"baseline": {**TODAY, "top_k": 20}, "space": {"temperature": {"choices": [1.2]}, "top_k": LONG["top_k"]}}
    made["constraints"] = [{"metric": "completion_tokens", "at_least": 50.0}]
    ran = run(made, tmp_path)
    verdict = ran.decided()
    assert (verdict.verdict, verdict.params["top_k"]) == ("admissible", 70)
    assert verdict.knee is not None and verdict.knee["suggested"] and not any(m["baseline"] for m in verdict.front)
    told = verdict_text(verdict.to_json())
    assert told.startswith("Admissible: the knee of the front meets every constraint, which the baseline does not;")
    assert "worse in right (-0." in told and "worse in completion_tokens (+50 [" in told and "Settings to use" in told
    assert settings(ran.archive).title.endswith(f"the knee of the front (trial {verdict.trial})")
    assert '<h1 class="admissible">' in render(ran.archive, "html")


def test_a_front_without_anything_that_meets_the_bounds_says_so(tmp_path: Path) -> None:
    made = table(tmp_path, LONG, objectives=[{"maximize": "right"}, {"minimize": "completion_tokens"}])
    verdict = run(made, tmp_path).decided()
    assert verdict.verdict == "not shown"
    assert verdict.note == f"no configuration met {BOUND}; the baseline misses {BOUND}"


def test_cross_fitting_chooses_what_meets_the_bounds_in_every_fold(tmp_path: Path) -> None:
    made = table(tmp_path, short(1.0, 1.3), dataset={"rows": rows(48)})
    ran = run(made, tmp_path)
    verdict = ran.decided()
    assert (verdict.verdict, verdict.params["mode"]) == ("admissible", "short")
    assert len(verdict.folds) == 8 and all(fold["params"]["top_k"] == 30 for fold in verdict.folds)
    assert verdict_text(verdict.to_json()).startswith("Admissible: what this study chose meets every constraint, which")
    assert "on examples that the choice had not seen" in verdict_text(verdict.to_json())


def test_a_fold_s_choice_has_a_baseline_to_beat_or_none() -> None:
    scores = [np.full(30, 0.9), np.full(30, 0.5)]
    assert chosen(scores, 30, range(10), 0) == 0
    assert chosen(scores[1:], 30, range(10), None) == 0


def test_those_that_meet_the_bounds_are_measured_on_though_the_baseline_is_far_better(tmp_path: Path) -> None:
    """To the choice it matters which of them is best, and not what beats them all: racing sets none aside for that."""
    made = table(tmp_path, {"temperature": {"choices": [1.2, 1.25, 1.3, 1.35]}, "top_k": {"choices": [30]}})
    made["search"] |= {"pruner": "paired", "trials_in_flight": 1}
    ran = run(made, tmp_path)
    assert [trial.outcome["n"] for trial in ran.complete()] == [120] * 4
    assert (ran.decided().verdict, ran.decided().params["temperature"]) == ("admissible", 1.2)


def test_no_trial_is_set_aside_for_one_that_misses_a_bound(tmp_path: Path) -> None:
    """The long texts are right more often than any short ones, and are shown to be too long at the first look."""
    made = table(tmp_path, short(1.1, 1.5), baseline={**TODAY, "temperature": 1.5, "top_k": 30})
    made["search"] |= {"pruner": "paired", "trials_in_flight": 1, "start": [{"temperature": 0.6, "top_k": 80}]}
    ran = run(made, tmp_path)
    assert [trial.config["params"]["top_k"] for trial in ran.complete()[:2]] == [30, 80]  # the baseline, the start
    seen = {(t.config["params"]["temperature"], t.config["params"]["top_k"]): t.outcome["n"] for t in ran.complete()}
    assert seen[0.6, 80] <= 18 and seen[1.1, 30] == 120
    assert (ran.decided().verdict, ran.decided().params["temperature"]) == ("improved", 1.1)


def test_a_front_is_made_of_what_meets_the_bounds_though_nothing_of_it_has_seen_everything(tmp_path: Path) -> None:
    made = table(tmp_path, {"temperature": {"choices": [1.2]}, "top_k": {"choices": [52]}}, budget={"generations": 780})
    made |= {
        "objectives": [{"maximize": "right"}, {"minimize": "completion_tokens"}],
        "baseline": {**TODAY, "top_k": 20},
    }
    made |= {"constraints": [{"metric": "completion_tokens", "at_least": 50.0}]}
    made["search"] |= {"pruner": "paired"}
    ran = run(made, tmp_path)
    assert [trial.outcome["n"] < 120 for trial in ran.complete()] == [True]
    assert (ran.decided().verdict, ran.decided().params["top_k"]) == ("admissible", 52)


@pytest.mark.parametrize(
    ("top_k", "below", "trials", "why"),
    [
        ({"low": 70, "high": 90}, 0.9, 13, "the budget of 14 trials is spent"),  # nothing meets the bound so far
        ({"low": 20, "high": 30}, 0.9, 9, "less than gain_below = 0.9"),
        ({"low": 20, "high": 30}, 1e-6, 13, "the budget of 14 trials is spent"),  # no gain has to be shown
    ],
)
def test_a_search_goes_on_until_something_meets_the_bounds(
    tmp_path: Path, top_k: dict[str, int], below: float, trials: int, why: str
) -> None:
    made = table(tmp_path, {"temperature": {"low": 1.2, "high": 1.5}, "top_k": top_k}, budget={"trials": 14})
    made["search"] = {"sampler": "random", "warm_start": False, "stop_when": {"gain_below": below}}
    ran = run(made, tmp_path)
    (ended,) = [line for line in ran.notes().splitlines() if line.startswith("search ended: ")]
    assert ended.endswith(why)
    assert len(ran.complete()) == trials


def test_a_search_goes_on_for_what_meets_the_bounds_though_others_are_ahead(tmp_path: Path) -> None:
    """The long texts are right most often, and the best of them is known soon: that says nothing of the short ones."""
    made = table(tmp_path, {"temperature": {"low": 0.8, "high": 1.5}, "top_k": {"choices": [30, 80]}})
    made["backend"]["options"]["long"] = 0.3
    made |= {"baseline": {**TODAY, "temperature": 1.5, "top_k": 30}, "budget": {"trials": 24}}
    made["search"] = {"sampler": "random", "warm_start": False, "trials_in_flight": 1}
    made["search"]["stop_when"] = {"gain_below": 0.03}
    ran = run(made, tmp_path)
    assert "search ended: the budget of 24 trials is spent" in ran.notes()
    assert ran.decided().verdict == "improved"


def test_the_choice_among_what_meets_the_bounds_is_open_though_others_are_surely_ahead(tmp_path: Path) -> None:
    """All long texts are right, which leaves nothing to learn of them."""
    made = table(tmp_path, short(1.1, 1.15, 1.2, 1.25), baseline={**TODAY, "temperature": 1.5, "top_k": 30})
    made["backend"]["options"]["long"] = 0.5
    made["search"]["stop_when"] = {"gain_below": 0.001}
    ran = run(made, tmp_path)
    assert "finalists" in [event.stage for event in ran.events if isinstance(event, StageStarted)]


def test_a_later_study_begins_with_what_met_the_bounds_that_the_baseline_missed(at_a_loss: Ran, tmp_path: Path) -> None:
    """Though nothing of it answers as well as that baseline."""
    made = table(at_a_loss.folder, short(1.0, 1.1, 1.3, 1.5), name="later", budget={"trials": 5})
    made |= {
        "dataset": {"rows": [row | {"question": f"{row['question']} Really?"} for row in rows(60)], "holdout": 0.4}
    }
    made["search"] = {"sampler": "random", "pruner": "none"}
    ran = run(made, at_a_loss.folder)
    best = next(trial.number for trial in at_a_loss.complete() if trial.config["params"]["temperature"] == 1.1)
    assert f"starting with trial {best} of toy" in ran.notes()


# ---------------------------------------------------------------- what a baseline is shown to miss, against the truth

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
DRAWS: dict[str, tuple[Constraint, Draw]] = {
    "as many tokens as allowed": (
        Constraint("completion_tokens", at_most=40.0),
        lambda r, n: r.normal(40, 9, n),
    ),
    "few long texts": (
        Constraint("completion_tokens", at_most=40.0),
        lambda r, n: 40 * r.lognormal(-0.5, 1.0, n),
    ),
    "as often safe as asked": (Constraint("safe", at_least=0.9), lambda r, n: (r.random(n) < 0.9).astype(float)),
    "as often rude as allowed": (Constraint("rude", at_most=0.2), lambda r, n: (r.random(n) < 0.2).astype(float)),
}


def evaluation(key: str, metrics: dict[str, NDArray[np.float64]]) -> Evaluation:
    cells = {(i, 0): Observation({name: float(own[i]) for name, own in metrics.items()}, float(metrics["right"][i]))
             for i in range(len(metrics["right"]))}  # fmt: skip
    return Evaluation(
        Configuration({}, {}, {}, 0, key, False), [Example(f"e{i}", {}) for i in range(len(cells))], cells
    )


def concluded(constraint: Constraint, now: NDArray[np.float64], winner: float, seed: int, loss: float = 0.0) -> str:
    """What is concluded of a baseline that has these values, and a winner that is sure of its `winner`."""
    r, n = np.random.default_rng([seed, 1]), len(now)
    before = evaluation("base", {"right": r.normal(0.6, 0.2, n), constraint.metric: now})
    after = evaluation("new", {"right": r.normal(0.6 - loss, 0.2, n), constraint.metric: np.full(n, winner)})
    result = paired(after.utility(), before.utility(), resamples=400, seed=seed)
    return conclusions.concluded(result, before, after, Goal((Objective("right", "maximize"),), (constraint,)), 0.05)[0]


@pytest.mark.parametrize("n", [20, 80])
@pytest.mark.parametrize("name", DRAWS)
def test_a_baseline_that_just_meets_its_bound_is_hardly_ever_taken_for_missing_it(name: str, n: int) -> None:
    """Its true mean is the bound itself: that it misses it is a false claim, which 5 % of studies may make."""
    constraint, draw = DRAWS[name]
    winner = 10.0 if constraint.metric == "completion_tokens" else float(constraint.at_least is not None)
    runs = 400
    found = [concluded(constraint, draw(np.random.default_rng([s, n]), n), winner, s) for s in range(runs)]
    assert found.count("admissible") <= stats.binom.ppf(0.99, runs, 0.05)


def test_a_baseline_that_truly_misses_is_found_out() -> None:
    constraint = Constraint("completion_tokens", at_most=40.0)
    draws = [np.random.default_rng(s).normal(44, 9, 80) for s in range(100)]
    assert sum(concluded(constraint, own, 10.0, s) == "admissible" for s, own in enumerate(draws)) >= 90
    assert sum(concluded(constraint, own, 10.0, s, loss=0.3) == "admissible" for s, own in enumerate(draws)) >= 90
    assert all(concluded(constraint, own, 44.0, s, loss=0.3) == "worse" for s, own in enumerate(draws[:20]))


def test_nobody_misses_a_band_that_is_narrower_than_the_error_nor_what_is_not_known() -> None:
    """In a band of two hundredths the mean of 20 examples lies with little probability, also when it is beside it."""
    inside = np.random.default_rng(0).normal(40, 9, 20)
    inside += 40.05 - inside.mean()
    band = Constraint("completion_tokens", at_least=39.99, at_most=40.01)
    assert band.probability(inside) <= MISSED
    assert concluded(band, inside, 40.0, 0) == "not shown"
    assert concluded(band, inside + 20, 40.0, 0) == "admissible"
    assert concluded(band, np.full(20, np.nan), 40.0, 0) == "not shown"
