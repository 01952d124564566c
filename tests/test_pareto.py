"""Studies with several objectives, end to end: who is stopped, the front on the holdout, its knee, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.archive import Archive
from genopt.confirm import Verdict
from genopt.dashboard.live import Live
from genopt.errors import SpecError
from genopt.export import settings
from genopt.objectives import Constraint, Goal, Objective
from genopt.pareto import held_out
from genopt.report import report_text
from genopt.report.files import render
from genopt.report.front import suggested
from genopt.report.markdown import plain
from genopt.stats import interval, mean_se
from genopt.trial import Configuration, Evaluation, Observation
from genopt.types import Example
from tests.studies import Ran, run
from tests.toy import study

AIMS = [{"maximize": "right"}, {"minimize": "tall"}]


def tall(example: Example, text: str) -> float:
    """A right answer costs twice what a wrong one does: the better, the dearer."""
    return 0.8 if text == "yes" else 0.4


def table(folder: Path, **changes: Any) -> dict[str, Any]:
    space = {"temperature": {"low": 0.1, "high": 1.9}, "top_p": {"low": 0.5, "high": 1.0}}
    made = study(folder, count=80, space=space, baseline={"temperature": 1.9, "top_p": 0.6}, objectives=AIMS)
    made |= {"scorers": {"right": {"kind": "exact_match"}, "tall": tall}, "budget": {"trials": 16}}
    return made | {"search": {"sampler": "random", "front": 4}} | changes


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("pareto")
    found = run(table(folder), folder)
    assert found.error is None, found.error
    return found


@pytest.fixture
def archive(ran: Ran) -> Archive:
    return ran.archive


def members(verdict: Verdict) -> list[dict[str, Any]]:
    return [dict(each) for each in verdict.front]


def test_the_front_is_measured_on_the_holdout_with_intervals(ran: Ran) -> None:
    verdict = ran.decided()
    assert 2 <= len(verdict.front) <= 4 and verdict.knee is not None
    frame = ran.archive.observations()
    late = frame[frame["phase"] == "confirm"]
    keys = {trial.number: trial.config["key"] for trial in ran.complete()}
    for member in members(verdict):
        if member["baseline"]:
            continue
        each = late[late["config_key"] == keys[member["trial"]]]
        assert len(each) == 32, "every held-out example once"
        for name, found in member["objectives"].items():
            mean, se = mean_se(each[f"score.{name}"].to_numpy())
            assert found["mean"] == pytest.approx(mean)
            assert found["interval"] == pytest.approx(interval(mean, se, 32))
            assert found["shown"] in ("", "better", "worse")
            assert (found["shown"] != "") == (found["p_value"] < verdict.level)
    assert sum(member["knee"] for member in members(verdict)) == pytest.approx(1, abs=1e-3)
    assert verdict.knee["trial"] in [member["trial"] for member in members(verdict)]


def test_here_every_gain_is_a_trade_and_the_verdict_says_so(ran: Ran) -> None:
    """The baseline is the cheapest and the worst: whatever answers better is dearer."""
    verdict = ran.decided()
    assert verdict.verdict in ("not shown", "worse"), "a trade is no improvement"
    knee = next(m for m in members(verdict) if verdict.knee and m["trial"] == verdict.knee["trial"])
    if knee["objectives"]["right"]["shown"] == "better":
        assert knee["objectives"]["tall"]["shown"] == "worse"
        assert "a trade: better in right, worse in tall" in verdict.note
        assert suggested(verdict.to_json())


def test_what_is_stopped_is_told_as_if_it_had_seen_everything(tmp_path: Path) -> None:
    """Temperatures far off are worse in both objectives here; the toy's easy examples do not make them look better."""
    made = table(tmp_path, objectives=[{"maximize": "right"}, {"minimize": "wrong"}], budget={"trials": 18})
    made["scorers"] = {"right": {"kind": "exact_match"}, "wrong": wrong}
    found = run(made, tmp_path)
    assert found.decided().verdict == "improved"
    stopped = [trial for trial in found.complete() if trial.outcome["stopped_early"]]
    assert stopped, "what is worse in both is stopped"
    for trial in stopped:
        assert trial.values is not None and trial.values[0] + trial.values[1] == pytest.approx(1, abs=0.02)
    best = max(t.values[0] for t in found.complete() if t.values and not t.outcome["stopped_early"])
    assert all(t.values[0] < best for t in stopped if t.values)


def wrong(example: Example, text: str) -> float:
    return float(text != "yes")


def test_what_surely_misses_a_constraint_is_stopped(tmp_path: Path) -> None:
    made = table(tmp_path, objectives=[{"maximize": "right"}], constraints=[{"metric": "tall", "at_most": 0.62}])
    found = run(made, tmp_path)
    verdict = found.decided()
    stopped = [
        t for t in found.complete() if t.outcome["stopped_early"] and t.outcome["violations"]["tall <= 0.62"] > 0
    ]
    assert stopped and all(trial.outcome["n"] < 48 for trial in stopped)
    if verdict.constraints:
        winner = verdict.constraints["tall <= 0.62"]["winner"]
        assert verdict.verdict != "improved" or winner["probability"] >= 0.9


def test_every_form_of_the_report_shows_the_front(archive: Archive) -> None:
    verdict = archive.verdict
    assert verdict is not None
    text = report_text(archive)
    assert "Front, on examples the search never saw:" in text and "of the resamples" in text
    told = json.loads(render(archive, "json"))
    assert told["verdict"]["front"] == json.loads(json.dumps(verdict["front"]))
    page, words = render(archive, "html"), render(archive, "md")
    for member in verdict["front"]:
        low, high = member["objectives"]["right"]["interval"]
        shown = f"{member['objectives']['right']['mean']:.4g} [{low:.4g}, {high:.4g}]"
        assert shown in text and shown in page
        assert plain(shown) in words


def test_the_dashboard_marks_the_knee(archive: Archive) -> None:
    made = Live(f"{archive.url}#{archive.name}")
    made.refresh()
    content = json.loads(made.attributes()["dashboard:plot_data:pareto-front:0"])
    front = next(trace for trace in content["data"] if trace["name"] == "front")
    assert archive.verdict is not None
    inside = [member for member in archive.verdict["front"] if member["trial"] is not None]
    assert front["x"] == pytest.approx([member["objectives"]["right"]["mean"] for member in inside])
    marked = [t for t, symbol in zip(front["text"], front["marker"]["symbol"], strict=True) if symbol == "diamond"]
    assert marked == [f"trial {archive.verdict['knee']['trial']} (knee)"] or archive.verdict["knee"]["trial"] is None


def test_export_takes_the_knee_and_any_member(archive: Archive) -> None:
    assert archive.verdict is not None
    knee, number = archive.verdict["knee"], next(m["trial"] for m in archive.verdict["front"] if not m["baseline"])
    found = settings(archive)
    assert ("the knee of the front" in found.title) == suggested(archive.verdict)
    if suggested(archive.verdict):
        assert found.params["temperature"] == pytest.approx(archive.verdict["params"]["temperature"])
        assert f"(trial {knee['trial']})" in found.title
    assert settings(archive, str(number)).title.endswith(f"trial {number}")
    with pytest.raises(SpecError, match="there is no trial 999"):
        settings(archive, "999")


def evaluation(key: str, right: Any, tokens: Any) -> Evaluation:
    config = Configuration({"t": key}, {}, {}, 0, key, False)
    cells = {(i, 0): Observation({"right": float(r), "tokens": float(t)}, float(r))
             for i, (r, t) in enumerate(zip(right, tokens, strict=True))}  # fmt: skip
    return Evaluation(config, [Example(f"e{i}", {}) for i in range(len(cells))], cells)


def test_claims_are_held_to_one_level_together_and_the_knee_meets_the_constraints() -> None:
    rng = np.random.default_rng(0)
    goal = Goal(
        (Objective("right", "maximize"), Objective("tokens", "minimize")), (Constraint("tokens", at_most=80.0),)
    )
    base = evaluation("base", rng.random(40) < 0.5, rng.normal(70, 5, 40))
    cheap = evaluation("cheap", rng.random(40) < 0.45, rng.normal(40, 5, 40))
    good = evaluation("good", rng.random(40) < 0.95, rng.normal(45, 5, 40))
    rich = evaluation("rich", np.ones(40), rng.normal(75, 5, 40))
    dear = evaluation("dear", np.ones(40), rng.normal(120, 5, 40))
    found = held_out(goal, base, [base, cheap, good, dear, rich], level=0.05, seed=0)
    assert np.isnan(found.p_values[0]).all()
    assert found.members[found.knee.place] is good
    assert found.shown(2, "better") == ["right", "tokens"] and found.shown(2, "worse") == []
    assert found.shown(3, "better") == ["right"] and found.shown(3, "worse") == ["tokens"]
    assert found.shares.knee[3] == 0 and found.shares.front[3] == 0, "it misses the constraint"
    assert found.to_json(1, 7)["constraints"] == {"tokens <= 80": 1.0}


def test_nothing_is_claimed_of_a_front_of_equals() -> None:
    """Truth: five members and the baseline are the same. A false claim of any of the ten differences is at most 5 %."""
    goal, claims, runs = Goal((Objective("right", "maximize"), Objective("tokens", "minimize"))), 0, 60
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        ease = rng.random(30)
        arms = [evaluation(str(k), rng.random(30) < ease, 60 + rng.normal(0, 9, 30)) for k in range(6)]
        found = held_out(goal, arms[0], arms[1:], level=0.05, seed=seed)
        claims += bool((found.p_values < 0.05).any())
    assert claims <= 7
