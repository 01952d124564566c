"""Owns the rule on what a study file may have read, and which parts of one run code or send rows away.

The rule: the data, the texts, the schema and the images that a study file names lie in its folder, links followed. A
study file may come from somebody else, and what it reads is put into prompts. It does not bind what the user says on
the command line (--data, --set, --allow-outside) or builds in Python, nor models and the storage, which are paths of
the user's own machine: they hold weights and results, and no text of theirs is put into a prompt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from genopt.errors import SpecError
from genopt.spec import StudySpec, TextFile
from genopt.spec.dimensions import Files

ADVICE = "Copy it there, or allow it with --allow-outside if you know this study"
RUNS = ("trust_remote_code", "worker_cls", "worker_extension_cls", "logits_processors", "tool_parser_plugin")


def inside(path: str | Path, folder: Path, *, within: Path | None = None) -> None:
    """Raise ValueError, in words that go after a key, for a path from `folder` that leaves `within` (default: the
    folder), links followed."""
    within = (within or folder).resolve()
    try:
        there = (folder / Path(path).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, no home, a NUL
        raise ValueError(f'"{path}" is no path that can be followed. Correct it') from None
    if not there.is_relative_to(within):
        raise ValueError(f'"{path}" is outside {within}, where everything a study reads has to be. {ADVICE}')


def confined(spec: StudySpec, but: Collection[str] = ()) -> StudySpec:
    """The study, held to its folder from now on. Raises SpecError that names every key and path outside it; the keys in
    `but` are the user's own word, with all that is below them."""
    problems: list[str] = []
    for key, path in _files(spec, ""):
        if not any(key == word or key.startswith((f"{word}.", f"{word}[")) for word in but):
            try:
                inside(path, spec.folder)
            except ValueError as error:
                problems.append(f"{spec.source}: {key}: {error}")
    if problems:
        raise SpecError(problems)
    spec._within = None if any(word in ("dataset", "dataset.path") for word in but) else spec.folder
    return spec


def _files(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every path that is read for its text, with its key."""
    if isinstance(value, TextFile):
        yield f"{key}.file", value.file
    elif isinstance(value, Files):
        yield from ((f"{key}.files[{n}]", name) for n, name in enumerate(value.files))
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if key == "dataset" and name == "path" and inner is not None:
                yield "dataset.path", inner
            elif (key, name) != ("dataset", "rows"):
                yield from _files(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _files(inner, f"{key}.{name}")


def code_named(spec: BaseModel) -> list[str]:
    """The code that a study runs besides genopt's, each as `key: what`: nothing else of the study's folder is run."""
    found: dict[str, None] = {}
    for key, table in _tables(spec, ""):
        kind, function = getattr(table, "kind", None), getattr(table, "function", None)
        for name, value in (("kind", kind), ("function", function)):
            if isinstance(value, str) and ":" in value:
                found[f"{key}.{name}: {value}"] = None
        options = getattr(table, "options", None)
        for name, value in options.items() if isinstance(options, Mapping) else ():
            if name in RUNS and value:
                found[f"{key}.options.{name}: {value}"] = None
    return list(found)


def sent_to(spec: BaseModel) -> list[str]:
    """The addresses that a study file names for its rows to be sent to, and the variables whose values go along."""
    found: dict[str, None] = {}
    for key, table in _tables(spec, ""):
        options = getattr(table, "options", None)
        if not isinstance(options, Mapping):
            continue
        address = options.get("base_url") or options.get("host") or getattr(table, "host", None)
        keys = [options.get("api_key_env"), *dict(options.get("headers_env") or {}).values()]
        if address or any(keys):
            told = ", ".join(str(name) for name in keys if name)
            found[f"{key}: {address or 'the default address'}" + f", with the value of {told}" * bool(told)] = None
    return list(found)


def _tables(value: Any, key: str) -> Iterator[tuple[str, BaseModel]]:
    """Every table of a study, with its key."""
    if isinstance(value, BaseModel):
        yield key, value
        for name in type(value).model_fields:
            if (key, name) != ("dataset", "rows"):
                yield from _tables(getattr(value, name), f"{key}.{name}" if key else name)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _tables(inner, f"{key}.{name}")
