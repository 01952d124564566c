"""Owns which of several engines gets a request. Knows no Ray and no request, only the names of examples."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

from genopt.errors import BackendError

MARGIN = 0.25


@dataclass(eq=False)
class Engine:
    """One engine that answers: its number, what reaches it, how many requests it takes at once, and how many it has."""

    number: int
    handle: Any
    places: int
    running: int = 0

    @property
    def load(self) -> float:
        """The share of its places that are taken."""
        return self.running / self.places


class Dispatch:
    """Gives every request an engine with a free place; where none has one, requests wait in the order they came.

    The rule: an example's home is the engine that got its latest request. While the home has a free place and its load
    (the share of its places that are taken) is at most `margin` above that of the least loaded engine, the example's
    requests go there, where its prompt is cached; else they go to the least loaded engine (the lowest number among
    equals), which becomes the home. So nothing waits for its home while another engine has room.
    """

    def __init__(self, margin: float = MARGIN) -> None:
        self.margin = margin
        self.engines: dict[int, Engine] = {}
        self._homes: dict[str, int] = {}
        self._waiting: deque[tuple[str, asyncio.Future[Engine]]] = deque()
        self._over: BackendError | None = None

    def join(self, engine: Engine) -> None:
        """An engine more."""
        self.engines[engine.number] = engine
        self._serve()

    def resize(self, engine: Engine, places: int) -> None:
        """An engine takes so many from now on."""
        engine.places = places
        self._serve()

    def leave(self, engine: Engine) -> None:
        """An engine less; what it has is for those to ask elsewhere who sent it."""
        if self.engines.get(engine.number) is engine:
            del self.engines[engine.number]

    async def take(self, example: str) -> Engine:
        """An engine with a place, which is then taken: `give_back` frees it. Raises what `end` was told."""
        if self._over is not None:
            raise self._over
        if not self._waiting and (engine := self._choose(example)) is not None:
            return engine
        place: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        self._waiting.append((example, place))
        try:
            return await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled() and place.exception() is None:
                self.give_back(place.result())
            raise

    def give_back(self, engine: Engine) -> None:
        """Free a place that was taken."""
        engine.running -= 1
        self._serve()

    def end(self, error: BackendError) -> None:
        """Whoever waits or comes gets this error: there is no engine any more."""
        self._over = error
        while self._waiting:
            _, place = self._waiting.popleft()
            if not place.done():
                place.set_exception(error)

    @property
    def waiting(self) -> int:
        """How many requests have no place yet."""
        return sum(not place.done() for _, place in self._waiting)

    def _serve(self) -> None:
        while self._waiting:
            example, place = self._waiting[0]
            if not place.done():
                engine = self._choose(example)
                if engine is None:
                    return
                place.set_result(engine)
            self._waiting.popleft()

    def _choose(self, example: str) -> Engine | None:
        free = [engine for engine in self.engines.values() if engine.running < engine.places]
        if not free:
            return None
        least = min(free, key=lambda engine: (engine.load, engine.number))
        home = self.engines.get(self._homes.get(example, -1))
        near = home is not None and home.running < home.places and home.load <= least.load + self.margin
        engine = home if near and home is not None else least
        self._homes[example] = engine.number
        engine.running += 1
        return engine
