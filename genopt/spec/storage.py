"""Owns which file a storage URL names. Opens nothing, and of databases that are no file it knows nothing."""

from __future__ import annotations

import re
from urllib.parse import unquote

# What stands before the path, the path (none: in memory), and options. SQLite's own URIs are not taken apart.
_SQLITE = re.compile(r"(sqlite[^:/]*://(?:/|(?=\?|$)))((?!file:)[^?]*)(.*)", re.DOTALL)


def sqlite_file(url: str) -> tuple[str, str, str] | None:
    """What is before the path of an SQLite file's URL, the path (see `as_written`), and what is after it; the path is
    "" for a database in memory. None for any other URL."""
    found = _SQLITE.fullmatch(url)
    if found is None:
        return None
    before, path, after = found.groups()
    return before, "" if path == ":memory:" else unquote(path), after


def as_written(path: str) -> str:
    """The path as a URL has to write it, where % and ? mean something else."""
    return path.replace("%", "%25").replace("?", "%3F")
