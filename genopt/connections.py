"""Owns the manners of single connections: SQLite's, and how both ends of one to a server find out that the other is no
longer there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Engine

from genopt.database import given_up_at, locked, passing

T = TypeVar("T")
log = logging.getLogger(__name__)
BUSY = 60.0  # seconds that an SQLite file is waited for while others write to it
HICCUP = 2.0  # seconds of that which are not worth a line; for so long SQLite waits by itself, and hears no stop
PAUSE = 0.02  # seconds until one that was refused at once asks again
_told: set[str] = set()  # files of which this process has said that it waits for them
SILENCE = 60  # seconds without a byte after which an answer is no longer expected, and what was asked is asked anew
KEPT_ALIVE = ("SET tcp_keepalives_idle = 15", "SET tcp_keepalives_interval = 5", "SET tcp_keepalives_count = 3")


def tune(engine: Engine, *, reading: bool = False) -> None:
    """Give every connection of an engine its manners; those it has are dropped. One for `reading` waits for no writer
    of an SQLite file, where WAL allows that, and cannot write there."""
    if engine.dialect.name == "sqlite":
        _tune_sqlite(engine, reading=reading)
    elif engine.dialect.name == "postgresql":
        _tell(engine, f"SET idle_in_transaction_session_timeout = '{_gone()}s'", *KEPT_ALIVE)
        if engine.dialect.driver == "psycopg":
            _listen(engine)
    elif engine.dialect.name in ("mysql", "mariadb"):
        _tell(engine, f"SET SESSION wait_timeout = {_gone()}")
    if engine.dialect.name != "sqlite":
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)  # its tracebacks of lost connections
    engine.dispose()


def engine_options(url: str) -> dict[str, Any]:
    """Keywords for `create_engine`: waiting for a busy SQLite file, reconnecting to a restarted server, and finding out
    that one can no longer be reached."""
    if url.startswith("sqlite"):
        return {"connect_args": {"timeout": HICCUP}}  # for longer: see patiently
    options: dict[str, Any] = {"pool_pre_ping": True}
    if "psycopg" in url or url.startswith("postgresql:"):
        quiet = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
        options["connect_args"] = {"connect_timeout": 10, **quiet}
    elif "pymysql" in url:
        options["connect_args"] = {"connect_timeout": 10, "read_timeout": SILENCE, "write_timeout": SILENCE}
    return options


def file_of(url: str | sa.URL) -> str | None:
    """The SQLite file behind a URL; None for another database."""
    url = sa.make_url(url)
    return str(url.database) if url.get_backend_name() == "sqlite" else None


def patiently(file: str | None, action: Callable[[], T]) -> T:
    """What `action` gives, done again while another process has the SQLite file for itself: that this is waited for is
    told once. Without a file it is just done. Raises Locked when it takes too long."""
    if file is None:
        return action()
    began = time.monotonic()
    while True:
        try:
            found = action()
        except Exception as error:
            if not passing(error):
                raise
            now = time.monotonic()
            if now > min(began + BUSY, given_up_at()):
                raise locked(file) from error
            if now - began >= HICCUP and file not in _told:
                _told.add(file)
                log.warning("%s; waiting for it to be done", locked(file))
            time.sleep(PAUSE)
        else:
            _told.discard(file)
            return found


def _tune_sqlite(engine: Engine, *, reading: bool) -> None:
    """Make SQLite safe and quick for several connections: WAL, one writer at a time that others wait for, and say so.

    BEGIN IMMEDIATE takes the write lock at once: without it two connections that read and then write fail each other.
    Who only reads needs no more than what a SELECT takes, which in WAL no writer holds up.
    """
    file = file_of(engine.url)

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        if reading:
            connection.execute("PRAGMA query_only=ON")
        else:
            patiently(file, lambda: connection.execute("PRAGMA journal_mode=WAL"))
            connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        lock = "BEGIN IMMEDIATE"
        if reading:
            connection.exec_driver_sql("BEGIN")  # locks nothing yet
            lock = "SELECT 1 FROM sqlite_master LIMIT 1"
        patiently(file, lambda: connection.exec_driver_sql(lock).close())


def _gone() -> int:
    """Seconds of silence after which a server gives up a client, whose locks stop the others: before these lose
    patience."""
    return max(1, SILENCE // 3)


def _tell(engine: Engine, *statements: str) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        connection.commit()


def _listen(engine: Engine) -> None:
    """Have psycopg give up an answer of which nothing comes; TCP cannot tell where something between the two ends, such
    as a proxy, keeps the connection up."""
    import psycopg

    class Listening(psycopg.Connection[Any]):
        def wait(self, gen: Any, *args: Any, **keywords: Any) -> Any:
            try:
                return super().wait(_heard(gen), *args, **keywords)
            except TimeoutError:
                self.pgconn.finish()  # what it may still say would be taken for another answer
                raise psycopg.OperationalError(f"no answer for {SILENCE} s") from None

    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, record: Any, arguments: Any, keywords: Any) -> Any:
        return Listening.connect(*arguments, **keywords)


def _heard(asked: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
    """The same conversation; raises TimeoutError when nothing could be read or written for too long."""
    heard, ready = time.monotonic(), None
    while True:
        try:
            wanted = asked.send(ready)
        except StopIteration as ended:
            found: T = ended.value
            return found
        ready = yield wanted
        if ready:
            heard = time.monotonic()
        elif time.monotonic() - heard > SILENCE:
            asked.close()
            raise TimeoutError
