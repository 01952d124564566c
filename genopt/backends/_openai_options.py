"""Owns `[backend.options]` of the openai engine, and that a key never stands in a study file or comes out of here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from genopt.backends._openai_params import DIALECTS, PARAMS, Dialect
from genopt.errors import SpecError
from genopt.spec.mistakes import hint

HOSTED = "https://api.openai.com/v1"
_DEFAULTS: Mapping[str, Any] = {
    "base_url": HOSTED,
    "api_key_env": None,
    "headers_env": {},
    "organization": None,
    "project": None,
    "dialect": None,
    "completions": False,
    "stream": True,
    "max_tokens_field": None,
    "extra": {},
    "without": [],
    "patience": 120.0,
    "timeout": 600.0,
}
_OURS = frozenset(PARAMS) | {
    *("model", "messages", "prompt", "stream", "stream_options", "seed", "n", "logprobs", "top_logprobs"),
    *("max_completion_tokens", "response_format", "structured_outputs", "grammar", "repeat_penalty"),
}
_DISPENSABLE = (frozenset(PARAMS) | {"seed"}) - {"max_tokens"}
_SECRET = re.compile(r"key|token|secret|password|auth", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked. `headers` holds what the environment gave; `secrets` must never be told to anyone."""

    base_url: str
    dialect: Dialect | None
    completions: bool
    stream: bool
    max_tokens_field: str
    extra: Mapping[str, Any]
    without: tuple[str, ...]
    patience: float
    timeout: float
    headers: Mapping[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)

    def hide(self, text: str) -> str:
        """The text without any secret."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a study file. Raises SpecError with every mistake, quoting no value that may be a key."""
    problems: list[str] = []
    for name in given.keys() - _DEFAULTS.keys():
        if _SECRET.search(name):
            problems.append(f"{name}: a key does not belong in a study file. Name an environment variable: api_key_env")
        else:
            problems.append(f"{name}: there is no such option.{hint(name, _DEFAULTS)}")
    full = dict(_DEFAULTS) | {name: value for name, value in given.items() if name in _DEFAULTS}
    checks: Mapping[str, tuple[bool, str]] = {
        "base_url": (_is_url(full["base_url"]), "must be http:// or https://, without a name, a password or a query"),
        "dialect": (full["dialect"] in (None, *DIALECTS), "must be one of " + ", ".join(DIALECTS)),
        "completions": (isinstance(full["completions"], bool), "must be true or false"),
        "stream": (isinstance(full["stream"], bool), "must be true or false"),
        "max_tokens_field": (
            full["max_tokens_field"] in (None, "max_tokens", "max_completion_tokens"),
            "must be max_tokens or max_completion_tokens",
        ),
        "extra": (isinstance(full["extra"], Mapping), "must be a table of fields of the request's body"),
        "without": (
            isinstance(full["without"], list) and all(n in _DISPENSABLE for n in full["without"]),
            'must be a list of parameters (or "seed") that the model refuses',
        ),
        "patience": (_is_duration(full["patience"]), "must be seconds, above 0"),
        "timeout": (_is_duration(full["timeout"]), "must be seconds, above 0"),
        "organization": (full["organization"] is None or isinstance(full["organization"], str), "must be a text"),
        "project": (full["project"] is None or isinstance(full["project"], str), "must be a text"),
        "headers_env": (isinstance(full["headers_env"], Mapping), "must be a table: header = environment variable"),
    }
    problems += [f"{name}: {what}" for name, (legal, what) in checks.items() if not legal]
    if checks["extra"][0]:
        problems += [
            f"extra.{name}: genopt sends this field itself. Drop it" for name in full["extra"] if name in _OURS
        ]
    headers: dict[str, str] = {}
    if checks["headers_env"][0]:
        for name, variable in full["headers_env"].items():
            headers |= _from_environment(f"headers_env.{name}", variable, name, problems)
    url = str(full["base_url"]).rstrip("/")
    key = full["api_key_env"] or ("OPENAI_API_KEY" if url == HOSTED else None)
    if key is not None:
        found = _from_environment("api_key_env", key, "authorization", problems, named=full["api_key_env"] is not None)
        headers |= {name: f"Bearer {value}" for name, value in found.items()}
    if problems:
        raise SpecError([f"backend.options.{problem}" for problem in problems])
    secrets = {value.removeprefix("Bearer ") for value in headers.values()}
    for header, option in (("openai-organization", "organization"), ("openai-project", "project")):
        headers |= {header: full[option]} if full[option] is not None else {}
    hosted = urlsplit(url).hostname == urlsplit(HOSTED).hostname
    return Options(
        base_url=url,
        dialect=full["dialect"],
        completions=full["completions"],
        stream=full["stream"],
        max_tokens_field=full["max_tokens_field"] or ("max_completion_tokens" if hosted else "max_tokens"),
        extra=full["extra"],
        without=tuple(full["without"]),
        patience=float(full["patience"]),
        timeout=float(full["timeout"]),
        headers=headers,
        secrets=tuple(sorted(secrets, key=len, reverse=True)),
    )


def _from_environment(
    option: str, variable: Any, header: str, problems: list[str], *, named: bool = True
) -> dict[str, str]:
    """The header with the variable's value. A name that the study file gives (`named`) is not repeated: it may be a key
    that was put there by mistake."""
    if not isinstance(variable, str) or not _VARIABLE.fullmatch(variable):
        problems.append(f"{option}: must be the name of an environment variable, not the key itself")
        return {}
    value = os.environ.get(variable, "").strip()
    if not value:
        problems.append(
            f"{option}: the environment has no variable of that name. Set it (export ...), and check the name"
            if named
            else f"{option}: the environment has no variable {variable}, and {HOSTED} takes a key. Set it (export"
            f" {variable}=...), name another variable here, or another server in base_url"
        )
        return {}
    if not value.isascii() or not value.isprintable():
        problems.append(f"{option}: the variable's value cannot be sent in a header. Check it for line breaks")
        return {}
    return {header: value}


def _is_url(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain


def _is_duration(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9
