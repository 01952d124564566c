"""A judge held against people: statistics against scipy and scikit-learn, the file, who is matched with whom."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from genopt.archive import load
from genopt.errors import SpecError
from genopt.judging.calibrate import Judged, calibrate, choose_scorer, scores_in, scores_of
from genopt.judging.labels import Label, Labels, append, read
from tests.studies import run
from tests.toy import study

DATA = os.environ.get("GENOPT_DATA", "")
"""A folder with prometheus_judge/mt_bench_eval_120.jsonl, three gradings by a strong model of 120 answers."""


def crowd(
    seed: int, *, inputs: int = 40, outputs: int = 3, annotators: int = 3, length_bias: float = 0.0
) -> tuple[Labels, Judged]:
    """People and a judge who see the same truth, each with noise; configuration k writes texts worth k more and three
    times as long as those of the one before."""
    rng = np.random.default_rng(seed)
    rows: list[Label] = []
    scores: dict[tuple[str, str], float | None] = {}
    for i in range(inputs):
        ease = rng.normal()
        for k in range(outputs):
            text = "x" * int(10 * 3**k + rng.integers(1, 9))
            truth = 3 + 0.7 * ease + 0.6 * (k - 1) + 0.5 * rng.normal()
            for who in range(annotators):
                grade = float(np.clip(np.round(truth + 0.5 * rng.normal()), 1, 5))
                rows.append(Label(f"r{i}", text, grade, f"p{who}", (f"c{k}",)))
            score = (truth - 1) / 4 + 0.1 * rng.normal() + length_bias * k
            scores[f"r{i}", text] = float(np.clip(score, 0, 1))
    return Labels(tuple(rows), 1.0, 5.0), Judged(scores, {})


def expected(labels: Labels, judged: Judged) -> dict[str, float]:
    """The same statistics by pandas, scipy and scikit-learn."""
    frame = pandas.DataFrame(
        [{"id": r.id, "output": r.output, "label": r.label, "who": r.annotator} for r in labels.rows]
    )
    frame["judge"] = [judged.scores[r.id, r.output] for r in labels.rows]
    texts = frame.groupby(["id", "output"])[["label", "judge"]].mean()
    levels = np.floor(1 + 4 * frame["judge"] + 0.5).astype(int)
    wide = frame.pivot(index=["id", "output"], columns="who", values="label")
    left_out = [wide.drop(columns=who).mean(axis=1) for who in wide]
    judge = texts["judge"].reindex(wide.index)
    pairs = [(wide[a], wide[b]) for a in wide for b in wide if a != b]
    one, other = (np.concatenate(side).astype(int) for side in zip(*pairs, strict=True))
    grades = {"labels": range(1, 6), "weights": "quadratic"}
    return {
        "spearman": scipy_stats.spearmanr(texts["label"], texts["judge"]).statistic,
        "kendall": scipy_stats.kendalltau(texts["label"], texts["judge"]).statistic,
        "kappa": cohen_kappa_score(frame["label"].astype(int), levels, **grades),
        "people": np.mean(
            [scipy_stats.spearmanr(wide[who], rest).statistic for who, rest in zip(wide, left_out, strict=True)]
        ),
        "judge": np.mean([scipy_stats.spearmanr(judge, rest).statistic for rest in left_out]),
        "between": cohen_kappa_score(one, other, **grades),
    }


def assert_equal(labels: Labels, judged: Judged) -> None:
    found, known = calibrate(labels, judged, resamples=20), expected(labels, judged)
    assert found.kappa is not None and found.ceiling is not None and found.ceiling.kappa is not None
    ours = {
        "spearman": found.spearman.value,
        "kendall": found.kendall.value,
        "kappa": found.kappa.value,
        "people": found.ceiling.people.value,
        "judge": found.ceiling.judge.value,
        "between": found.ceiling.kappa.value,
    }
    assert ours == pytest.approx(known, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_statistics_equal_those_of_scipy_and_scikit_learn(seed: int) -> None:
    assert_equal(*crowd(seed))


if DATA:  # no skip: where there are no such data, there is no such test

    def test_the_statistics_equal_those_of_scipy_on_gradings_of_a_strong_model() -> None:
        """Two of the three gradings stand for people, the third is the judge."""
        rows: list[Label] = []
        scores: dict[tuple[str, str], float | None] = {}
        path = Path(DATA) / "prometheus_judge" / "mt_bench_eval_120.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            name, text = str(row["idx"]), row["instruction"]
            scores[name, text] = (row["gpt4_score"][2] - 1) / 4
            for who, grade in enumerate(row["gpt4_score"][:2]):
                rows.append(Label(name, text, float(grade), f"p{who}", (row["response_source"],)))
        assert len(rows) == 240
        assert_equal(Labels(tuple(rows), 1.0, 5.0), Judged(scores, {}))


def test_intervals_hold_what_many_more_labels_say() -> None:
    truth = calibrate(*crowd(1000, inputs=3000, annotators=1), resamples=0)
    held = np.zeros(4)
    for seed in range(40):
        found = calibrate(*crowd(seed, annotators=1), resamples=100)
        assert found.kappa is not None and truth.kappa is not None
        assert found.length is not None and truth.length is not None
        pairs = [(found.spearman, truth.spearman), (found.kappa, truth.kappa)]
        pairs += [(found.bias, truth.bias), (found.length, truth.length)]
        held += [estimate.low <= right.value <= estimate.high for estimate, right in pairs]
    assert (held >= 33).all()  # of 40: with probability 0.999 each if 94 in 100 hold


def test_a_judge_as_good_as_one_more_annotator_reaches_the_ceiling() -> None:
    labels, _ = crowd(7, inputs=400, annotators=4)
    as_judge = Judged({(r.id, r.output): (r.label - 1) / 4 for r in labels.rows if r.annotator == "p3"}, {})
    found = calibrate(Labels(tuple(r for r in labels.rows if r.annotator != "p3"), 1.0, 5.0), as_judge, resamples=200)
    assert found.ceiling is not None
    assert found.ceiling.people.value == pytest.approx(found.ceiling.judge.value, abs=0.02)


def test_the_order_of_configurations_and_a_judge_that_likes_length() -> None:
    labels, judged = crowd(3, length_bias=0.15)
    found = calibrate(labels, judged, resamples=300)
    assert [config.config for config in found.configs] == ["c2", "c1", "c0"]
    assert [config.texts for config in found.configs] == [40, 40, 40]
    assert found.order is not None and found.order.value == 1.0
    assert found.length is not None and found.length.low > 0.05
    assert [third.texts for third in found.thirds] == [40, 40, 40]
    honest = calibrate(*crowd(3), resamples=300)
    assert honest.length is not None and honest.length.high < found.length.low


def test_one_annotator_gives_no_ceiling_and_one_configuration_no_order() -> None:
    found = calibrate(*crowd(1, annotators=1, outputs=1), resamples=20)
    assert found.ceiling is None and found.order is None
    assert found.to_json()["ceiling"] is None


def test_a_measure_that_is_no_grade_has_no_kappa() -> None:
    labels = Labels(tuple(Label(f"r{i}", "t", i / 7, "me") for i in range(8)), 0.0, 1.0)
    found = calibrate(labels, Judged({(f"r{i}", "t"): i / 10 for i in range(8)}, {}), resamples=20)
    assert found.kappa is None and found.spearman.value == pytest.approx(1.0)


def test_what_the_judge_never_saw_or_could_not_score_is_counted_and_left_out() -> None:
    labels = Labels(tuple(Label(f"r{i}", "t", float(1 + i % 5), "me") for i in range(12)), 1.0, 5.0)
    scores: dict[tuple[str, str], float | None] = {(f"r{i}", "t"): (i % 5) / 4 for i in range(10)}
    found = calibrate(labels, Judged({**scores, ("r3", "t"): None}, {}), resamples=20)
    assert (found.labels, found.unmatched, found.unscored) == (9, 2, 1)
    json.dumps(found.to_json(), allow_nan=False)
    with pytest.raises(SpecError, match="none of the 12 labels has a score of the judge"):
        calibrate(labels, Judged({}, {}))


# --- the file


def file(tmp_path: Path, *rows: dict[str, Any]) -> str:
    path = tmp_path / "labels.jsonl"
    for row in rows:
        append(path, row)
    return str(path)


def test_a_labels_file_is_read(tmp_path: Path) -> None:
    found = read(
        file(
            tmp_path,
            {"id": 1, "output": "a", "label": 4, "annotator": "ann", "config": ["k1", "k2"], "score": 0.5},
            {"id": 1, "output": "a", "human": "2", "annotator": "bob", "level": 5, "config": "k1"},
            {"id": "2", "generation": 77, "label": 3},
            {"id": "2", "generation": 77, "label": 1},
            {"id": 1, "output": "a", "label": 5, "annotator": "ann", "score": 0.5},
        )
    )
    assert (found.low, found.high, found.levels) == (1.0, 5.0, 5)
    assert found.rows == (
        Label("1", "a", 5.0, "ann", (), 0.5),
        Label("1", "a", 2.0, "bob", ("k1",), 1.0),
        Label("2", "#77", 3.0, "#3"),
        Label("2", "#77", 1.0, "#4"),
    )
    assert scores_in(found).scores == {("1", "a"): 1.0}


def test_scales(tmp_path: Path) -> None:
    def scale(*labels: float, **more: Any) -> tuple[float, float, int | None]:
        (tmp_path / "labels.jsonl").unlink(missing_ok=True)
        found = read(file(tmp_path, *({"id": i, "output": "t", "label": v, **more} for i, v in enumerate(labels))))
        return found.low, found.high, found.levels

    assert scale(0, 1, 1) == (0.0, 1.0, 2)
    assert scale(0.25, 1) == (0.0, 1.0, None)
    assert scale(2, 3) == (1.0, 5.0, 5)
    assert scale(2.5, 3) == (1.0, 5.0, None)
    assert scale(7, 3, scale=[0, 10]) == (0.0, 10.0, 11)
    assert scale(70, 3, scale=[0, 100]) == (0.0, 100.0, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"output": "a", "label": 1}, "labels.jsonl:2: has no id"),
        ({"id": 1, "label": 1}, "labels.jsonl:2: has no output"),
        ({"id": 1, "output": "a"}, "labels.jsonl:2: has no label"),
        ({"id": 1, "output": "a", "label": "good"}, "labels.jsonl:2: label is 'good', not a number"),
        ({"id": 1, "output": "a", "label": 9}, "9 is not between 1 and 5. Name the scale"),
        ({"id": 1, "output": "a", "label": 2, "scale": [1]}, "labels.jsonl:2: scale is"),
        ({"id": 1, "output": "a", "label": 2, "scale": [5, 1]}, "Write the lowest label first"),
        ({"id": 1, "output": "a", "label": 2, "level": math.inf}, "labels.jsonl:2: level is inf, not a number"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as error:
        read(file(tmp_path, {"id": 0, "output": "first", "label": 3}, row))
    assert message in str(error.value)


def test_labels_on_several_scales_are_refused(tmp_path: Path) -> None:
    rows = [{"id": i, "output": "a", "label": 1, "scale": [0, i]} for i in (1, 2)]
    with pytest.raises(SpecError, match="several scales"):
        read(file(tmp_path, *rows))


def test_a_file_of_scores_needs_no_labels_but_scores(tmp_path: Path) -> None:
    path = file(
        tmp_path, {"id": 1, "output": "a", "score": 0.25}, {"id": 2, "output": "b", "level": 3, "scale": [1, 5]}
    )
    assert scores_in(read(path, scores=True)).scores == {("1", "a"): 0.25, ("2", "b"): 0.5}
    append(Path(path), {"id": 3, "output": "c"})
    with pytest.raises(SpecError, match=r":3: has no score"):
        read(path, scores=True)


# --- a study


def test_labels_of_a_study_are_matched_by_text_and_by_generation(tmp_path: Path) -> None:
    run(study(tmp_path, count=20, budget={"trials": 3}), tmp_path)
    archive = load(f"sqlite:///{tmp_path / 'toy.db'}#toy")
    judged = scores_of(archive, choose_scorer(archive))
    assert set(judged.scores.values()) <= {0.0, 1.0}
    assert all(score == (text == "yes") for (_, text), score in judged.scores.items() if text[0] != "#")
    assert max(map(len, judged.configs.values())) > 1
    by_number = [key for key in judged.scores if key[1].startswith("#")]
    labels = Labels(tuple(Label(name, number, 0.5, "me") for name, number in by_number), 0.0, 1.0)
    assert calibrate(labels, judged, resamples=1).labels == len(by_number)
    with pytest.raises(SpecError, match=r"--scorer other: the study has no such scorer. It has right"):
        choose_scorer(archive, "other")
