"""What the dashboard says of a study besides Optuna's pages: notes, tables of outputs, figures; and that none of it is
written."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from genopt.archive import Archive, load
from genopt.dashboard import people
from genopt.dashboard.live import OUTPUTS, Live, read
from genopt.dashboard.notes import block, plain_words, study_note
from genopt.study.annotated import Annotated, Files, artifact_id
from genopt.study.storage import open_storage
from tests.studies import run
from tests.toy import study

HOSTILE = "text\n```\n<script>alert(1)</script>\x1b[2J ````"


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished study with racing, so that some trials were stopped, and rows of three documents."""
    folder = tmp_path_factory.mktemp("stored")
    table = study(folder, count=120, budget={"trials": 12}, seed=3)
    table["search"] = {"sampler": "random", "pruner": "paired"}
    for number, row in enumerate(table["dataset"]["rows"]):
        row["document"] = f"d{number % 20}"
    table["dataset"]["group"] = "document"
    assert run(table, folder).error is None
    return f"sqlite:///{folder / 'toy.db'}#toy"


@pytest.fixture(scope="module")
def live(stored: str) -> Live:
    made = Live(stored)
    made.refresh()
    return made


@pytest.fixture(scope="module")
def archive(stored: str) -> Archive:
    return load(stored)


def note_of(live: Live, archive: Archive, number: int | None) -> str:
    ids = {trial.number: trial.trial_id for trial in archive.trials}
    of = "" if number is None else f"{ids[number]}:"
    return str(live.attributes()[f"dashboard:{of}note_str:0"])


def table_of(live: Live, archive: Archive, number: int) -> list[dict[str, Any]]:
    ids = {trial.number: trial.trial_id for trial in archive.trials}
    content = live.file(artifact_id(ids[number], OUTPUTS))
    assert content is not None
    return [json.loads(line) for line in content.decode().splitlines()]


def test_a_trials_note_tells_its_score_its_gain_and_three_outputs(live: Live, archive: Archive) -> None:
    verdict = archive.verdict
    assert verdict is not None
    row = next(row for row in archive.rows() if row["number"] == verdict["trial"])
    told = note_of(live, archive, row["number"])
    assert told.startswith("**Complete**")
    assert f"Score **{row['mean']:.4f}**" in told
    assert "draws each token at temperature" in told
    assert told.count("#### ") == 3
    for title in ("Best against the baseline", "Median", "Worst"):
        assert f"#### {title}: example `r" in told
    frame = archive.observations()
    tune = frame[frame["phase"] == "tune"].pivot_table(index="config_key", columns="example_id", values="utility")
    gain = (tune.loc[row["config_key"]] - tune.loc[archive.baseline["key"]]).mean()
    assert f"**{gain:+.4f}**" in told


def test_a_trial_that_was_stopped_says_why(live: Live, archive: Archive) -> None:
    stopped = [row for row in archive.rows() if row["stopped_early"]]
    assert stopped
    told = note_of(live, archive, stopped[0]["number"])
    assert told.startswith(f"**Stopped early after {stopped[0]['n']} of 72 examples: clearly worse")


def test_the_study_note_holds_the_verdict_and_how_to_go_on(live: Live, archive: Archive, stored: str) -> None:
    told = note_of(live, archive, None)
    assert archive.verdict is not None
    assert f"p = {archive.verdict['p_value']:.2g}" in told
    assert f"genopt report '{stored}' -o report.html" in told
    assert "genopt optimize" not in told  # a study without its file cannot be gone on with
    assert "genopt optimize study.toml" in study_note(None, "study.toml")
    assert "No verdict yet" in study_note(None, "study.toml")


def test_the_study_note_tells_calls_that_failed_where_some_did(live: Live, archive: Archive) -> None:
    assert "failed" not in note_of(live, archive, None)
    torn = replace(archive, spent=replace(archive.spent, failed=1200))
    told = str(read(torn, {}, "study.toml", frame=archive.observations()).attributes["dashboard:note_str:0"])
    assert "1,200 calls of the engine failed, and made no text." in told


def test_a_password_is_in_no_note(archive: Archive) -> None:
    hidden = replace(archive, url="postgresql://me:secret@host/db")
    told = json.dumps(
        dict(read(hidden, {}, "postgresql://me:secret@host/db#toy", frame=archive.observations()).attributes)
    )
    assert "postgresql://me:***@host/db#toy" in told
    assert "secret" not in told


def test_the_table_holds_every_text_with_scores_and_the_baselines(live: Live, archive: Archive) -> None:
    assert archive.verdict is not None
    rows = table_of(live, archive, archive.verdict["trial"])
    frame = archive.observations()
    key = next(row["config_key"] for row in archive.rows() if row["number"] == archive.verdict["trial"])
    assert len(rows) == int((frame["config_key"] == key).sum())
    assert {row["split"] for row in rows} == {"tune", "holdout"}
    assert all(row["right"] == float(row["output"] == row["reference"]) for row in rows)
    assert all(row["baseline"] in ("yes", "no") for row in rows if row["split"] == "tune")
    assert live.file("00000000-0000-0000-0000-000000000000") is None


def test_the_heat_map_is_the_paired_gain_by_document(live: Live, archive: Archive) -> None:
    content = json.loads(live.attributes()["dashboard:plot_data:gain-by-group:0"])
    (trace,) = content["data"]
    frame = archive.observations()
    tune = frame[frame["phase"] == "tune"]
    values = tune.pivot_table(index="config_key", columns="example_id", values="utility", aggfunc="mean")
    number = int(trace["y"][0].removeprefix("trial "))
    key = next(row["config_key"] for row in archive.rows() if row["number"] == number)
    gain = values.loc[key] - values.loc[archive.baseline["key"]]
    group = tune.drop_duplicates("example_id").set_index("example_id")["group"]
    expected = gain.groupby(group).mean()
    assert trace["x"] == list(expected.index)
    assert trace["z"][0] == pytest.approx(expected.round(4).tolist())
    best_first = [np.nanmean([v for v in row if v is not None]) for row in trace["z"]]
    assert best_first[0] == max(best_first)


def test_the_score_figure_has_every_measured_trial(live: Live, archive: Archive) -> None:
    content = json.loads(live.attributes()["dashboard:plot_data:score-by-trial:0"])
    shown = {x for trace in content["data"] for x in trace["x"]}
    measured = {r["number"] for r in archive.rows() if r["mean"] is not None and r["duplicate_of"] is None}
    assert shown == measured - {None}
    assert content["layout"]["shapes"][0]["y0"] == archive.baseline["mean"]


def test_several_objectives_have_a_front(tmp_path: Path) -> None:
    objectives = [{"maximize": "right"}, {"minimize": "completion_tokens"}]
    assert run(study(tmp_path, count=40, objectives=objectives), tmp_path).error is None
    made = Live(f"sqlite:///{tmp_path / 'toy.db'}#toy")
    made.refresh()
    content = json.loads(made.attributes()["dashboard:plot_data:pareto-front:0"])
    assert {trace["name"] for trace in content["data"]} == {"front", "beaten in all"}
    assert content["data"][0]["x"]


def test_a_database_that_is_locked_for_once_does_not_end_the_reading(
    stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []
    again = threading.Event()

    def settle(archive: Archive) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise OperationalError("UPDATE", {}, Exception("database is locked"))
        again.set()
        return 0

    monkeypatch.setattr(people, "settle", settle)
    monkeypatch.setattr("genopt.dashboard.live.EVERY", 0.01)
    made = Live(stored)
    made.start()
    try:
        assert again.wait(30)
    finally:
        made.close()


def test_nothing_is_written_and_what_people_write_is_kept(stored: str, live: Live, archive: Archive) -> None:
    path = stored.removeprefix("sqlite:///").removesuffix("#toy")

    def attributes() -> int:
        with closing(sqlite3.connect(path)) as connection:
            return int(connection.execute("SELECT count(*) FROM study_system_attributes").fetchone()[0])

    before = attributes()
    _, beneath = open_storage(archive.url, create=False)
    storage = Annotated(beneath, archive.id, live.attributes)
    (found,) = storage.get_all_studies()
    assert "dashboard:note_str:0" in found.system_attrs
    assert attributes() == before
    storage.set_study_system_attr(archive.id, "dashboard:note_ver", 2)
    storage.set_study_system_attr(archive.id, "dashboard:note_str:0", "mine")
    assert storage.get_study_system_attrs(archive.id)["dashboard:note_str:0"] == "mine"


def test_the_files_are_read_only() -> None:
    from optuna.artifacts.exceptions import ArtifactNotFound

    files = Files({"known": b"content"}.get)
    assert files.open_reader("known").read() == b"content"
    for action in (files.open_reader, files.remove):
        with pytest.raises(ArtifactNotFound):
            action("other")


def test_what_a_model_wrote_stays_a_block_of_text() -> None:
    shown = block(HOSTILE)
    fence = shown.split("text\n", 1)[0]
    assert len(fence) > 4
    assert shown.endswith(f"\n{fence}")
    assert shown.count(fence) == 2
    assert "\x1b" not in shown
    assert len(block("x" * 5000)) < 1400


def test_a_configuration_in_plain_words() -> None:
    params = {"temperature": 0.7, "top_p": 1.0, "top_k": 40, "min_p": 0.0, "max_tokens": 64, "style": "Be `brief`."}
    assert plain_words(params) == [
        "draws each token at temperature 0.7",
        "only from the 40 likeliest tokens (top_k)",
        "stops after 64 tokens (max_tokens)",
        """style: `"Be 'brief'."`""",
    ]
    assert plain_words({"temperature": 0.0, "top_p": 0.5, "top_k": 3}) == [
        "always takes the likeliest token (temperature 0)"
    ]
