"""Owns `[backend.options]` of the ollama engine, and where its server is."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from genopt.errors import SpecError
from genopt.spec.mistakes import hint

RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
THINK = (None, True, False, "low", "medium", "high", "max")
_DEFAULTS: Mapping[str, Any] = {
    "host": None,
    **dict.fromkeys(RUNNER),
    "num_keep": None,
    "shift": None,
    "keep_alive": None,
    "think": None,
    "raw": False,
    "template": None,
    "pull": False,
    "patience": 600.0,
    "timeout": 600.0,
}
_DURATION = re.compile(r"-?(\d+(\.\d+)?(ns|us|ms|s|m|h))+|-?\d+")


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked. `runner` is what a model is loaded with: the same in every request, or it is reloaded."""

    url: str
    runner: Mapping[str, Any]
    num_keep: int | None
    shift: bool | None
    keep_alive: int | float | str | None
    think: bool | str | None
    raw: bool
    template: str | None
    pull: bool
    patience: float
    timeout: float


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a study file. Raises SpecError with every mistake."""
    problems = [f"{name}: there is no such option.{hint(name, _DEFAULTS)}" for name in given if name not in _DEFAULTS]
    full = dict(_DEFAULTS) | {name: value for name, value in given.items() if name in _DEFAULTS}
    host = full["host"] if full["host"] is not None else os.environ.get("OLLAMA_HOST", "")
    whole = {
        "num_ctx": 4,
        "num_batch": 1,
        "num_gpu": -1,
        "main_gpu": 0,
        "num_thread": 0,
        "draft_num_predict": 0,
        "num_keep": -1,
    }
    checks: dict[str, tuple[bool, str]] = {
        name: (full[name] is None or (_is_whole(full[name]) and full[name] >= least), f"a whole number >= {least}")
        for name, least in whole.items()
    }
    checks |= {
        "host": (
            full["host"] is None or (isinstance(full["host"], str) and "@" not in full["host"]),
            "host:port or a URL without a name and a password (OLLAMA_HOST may hold those)",
        ),
        "use_mmap": (full["use_mmap"] is None or isinstance(full["use_mmap"], bool), "true or false"),
        "shift": (full["shift"] is None or isinstance(full["shift"], bool), "true or false"),
        "keep_alive": (full["keep_alive"] is None or _is_duration(full["keep_alive"]), 'seconds, or a text like "30m"'),
        "think": (
            full["think"] in THINK and isinstance(full["think"], (bool, str, type(None))),
            "true, false, low, medium, high or max",
        ),
        "raw": (isinstance(full["raw"], bool), "true or false"),
        "template": (full["template"] is None or isinstance(full["template"], str), "a text (a Go template)"),
        "pull": (isinstance(full["pull"], bool), "true or false"),
        "patience": (_is_positive(full["patience"]), "seconds, above 0"),
        "timeout": (_is_positive(full["timeout"]), "seconds, above 0"),
    }
    problems += [f"{name}: {full[name]!r} is not {what}" for name, (legal, what) in checks.items() if not legal]
    if full["raw"] and full["template"] is not None:
        problems.append("template: raw prompts have none. Drop one of them")
    url = server_url(host) if checks["host"][0] else ""
    if checks["host"][0] and not _is_url(url):
        where = "host" if full["host"] is not None else "host (from OLLAMA_HOST)"
        problems.append(f"{where}: is no address of a server. Write host:port or http://host:port")
    if problems:
        raise SpecError([f"backend.options.{problem}" for problem in problems])
    return Options(
        url=url,
        runner={name: full[name] for name in RUNNER if full[name] is not None},
        patience=float(full["patience"]),
        timeout=float(full["timeout"]),
        **{name: full[name] for name in ("num_keep", "shift", "keep_alive", "think", "raw", "template", "pull")},
    )


def server_url(host: str) -> str:
    """The base URL that a value of OLLAMA_HOST means, read as Ollama reads it: [scheme://]host[:port][/path], where
    http means port 80, https port 443 and no scheme port 11434. A server that listens everywhere is asked here."""
    text = host.strip().strip("\"'")
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest, port = "http", text, "11434"
    else:
        port = {"http": "80", "https": "443"}.get(scheme, "11434")
    place, _, path = rest.partition("/")
    user, at, place = place.rpartition("@")
    name, given = place, ""
    if match := re.fullmatch(r"(\[[^]]*\]|[^:]*):([^:]*)", place):
        name, given = match.groups()
    if given.isdecimal() and int(given) <= 65535:
        port = given
    name = name.strip("[]") or "127.0.0.1"
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    name = f"[{name}]" if ":" in name else name
    return f"{scheme}://{user}{at}{name}:{port}" + (f"/{path.rstrip('/')}" if path.rstrip("/") else "")


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9


def _is_duration(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_DURATION.fullmatch(value))
    return isinstance(value, (int, float)) and not isinstance(value, bool)
