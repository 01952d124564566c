"""The writer: done means committed, late rows go by themselves, errors reach whoever adds or waits."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from genopt import connections
from genopt.database import Patience
from genopt.errors import StudyError
from genopt.leases import Leases, Worker
from genopt.store import Store
from genopt.writer import Writer

WORKER = "w1"


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    store = Store(url)
    store.create()
    store.leases.join(Worker(WORKER, "host", "1"), 1)
    store.close()
    return url


@pytest.fixture
def make(url: str) -> Iterator[Callable[..., Writer]]:
    """Writers that are closed after the test."""
    writers: list[Writer] = []

    def build(**options: Any) -> Writer:
        writers.append(Writer(url, WORKER, **options))
        return writers[-1]

    yield build
    for writer in writers:
        writer.close()


def score(number: int) -> dict[str, Any]:
    return {"generation_id": number, "scorer_key": "s", "value": 1.0, "why": ""}


def committed(url: str) -> int:
    """What another connection sees."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return int(connection.execute("SELECT count(*) FROM genopt_scores").fetchone()[0])


def worker(url: str) -> tuple[float, bool]:
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        heartbeat, closed = connection.execute("SELECT heartbeat, closed FROM genopt_workers").fetchone()
        return float(heartbeat), bool(closed)


def until(true: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.005)
    return true()


class Gate:
    """Stands in for Store.write: waits to be let through, or fails as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, errors: Sequence[BaseException] = ()) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.errors = list(errors)
        self.calls = 0
        real = Store.write

        def write(store: Store, rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
            self.calls += 1
            self.entered.set()
            assert self.open.wait(10)
            if self.errors:
                raise self.errors.pop(0)
            real(store, rows)

        monkeypatch.setattr(Store, "write", write)


def away() -> OperationalError:
    return OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))


def test_a_flush_is_done_only_when_another_connection_sees_the_rows(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    writer = make(delay=60.0)
    for number in range(10):
        writer.add("genopt_scores", score(number))
    future = writer.flush()
    assert gate.entered.wait(5)
    assert not future.done()
    assert committed(url) == 0
    gate.open.set()
    future.result(5)
    assert committed(url) == 10


def test_a_flush_waits_for_a_commit_that_is_under_way(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    writer = make(delay=0.0)
    writer.add("genopt_scores", score(1))
    assert gate.entered.wait(5)  # the row has left the queue and is not yet committed
    future = writer.flush()
    time.sleep(0.05)
    assert not future.done()
    gate.open.set()
    future.result(5)
    assert committed(url) == 1


def test_rows_added_while_a_commit_runs_are_part_of_the_next_flush(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    writer = make(delay=0.0)
    writer.add("genopt_scores", score(1))
    assert gate.entered.wait(5)
    writer.add("genopt_scores", score(2))
    future = writer.flush()
    gate.open.set()
    future.result(5)
    assert committed(url) == 2


def test_a_flush_of_nothing_is_done_at_once(make: Callable[..., Writer]) -> None:
    writer = make()
    assert writer.flush().done()
    writer.add("genopt_scores", score(1))
    writer.flush().result(5)
    assert writer.flush().done()


def test_rows_are_committed_after_the_delay_without_a_flush(make: Callable[..., Writer], url: str) -> None:
    writer = make(delay=0.05)
    writer.add("genopt_scores", score(1))
    assert until(lambda: committed(url) == 1)
    writer.add("genopt_scores", score(2))
    assert until(lambda: committed(url) == 2)


def test_rows_wait_for_company_until_the_delay_is_over(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    gate.open.set()
    writer = make(delay=0.2)
    for number in range(50):
        writer.add("genopt_scores", score(number))
    assert until(lambda: committed(url) == 50)
    assert gate.calls <= 2


def test_close_commits_what_is_queued_and_ends_the_lease(make: Callable[..., Writer], url: str) -> None:
    writer = make(delay=60.0)
    for number in range(7):
        writer.add("genopt_scores", score(number))
    assert not worker(url)[1]
    writer.close()
    assert committed(url) == 7
    assert worker(url)[1]
    writer.close()


def test_many_threads_may_add_and_flush(make: Callable[..., Writer], url: str) -> None:
    writer = make(delay=0.01)
    missed: list[int] = []

    def work(start: int) -> None:
        for number in range(start, start + 50):
            writer.add("genopt_scores", score(number))
            if number % 10 == 9:
                writer.flush().result(10)
                mine = committed(url)
                if mine < number - start + 1:
                    missed.append(number)

    threads = [threading.Thread(target=work, args=(1000 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not missed
    assert committed(url) == 200


def test_an_error_reaches_those_who_wait_and_those_who_add(
    make: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, [ValueError("disk full")])
    gate.open.set()
    writer = make(delay=60.0)
    writer.add("genopt_scores", score(1))
    with pytest.raises(StudyError, match="disk full") as error:
        writer.flush().result(5)
    assert error.value.hint
    assert until(lambda: not writer._thread.is_alive())
    with pytest.raises(StudyError, match="disk full"):
        writer.add("genopt_scores", score(2))
    with pytest.raises(StudyError, match="disk full"):
        writer.flush()


def test_a_database_that_is_away_for_a_moment_is_tried_again(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, [away(), away()])
    gate.open.set()
    writer = make(delay=0.0)
    writer.add("genopt_scores", score(1))
    writer.flush().result(10)
    assert gate.calls == 3
    assert committed(url) == 1


def test_a_database_that_stays_away_is_given_up(make: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, [away() for _ in range(50)])
    gate.open.set()
    writer = make(delay=0.0, patience=Patience("sqlite://", seconds=0.3))
    writer.add("genopt_scores", score(1))
    with pytest.raises(StudyError, match="locked"):
        writer.flush().result(10)
    assert gate.calls >= 2


def test_the_lease_is_renewed_while_nothing_happens(make: Callable[..., Writer], url: str) -> None:
    make(beat=0.1)
    first = time.time()
    assert until(lambda: worker(url)[0] > first)
    second = worker(url)[0]
    assert until(lambda: worker(url)[0] > second)


def test_a_heartbeat_that_fails_does_not_stop_the_writer(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []
    real = Leases.beat

    def beat(leases: Leases, worker_id: str, **said: Any) -> bool:
        beats.append(worker_id)
        if len(beats) == 1:
            raise away()
        return real(leases, worker_id, **said)

    monkeypatch.setattr(Leases, "beat", beat)
    writer = make(beat=0.05)
    assert until(lambda: len(beats) >= 2)
    writer.add("genopt_scores", score(1))
    writer.flush().result(5)
    assert committed(url) == 1


def test_a_heartbeat_that_waits_for_a_locked_file_hears_that_it_is_to_end(
    make: Callable[..., Writer], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HICCUP", 0.1)
    patience, beats = Patience(url), []
    real = Leases.beat
    monkeypatch.setattr(Leases, "beat", lambda *args, **said: beats.append(1) or real(*args, **said))
    with closing(sqlite3.connect(tmp_path / "study.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        writer = make(beat=0.05, patience=patience)
        assert until(lambda: beats)
        began = time.monotonic()
        patience.end()
        writer.close()
        assert time.monotonic() - began < 5


def test_somebody_who_stops_waiting_does_not_stop_the_writer(
    make: Callable[..., Writer], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    writer = make(delay=60.0)

    async def scenario() -> None:
        writer.add("genopt_scores", score(1))
        waiting = asyncio.ensure_future(asyncio.wrap_future(writer.flush()))
        assert await asyncio.to_thread(gate.entered.wait, 5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(scenario())
    gate.open.set()
    writer.add("genopt_scores", score(2))
    writer.flush().result(5)
    assert committed(url) == 2
