"""Every number of a report, recomputed from the exported rows with pandas and scipy."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats

from genopt.observations import write
from genopt.report.facts import Facts
from genopt.report.heatmap import answer, sheets
from genopt.report.material import Material, collect
from genopt.report.reckoning import facts_of
from tests.studies import run
from tests.toy import rows, study


@pytest.fixture(scope="module", params=["grouped", "alone"])
def material(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """A raced study with two samples of each row: weighted objectives, minimized tokens, groups of three or none."""
    folder = tmp_path_factory.mktemp(request.param)
    data = [row | {"document": f"d{i // 3:02}"} for i, row in enumerate(rows(120))]
    grouped = {"group": "document"} if request.param == "grouped" else {}
    table = study(
        folder,
        dataset={"rows": data, "holdout": 0.4, "reference": "answer", **grouped},
        search={"sampler": "random", "repeats": 2},
        scorers={"right": {"kind": "exact_match"}, "close": {"kind": "chrf"}},
        objectives=[{"maximize": "right", "weight": 0.7}, {"maximize": "close", "weight": 0.3}],
        constraints=[{"metric": "words", "at_most": 3.0}],
        budget={"trials": 24},
    )
    ended = run(table, folder)
    ended.decided()
    return collect(ended.archive)


@pytest.fixture(scope="module")
def facts(material: Material) -> Facts:
    return facts_of(material)


@pytest.fixture(scope="module")
def exported(material: Material, tmp_path_factory: pytest.TempPathFactory) -> pandas.DataFrame:
    """The rows as somebody else reads them."""
    path: Path = tmp_path_factory.mktemp("export") / "rows.jsonl"
    write(material.frame, path)
    return pandas.read_json(path, lines=True, precise_float=True, dtype={"example_id": str, "config_key": str})


def recomputed(exported: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with a utility made from the scores alone: the mean of two samples, 0.7 right and 0.3 close."""
    unit = exported["group"].astype(object).where(exported["group"].notna(), exported["example_id"])
    frame = exported.assign(unit=unit, replicate=exported["sample"] // 2)
    keys = ["config_key", "role", "phase", "example_id", "unit", "replicate"]
    means = frame.groupby(keys, as_index=False)[["score.right", "score.close", "completion_tokens"]].agg(
        lambda values: values.mean(skipna=False)
    )
    return means.assign(utility=0.7 * means["score.right"] + 0.3 * means["score.close"])


def clustered(differences: pandas.Series, units: pandas.Series, level: float) -> tuple[float, float, float]:
    """Mean and interval by the textbook: t on the sums of clusters."""
    mean = differences.mean()
    sums = (differences - mean).groupby(units).sum()
    c, n = len(sums), len(differences)
    se = math.sqrt(c / (c - 1) * float((sums**2).sum())) / n
    half = stats.t.ppf((1 + level) / 2, c - 1) * se
    return float(mean), float(mean - half), float(mean + half)


def differences(found: pandas.DataFrame, key: str, base: str, phase: str, value: str = "utility") -> pandas.DataFrame:
    """Per example: its unit and this configuration's mean minus the baseline's."""
    chosen = found[found["phase"] == phase]
    means = chosen.groupby(["config_key", "example_id"])[value].mean()
    units = chosen.drop_duplicates("example_id").set_index("example_id")["unit"]
    both = (means[key] - means[base]).dropna()
    return pandas.DataFrame({"d": both, "unit": units.reindex(both.index)})


def keys_of(facts: Facts) -> tuple[str, str]:
    baseline, winner = facts.setting("baseline"), facts.setting("winner")
    assert baseline is not None and winner is not None
    return baseline.key, winner.key


def test_every_gain_its_interval_and_its_counts(facts: Facts, exported: pandas.DataFrame) -> None:
    found, (base, _) = recomputed(exported), keys_of(facts)
    assert {s.key for s in facts.settings} == set(exported["config_key"])
    assert any(s.stopped_early for s in facts.settings) and sum(not s.stopped_early for s in facts.settings) > 3
    for setting in facts.settings:
        paired = differences(found, setting.key, base, "tune")
        mean, low, high = clustered(paired["d"].where(paired["d"].abs() > 1e-12, 0.0), paired["unit"], 0.95)
        assert [setting.gain.value, setting.gain.low, setting.gain.high] == pytest.approx([mean, low, high], abs=1e-9)
        assert setting.examples == len(paired)
        units = paired.groupby("unit")["d"].mean().round(9)
        assert (setting.units, setting.good, setting.better) == (
            len(units), int((units >= 0).sum()), int((units > 0).sum())
        )  # fmt: skip
        chosen = found[(found["config_key"] == setting.key) & (found["phase"] == "tune")]
        score = chosen.groupby("example_id")["utility"].mean().mean()
        assert setting.score == pytest.approx(score, abs=1e-12)
    order = [(s.stopped_early, -s.gain.value) for s in facts.settings]
    assert order == sorted(order)


def test_before_and_after_on_the_holdout(facts: Facts, exported: pandas.DataFrame, material: Material) -> None:
    found, (base, best) = recomputed(exported), keys_of(facts)
    held, verdict = facts.held_out, material.archive.verdict
    assert held is not None and verdict is not None
    paired = differences(found, best, base, "confirm")
    mean, low, high = clustered(paired["d"], paired["unit"], 0.95)
    result = held.result
    assert [result.difference, result.low, result.high] == pytest.approx([mean, low, high], abs=1e-9)
    signs = np.sign(paired["d"].where(paired["d"].abs() > 1e-12, 0.0))
    assert (result.wins, result.ties, result.losses) == tuple(int((signs == s).sum()) for s in (1, 0, -1))
    sums = paired.groupby("unit")["d"].sum().to_numpy()
    reference = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert result.p_value == pytest.approx(reference.pvalue, abs=0.01)
    stored = [verdict["difference"], *verdict["interval"], verdict["p_value"], verdict["winner_score"]]
    assert [result.difference, result.low, result.high, result.p_value, held.winner] == pytest.approx(stored, abs=1e-12)
    assert held.winner - held.baseline == pytest.approx(mean)
    for change in held.metrics:
        column = "completion_tokens" if change.name == "completion_tokens" else f"score.{change.name}"
        if change.name != "words":
            each = differences(found, best, base, "confirm", column)
            expected = clustered(each["d"], each["unit"], 0.95)
            told = (change.difference.value, change.difference.low, change.difference.high)
            assert told == pytest.approx(expected, abs=1e-9)
            assert change.winner - change.baseline == pytest.approx(expected[0])
    assert {change.name for change in held.metrics} == {"right", "close", "words", "completion_tokens"}
    changes = [after - before for _, before, after in held.pairs]
    assert changes == sorted(changes)
    assert {name: after - before for name, before, after in held.pairs} == pytest.approx(paired["d"].to_dict())


def test_the_heat_map(facts: Facts, exported: pandas.DataFrame, material: Material) -> None:
    found, (base, _) = recomputed(exported), keys_of(facts)
    (sheet,) = sheets(material, facts)
    tune = found[found["phase"] == "tune"]
    means = tune.groupby(["config_key", "example_id"])["utility"].mean()
    units = tune.drop_duplicates("example_id").set_index("example_id")["unit"]
    assert sheet.grouped == (units.nunique() < len(units))
    assert set(sheet.columns) == set(units)
    for row, setting in zip(sheet.gains, sheet.settings, strict=True):
        paired = (means[setting.key] - means[base]).dropna()
        expected = paired.groupby(units.reindex(paired.index)).mean().reindex(list(sheet.columns))
        assert row == pytest.approx(expected.to_numpy(), abs=1e-12, nan_ok=True)
    complete = [s.role != "baseline" and not s.stopped_early for s in sheet.settings]
    liked = np.nanmean(sheet.gains[complete], axis=0)
    assert list(liked) == sorted(liked, reverse=True), "the columns go from what gains most to what loses most"
    best = max((s for s in facts.settings if s.role != "baseline" and not s.stopped_early), key=lambda s: s.good)
    assert f"good for {best.good} of {best.units} {sheet.noun}" in answer(sheet)


def test_importances_and_curves(facts: Facts) -> None:
    assert {each.name for each in facts.importances} == {"temperature", "top_p", "decoding"}
    gains = {s.key: s for s in facts.settings if s.role != "baseline"}
    frame = pandas.DataFrame([{**s.params, "gain": s.gain.value} for s in gains.values()])
    for each in facts.importances:
        used = frame[frame[each.name].notna()]
        if each.name == "decoding":
            cut = used[each.name]
        else:
            edges = [b.low for b in each.bins] + [math.inf]
            cut = pandas.cut(used[each.name], edges, right=False, labels=False)
        grouped = used.groupby(cut)["gain"]
        assert grouped.mean().tolist() == pytest.approx([b.mean for b in sorted(each.bins, key=lambda b: str(b.low))])
        total = float(((used["gain"] - used["gain"].mean()) ** 2).sum())
        within = float(((used["gain"] - grouped.transform("mean")) ** 2).sum())
        n, k = len(used), len(each.bins)
        assert each.share == pytest.approx(max(0.0, 1 - within / total * (n - 1) / (n - k)), abs=1e-9)


def test_cost_and_counts(facts: Facts, exported: pandas.DataFrame, material: Material) -> None:
    cost, archive = facts.cost, material.archive
    phases = exported["phase"].value_counts()
    assert (cost.search_generations, cost.confirm_generations) == (phases["tune"], phases["confirm"])
    assert cost.tokens == int((exported["prompt_tokens"] + exported["completion_tokens"]).sum())
    tune = exported[(exported["phase"] == "tune") & (exported["sample"] < 2)]
    examples = tune["example_id"].nunique()
    assert facts.examples == {"tune": examples, "holdout": exported["example_id"].nunique() - examples}
    stopped = [s.key for s in facts.settings if s.stopped_early]
    made = tune.groupby("config_key")
    full = {key: examples * (2 if part["sample"].max() else 1) for key, part in made}
    assert cost.saved == sum(full[key] - len(made.get_group(key)) for key in stopped) > 0
    assert (cost.trials, cost.stopped) == (len(archive.trials), len(stopped))
    baseline = exported[(exported["role"] == "baseline") & (exported["phase"] == "tune")]
    for scorer in facts.scorers:
        assert scorer.mean == pytest.approx(baseline[f"score.{scorer.name}"].mean())
        assert scorer.sd == pytest.approx(baseline[f"score.{scorer.name}"].std())
        assert scorer.unscored == 0 and scorer.scored == exported[f"score.{scorer.name}"].notna().sum()
    assert sum(facts.finishes["winner"].values()) == (exported["role"] == "winner").sum()


def test_the_json_form_is_plain_and_holds_every_setting(facts: Facts) -> None:
    plain: dict[str, Any] = json.loads(json.dumps(facts.to_json(), allow_nan=False))
    assert len(plain["settings"]) == len(facts.settings)
    assert plain["held_out"]["result"]["p_value"] == pytest.approx(facts.held_out.result.p_value)  # type: ignore[union-attr]
    assert plain["spec"]["budget"] == {"trials": 24}


def test_of_a_metric_that_is_minimized_less_is_a_gain(tmp_path: Path) -> None:
    table = study(
        tmp_path,
        objectives=[{"minimize": "characters"}],
        search={"sampler": "random", "pruner": "none"},
        budget={"trials": 8},
    )
    material = collect(run(table, tmp_path).archive)
    facts = facts_of(material)
    assert facts.directions == ("minimize",)
    means = material.frame[material.frame["phase"] == "tune"].assign(n=lambda frame: frame["text"].str.len())
    scores = means.groupby(["config_key", "example_id"])["n"].mean().groupby("config_key").mean()
    for setting in facts.settings:
        assert setting.score == pytest.approx(scores[setting.key])
        assert setting.gain.value == pytest.approx(facts.baseline - setting.score)
    gains = [setting.gain.value for setting in facts.settings]
    assert gains[0] >= 0 > gains[-1] and gains == sorted(gains, reverse=True)


def test_several_objectives_have_a_front_with_intervals(tmp_path: Path) -> None:
    table = study(
        tmp_path,
        objectives=[{"maximize": "right"}, {"minimize": "characters"}],
        search={"sampler": "random", "pruner": "none"},
        budget={"trials": 10},
    )
    material = collect(run(table, tmp_path).archive)
    facts, frame = facts_of(material), material.frame
    assert facts.metrics == ("right", "characters")
    tune = frame[frame["phase"] == "tune"].assign(characters=frame["text"].str.len(), right=frame["score.right"])
    points = {}
    for setting in facts.settings:
        for name, value in zip(facts.metrics, setting.values, strict=True):
            each = tune[tune["config_key"] == setting.key].groupby("example_id")[name].mean()
            half = stats.t.ppf(0.975, len(each) - 1) * each.sem()
            expected = [each.mean(), each.mean() - half, each.mean() + half]
            assert [value.value, value.low, value.high] == pytest.approx(expected)
        points[setting.key] = [value.value for value in setting.values]
    beaten = {
        a
        for a, (r, c) in points.items()
        for right, characters in points.values()
        if right >= r and characters <= c and (right, characters) != (r, c)
    }
    assert set(facts.front) == points.keys() - beaten and facts.front
