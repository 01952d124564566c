"""Owns what changed between two texts, word by word. Pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rapidfuzz.distance import Indel

Change = Literal["same", "removed", "added"]
_TOKENS = re.compile(r"\w+|\s+|[^\w\s]")  # words, spacing, and every other character by itself


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text: in both texts, only in the first (removed) or only in the second (added)."""

    change: Change
    text: str


def word_diff(a: str, b: str) -> list[Piece]:
    """The fewest words (spacing and punctuation count) to take out of `a` and put into `b` to turn one into the other.

    The pieces that are not `added` join to `a`, those that are not `removed` to `b`; neighbours differ in their change.
    """
    left, right = _TOKENS.findall(a), _TOKENS.findall(b)
    pieces: list[Piece] = []
    for step in Indel.opcodes(left, right):
        before, after = "".join(left[step.src_start : step.src_end]), "".join(right[step.dest_start : step.dest_end])
        if step.tag == "equal":
            pieces.append(Piece("same", before))
        else:
            pieces += [Piece("removed", before)] if before else []
            pieces += [Piece("added", after)] if after else []
    return _calm(pieces)


def _calm(pieces: list[Piece]) -> list[Piece]:
    """The same diff with spacing alone between two changes taken into both, so that whole phrases are replaced."""
    calmed: list[Piece] = []
    removed = added = ""

    def flush() -> None:
        nonlocal removed, added
        calmed.extend(Piece("removed", removed) for _ in range(bool(removed)))
        calmed.extend(Piece("added", added) for _ in range(bool(added)))
        removed = added = ""

    for index, piece in enumerate(pieces):
        between = bool(removed or added) and index + 1 < len(pieces) and pieces[index + 1].change != "same"
        if piece.change == "removed":
            removed += piece.text
        elif piece.change == "added":
            added += piece.text
        elif between and piece.text.isspace():
            removed, added = removed + piece.text, added + piece.text
        else:
            flush()
            calmed.append(piece)
    flush()
    return calmed
