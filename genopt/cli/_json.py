"""Owns JSON on stdout, which is data and may reach a terminal."""

from __future__ import annotations

from typing import Any


def json_text(value: Any, *, indent: int | None = None) -> str:
    """As genopt.words.json_text, loaded when it is needed: --help is quick."""
    from genopt.words import json_text as text

    return text(value, indent=indent)
