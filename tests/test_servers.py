"""Studies on database servers that are killed, restarted, cut off and late: workers wait, go on and repeat nothing."""

from __future__ import annotations

import importlib
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from genopt import connections, session
from genopt.archive import load
from genopt.connections import engine_options, tune
from genopt.database import passing
from tests.databases import MariaDB, Missing, Postgres, Server, free_port, wire
from tests.dying import Command, command, complete
from tests.processes import log
from tests.test_faults import KILLED, PLACES, small
from tests.test_resume import requested

pytestmark = pytest.mark.real


@pytest.fixture(scope="module", params=[Postgres, MariaDB], ids=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Iterator[Any]:
    pytest.importorskip("psycopg" if request.param is Postgres else "pymysql")
    with started(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    with started(Postgres) as server:
        yield server


@contextmanager
def started(kind: Callable[[], Any]) -> Iterator[Any]:
    try:
        with kind() as server:
            yield server
    except Missing as missing:
        pytest.skip(str(missing))


def until(true: Callable[[], Any], running: Command, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert running.process.is_alive(), running.said()
        assert time.monotonic() < end, running.said()
        time.sleep(0.02)


def rows(url: str, query: str) -> list[Any]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.exec_driver_sql(query)]
    engine.dispose()
    return found


def committed(url: str) -> set[tuple[str, str, int, str]]:
    found = rows(url, "SELECT params, example_id, sample, phase FROM genopt_generations")
    return {(json.dumps(json.loads(params), sort_keys=True), *rest) for params, *rest in found}


def nothing_is_left(url: str) -> None:
    assert rows(url, "SELECT count(*) FROM trials WHERE state IN ('RUNNING', 'WAITING')") == [(0,)]
    assert rows(url, "SELECT name FROM genopt_claims") == []
    assert rows(url, "SELECT count(*) FROM genopt_workers WHERE NOT closed") == [(0,)]


def test_a_study_is_begun_killed_shared_and_read(server: Server, tmp_path: Path) -> None:
    url = server.database("whole")
    small(tmp_path, delay=0.02)
    at = ("--storage", url)
    assert complete(tmp_path, *at, place=PLACES["tell: the outcome is there"]).code == KILLED
    kept, before = committed(url), len(log(tmp_path))
    with command(tmp_path, *at) as one, command(tmp_path, *at) as other:
        ended = [one.finish(), other.finish()]
    assert [each.code for each in ended] == [0, 0], [each.err[-1500:] for each in ended]
    assert ended[0].out == ended[1].out
    assert not kept & {requested(line) for line in log(tmp_path)[before:]}
    assert max(Counter(requested(line) for line in log(tmp_path)[before:]).values()) == 1
    nothing_is_left(url)
    asked = len(log(tmp_path))
    assert complete(tmp_path, *at).verdict == ended[0].verdict
    assert len(log(tmp_path)) == asked
    study = f"{url}#toy"
    archive = load(study)
    assert archive.verdict is not None and len(archive.observations()) > 0
    for words in (
        ["studies", "list", url],
        ["studies", "--live", url],
        ["report", f"{url}#toy"],
        ["best", f"{url}#toy"],
    ):
        shown = Command(tmp_path, words).finish()
        assert shown.code == 0 and shown.out and "hidden" not in shown.out + shown.err, shown.err
    for words in (["studies", "clone", f"{url}#toy", "copy"], ["studies", "delete", f"{url}#copy", "--yes"]):
        assert Command(tmp_path, words).finish().code == 0


def test_a_server_that_is_killed_is_waited_for(server: Server, tmp_path: Path) -> None:
    """By one that works, and by one that is started meanwhile."""
    url = server.database("killed")
    small(tmp_path, delay=0.1)
    with command(tmp_path, "--storage", url) as worker:
        until(lambda: len(log(tmp_path)) > 30, worker)
        server.stop(signal.SIGKILL)
        time.sleep(0.2)  # what was committed is now known
        with command(tmp_path, "--storage", url) as late:
            until(lambda: "does not answer" in worker.said() and "does not answer" in late.said(), late)
            time.sleep(1.0)
            server.start()
            kept, before = committed(url), len(log(tmp_path))
            ended = [worker.finish(), late.finish()]
    assert [each.code for each in ended] == [0, 0], [each.err[-1500:] for each in ended]
    for each in ended:
        assert "waiting for it, 15 min at most" in each.err and "is back after" in each.err
        assert "hidden" not in each.err and "Traceback" not in each.err
    assert not kept & {requested(line) for line in log(tmp_path)[before:]}
    assert max(Counter(requested(line) for line in log(tmp_path)).values()) == 1
    nothing_is_left(url)


def test_a_server_that_stays_away_is_left_with_the_code_that_says_come_back(postgres: Postgres, tmp_path: Path) -> None:
    small(tmp_path)
    away = postgres.url.replace(str(postgres.port), str(free_port()))
    ended = complete(tmp_path, "--storage", away, "--wait", "1")
    assert ended.code == 75
    assert "run the same command" in ended.err and "Traceback" not in ended.err


def test_who_holds_nothing_stops_at_once_though_no_database_has_answered(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    small(tmp_path)
    away = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with command(tmp_path, "--storage", away) as waiting:
        until(lambda: "does not answer" in waiting.said(), waiting)
        began = time.monotonic()
        waiting.send(signal.SIGTERM)
        ended = waiting.finish(30)
    assert time.monotonic() - began < 0.5 * session.GRACE
    assert ended.code == 75 and "Traceback" not in ended.err, ended.err


def test_who_holds_work_waits_a_while_for_the_database_before_it_stops(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database("stopped")
    small(tmp_path, delay=0.1)
    hurry = partial(hasty, "genopt.session", "GRACE", 1.0)
    with command(tmp_path, "--storage", url, prepare=hurry) as worker:
        until(lambda: len(log(tmp_path)) > 10, worker)
        postgres.stop(signal.SIGKILL)
        try:
            until(lambda: "does not answer" in worker.said(), worker)
            began = time.monotonic()
            worker.send(signal.SIGTERM)
            ended = worker.finish(30)
        finally:
            postgres.start()
    assert time.monotonic() - began < 1.0 + 5, "it waits for the database no longer than GRACE, and for nothing else"
    assert ended.code == 75 and "Traceback" not in ended.err, ended.err
    assert session.GRACE + 5 <= 15, "Slurm waits for 30 s before it kills"


def test_a_wrong_password_name_or_host_is_told_at_once(postgres: Postgres, tmp_path: Path) -> None:
    small(tmp_path)
    url = postgres.url
    for wrong in (
        url.replace("hidden", "geheim"),
        url.removesuffix("postgres") + "nowhere",
        url.replace("127.0.0.1", "nowhere.invalid"),
    ):
        ended = complete(tmp_path, "--storage", wrong)
        assert ended.code == 2, ended.err
        assert "cannot be opened" in ended.err and "check host, port, name, password" in ended.err
        assert "geheim" not in ended.err and "does not answer" not in ended.err


def hasty(module: str, name: str, seconds: float) -> None:
    """Have a constant of a module say so many seconds."""
    setattr(importlib.import_module(module), name, seconds)


def test_a_network_that_is_cut_is_waited_for(postgres: Postgres, tmp_path: Path) -> None:
    """For longer than an answer is waited for."""
    url = postgres.database("cut")
    small(tmp_path, delay=0.1)
    with wire(postgres.port) as line:
        at = ("--storage", url.replace(str(postgres.port), str(line.port)))
        with command(tmp_path, *at, prepare=partial(hasty, "genopt.connections", "SILENCE", 1)) as worker:
            until(lambda: len(log(tmp_path)) > 20, worker)
            line.cut()
            time.sleep(3.0)
            line.mend()
            ended = worker.finish(60)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    assert max(Counter(requested(line) for line in log(tmp_path)).values()) == 1
    nothing_is_left(url)


def test_an_answer_that_never_comes_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE", 1)
    with wire(server.port) as line:
        url = server.url.replace(str(server.port), str(line.port))
        engine = sa.create_engine(url, **engine_options(url))
        tune(engine)
        with engine.connect() as connection:
            line.lose()
            began = time.monotonic()
            with pytest.raises(sa.exc.OperationalError) as lost:
                connection.exec_driver_sql("SELECT 1")
            assert passing(lost.value)
        assert 0.9 < time.monotonic() - began < 5
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT 2").scalar() == 2
        engine.dispose()


def test_a_server_is_told_not_to_wait_for_a_client_that_is_gone(server: Server) -> None:
    """Else what it had locked would stay so for hours."""
    engine = sa.create_engine(server.url, **engine_options(server.url))
    tune(engine)
    with engine.connect() as connection:
        if isinstance(server, Postgres):
            assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "20s"
            assert connection.exec_driver_sql("SHOW tcp_keepalives_idle").scalar() == "15"
        else:
            assert connection.exec_driver_sql("SELECT @@SESSION.wait_timeout").scalar() == 20
    engine.dispose()
