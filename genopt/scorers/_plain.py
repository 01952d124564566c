"""Owns what scorers have in common: what they may need, what one says that lacks it, and that most hold nothing."""

from __future__ import annotations

from genopt.types import Need

REFERENCES: frozenset[Need] = frozenset({"references"})
REPEATS: frozenset[Need] = frozenset({"repeats"})
NOTHING: frozenset[Need] = frozenset()
NO_REFERENCE = "the example has no reference"


class Plain:
    """A scorer that holds nothing that needs closing."""

    async def aclose(self) -> None:
        """Nothing to free."""
