"""Owns other spellings: a study that writes an engine's own names becomes one that writes genopt's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from genopt.errors import SpecError
from genopt.spec import StudySpec


def with_own_names(spec: StudySpec, aliases: Mapping[str, str]) -> StudySpec:
    """The study with every alias in [space], [baseline] and search.start replaced by the parameter it stands for.

    Raises SpecError where a table holds both spellings: one of them would have no effect.
    """
    tables: dict[str, Mapping[str, Any]] = {"space": spec.space, "baseline": spec.baseline}
    tables |= {f"search.start[{i}]": table for i, table in enumerate(spec.search.start) if isinstance(table, dict)}
    found = [problem for path, table in tables.items() for problem in _twice(table, aliases, path)]
    if found:
        raise SpecError(found)
    start = [_renamed(table, aliases) if isinstance(table, dict) else table for table in spec.search.start]
    changed = {"space": _renamed(spec.space, aliases), "baseline": _renamed(spec.baseline, aliases)}
    return spec.model_copy(update=changed | {"search": spec.search.model_copy(update={"start": start})})


def _renamed(table: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    return {aliases.get(name, name): _inside(value, aliases) for name, value in table.items()}


def _inside(value: Any, aliases: Mapping[str, str]) -> Any:
    """A switch's branches are tables of parameters again."""
    if isinstance(value, dict):
        return {branch: _renamed(parameters, aliases) for branch, parameters in value.items()}
    return value


def _twice(table: Mapping[str, Any], aliases: Mapping[str, str], path: str) -> Iterator[str]:
    for name, value in table.items():
        if aliases.get(name, name) != name and aliases[name] in table:
            yield f"{path}.{name}: is another name of {aliases[name]}, which is given too. Keep one of them"
        if isinstance(value, dict):
            for branch, parameters in value.items():
                yield from _twice(parameters, aliases, f"{path}.{name}.{branch}")
