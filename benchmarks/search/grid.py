"""Owns the configurations of a space with finitely many, and what makes two of them the same. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from genopt import canonical
from genopt.backends._domains import COMMON
from genopt.space import SearchSpace
from genopt.spec.dimensions import SpaceSpec, build_space
from genopt.types import Params, ParamValue

DOMAINS = COMMON


def read(table: Mapping[str, Any]) -> SearchSpace:
    """The search space of a [space] table."""
    return build_space(TypeAdapter(SpaceSpec).validate_python(dict(table)), Path("."))


def explicit(params: Params, space: SearchSpace) -> dict[str, ParamValue]:
    """Every parameter of a configuration; what only another branch of a switch sets is off."""
    return canonical.resolve(params, space=space, today={}, domains=DOMAINS)


def identity(params: Params, switches: frozenset[str] = frozenset()) -> str:
    """What configurations that are equal in distribution have in common, whatever their spelling."""
    known = {name: domain for name, domain in DOMAINS.items() if name in params}
    return json.dumps(canonical.canonical(params, known, switches=switches), sort_keys=True)


def configurations(space: SearchSpace) -> list[dict[str, ParamValue]]:
    """The flat parameters of every configuration, each once."""
    found: dict[str, dict[str, ParamValue]] = {}
    for answers in space.grid(10_000):
        params = space.sample(lambda path, _, answers=answers: answers[path])  # type: ignore[misc]
        found.setdefault(identity(explicit(params, space), space.switches()), params)
    return list(found.values())


class Places:
    """Which of a table's configurations flat parameters are."""

    def __init__(self, table: Mapping[str, Any], configurations: Sequence[Params]) -> None:
        self.space = read(table)
        self._switches = self.space.switches()
        self._of = {self.key(params): n for n, params in enumerate(configurations)}

    def key(self, params: Params) -> str:
        """The identity of flat parameters, of which other branches' may be missing."""
        return identity(explicit(params, self.space), self._switches)

    def of(self, params: Params) -> int:
        """The number of the configuration. KeyError for one that was not recorded."""
        return self._of[self.key(params)]
