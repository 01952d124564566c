"""Owns how a database is reached: the URL and its password, SQLite's manners, and the words of a refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Engine, make_url

T = TypeVar("T")
URL_HINT = "write e.g. sqlite:///study.db or postgresql://user:password@host/database; %40 stands for @ in a password"


def masked(url: str | URL) -> str:
    """The URL without its password, for messages; one that cannot be taken apart is shown only if it can hold none."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (sa.exc.ArgumentError, ValueError):
        return "the storage URL" if "@" in str(url) else repr(str(url))


def tune_sqlite(engine: Engine) -> None:
    """Make SQLite safe and quick for several connections: WAL, one writer at a time that others wait for.

    BEGIN IMMEDIATE takes the write lock at once: without it two connections that read and then write fail each other.
    """
    if engine.dialect.name != "sqlite":
        return

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def engine_options(url: str) -> dict[str, Any]:
    """Keywords for `create_engine`: waiting for a busy SQLite file, reconnecting to a restarted server."""
    return {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}


def made_together(make: Callable[[], T]) -> T:
    """What `make` gives, which makes tables where they are missing, also when other processes do so right now.

    They find each other's tables half-made ("already exists", a second row where one belongs, a locked file); trying
    again finds them whole.
    """
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        try:
            return make()
        except sa.exc.SQLAlchemyError as error:
            said = reason(error).lower()
            if not isinstance(error, sa.exc.IntegrityError) and "already exists" not in said and "locked" not in said:
                raise
        time.sleep(pause)
    return make()


def refusal(error: Exception) -> str:
    """Why a URL is refused; nothing of it is quoted when it may hold a password that could not be told apart."""
    if isinstance(error, ValueError) and not isinstance(error, sa.exc.ArgumentError):
        return "its port is not a number"
    return str(error).splitlines()[0]


def reason(error: BaseException) -> str:
    """The first line of what the driver said."""
    return (str(getattr(error, "orig", None) or error) or type(error).__name__).splitlines()[0]
