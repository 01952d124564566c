"""Owns where a text ends because of a stop string. It knows ids and a way to decode them, no model and no batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopWatch:
    """Finds the first stop string that ends in what was written once `min_tokens` tokens were there.

    Only the newest tokens are decoded at each step; the whole text is decoded once, when they hold a stop string.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str], min_tokens: int) -> None:
        self._decode = decode
        self._stop = stop
        self._min_tokens = max(1, min_tokens)
        # No token is shorter than a byte, except special ones; a few more tokens make up for broken characters.
        self._tail = max(len(s.encode()) for s in stop) + 4
        self._ignored: int | None = None

    def cut(self, ids: Sequence[int]) -> str | None:
        """The text before the stop string, None as long as none has appeared."""
        if len(ids) < self._min_tokens:
            return None
        tail = self._decode(ids[-self._tail :])
        if not any(s in tail for s in self._stop):
            return None
        if self._ignored is None:
            self._ignored = len(self._decode(ids[: self._min_tokens - 1]))
        text = self._decode(ids)
        found = [text.find(s, max(0, self._ignored - len(s) + 1)) for s in self._stop]
        places = [place for place in found if place >= 0]
        return text[: min(places)] if places else None
