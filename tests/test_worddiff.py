"""What changed between two texts."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from genopt.worddiff import Piece, word_diff


def test_a_replaced_word_is_taken_out_and_put_in() -> None:
    assert word_diff("a red dog", "a blue dog") == [
        Piece("same", "a "),
        Piece("removed", "red"),
        Piece("added", "blue"),
        Piece("same", " dog"),
    ]


def test_a_replaced_phrase_is_one_change() -> None:
    assert word_diff("see the red dog run", "see a blue cat run") == [
        Piece("same", "see "),
        Piece("removed", "the red dog"),
        Piece("added", "a blue cat"),
        Piece("same", " run"),
    ]


@pytest.mark.parametrize(
    ("a", "b", "changes"),
    [
        ("", "", []),
        ("one", "", ["removed"]),
        ("", "one\ntwo", ["added"]),
        ("same.", "same.", ["same"]),
        ("a  b", "a b", ["same", "removed", "added", "same"]),
    ],
)
def test_texts_that_are_equal_or_empty(a: str, b: str, changes: list[str]) -> None:
    assert [piece.change for piece in word_diff(a, b)] == changes


def test_the_pieces_join_to_both_texts_and_neighbours_differ() -> None:
    rng = random.Random(1)
    for _ in range(300):
        a, b = ("".join(rng.choices(["ab", " ", "c", "\n", ".", "d"], k=rng.randrange(12))) for _ in range(2))
        pieces = word_diff(a, b)
        assert "".join(piece.text for piece in pieces if piece.change != "added") == a
        assert "".join(piece.text for piece in pieces if piece.change != "removed") == b
        assert all(one.change != two.change for one, two in pairwise(pieces))
        assert all(piece.text for piece in pieces)
