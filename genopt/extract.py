"""Owns what is found in a text: numbers, whole words, JSON. Knows no examples, scorers or files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import regex

from genopt.metrics import UNSPACED, fold

# Scripts in which a word or number may touch the next word: those without spaces, and Korean with its particles.
_GLUED = rf"{UNSPACED}\p{{Hangul}}"
_LETTER = rf"[\w--[{_GLUED}]]"
_EDGE = regex.compile(_LETTER, regex.V1)
_THOUSANDS = "[,'_\N{RIGHT SINGLE QUOTATION MARK}\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]"
_WHOLE = rf"(?:[0-9]{{1,3}}(?:{_THOUSANDS}[0-9]{{3}})+(?![0-9])|[0-9]+)"
# Not inside a word (H2O, v2) nor behind a decimal point (1.2.3); a sign only where no word ends (10-5); a fraction only
# where it is no date (1/2/2024).
_NUMBER = regex.compile(
    r"(?=[-+\N{MINUS SIGN}$€£¥.0-9])"  # a quick look before the slow ones
    rf"(?<!{_LETTER})(?<![0-9]\.)" + r"(?P<sign>[-+\N{MINUS SIGN}])?(?:[$€£¥]\s?)?"
    rf"(?P<size>{_WHOLE}(?:\.[0-9]+)?|(?<![\w.,])\.[0-9]+)(?P<power>[eE][-+]?[0-9]+)?"
    r"(?:(?<!/[0-9]+)/(?P<under>[0-9]+)(?![0-9/]))?(?P<percent>\s?\\?[%\N{FULLWIDTH PERCENT SIGN}])?",
    regex.V1,
)
_FENCE = regex.compile(r"```[\w+-]*[ \t]*\n?(.*?)```", regex.DOTALL)


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a text and whether a percent sign follows it."""

    value: float
    percent: bool = False


def numbers(text: str) -> list[Number]:
    """The numbers of a text in order: `-3`, `1,234.5`, `.5`, `1e3`, `$12`, `25%`, `3/4` (one number, 0.75), `42.`.

    The decimal mark is a point; commas, apostrophes and hard spaces group thousands.
    """
    found = []
    for match in _NUMBER.finditer(text):
        digits = "".join(char for char in match["size"] if char.isdigit() or char == ".")
        value = float(digits + (match["power"] or ""))
        if match["under"] and float(match["under"]) > 0:
            value /= float(match["under"])
        if match["sign"] not in (None, "+"):
            value = -value
        if math.isfinite(value):
            found.append(Number(value, match["percent"] is not None))
    return found


def numbers_equal(left: Number, right: Number, tolerance: float = 1e-6) -> bool:
    """Whether two numbers differ by at most `tolerance`, absolutely or relative to the larger one.

    A percent sign on one side only may mean either thing, so 25% equals both 25 and 0.25.
    """
    if math.isclose(left.value, right.value, rel_tol=tolerance, abs_tol=tolerance):
        return True
    if left.percent == right.percent:
        return False
    share, plain = (left, right) if left.percent else (right, left)
    return math.isclose(share.value / 100, plain.value, rel_tol=tolerance, abs_tol=tolerance)


def finder(alternatives: Iterable[str], *, case_sensitive: bool = False) -> regex.Pattern[str]:
    """A pattern that finds any of the alternatives as whole words in a folded text.

    "5" is found neither in "25" nor in "2.5" or "5,000", "cat" not in "cats"; any run of blanks matches any other.
    Raises ValueError when there is nothing to look for.
    """
    parts = []
    for alternative in alternatives:
        pieces = fold(alternative).split()
        if not pieces:
            continue
        first, last = pieces[0][0], pieces[-1][-1]
        before = rf"(?<!{_LETTER})" if _EDGE.match(first) else ""
        after = rf"(?!{_LETTER})" if _EDGE.match(last) else ""
        if first.isdigit():
            before += r"(?<!\d\.)(?<!\d,(?=\d{3}(?!\d)))"
        if last.isdigit():
            after += r"(?!\.\d|,\d{3}(?!\d))"
        parts.append(before + r"\s+".join(regex.escape(piece) for piece in pieces) + after)
    if not parts:
        raise ValueError("there is nothing to look for")
    return regex.compile("|".join(parts), regex.V1 if case_sensitive else regex.V1 | regex.IGNORECASE)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def parse_json(text: str) -> Any:
    """The value of a text that is JSON from end to end; ValueError says where it is not. NaN and Infinity are not."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def extract_json(text: str, *, strict: bool = False) -> Any:
    """The JSON value in an answer: the whole text, else a fenced block, else the longest of {...} and [...].

    ValueError is about the whole text. `strict` takes nothing but the whole text.
    """
    try:
        return parse_json(text)
    except ValueError as error:
        if strict:
            raise
        whole = error
    candidates: Iterable[str] = (block.strip() for block in _FENCE.findall(text))
    spans = [text[text.find(a) : text.rfind(b) + 1] for a, b in ("{}", "[]") if 0 <= text.find(a) < text.rfind(b)]
    for candidate in (*candidates, *sorted(spans, key=len, reverse=True)):
        try:
            return parse_json(candidate)
        except ValueError:
            continue
    raise whole
