"""Owns the thread that commits rows in batches and keeps the worker's lease alive. Knows no table's meaning.

Rows are committed within `delay` seconds of being added, and at once when somebody waits for a flush. The lease is
renewed with every commit, and every `beat` seconds without one.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from genopt.database import Patience, masked, passing, reason
from genopt.errors import GenoptError, StudyError
from genopt.store import Store

log = logging.getLogger(__name__)

MISSED = 2  # beats: after so much silence others may have been silent, too


class Writer:
    """A queue of rows in front of a Store that only this thread uses; without a worker there is no lease to keep.

    `renewed` is when the lease was renewed last (time.monotonic), `back` when that happened after a silence of several
    beats, `lost` how often others took it for over; `stage` is what the worker says it does.
    """

    def __init__(
        self,
        url: str,
        worker_id: str = "",
        *,
        delay: float = 0.3,
        beat: float = 10.0,
        patience: Patience | None = None,
    ):
        self._url, self._worker_id = url, worker_id
        self._delay, self._beat = delay, beat
        self._patience = patience or Patience(url)
        self.renewed, self.lost, self.stage = time.monotonic(), 0, ""
        self.back = -math.inf
        self._made = 0
        self._rows: dict[str, list[Mapping[str, Any]]] = {}
        self._waiting: list[Future[None]] = []
        self._wake = threading.Condition()
        self._closing = self._busy = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="genopt-writer", daemon=True)
        self._thread.start()

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Queue one row. Raises the error that stopped the thread, if one did."""
        with self._wake:
            self._check()
            first = not self._rows
            self._rows.setdefault(table, []).append(row)
            if first:
                self._wake.notify()

    def flush(self) -> Future[None]:
        """A future that is done when everything added before is committed."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # who stops waiting (Ctrl-C) must not cancel what the thread will set
        with self._wake:
            self._check()
            if not self._rows and not self._waiting and not self._busy:
                future.set_result(None)
            else:
                self._waiting.append(future)
                self._wake.notify()
        return future

    def close(self) -> None:
        """Commit what is queued, end the lease and stop the thread; safe to call twice."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _check(self) -> None:
        if self._error is not None:
            raise self._failure(self._error) from self._error

    def _failure(self, error: BaseException) -> GenoptError:
        if isinstance(error, GenoptError):
            return type(error)(str(error), hint=error.hint)
        return StudyError(
            f"storage: {masked(self._url)} could not be written: {reason(error)}",
            hint="nothing committed is lost: free the disk or restart the database, then run the same command",
        )

    def _run(self) -> None:
        waiting: list[Future[None]] = []
        store: Store | None = None
        beaten = time.monotonic()
        try:
            store = Store(self._url, worker=self._worker_id)
            while True:
                with self._wake:
                    if not self._rows and not self._waiting and not self._closing:
                        self._wake.wait(max(0.05, self._beat - (time.monotonic() - beaten)))
                    if self._rows and not self._waiting and not self._closing:
                        self._wake.wait(self._delay)
                    rows, self._rows = self._rows, {}
                    waiting, self._waiting = self._waiting, []
                    closing = self._closing
                    self._busy = bool(rows)
                if rows:
                    self._commit(store, rows)
                with self._wake:
                    self._busy = False
                for future in waiting:
                    future.set_result(None)
                if closing and not self._rows:
                    if self._worker_id:
                        self._patience(lambda: store.leases.end(self._worker_id))
                    return
                if time.monotonic() - beaten >= self._beat:
                    self._renew(store, time.monotonic() - beaten)
                    beaten = time.monotonic()
        except BaseException as error:
            failure = self._failure(error)
            failure.__cause__ = error
            with self._wake:
                self._error = error
                for future in [*waiting, *self._waiting]:
                    if not future.done():
                        future.set_exception(failure)
        finally:
            if store is not None:
                store.close()

    def _commit(self, store: Store, rows: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Commit, and keep trying while the database is away or busy."""
        self._patience(lambda: store.write(rows))
        self._made += len(rows.get("genopt_generations", ()))
        self._kept(store)

    def _renew(self, store: Store, seconds: float) -> None:
        """Renew the lease; a database that is away is asked again at the next beat."""
        if not self._worker_id:
            return
        try:
            with self._patience.heard():
                store.kept = store.leases.beat(self._worker_id, stage=self.stage, rate=self._made / seconds)
        except Exception as error:
            if not passing(error):
                raise
            log.warning("the lease could not be renewed (%s)", type(error).__name__)
        else:
            self._made = 0
            self._kept(store)

    def _kept(self, store: Store) -> None:
        """Note that the lease was renewed, or begin it anew where others took it for over."""
        if not self._worker_id:
            return
        if not store.kept:
            self._patience(lambda: store.leases.rejoin(self._worker_id))
            store.kept = True
            self.lost += 1
            log.warning("this worker was silent for longer than its lease; others took over what it had in hand")
        now = time.monotonic()
        if now - self.renewed > MISSED * self._beat:
            self.back = now
        self.renewed = now
