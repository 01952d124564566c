"""Owns how a database is reached: the URL and its password, its clock, waiting for one that is away, and the words of a
refusal."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from genopt.errors import StudyError

T = TypeVar("T")
_here = threading.local()  # .patience: that with which this thread is in the database
log = logging.getLogger(__name__)
SQLITE = b"SQLite format 3\0"  # how a database's file begins
URL_HINT = "write e.g. sqlite:///study.db or postgresql://user:password@host/database; %40 stands for @ in a password"
# What a URL means where it names no driver; a scheme that is not here goes to SQLAlchemy as it is.
DRIVERS = {"postgres": "postgresql+psycopg", "mysql": "mysql+pymysql", "mariadb": "mariadb+pymysql"}
SECRETS = ("pass", "secret", "token", "key")  # parts of the names of a URL's options whose values are not shown
# What drivers say where nobody was there to refuse: the network, PostgreSQL or MySQL that starts, stops or is full.
UNANSWERED = (
    *("refused", "timeout", "timed out", "unreachable", "no route to host", "temporary failure", "reset by peer"),
    *("starting up", "shutting down", "recovery", "not yet accepting", "connection slots", "too many c"),
    *("closed the connection", "lost connection", "gone away", "server shutdown", "administrator command"),
    "no answer for",
)
GIVEN_UP = "25P03"  # PostgreSQL heard nothing in the middle of a transaction, and ended the session
WORN_OUT = (8, 10, 13, 14)  # SQLite's READONLY, IOERR, FULL and CANTOPEN
PATIENCE = 900.0  # seconds that a database may be away before a worker gives up


def with_driver(url: str) -> str:
    """The URL with the driver that genopt's extras install, where it names none."""
    scheme, mark, rest = url.partition("://")
    return DRIVERS.get(scheme, scheme) + mark + rest


def masked(url: str | URL) -> str:
    """The URL without its password, for messages; one that cannot be taken apart is shown only if it can hold none."""
    try:
        made = make_url(url)
        hidden = {name: "***" for name in made.query if any(part in name.lower() for part in SECRETS)}
        return made.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")
    except (sa.exc.ArgumentError, ValueError):
        return "the storage URL" if "@" in str(url) or "pass" in str(url).lower() else repr(str(url))


def unusable(path: Path) -> str:
    """Why SQLite cannot keep a study in this file, and what to do, as far as can be told without opening it; or ""."""
    folder = path.parent
    if not folder.is_dir():
        return f"{folder} is no folder. Make it, or check the path"
    if path.is_dir():
        return "is a folder. Name a file in it"
    if not os.access(folder, os.W_OK):
        return f"no file can be made in {folder}. Change its permissions, or name another storage"
    if path.exists() and not os.access(path, os.W_OK):
        return "the file cannot be written. Change its permissions, or name another storage"
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(16) not in (b"", SQLITE):
            return "the file is not a database. Move it away, or name another storage"
    return ""


class now(GenericFunction[float]):
    """Seconds since the epoch by the database's clock, which all workers share."""

    type = sa.Float(53)
    inherit_cache = True
    name = "genopt_now"


@compiles(now, "sqlite")
def _sqlite_now(element: now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql_now(element: now, compiler: Any, **kw: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


@compiles(now, "mysql")
@compiles(now, "mariadb")
def _mysql_now(element: now, compiler: Any, **kw: Any) -> str:
    return "(UNIX_TIMESTAMP(SYSDATE(6)) + 0e0)"


class Away(Exception):
    """What stands before the database cannot be reached just now, or cannot reach it."""


def passing(error: BaseException | None) -> bool:
    """Whether waiting may help: the database is busy, restarts, or cannot be reached just now."""
    while error is not None:
        if isinstance(error, Away):
            return True
        raw = error.orig if isinstance(error, sa.exc.DBAPIError) else error
        if type(raw).__module__.startswith("sqlite3"):
            said = str(raw).lower()
            return "locked" in said or "busy" in said
        if isinstance(error, sa.exc.DBAPIError):
            if getattr(error.orig, "sqlstate", None) == GIVEN_UP:
                return True
            return error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
        if isinstance(error, (sa.exc.TimeoutError, sa.exc.PendingRollbackError)):  # what ends the session that was lost
            return True
        error = error.__cause__
    return False


def unanswered(error: sa.exc.SQLAlchemyError) -> bool:
    """Whether nobody answered who could say no: a server that is not up (yet), not a wrong password, name or option."""
    said = str(getattr(error, "orig", None) or error).lower()
    return any(words in said for words in UNANSWERED)


class StorageAway(StudyError):
    """The database stayed away for too long; the same command goes on when it is back."""

    exit_code = 75


def given_up_at() -> float:
    """When (time.monotonic) what waits inside the database on this thread has to give up at the latest: see
    Patience.hurry, which may be called meanwhile."""
    patience: Patience | None = getattr(_here, "patience", None)
    return math.inf if patience is None else patience.until


class Locked(StudyError):
    """Another process has an SQLite file for itself."""


def locked(file: str) -> Locked:
    """What to say, and to do, where that takes too long."""
    return Locked(
        f"storage: {file} is locked: another process is writing to it",
        hint="end that process, or close the file there (a database browser, a script), then run the same command",
    )


class Patience:
    """Does something in the database, and again while the database is away: at most `seconds`, told by `tell`.

    What is done must bear being done twice: a commit may have succeeded although nobody heard of it.
    """

    def __init__(self, url: str, *, seconds: float = PATIENCE, tell: Callable[[str], None] = log.warning) -> None:
        self.url, self.seconds, self.tell = url, seconds, tell
        self.until = math.inf
        self._over = threading.Event()

    def __call__(self, action: Callable[[], T]) -> T:
        """What `action` gives. Raises what it raises, StorageAway when the database stays away, and StudyError when it
        can no longer be written."""
        began = time.monotonic()
        told, pause = False, 0.1
        while True:
            try:
                with self.heard():
                    found = action()
            except Exception as error:
                if not passing(error):
                    if (worn := worn_out(self.url, error)) is not None:
                        raise worn from error
                    raise
                if time.monotonic() > min(began + self.seconds, self.until):
                    raise self.away(error) from error
                if pause > 0.5 and not told:  # a hiccup is not worth a line
                    told = True
                    self.tell(f"{self._silent(error)}; waiting for it, {_minutes(self.seconds)} at most")
            else:
                if told:
                    self.tell(f"storage: {masked(self.url)} is back after {time.monotonic() - began:.0f} s")
                return found
            self._over.wait(pause)
            pause = min(pause * 2, 3.0)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """What waits inside the database on this thread meanwhile hears of `hurry` and `end`."""
        before, _here.patience = getattr(_here, "patience", None), self
        try:
            yield
        finally:
            _here.patience = before

    def hurry(self, seconds: float) -> None:
        """Wait so long at most from now on, for all that is still to be done together, also where another thread waits
        right now."""
        self.seconds = min(self.seconds, seconds)
        self.until = min(self.until, time.monotonic() + seconds)

    def end(self) -> None:
        """Wait no longer, neither from now on nor where another thread waits right now."""
        self.hurry(0.0)
        self._over.set()

    def away(self, error: BaseException) -> StudyError:
        """The error of one that stayed away; as it is where it was not to be waited for."""
        if isinstance(error, StudyError) and not self.seconds:
            return error
        return StorageAway(
            f"{self._silent(error)}, for too long to wait any longer",
            hint=error.hint
            if isinstance(error, Locked)
            else "nothing committed is lost: when the database is back, run the same command",
        )

    def _silent(self, error: BaseException) -> str:
        if isinstance(error, Locked):
            return str(error)
        return f"storage: {masked(self.url)} does not answer ({reason(_root(error))})"


def worn_out(url: str, error: BaseException) -> StudyError | None:
    """What to say, and to do, where an SQLite file cannot be written any longer (its disk is full, it was taken away);
    None where something else is wrong."""
    root = _root(error)
    code: int = getattr(getattr(root, "orig", None), "sqlite_errorcode", 0)
    if code & 0xFF not in WORN_OUT:
        return None
    return StudyError(
        f"storage: {masked(url)} cannot be written any longer ({reason(root)})",
        hint="nothing committed is lost: make room on its disk, or give it back, then run the same command",
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _root(error: BaseException) -> BaseException:
    """What the driver's layer said, beneath Optuna's words."""
    while not isinstance(error, sa.exc.SQLAlchemyError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def made_together(make: Callable[[], T]) -> T:
    """What `make` gives, which makes tables where they are missing, also when other processes do so right now.

    They find each other's tables half-made ("already exists", a second row where one belongs); trying again finds them
    whole.
    """
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6):
        try:
            return make()
        except sa.exc.SQLAlchemyError as error:
            said = reason(error).lower()
            if not isinstance(error, sa.exc.IntegrityError) and "already exists" not in said:
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
