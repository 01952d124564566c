"""Two sets of outputs held against each other: from files, the statistics, the filters, the blind reading."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from genopt.archive import load
from genopt.compare import Comparison, Output, Side, compare, mcnemar_exact
from genopt.compare.blind import label, order, preference, recall
from genopt.compare.page import html_page
from genopt.compare.sides import from_file, sides
from genopt.compare.text import pair_text, summary
from genopt.errors import SpecError
from genopt.judging.labels import append
from tests.studies import run
from tests.toy import study


def side(name: str, scores: dict[str, float | None], text: str = "text {}") -> Side:
    outputs = {
        key: Output(text.format(key), {} if score is None else {"right": score}) for key, score in scores.items()
    }
    return Side(name, outputs)


def file(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def right_and_wrong(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


# --- statistics


def test_218_against_221_of_400_right_shows_no_difference_and_says_how_many_rows_would(tmp_path: Path) -> None:
    """20 rows that A alone has right and 23 that B alone has right."""
    a, b = right_and_wrong(198, 20, 23, 159)
    paths = [
        file(tmp_path, f"{name}.jsonl", [{"id": i, "output": f"{name} {i}", "score": x} for i, x in enumerate(values)])
        for name, values in (("a", a), ("b", b))
    ]
    found = compare(*map(from_file, paths))
    assert (sum(a), sum(b), len(found.pairs)) == (218, 221, 400)
    assert found.test == "McNemar's exact test"
    assert found.p_value == pytest.approx(scipy_stats.binomtest(20, 43).pvalue)
    needed = found.needed
    assert needed is not None
    effect, sd = 3 / 400, float(np.std(np.subtract(b, a), ddof=1))
    z = scipy_stats.norm.ppf(0.975) + scipy_stats.norm.ppf(0.8)
    assert needed == pytest.approx((z * sd / effect) ** 2, rel=0.01)
    assert "No difference is shown" in summary(found)
    assert f"about {needed:,} examples" in summary(found)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (5, 5), (3, 12), (40, 20)])
def test_mcnemars_exact_p_value(wins: int, losses: int) -> None:
    """2 * P(X <= min) for X ~ B(n, 1/2), at most 1."""
    n = wins + losses
    expected = min(1.0, 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n) if n else 1.0
    assert mcnemar_exact(wins, losses) == pytest.approx(expected)


def test_graded_scores_take_the_sign_flip_test() -> None:
    rng = random.Random(1)
    before = {str(i): rng.random() for i in range(40)}
    after = {key: value + 0.2 * rng.random() for key, value in before.items()}
    found = compare(side("a", before), side("b", after))
    assert found.test == "sign-flip test"
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert found.result is not None
    assert found.result.difference == pytest.approx(np.mean(list(after.values())) - np.mean(list(before.values())))
    assert "B is better" in summary(found)
    assert "A is better" in summary(compare(side("b", after), side("a", before)))


def test_the_largest_differences_come_first_and_missing_scores_last() -> None:
    a = side("a", {"small": 0.5, "large": 0.1, "none": None, "same": 0.3})
    b = side("b", {"small": 0.4, "large": 0.9, "none": 0.7, "same": 0.3, "more": 1.0})
    found = compare(a, b)
    assert [pair.id for pair in found.pairs][:2] == ["large", "small"]
    assert math.isnan(next(pair for pair in found.pairs if pair.id == "none").difference)
    assert found.result is not None
    assert (found.result.n, found.only_a, found.only_b) == (3, 0, 1)
    assert "1 example only on side B" in summary(found)


def test_without_scores_only_texts_are_compared() -> None:
    found = compare(side("a", {"x": None}), side("b", {"x": None}, text="other {}"))
    assert (found.result, found.p_value, found.metric) == (None, None, None)
    assert "only the texts" in summary(found)


def test_sides_that_share_nothing_are_refused() -> None:
    with pytest.raises(SpecError, match=r"share no example.*'x'.*'y'"):
        compare(side("a", {"x": 1.0}), side("b", {"y": 1.0}))


def test_the_metric_is_chosen_or_asked_for() -> None:
    both = {"x": Output("t", {"one": 1.0, "two": 0.0})}
    with pytest.raises(SpecError, match="Choose one of one, two"):
        compare(Side("a", both), Side("b", both))
    assert compare(Side("a", both, metric="two"), Side("b", both)).metric == "two"
    assert compare(Side("a", both), Side("b", both), "one").metric == "one"
    with pytest.raises(SpecError, match="--metric three"):
        compare(Side("a", both), Side("b", both), "three")


# --- filters and texts


def three() -> Comparison:
    a = Side("a", {k: Output(t, {"s": v}) for k, t, v in (("1", "red dog", 1.0), ("2", "cat", 0.5), ("3", "x", 0.0))})
    b = Side("b", {k: Output(t, {"s": v}) for k, t, v in (("1", "blue dog", 0.0), ("2", "cat", 0.5), ("3", "y", 1.0))})
    return compare(a, b)


@pytest.mark.parametrize(
    ("show", "pattern", "ids"),
    [
        ("all", None, ["1", "3", "2"]),
        ("different", None, ["1", "3"]),
        ("worse", None, ["1"]),
        ("better", None, ["3"]),
        ("all", "d.g|cat", ["1", "2"]),
        ("better", "dog", []),
    ],
)
def test_filters(show: Any, pattern: str | None, ids: list[str]) -> None:
    assert [pair.id for pair in three().select(show, pattern)] == ids


def test_a_broken_pattern_is_refused() -> None:
    with pytest.raises(SpecError, match="--grep"):
        three().select("all", "(")


def test_a_pair_reads_as_a_diff_and_terminal_escapes_are_shown_as_text() -> None:
    pair = three().pairs[0]
    assert "[-red-]{+blue+} dog" in pair_text(pair, "s")
    assert "s 1 -> 0" in pair_text(pair, "s")
    hostile = compare(Side("a", {"x": Output("\x1b[2Jgone")}), Side("b", {"x": Output("safe")}))
    assert "\x1b" not in pair_text(hostile.pairs[0], None) + summary(hostile)


# --- files


def test_what_evaluate_writes_is_read(tmp_path: Path) -> None:
    row = {
        "id": "r1",
        "fields": {"q": "?"},
        "references": ["yes"],
        "outputs": ["a", "b"],
        "metrics": {"f1": 0.5, "x": None},
    }
    found = from_file(file(tmp_path, "out.jsonl", [row]))
    assert found.outputs == {"r1": Output("a", {"f1": 0.5})}
    assert (found.asked["r1"].fields, found.asked["r1"].references) == ({"q": "?"}, ("yes",))


def test_a_csv_made_elsewhere_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    path.write_text("id,question,response,score\n1,Is it?,yes,0.25\n2,Was it?,no,\n", encoding="utf-8")
    found = from_file(str(path))
    assert found.outputs == {"1": Output("yes", {"score": 0.25}), "2": Output("no")}
    assert found.asked["1"].fields == {"question": "Is it?"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"output": "x"}, "out.jsonl:2: has no id"),
        ({"id": 1, "answer": "x"}, "out.jsonl:2: has no text"),
        ({"id": 1, "output": {"a": 1}}, "out.jsonl:2: output is"),
        ({"id": 1, "output": "x", "score": "high"}, "out.jsonl:2: the score score is 'high'"),
        ({"id": 0, "output": "x"}, "out.jsonl:2: the id '0' occurs twice"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message.replace(".", r"\.")):
        from_file(file(tmp_path, "out.jsonl", [{"id": 0, "output": "first"}, row]))


# --- the blind reading


def test_a_preference_with_its_interval() -> None:
    found = preference(["b"] * 30 + ["a"] * 10 + ["tie"] * 10)
    assert found is not None
    assert (found.a, found.b, found.ties, found.rate) == (10, 30, 10, 0.7)
    wilson = scipy_stats.binomtest(30, 40).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx(((wilson.low * 40 + 5) / 50, (wilson.high * 40 + 5) / 50))
    assert found.p_value == pytest.approx(scipy_stats.binomtest(30, 40).pvalue)
    assert preference([]) is None
    only_ties = preference(["tie"])
    assert only_ties is not None
    assert (only_ties.rate, only_ties.low, only_ties.high) == (0.5, 0.0, 1.0)


def test_the_interval_of_a_preference_covers_the_truth() -> None:
    rng = np.random.default_rng(1)
    weights, covered = {"a": 0.3, "b": 0.5, "tie": 0.2}, 0
    for _ in range(1000):
        found = preference(rng.choice(list(weights), size=60, p=list(weights.values())).tolist())
        assert found is not None
        covered += found.low <= 0.6 <= found.high
    assert scipy_stats.binomtest(covered, 1000, 0.95).pvalue > 1e-4 or covered > 950


def test_the_order_hides_the_side_and_leaves_equal_texts_out() -> None:
    a = {str(i): Output(f"a {i}") for i in range(400)} | {"same": Output("x")}
    b = {str(i): Output(f"b {i}") for i in range(400)} | {"same": Output("x")}
    found = compare(Side("a", a), Side("b", b))
    shown = order(found, seed=1)
    assert len(shown) == 400
    assert "same" not in {pair.id for pair, _ in shown}
    assert 150 < sum(first for _, first in shown) < 250
    assert [pair.id for pair, _ in shown] != [pair.id for pair, _ in order(found, seed=2)]
    assert shown == order(found, seed=1)


def test_labels_are_kept_and_recalled_also_with_the_sides_exchanged(tmp_path: Path) -> None:
    path, found = tmp_path / "labels.jsonl", three()
    assert recall(path, found, "me") == {}
    append(path, label(found, found.pairs[0], "b", "me"))
    append(path, label(found, found.pairs[1], "tie", "me"))
    append(path, label(found, found.pairs[1], "a", "you"))
    assert recall(path, found, "me") == {"1": "b", "3": "tie"}
    assert recall(path, compare(found.b, found.a), "me") == {"1": "a", "3": "tie"}
    odd = compare(Side("a", {"1": Output("one\u2028two\u0085three")}), Side("b", {"1": Output("four")}))
    append(path, label(odd, odd.pairs[0], "a", "me"))
    assert recall(path, odd, "me") == {"1": "a"}  # what looks like a line break within a text ends no label
    path.write_text('{"id": "x"}\n', encoding="utf-8")
    with pytest.raises(SpecError, match=r"labels.jsonl:1: is no label"):
        recall(path, found, "me")


def test_of_tokens_less_is_better() -> None:
    a, b = ({str(n): Output(f"{name} {n}", {"tokens": size}) for n in range(12)} for name, size in (("a", 9), ("b", 4)))
    found = compare(Side("a", a), Side("b", b, less=frozenset({"tokens"})))
    assert found.result is not None and (found.result.wins, found.result.losses) == (12, 0)
    assert "B is better: " in summary(found) and "B - A -5.0000" in summary(found)
    assert len(found.select("better")) == 12 and not found.select("worse")
    assert 'data-kinds="all different better"' in html_page(found)


# --- stored studies


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished study on the toy engine, which shows an improvement."""
    folder = tmp_path_factory.mktemp("stored")
    ran = run(study(folder, count=200, budget={"trials": 8}, seed=3), folder)
    assert ran.decided().verdict == "improved"
    return f"sqlite:///{folder / 'toy.db'}#toy"


def test_one_study_is_its_baseline_against_its_winner_on_the_holdout(stored: str) -> None:
    found = compare(*sides(stored, None))
    archive = load(stored)
    verdict = archive.verdict
    assert verdict is not None
    assert found.result is not None
    assert (found.a.name, found.metric) == ("toy, baseline", "right")
    assert found.b.name == f"toy, winner (trial {verdict['trial']})"
    assert found.result.difference == pytest.approx(verdict["difference"])
    assert (found.result.wins, found.result.losses) == (verdict["wins"], verdict["losses"])
    assert len(found.pairs) == verdict["holdout_examples"] == 80
    assert "the holdout" in found.a.about
    assert found.pairs[0].asked.references == ("yes",)


def test_trials_are_compared_on_the_tune_split(stored: str) -> None:
    worst_first = sorted(load(stored).rows(), key=lambda row: row["mean"])  # the best were measured again
    numbers = [str(row["number"]) for row in worst_first if row["number"] is not None and not row["baseline"]]
    found = compare(*sides(numbers[0], numbers[1], stored))
    assert len(found.pairs) == 120
    assert "the tune split" in found.b.about
    again = compare(*sides(f"{stored}@{numbers[0]}", f"{stored}@{numbers[1]}"))
    assert [pair.id for pair in again.pairs] == [pair.id for pair in found.pairs]
    means = {str(row["number"]): row["mean"] for row in load(stored).rows()}
    assert found.result is not None
    assert found.result.difference == pytest.approx(means[numbers[1]] - means[numbers[0]])


def test_a_study_is_compared_with_a_file(stored: str, tmp_path: Path) -> None:
    side = sides(stored, None)[1]
    rows = [{"id": key, "output": out.text, "score": out.scores["right"]} for key, out in side.outputs.items()]
    found = compare(*sides(stored, file(tmp_path, "same.jsonl", rows)))
    assert all(pair.same for pair in found.pairs)
    assert len(found.pairs) == 80


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ("{}@99", "{}@best", "there is no such trial"),
        ("{}@best", None, "needs two sides"),
        ("missing.jsonl", "{}", "no such file"),
    ],
)
def test_a_side_that_does_not_exist_is_refused(stored: str, a: str, b: str | None, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        sides(a.format(stored), None if b is None else b.format(stored))
