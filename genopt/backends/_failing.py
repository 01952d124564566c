"""Owns how the requests of an engine's thread fail: each with an error of its own, unless it was cancelled first."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

from genopt.errors import BackendError


class Waiting(Protocol):
    """A request on its way."""

    @property
    def future(self) -> Future[Any]: ...


def fail(jobs: Iterable[Waiting], error: BackendError) -> None:
    """Give the error to all that are not done yet."""
    for job in jobs:
        # An error of its own, since each gets a traceback.
        own = BackendError(str(error), retryable=error.retryable, outside=error.outside, hint=error.hint)
        own.__cause__ = error.__cause__
        try:
            job.future.set_exception(own)
        except InvalidStateError:
            continue


def closed() -> BackendError:
    """What is unfinished when an engine is closed."""
    return BackendError("the engine was closed before the text was finished")
