"""Owns how single things are put: times, scores, parameters for people, texts that a terminal only prints, JSON."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any

from genopt.stats import UNBOUNDED
from genopt.types import Params


def duration(seconds: float) -> str:
    """A length of time for people: 45 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def score(mean: float | None, se: float | None, width: int = 7) -> str:
    """A mean and the half width of its 95 % interval; "?" for what the data cannot tell."""
    known_mean = "?" if mean is None or not math.isfinite(mean) else f"{mean:.4f}"
    known_half = "?" if se is None or not se < UNBOUNDED else f"{1.96 * se:.4f}"
    return f"{known_mean:>{width}} ±{known_half:<6}"


def brief(params: Params | Mapping[str, Any]) -> str:
    """Parameters on one line, numbers to four digits, texts that hold spaces or nothing in quotes."""
    return " ".join(f"{name}={value_text(value)}" for name, value in params.items())


def value_text(value: Any) -> str:
    """One parameter's value: at most 40 characters on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(list(value) if isinstance(value, tuple) else value)
    shown = safe(text if len(text) <= 40 else text[:37] + "...").replace("\n", "\\n")
    apart = isinstance(value, str) and (not value or any(c.isspace() for c in value))
    return f'"{shown}"' if apart else shown


def safe(text: str) -> str:
    """Text that a terminal only prints: control and direction characters, with which a model's output could repaint the
    screen, become visible escapes."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else f"\\u{ord(c):04x}" for c in text
    )


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as JSON has it, which knows no NaN and no infinity: they are null."""
    return {name: _finite(value) for name, value in record.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON that a terminal only prints: what `safe` makes visible is written as JSON's own escapes."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return "".join(
        c
        if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs")
        else json.dumps(c)[1:-1]
        if ord(c) > 0x7F
        else f"\\u{ord(c):04x}"
        for c in text
    )


def bound(limit: float, sign: str = "") -> str:
    """The end of an interval; "?" where the data cannot tell."""
    return f"{limit:{sign}.4f}" if abs(limit) < UNBOUNDED else "?"
