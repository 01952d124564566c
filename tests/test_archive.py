"""Reading, copying and removing studies that exist, without an engine or data."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

import genopt
from genopt.archive import as_url, clone, delete, load, locate
from genopt.errors import SpecError, StudyError
from genopt.spec.read import make_study
from genopt.stats import UNBOUNDED
from tests.toy import DEFAULTS, study


def run(folder: Path, **changes: Any) -> Any:
    table = study(folder, count=24, budget={"trials": 3}, **changes)
    return genopt.optimize(make_study(table, folder=folder))


def url(folder: Path, name: str = "toy") -> str:
    return f"sqlite:///{folder / 'toy.db'}#{name}"


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("sqlite:///a.db#x", ("sqlite:///a.db", "x")),
        ("sqlite:///a.db#x y: ü#2", ("sqlite:///a.db", "x y: ü#2")),
        ("postgresql://host:5432/db#a@b", ("postgresql://host:5432/db", "a@b")),
        ("postgresql+psycopg://me:p%40w@host/db#x", ("postgresql+psycopg://me:p%40w@host/db", "x")),
        ("postgresql://me:p#w@host/db#x", ("postgresql://me:p#w@host/db", "x")),
    ],
)
def test_a_study_is_a_url_and_a_name(where: str, expected: tuple[str, str]) -> None:
    assert locate(where) == expected


@pytest.mark.parametrize("where", ["sqlite:///a.db", "sqlite:///a.db#", "postgresql://me:geheim@host/db"])
def test_a_url_without_a_name_is_refused_without_its_password(where: str) -> None:
    with pytest.raises(SpecError, match=r"names a storage but no study\. Write storage-URL#name") as caught:
        locate(where)
    assert "geheim" not in str(caught.value)


def test_a_study_file_is_a_study_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[dataset]\npath = "none"\n[prompt]\nuser = "x"\n[backend]\nmodel = "m"\n[scorers.s]\nkind = "bleu"\n'
    )
    assert locate(str(path)) == (f"sqlite:///{tmp_path / 'mine.db'}", "mine")


def test_what_is_loaded_is_what_the_run_returned(tmp_path: Path) -> None:
    result = run(tmp_path)
    archive = load(url(tmp_path))
    assert archive.name == "toy" and archive.sampler[0] == "random"
    assert archive.verdict is not None
    assert {k: v for k, v in archive.verdict.items() if k != "budget"} == result.verdict.to_json()
    assert archive.spent.search_generations == result.verdict.search_generations
    assert archive.spent.tokens == result.verdict.tokens
    assert archive.description["backend"]["engine"] == "toy"
    assert [worker.closed for worker in archive.workers] == [True]
    assert len({row["config_key"] for row in archive.rows()}) == result.verdict.trials == 3


def test_a_baseline_outside_the_space_is_a_row_without_a_number(tmp_path: Path) -> None:
    run(tmp_path, space={"temperature": {"low": 0.1, "high": 0.5}}, baseline={"temperature": 1.5})
    archive = load(url(tmp_path))
    first, *others = archive.rows()
    assert first["number"] is None and first["baseline"] is True
    assert first["params"] == {**DEFAULTS, "temperature": 1.5}
    assert [row["number"] for row in others] == [0, 1] == [trial.number for trial in archive.trials]
    assert all(row.keys() == first.keys() and not row["baseline"] for row in others)


def test_a_baseline_inside_the_space_is_a_trial(tmp_path: Path) -> None:
    space = {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}}
    run(tmp_path, space=space, baseline={"temperature": 1.0})
    rows = load(url(tmp_path)).rows()
    assert [row["number"] for row in rows] == [0, 1, 2]
    assert [row["baseline"] for row in rows] == [True, False, False]


def test_what_a_finalist_was_worth_is_not_said_of_a_trial_of_the_same_settings_that_failed(tmp_path: Path) -> None:
    run(tmp_path)
    archive = load(url(tmp_path))
    done = archive.trials[-1]
    failed = replace(done, number=9, state="failed", outcome={"why": "its worker was silent; asked again"})
    taken_up = {str(done.config["key"]): {"n": 14, "mean": 0.5, "se": 0.1, "stopped_early": False}}
    *_, measured, row = replace(archive, trials=[*archive.trials, failed], taken_up=taken_up).rows()
    assert (measured["number"], measured["n"], measured["mean"]) == (done.number, 14, 0.5)
    assert (row["number"], row["n"], row["mean"], row["se"]) == (9, 0, None, None)
    assert row["why"] == "its worker was silent; asked again"


def test_unknown_and_foreign_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="does not exist"):
        load(url(tmp_path))
    run(tmp_path)
    with pytest.raises(StudyError, match="has no study 'tox'") as caught:
        load(url(tmp_path, "tox"))
    assert caught.value.hint == "it has: toy"
    optuna.create_study(storage=f"sqlite:///{tmp_path / 'toy.db'}", study_name="plain")
    with pytest.raises(StudyError, match=r"'plain' .* was not made by genopt"):
        load(url(tmp_path, "plain"))


def used(folder: Path) -> dict[str, set[tuple[str, ...]]]:
    """Study -> which (trial number, configuration, example, sample, phase) its trials used."""
    query = """
        select s.study_name, t.number, g.config_key, g.example_id, g.sample, g.phase
        from genopt_trial_rows r
        join trials t on t.trial_id = r.trial_id
        join studies s on s.study_id = t.study_id
        join genopt_generations g on g.id = r.generation_id and g.study_id = s.study_id"""
    found: dict[str, set[tuple[str, ...]]] = {}
    with closing(sqlite3.connect(folder / "toy.db")) as connection:
        for name, *key in connection.execute(query):
            found.setdefault(name, set()).add(tuple(map(str, key)))
    return found


def test_a_clone_has_everything_of_its_original(tmp_path: Path) -> None:
    run(tmp_path)
    before = load(url(tmp_path))
    trials, generations = clone(url(tmp_path), "copy")
    copy = load(url(tmp_path, "copy"))
    assert (trials, generations) == (len(before.trials), before.spent.generations)
    assert (copy.rows(), copy.spent, copy.verdict) == (before.rows(), before.spent, before.verdict)
    found = used(tmp_path)
    assert found["copy"] == found["toy"] != set()
    with pytest.raises(StudyError, match="has a study 'copy' already"):
        clone(url(tmp_path), "copy")
    assert load(url(tmp_path)).rows() == before.rows()


def test_deleting_one_study_leaves_the_other_whole(tmp_path: Path) -> None:
    run(tmp_path)
    clone(url(tmp_path), "copy")
    before, rows = load(url(tmp_path, "copy")), used(tmp_path)["copy"]
    delete(load(url(tmp_path)))
    with pytest.raises(StudyError, match="has no study 'toy'"):
        load(url(tmp_path))
    after = load(url(tmp_path, "copy"))
    assert (after.rows(), after.spent) == (before.rows(), before.spent)
    assert used(tmp_path) == {"copy": rows}


def test_reading_changes_nothing(tmp_path: Path) -> None:
    run(tmp_path)
    with closing(sqlite3.connect(tmp_path / "toy.db")) as connection:
        before = list(connection.iterdump())
    load(url(tmp_path)).rows()
    with closing(sqlite3.connect(tmp_path / "toy.db")) as connection:
        assert list(connection.iterdump()) == before


def test_the_trials_as_a_table_have_one_column_per_parameter(tmp_path: Path) -> None:
    run(tmp_path)
    archive = load(url(tmp_path))
    table = archive.to_pandas()
    assert list(table["number"].dropna().astype(int)) == [trial.number for trial in archive.trials]
    assert table["params.temperature"].notna().all()


def test_the_file_of_an_sqlite_storage_stands_for_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(sqlite3.connect("mine.db")) as base:
        base.execute("CREATE TABLE t (a)")
    assert locate("mine.db#answers") == ("sqlite:///mine.db", "answers")
    with pytest.raises(SpecError, match=r"sqlite:///mine\.db: names a storage but no study"):
        locate("mine.db")
    Path("mine.db").rename("what?.db")
    assert as_url("what?.db#answers") == "sqlite:///what%3F.db#answers"
    assert as_url("none.db#a") == "none.db#a" and as_url("sqlite:///mine.db") == "sqlite:///mine.db"


def test_a_standard_error_that_nobody_can_tell_is_null(tmp_path: Path) -> None:
    run(tmp_path)
    archive = load(url(tmp_path))
    first, *others = archive.trials
    alone = replace(first, outcome={**first.outcome, "n": 1, "mean": 1.0, "se": UNBOUNDED})
    known, *rest = [row for row in replace(archive, trials=[alone, *others]).rows() if row["number"] is not None]
    assert known["se"] is None and all(0 < row["se"] < 1 for row in rest)
    baseline = {**archive.baseline, "number": None, "se": UNBOUNDED}
    assert replace(archive, baseline=baseline).rows()[0]["se"] is None
