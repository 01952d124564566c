"""Owns plain tables as TOML 1.0, as a study file is written. A pure function."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def toml_text(table: Mapping[str, Any]) -> str:
    """The table as TOML that reads back the same. TOML knows no null: such a value is left out."""
    return "\n".join(_lines(table, ())).strip() + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    tables = {name: value for name, value in table.items() if isinstance(value, Mapping)}
    arrays = {name: value for name, value in table.items() if _tables(value)}
    for name, value in table.items():
        if name not in tables and name not in arrays and value is not None:
            yield f"{_key(name)} = {_value(value)}"
    for name, inner in tables.items():
        yield from ("", f"[{_path((*path, name))}]")
        yield from _lines(inner, (*path, name))
    for name, items in arrays.items():
        for inner in items:
            yield from ("", f"[[{_path((*path, name))}]]")
            yield from _lines(inner, (*path, name))


def _tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items() if each is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(each) for each in value if each is not None)}]"
    if isinstance(value, str):
        return _string(value)
    return json.dumps(value)  # numbers and truth values; infinities never come this far


def _string(text: str) -> str:
    """JSON's escapes are TOML's, but for the control character that JSON lets stand."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _path(names: tuple[str, ...]) -> str:
    return ".".join(_key(name) for name in names)
