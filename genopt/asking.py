"""Owns how the engine is asked for a text: again where that may help, with each call counted that made none; and what
comes of a request that is refused for good."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from genopt import handed
from genopt.errors import BackendError, GenoptError
from genopt.types import Backend, Generation, Request

ASKED = "it was asked about the row"
FORK = "(a study that has begun goes on with --fork NEW_NAME)"


@dataclass
class Asker:
    """Asks one engine, `kind` by its name in the study file. `failed` is told of every call that made nothing."""

    backend: Backend
    kind: str
    failed: Callable[[], None]
    called_off: Counter[str] = field(default_factory=Counter)
    """Calls that were cancelled, by the key of their configuration: who measures it knows whether they are paid for."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    settled: Request | None = None
    """Once the search is paid for: what the engine has answered. From then on a request that is refused for good is a
    failed text, scored lowest, and not the end of the study."""
    _begun: int = 0
    _answered: int = 0
    _doubt: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def generation(self, request: Request, key: str) -> Generation:
        """A text for the configuration of this key. Raises BackendError when the request failed for good (but see
        `settled`)."""

        async def once() -> Generation:
            return await self._patiently(request, key)

        try:
            return await once()
        except BackendError as error:
            if self.settled is not None and error.final and await self._works(self.settled, self._begun, key):
                return await _or_refused(once)
            if ASKED not in error.hint:  # one error may end many requests
                row = f"{ASKED} {request.example_id!r}; where that alone is to blame, leave it out {FORK}"
                error.hint = "; ".join(filter(None, [error.hint, row]))
            raise

    async def _patiently(self, request: Request, key: str) -> Generation:
        async def ask() -> Generation:
            self._begun += 1
            number = self._begun
            try:
                with handed.raised(f"backend.kind: {self.kind}", "generate"):
                    made = handed.generation(await self.backend.generate(request), self.backend)
            except asyncio.CancelledError:
                self.called_off[key] += 1
                raise
            except GenoptError:
                self.failed()
                raise
            self._answered = max(self._answered, number)
            return made

        return await handed.patiently(ask, self.sleep)

    async def _works(self, known: Request, begun: int, key: str) -> bool:
        """Whether the engine answers a call that came after the first `begun`: one whose answer is known, unless
        another was answered. Only then is a request to blame for being refused."""
        async with self._doubt:  # one asks for all
            if self._answered <= begun:
                with contextlib.suppress(BackendError):
                    await self._patiently(known, key)
                    self.failed()  # its text is not kept
        return self._answered > begun


async def _or_refused(ask: Callable[[], Awaitable[Generation]]) -> Generation:
    """What `ask` gives, now that the engine is known to work: a failed text where that is an error that is final."""
    try:
        return await ask()
    except BackendError as error:
        if not error.final:
            raise
        return Generation("", "error", 0, 0, 0.0, why=f"{handed.REFUSED}{error}")
