"""A study's texts as a table: every one of them, worth what the search said they were worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from genopt.errors import SpecError, StudyError
from genopt.objectives import Constraint, Goal, Objective
from genopt.observations import paired_table, read, write
from genopt.store import Store
from genopt.tables import generation_row, score_row
from genopt.types import Example, Generation, Score
from tests.commands import Shell
from tests.studies import Ran, query, run
from tests.toy import rows, study


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study whose rows come in groups of three, with a verdict."""
    data = [row | {"document": f"d{i // 3}"} for i, row in enumerate(rows(60))]
    folder = tmp_path_factory.mktemp("ran")
    dataset = {"rows": data, "holdout": 0.4, "group": "document"}
    ended = run(study(folder, dataset=dataset, budget={"trials": 24}, search={"sampler": "random"}), folder)
    ended.decided()
    return ended


def test_every_stored_text_is_a_row_of_its_own(ran: Ran) -> None:
    frame = ran.archive.observations()
    stored = query(
        ran.folder,
        "SELECT config_key, example_id, sample, phase, seed, text, completion_tokens FROM genopt_generations",
    )
    names = ["config_key", "example_id", "sample", "phase", "seed", "text", "completion_tokens"]
    assert sorted(frame[names].itertuples(index=False, name=None)) == sorted(stored)
    assert (frame["group"] == "d" + (frame["example_id"].str[1:].astype(int) // 3).astype(str)).all()


def test_the_mean_of_every_complete_trial_is_what_the_search_was_told(ran: Ran) -> None:
    frame = ran.archive.observations()
    first = paired_table(frame[frame["sample"] == 0])
    complete = [trial for trial in ran.complete() if not trial.outcome["stopped_early"]]
    assert len(complete) > 2
    for trial in complete:
        assert first.loc[trial.config["key"]].mean() == pytest.approx(trial.outcome["mean"], abs=1e-12)


def test_the_verdicts_difference_is_that_of_the_confirm_rows(ran: Ran) -> None:
    frame, verdict = ran.archive.observations(), ran.decided()
    table = paired_table(frame, "confirm")
    who = frame.drop_duplicates("config_key").set_index("config_key")["role"]
    by_role = {str(who[key]): table.loc[key] for key in table.index}
    assert set(by_role) == {"baseline", "winner"}
    assert (by_role["winner"] - by_role["baseline"]).mean() == pytest.approx(verdict.difference, abs=1e-12)


def test_the_baseline_comes_first_and_finalists_are_those_measured_again(ran: Ran) -> None:
    frame = ran.archive.observations()
    assert frame["role"].iloc[0] == "baseline"
    roles = frame.groupby("role")["config_key"].nunique()
    assert roles["baseline"] == roles["winner"] == 1
    again = set(frame.loc[(frame["phase"] == "tune") & (frame["sample"] > 0), "config_key"])
    assert set(frame.loc[frame["role"].isin(["finalist"]), "config_key"]) <= again
    numbers = frame.loc[frame["role"] == "winner", "trial"].unique()
    assert numbers.tolist() == [ran.decided().trial]


def stored_rows(folder: Path, generations: list[tuple[str, int, Generation, float | None]]) -> str:
    """A storage with one configuration's generations (example, sample, generation, score of "s")."""
    url = f"sqlite:///{folder / 'x.db'}"
    store = Store(url)
    store.create()
    made = [(generation_row(1, "k", e, s, "tune", 5, {"temperature": 1.0}, g), value) for e, s, g, value in generations]
    store.write(
        {
            "genopt_generations": [row for row, _ in made],
            "genopt_scores": [score_row(row["id"], "key of s", _score(value)) for row, value in made],
        }
    )
    store.remember_examples(1, [(Example("e1", {}, (), "g"), "d", "tune"), (Example("e2", {}), "d", "tune")])
    store.close()
    return url


def _score(value: float | None) -> Score:
    return Score(value, "because" if value is None else "")


def said(text: str, finish: Any = "stop") -> Generation:
    return Generation(text, finish, 3, len(text), 0.5)


def test_an_observation_is_worth_what_its_samples_are_worth_together(tmp_path: Path) -> None:
    url = stored_rows(
        tmp_path,
        [
            ("e1", 0, said("a"), 0.0), ("e1", 1, said("abc"), 1.0),
            ("e1", 2, said("abcd"), 1.0), ("e1", 3, said("ab"), None),
            ("e2", 0, said("", "error"), 0.0), ("e2", 1, said("abcdef"), 1.0),
        ],
    )  # fmt: skip
    goal = Goal((Objective("s", "minimize"),), (Constraint("words", at_most=5),))
    about = {"scorers": {"s": "key of s"}, "search.repeats": 2}
    frame = read(url, 1, goal=goal, description=about, roles={"k": (4, "trial")})
    assert frame["utility"].tolist()[:2] == [-0.5, -0.5]
    assert frame["utility"].isna().tolist() == [False, False, True, True, False, False]
    assert frame["utility"].iloc[4] == -1.0  # a text that was never written gets the worse end
    assert frame["metric.words"].tolist()[:2] == [1.0, 1.0] and np.isnan(frame["metric.words"].iloc[4])
    assert frame["score.s"].tolist()[:3] == [0.0, 1.0, 1.0] and frame["why.s"].iloc[3] == "because"
    assert frame["group"].tolist()[0] == "g" and pandas.isna(frame["group"].iloc[4])
    assert set(frame["role"]) == {"finalist"} and set(frame["trial"]) == {4}
    table = paired_table(frame)
    assert table.loc["k"].tolist() == [-0.5, -1.0]
    assert paired_table(frame, value="completion_tokens").loc["k"].tolist() == [2.5, 3.0]


def test_the_types_hold_for_a_study_without_a_single_text(tmp_path: Path) -> None:
    goal = Goal((Objective("s", "maximize"),))
    empty = read(stored_rows(tmp_path, []), 1, goal=goal, description={"scorers": {"s": "k"}}, roles={})
    full = read(
        stored_rows(tmp_path, [("e1", 0, said("a"), 0.5)]),
        1,
        goal=goal,
        description={"scorers": {"s": "key of s"}},
        roles={},
    )
    assert empty.empty and empty.dtypes.to_dict() == full.dtypes.to_dict()
    assert full["trial"].isna().all()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_is_written_reads_back_the_same(ran: Ran, tmp_path: Path, suffix: str) -> None:
    frame, path = ran.archive.observations(), tmp_path / f"rows{suffix}"
    frame["seconds"] = np.linspace(0.1, 1 / 3, len(frame))
    write(frame, path)
    if suffix == ".jsonl":
        back = pandas.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    elif suffix == ".csv":
        back = pandas.read_csv(path, keep_default_na=False, na_values={name: "" for name in frame if name != "why"})
    else:
        back = pandas.read_parquet(path)
    assert list(back) == list(frame)
    for name in ("text", "utility", "seconds", "seed", "trial", "score.right", "example_id"):
        assert back[name].tolist() == frame[name].tolist(), name


def test_a_file_that_cannot_be_written_is_said(ran: Ran, tmp_path: Path) -> None:
    frame = ran.archive.observations().head(1)
    with pytest.raises(SpecError, match=r"rows\.xls: \.xls is no format"):
        write(frame, tmp_path / "rows.xls")
    for suffix in (".csv", ".jsonl"):
        with pytest.raises(SpecError, match="cannot be written"):
            write(frame, tmp_path / "missing" / f"rows{suffix}")


def test_a_study_that_did_not_keep_its_file_says_so(ran: Ran) -> None:
    with pytest.raises(StudyError, match="older genopt"):
        replace(ran.archive, spec={}).observations()


def test_the_command_writes_every_text(
    ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    genopt, where, path = Shell(tmp_path, monkeypatch, capsys), f"{ran.folder / 'toy.db'}#toy", tmp_path / "rows.csv"
    frame = ran.archive.observations()
    done = genopt("export", where, "--data", path)
    assert done.code == 0 and done.err.endswith(f"wrote {len(frame):,} texts to {path}\n") and done.out == ""
    assert pandas.read_csv(path)["utility"].tolist() == frame["utility"].tolist()
    assert "exists" in genopt("export", where, "--data", path).err
    assert genopt("export", where, "--data", path, "--force").code == 0
    assert "Drop the other options" in genopt("export", where, "--data", tmp_path / "y.csv", "--to", "vllm").err
    refused = genopt("export", where, "--data", tmp_path / "rows.xls")
    assert refused.code == 2 and ".xls is no format" in refused.err
