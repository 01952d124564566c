"""Owns every error genopt raises on purpose, and nothing else.

    GenoptError
     |- SpecError       the study file, the data or the command line is wrong     exit code 2
     |- MissingExtra    an optional library is not installed                       exit code 2
     |- BackendError    an engine refused or failed a request                      exit code 1
     |- ScorerError     a scorer failed                                            exit code 1
     |- StudyError      the study's storage says no (changed, locked, unknown)     exit code 2

`str(error)` is one sentence that names what is wrong; `error.hint` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class GenoptError(Exception):
    """Base of all of them: a message for a person, a hint, and the exit code of the command line."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SpecError(GenoptError):
    """Bad input, found before anything is spent.

    `problems` holds every mistake that was found, one line each (`file: key: what is wrong. What to do`).
    """

    exit_code = 2

    def __init__(self, message: str | Sequence[str], *, hint: str = "") -> None:
        self.problems: tuple[str, ...] = (message,) if isinstance(message, str) else tuple(message)
        super().__init__("\n".join(self.problems), hint=hint)


class MissingExtra(GenoptError):
    """An optional library is missing; the message holds the pip line that installs it."""

    exit_code = 2

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f'{what} is not installed. Install it with: pip install "genopt[{extra}]"')
        self.extra = extra


class BackendError(GenoptError):
    """An engine refused or failed a request.

    `retryable` says whether the same request may succeed later (a busy server) or never will (a wrong model), `outside`
    that no request is to blame: a server that was waited for in vain, a key that is refused, a quota that is spent.
    """

    def __init__(self, message: str, *, retryable: bool = False, outside: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable
        self.outside = outside

    @property
    def final(self) -> bool:
        """Whether the request itself may be to blame, and would be refused again."""
        return not self.retryable and not self.outside


class ScorerError(GenoptError):
    """A scorer failed on an example, or cannot work with this study."""


class StudyError(GenoptError):
    """The study's storage cannot do what was asked: unknown, changed, of another tool, not writable."""

    exit_code = 2


@contextmanager
def writing(where: str) -> Iterator[None]:
    """Writing a file that the user named: where that fails, a SpecError that begins with `where`."""
    try:
        yield
    except OSError as error:
        raise SpecError(f"{where}: cannot be written ({error.strerror or error}). Name another file") from None
