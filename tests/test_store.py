"""The tables: rows once and for all, deterministic ids, what is spent, copies, and SQLite under two writers."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from genopt.connections import HICCUP
from genopt.database import masked
from genopt.errors import StudyError
from genopt.leases import Spent, Worker, insert
from genopt.runner import optimize
from genopt.spec.read import make_study
from genopt.store import Store
from genopt.tables import FAILED, generation_id, generation_row, metadata, score_row
from genopt.types import Example, Generation, Score
from tests import toy
from tests.databases import Missing, Postgres

KEY = "a" * 64


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'study.db'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url)
    store.create()
    yield store
    store.close()


def generation(text: str = "yes", tokens: int = 3, **changes: Any) -> Generation:
    return Generation(**{"text": text, "finish": "stop", "prompt_tokens": 10, "completion_tokens": tokens,
                         "seconds": 0.5} | changes)  # fmt: skip


def row(example: str = "r1", sample: int = 0, *, study: int = 1, key: str = KEY, phase: Any = "tune",
        made: Generation | None = None) -> dict[str, Any]:  # fmt: skip
    params = {"temperature": 0.5, "stop": ("é",)}
    return generation_row(study, key, example, sample, phase, 2**31 - 1, params, made or generation())


def query(url: str, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def side_by_side(*works: Callable[[], None]) -> None:
    """Run them at once, each in a thread of its own; what one raises is raised here."""
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result(30)


# --- rows


def test_a_row_is_read_back_as_it_was_written(store: Store) -> None:
    made = generation("Grüße 🎈\n", 7, finish="length", why="cut")
    store.write({"genopt_generations": [row("r1", 2, made=made)]})
    (found,) = store.rows(1, KEY, "tune")
    assert found.generation == made
    assert (found.example_id, found.sample, found.scores) == ("r1", 2, {})
    assert found.id == generation_id(1, KEY, "r1", 2, "tune")


def test_rows_are_those_of_one_study_configuration_and_phase(store: Store) -> None:
    rows = [row(), row(study=2), row(key="b" * 64), row(phase="confirm"), row("r2"), row(sample=1)]
    store.write({"genopt_generations": rows})
    assert {(found.example_id, found.sample) for found in store.rows(1, KEY, "tune")} == {
        ("r1", 0),
        ("r2", 0),
        ("r1", 1),
    }
    assert len(store.rows(1, KEY, "confirm")) == len(store.rows(2, KEY, "tune")) == 1
    assert store.rows(3, KEY, "tune") == []
    assert {(found.example_id, found.sample) for found in store.rows(1, KEY, "tune", of=["r1", "r3"])} == {
        ("r1", 0),
        ("r1", 1),
    }
    assert store.rows(1, KEY, "tune", of=[]) == []
    several = store.rows_of(1, [KEY, "b" * 64, "c" * 64], "tune")
    assert {key: len(found) for key, found in several.items()} == {KEY: 3, "b" * 64: 1, "c" * 64: 0}


def test_a_row_that_exists_is_left_as_it_is(store: Store) -> None:
    first, second = row(made=generation("first")), row(made=generation("second"))
    score = score_row(first["id"], "s", Score(1.0, "good"))
    store.write({"genopt_generations": [first], "genopt_scores": [score]})
    store.write({"genopt_generations": [second, row("r2")], "genopt_scores": [score | {"value": 0.0}]})
    by_example = {found.example_id: found for found in store.rows(1, KEY, "tune")}
    assert by_example["r1"].generation.text == "first"
    assert by_example["r1"].scores == {"s": Score(1.0, "good")}
    assert "r2" in by_example


def test_ids_are_a_function_of_the_unique_key_alone() -> None:
    parts: list[Any] = [1, KEY, "r1", 0, "tune"]
    ids = {generation_id(*parts)}
    for index, other in enumerate((2, "b" * 64, "r2", 1, "confirm")):
        ids.add(generation_id(*(other if i == index else part for i, part in enumerate(parts))))
    assert len(ids) == 6
    assert all(0 <= number < 2**63 for number in ids)
    assert row(made=generation("a"))["id"] == row(made=generation("b"))["id"] == generation_id(1, KEY, "r1", 0, "tune")
    assert generation_id(1, KEY, "r", 11, "tune") != generation_id(1, KEY, "r1", 1, "tune")


def test_the_database_itself_keeps_generations_unique(store: Store, url: str) -> None:
    store.write({"genopt_generations": [row()]})
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection, pytest.raises(sqlite3.IntegrityError):
        values = "study_id, config_key, example_id, sample, phase, seed, params, text, finish, 1, 1, 1.0, NULL, why"
        values += ", kin, tokens, harvested_from"
        connection.execute(f"INSERT INTO genopt_generations SELECT id + 1, {values} FROM genopt_generations")
    connection.close()


def test_scores_come_back_by_scorer_and_missing_ones_as_missing(store: Store) -> None:
    first, second = row("r1"), row("r2")
    scores = [
        score_row(first["id"], "one", Score(0.25)),
        score_row(first["id"], "two", Score(None, "no answer")),
        score_row(second["id"], "one", Score(1.0)),
    ]
    store.write({"genopt_generations": [first, second], "genopt_scores": scores})
    found = {r.example_id: r.scores for r in store.rows(1, KEY, "tune")}
    assert found == {"r1": {"one": Score(0.25), "two": Score(None, "no answer")}, "r2": {"one": Score(1.0)}}


@pytest.mark.parametrize(
    ("text", "stored"), [("a\0b", "a\ufffdb"), ("a\ud800b", "a?b"), ("\0\udfff\0", "\ufffd?\ufffd")]
)
def test_texts_no_database_takes_are_made_storable(store: Store, text: str, stored: str) -> None:
    made = row(made=generation(text, why=text))
    store.write({"genopt_generations": [made], "genopt_scores": [score_row(made["id"], "s", Score(0.5, text))]})
    (found,) = store.rows(1, KEY, "tune")
    assert (found.generation.text, found.generation.why, found.scores["s"].why) == (stored, stored, stored)


def test_params_are_kept_as_json(store: Store, url: str) -> None:
    store.write({"genopt_generations": [row()]})
    ((params, seed),) = query(url, "SELECT params, seed FROM genopt_generations")
    assert json.loads(params) == {"temperature": 0.5, "stop": ["é"]}
    assert seed == 2**31 - 1


def test_the_fixed_names_of_tables_and_columns(store: Store, url: str) -> None:
    names = {name for (name,) in query(url, "SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"genopt_generations", "genopt_scores", "genopt_trial_rows"} <= names
    columns = {name: [c[1] for c in query(url, f"PRAGMA table_info({name})")] for name in names}
    assert " ".join(columns["genopt_generations"][:8]) == "id study_id config_key example_id sample phase seed params"
    assert " ".join(columns["genopt_generations"][8:13]) == "text finish prompt_tokens completion_tokens seconds"
    assert columns["genopt_scores"] == ["generation_id", "scorer_key", "value", "why"]
    assert columns["genopt_trial_rows"] == ["trial_id", "generation_id"]


# --- sums, copies, removal


def test_what_is_spent(store: Store) -> None:
    assert store.spent(1) == Spent()
    rows = [row(f"r{i}", made=generation(tokens=i)) for i in range(5)] + [row(phase="confirm"), row(study=2)]
    store.write({"genopt_generations": rows})
    assert store.spent(1) == Spent(5, 1, 6 * 10 + sum(range(5)) + 3)
    assert store.spent(1).generations == 6
    assert store.spent(2) == Spent(1, 0, 13)


def test_copy_takes_the_named_examples_with_their_scores(store: Store) -> None:
    rows = [row("r1"), row("r2"), row("r1", phase="confirm"), row("r1", study=3)]
    scores = [score_row(r["id"], "s", Score(float(i))) for i, r in enumerate(rows)]
    store.write({"genopt_generations": rows, "genopt_scores": scores})
    assert store.copy(1, 2, ["r1"]) == 2
    (tune,), (confirm,) = store.rows(2, KEY, "tune"), store.rows(2, KEY, "confirm")
    assert (tune.example_id, tune.scores, tune.id) == ("r1", {"s": Score(0.0)}, generation_id(2, KEY, "r1", 0, "tune"))
    assert confirm.scores == {"s": Score(2.0)}
    assert len(store.rows(1, KEY, "tune")) == 2
    store.copy(1, 2, ["r1", "r2"])
    assert {found.example_id for found in store.rows(2, KEY, "tune")} == {"r1", "r2"}


def test_examples_are_remembered_once_and_copied(store: Store) -> None:
    first = Example("r1", {"question": "Wie groß?", "when": date(2026, 1, 2)}, ("a", "b"), "g")
    store.remember_examples(1, [(first, "d1", "tune"), (Example("r2", {"question": "?\0"}), "d2", "holdout")])
    store.remember_examples(1, [(Example("r1", {}), "changed", "tune")])
    assert store.examples(1) == [
        (Example("r1", {"question": "Wie groß?", "when": "2026-01-02"}, ("a", "b"), "g"), "tune"),
        (Example("r2", {"question": "?\0"}), "holdout"),
    ]
    assert store.example_digests(1) == {"r1": "d1", "r2": "d2"}
    store.copy_examples(1, 2)
    assert store.example_digests(2) == {"r1": "d1", "r2": "d2"}
    assert store.example_digests(3) == {}


def test_delete_removes_everything_of_one_study_and_nothing_else(store: Store, url: str) -> None:
    for study in (1, 2):
        made = row(study=study)
        link = {"trial_id": study, "generation_id": made["id"]}
        score = score_row(made["id"], "s", Score(1.0))
        store.write({"genopt_generations": [made], "genopt_scores": [score], "genopt_trial_rows": [link]})
        store.remember_examples(study, [(Example("r1", {}), "d", "tune")])
        store.leases.join(Worker(f"w{study}", "host", "1"), study)
        store.leases.claim(study, f"w{study}", ["a name"])
    store.delete(1, [1])
    for table in metadata.tables:
        if table not in ("genopt_meta", "genopt_judgments"):  # a judgment is about a text, whichever study it is in
            assert query(url, f"SELECT count(*) FROM {table}") == [(1,)], table
    assert store.rows(1, KEY, "tune") == []
    assert store.rows(2, KEY, "tune")[0].scores == {"s": Score(1.0)}


def test_a_worker_joins_beats_and_closes(store: Store) -> None:
    leases = store.leases
    leases.join(Worker("w", "host", "12:3", lease=7.0), 1)
    leases.join(Worker("w", "host", "12:3", lease=7.0), 1)
    (before,) = leases.workers(1)
    assert (before.id, before.host, before.process, before.lease) == ("w", "host", "12:3", 7.0)
    assert before.started == before.heartbeat
    assert abs(before.heartbeat - time.time()) < 5
    assert 0 <= before.age < 5
    assert leases.beat("w", stage="search", rate=2.5)
    (after,) = leases.workers(1)
    assert after.heartbeat >= before.heartbeat
    assert (after.closed, after.stage, after.rate) == (False, "search", 2.5)
    leases.end("w")
    assert leases.workers(1)[0].closed
    assert not leases.beat("w"), "others took it for over"
    leases.rejoin("w")
    assert leases.beat("w")
    assert leases.workers(2) == []


def test_a_claim_is_held_by_one_worker_until_it_is_given_back(store: Store) -> None:
    leases = store.leases
    for name in ("a", "b"):
        leases.join(Worker(name, "host", "1"), 1)
    assert leases.claim(1, "a", ["x", "y"]) == {"x": "a", "y": "a"}
    assert leases.claim(1, "b", ["y", "z"]) == {"y": "a", "z": "b"}
    assert leases.claim(2, "b", ["y"]) == {"y": "b"}, "another study's"
    assert leases.held(1, ["w", "x", "z"]) == {"x", "z"}
    leases.release(1, "b", ["x", "z"])
    assert leases.held(1, ["w", "x", "z"]) == {"x"}, "only what is one's own is given back"
    leases.end("a")
    assert leases.claim(1, "b", ["x", "y"]) == {"x": "b", "y": "b"}


def test_what_is_written_is_paid_by_its_worker_in_the_same_transaction(url: str, store: Store) -> None:
    store.leases.join(Worker("w", "host", "1"), 1)
    mine = Store(url, worker="w")
    mine.write({"genopt_generations": [row("r1"), row("r2", phase="confirm")]})
    mine.write({"genopt_scores": []})
    assert store.leases.workers(1)[0].paid == Spent(1, 1, 26)
    store.leases.end("w")
    mine.write({"genopt_generations": [row("r3")]})
    assert not mine.kept
    assert store.leases.workers(1)[0].paid == Spent(2, 1, 39), "what was paid is paid, whoever took the lease for over"
    with pytest.raises(sa.exc.IntegrityError):
        mine.write({"genopt_generations": [row("r4"), row("r5") | {"text": None}], FAILED: [{}]})
    assert store.leases.workers(1)[0].paid == Spent(2, 1, 39)
    mine.write({FAILED: [{}, {}]})
    mine.write({"genopt_generations": [row("r4")], FAILED: [{}]})
    assert store.leases.workers(1)[0].paid == store.spent(1) == Spent(3, 1, 52, failed=3)
    assert store.spent(2) == Spent()
    mine.close()


# --- the database


def test_create_is_repeatable_and_refuses_a_newer_schema(store: Store, url: str) -> None:
    store.create()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE genopt_meta SET value = '99' WHERE key = 'schema'")
    connection.close()
    with pytest.raises(StudyError, match="newer genopt") as error:
        store.create()
    assert "upgrade" in error.value.hint


def test_sqlite_runs_with_a_write_ahead_log(store: Store, url: str) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1000 * HICCUP
    assert query(url, "PRAGMA journal_mode") == [("wal",)]


def test_a_failed_write_leaves_nothing_behind(store: Store, url: str) -> None:
    broken = row("r2") | {"text": None}
    with pytest.raises(sa.exc.IntegrityError):
        store.write({"genopt_scores": [score_row(1, "s", Score(1.0))], "genopt_generations": [row("r1"), broken]})
    assert store.rows(1, KEY, "tune") == []
    assert query(url, "SELECT count(*) FROM genopt_scores") == [(0,)]


def test_two_writers_wait_for_each_other(url: str) -> None:
    ready = threading.Barrier(2)

    def work(name: str) -> None:
        ready.wait()  # both make the tables of a new file at once
        mine = Store(url)
        mine.create()
        for i in range(200):
            if i % 20 == 0:
                mine.spent(1)
            mine.write({"genopt_generations": [row(f"{name}{i}")]})
        mine.close()

    side_by_side(partial(work, "a"), partial(work, "b"))
    assert query(url, "SELECT count(*) FROM genopt_generations") == [(400,)]


def test_reading_and_then_writing_in_one_transaction_works_side_by_side(url: str) -> None:
    # two connections that read first and write then: without BEGIN IMMEDIATE one of them fails
    first, second, table = Store(url), Store(url), metadata.tables["genopt_generations"]
    first.create()

    def work(store: Store, name: str) -> None:
        for i in range(60):
            with store._engine.begin() as connection:
                connection.execute(sa.select(sa.func.count()).select_from(table)).scalar()
                insert(connection, table, [row(f"{name}{i}")])

    side_by_side(partial(work, first, "a"), partial(work, second, "b"))
    first.close()
    second.close()


def test_one_that_reads_sees_the_last_commit_while_another_writes_and_cannot_write(url: str) -> None:
    writing, reading = Store(url), Store(url, reading=True)
    writing.create()
    writing.write({"genopt_generations": [row("r1")]})
    with writing._engine.begin() as connection:
        insert(connection, metadata.tables["genopt_generations"], [row("r2")])
        assert reading.spent(1).generations == 1
    assert reading.spent(1).generations == 2
    with pytest.raises(sa.exc.OperationalError, match="readonly"):
        reading.write({"genopt_generations": [row("r3")]})
    writing.write({"genopt_generations": [row("r4")]})
    assert reading.spent(1).generations == 3
    reading.close()
    writing.close()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("nonsense", "cannot be used"),
        ("mysql+nothing://u:secret@h/db", "cannot be used"),
        ("sqlite:////nowhere/at/all/study.db", "cannot be written"),
    ],
)
def test_an_unusable_url_is_a_study_error_with_a_hint(bad: str, says: str) -> None:
    with pytest.raises(StudyError, match=says) as error:
        Store(bad).create()
    assert "secret" not in str(error.value)
    assert error.value.hint


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text(
        "this is a text file, and long enough to be looked at as a database header\n" * 9
    )
    with pytest.raises(StudyError, match="not a database"):
        Store(f"sqlite:///{tmp_path / 'study.db'}").create()


def test_passwords_are_masked() -> None:
    assert masked("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert "secret" not in masked("postgresql//me:secret@host/db")


# --- another database


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a fresh PostgreSQL server on this machine's loopback."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    try:
        with Postgres() as server:
            yield server.url
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.mark.real
def test_postgresql_keeps_rows_as_sqlite_does(postgres: str) -> None:
    store = Store(postgres)
    store.create()
    store.create()
    made = generation("Grüße 🎈 a\0b\ud800", 7, finish="length", why="cut\0")
    first = row("r1", made=made)
    score = score_row(first["id"], "s", Score(None, "why\0"))
    link = {"trial_id": 5, "generation_id": first["id"]}
    for _ in range(2):  # the second time everything exists already
        store.write({"genopt_generations": [first], "genopt_scores": [score], "genopt_trial_rows": [link]})
    (found,) = store.rows(1, KEY, "tune")
    assert (found.generation.text, found.generation.why) == ("Grüße 🎈 a\ufffdb?", "cut\ufffd")
    assert found.scores == {"s": Score(None, "why\ufffd")}
    assert store.spent(1) == Spent(1, 0, 17)
    store.remember_examples(1, [(Example("r1", {"text": "a\0\ud800"}), "d", "tune")])
    assert store.copy(1, 2, ["r1"]) == 1
    store.copy_examples(1, 2)
    leases = store.leases
    leases.join(Worker("w", "host", "1"), 1)
    assert abs(leases.workers(1)[0].heartbeat - time.time()) < 5
    assert leases.claim(1, "w", ["x"]) == {"x": "w"}
    assert leases.claim(1, "v", ["x"]) == {"x": "w"}
    assert leases.beat("w", rate=1.5)
    leases.end("w")
    assert leases.workers(1)[0].closed
    assert leases.held(1, ["x"]) == set()
    store.delete(1, [5])
    assert store.rows(1, KEY, "tune") == []
    assert store.rows(2, KEY, "tune")[0].scores == found.scores
    store.delete(2, [])
    store.close()


@pytest.mark.real
def test_postgresql_takes_two_writers_of_the_same_rows(postgres: str) -> None:
    store = Store(postgres)
    store.create()

    def work(name: str) -> None:
        mine = Store(postgres)
        for i in range(100):
            mine.write({"genopt_generations": [row(f"same{i}", study=7), row(f"{name}{i}", study=7)]})
        mine.close()

    side_by_side(partial(work, "a"), partial(work, "b"))
    assert store.spent(7).generations == 300
    store.close()


@pytest.mark.real
def test_a_whole_study_runs_on_postgresql_and_resumes(postgres: str, tmp_path: Path) -> None:
    spec = make_study(toy.study(tmp_path, storage=postgres), folder=tmp_path)
    result = optimize(spec)
    assert result.verdict.verdict in ("improved", "not shown", "worse")
    store = Store(postgres)
    study = next(study for study in range(1, 50) if store.spent(study).confirm_generations)
    spent = store.spent(study)
    again = json.loads(json.dumps(optimize(spec).verdict.to_json()))
    assert again == json.loads(json.dumps(result.verdict.to_json()))
    assert store.spent(study) == spent
    store.close()
