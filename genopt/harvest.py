"""Owns what generations that exist say about other settings, so that nothing is generated which is known.

max_tokens and stop decide where a text ends and nothing before that. Configurations that are equal but for them are
kin: with the same seed they write the same tokens, of which each keeps its own beginning. What is known of one is a cut
of what another wrote, or the same text where it ended by itself. An engine that tells its tokens makes the cut itself,
to the letter (`replay`); of others only texts that stay whole are taken.

Which engine made a text, and where it is stored, is nobody's business here.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from genopt.tables import Donor
from genopt.types import Generation, Params, Phase, Request

Place = tuple[str, int]
Replay = Callable[[Request, Generation], Generation | None]
REMEMBERED = 512  # families whose texts are at hand; more than trials can be in flight


@dataclass
class Kin:
    """The texts of one family in one phase, by example and sample. One request at a time is made of each place: the
    second may be a cut of the first."""

    donors: dict[Place, dict[int, Donor]] = field(default_factory=lambda: defaultdict(dict))
    _turns: dict[Place, tuple[asyncio.Lock, list[None]]] = field(default_factory=dict)

    def add(self, donor: Donor) -> None:
        """Take a generated text."""
        self.donors[donor.example_id, donor.sample][donor.id] = donor

    @asynccontextmanager
    async def turn(self, place: Place) -> AsyncIterator[None]:
        """Wait until nobody else is at this place."""
        lock, waiting = self._turns.setdefault(place, (asyncio.Lock(), []))
        waiting.append(None)
        try:
            async with lock:
                yield
        finally:
            waiting.pop()
            if not waiting:
                del self._turns[place]


class Harvest:
    """What is known of the families that are being measured. `replay` is the engine's own, where it has one; `hidden`
    says that it may write tokens which its texts do not show."""

    def __init__(self, replay: Replay | None = None, *, hidden: bool = False) -> None:
        self._replay, self._hidden = replay, hidden
        self._families: OrderedDict[tuple[str, Phase], Kin] = OrderedDict()

    def kin(self, family: str, phase: Phase) -> Kin:
        """The texts of a family that are at hand; of "", which is none, nothing ever is."""
        if not family:
            return Kin()
        found = self._families.setdefault((family, phase), Kin())
        self._families.move_to_end((family, phase))
        if len(self._families) > REMEMBERED:
            self._families.popitem(last=False)
        return found

    async def recall(
        self, family: str, phase: Phase, stored: Callable[[str, Phase], Awaitable[Sequence[Donor]]]
    ) -> None:
        """Take up what is stored of a family, whichever run or worker made it."""
        if family:
            found = await stored(family, phase)
            kin = self.kin(family, phase)
            for donor in found:
                kin.add(donor)

    def find(self, kin: Kin, request: Request) -> tuple[Generation, int] | None:
        """What the engine would give for a request, and the id of the generation that tells; None: it has to be asked.
        The longest are tried first: more requests are cuts of them."""
        donors = kin.donors.get((request.example_id, request.sample), {}).values()
        for donor in sorted(donors, key=lambda donor: -donor.generation.completion_tokens):
            if donor.generation.tokens is not None and self._replay is not None:
                found = self._replay(request, donor.generation)
            else:
                found = whole(donor.generation, donor.params, request.params, hidden=self._hidden)
            if found is not None:
                return replace(found, tokens=None), donor.id
        return None


def whole(made: Generation, had: Params, wanted: Params, *, hidden: bool) -> Generation | None:
    """The same generation, where settings that differ in max_tokens and stop alone cannot have changed it by as much as
    a token; None where they have, or where it cannot be told.

    Told is: any text under the same settings, as of an answer that takes more samples; more room for a text that ended
    by itself, and further stop strings of which the text holds no part (a token that begins one may have ended it).
    With `hidden` tokens no further stop strings: they may be in those.
    """
    room, had_room = wanted.get("max_tokens"), had.get("max_tokens")
    before, after = _stops(had), _stops(wanted)
    if room == had_room and before == after:
        return made
    if made.finish not in ("stop", "length"):
        return None
    if not isinstance(room, int) or not isinstance(had_room, int):
        return None
    if room != had_room and (made.finish != "stop" or made.completion_tokens >= room):
        return None
    if not before <= after or (hidden and before != after):
        return None
    return None if any(_begun(made.text, stop) for stop in after - before) else made


def _begun(text: str, stop: str) -> bool:
    """True when a stop string is in a text, or may have begun at its end."""
    return stop in text or any(text.endswith(stop[:n]) for n in range(1, len(stop)))


def _stops(params: Mapping[str, object]) -> frozenset[str]:
    stop = params.get("stop")
    return frozenset(stop) if isinstance(stop, (tuple, list)) else frozenset()
