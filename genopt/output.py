"""Owns what every answer of a study is kept to: from the [output] table to the keywords of a request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import regex

from genopt.errors import SpecError
from genopt.scorers.json_schema import checked_schema
from genopt.spec import StudySpec, TextFile
from genopt.spec.dimensions import read_text
from genopt.spec.scorers import JsonSchema, ScorerSpec
from genopt.types import BackendInfo

_NAMED = {"schema": "a JSON schema", "regex": "a regular expression", "choices": "a list of choices"}


def constraint(spec: StudySpec) -> dict[str, Any]:
    """The keyword of a Request (`schema`, `regex` or `choices`) and its value; empty without [output].

    Raises SpecError for a file that cannot be read, a wrong schema or a wrong pattern.
    """
    table = spec.output
    if table is None:
        return {}
    if table.schema_ is not None:
        return {"schema": checked_schema(_read(table.schema_, spec), "output.schema")}
    if table.regex is not None:
        try:
            regex.compile(table.regex)
        except regex.error as error:
            raise SpecError(f"output.regex: {table.regex!r} is no regular expression ({error}). Correct it") from None
        return {"regex": table.regex}
    return {"choices": tuple(table.choices or ())}


def _read(schema: TextFile | dict[str, Any], spec: StudySpec) -> dict[str, Any]:
    if not isinstance(schema, TextFile):
        return schema
    try:
        read = json.loads(read_text(spec.folder, schema.file))
    except json.JSONDecodeError as error:
        where = f"{spec.folder / schema.file}:{error.lineno}"
        raise SpecError(f"output.schema: {where}: malformed JSON ({error.msg}). Correct it") from None
    if not isinstance(read, dict):
        raise SpecError(f"output.schema: {spec.folder / schema.file}: is no JSON object. A schema is one")
    return read


def scorers_with(output: Mapping[str, Any], spec: StudySpec) -> dict[str, ScorerSpec]:
    """The scorers' tables; a json_schema scorer without a schema of its own judges by the study's."""
    schema = output.get("schema")
    return {
        name: table.model_copy(update={"schema_": schema})
        if isinstance(table, JsonSchema) and table.schema_ is None and schema is not None
        else table
        for name, table in spec.scorers.items()
    }


def problems(output: Mapping[str, Any], info: BackendInfo, engine: str) -> Iterator[str]:
    """What the opened engine cannot keep answers to."""
    for kind in output.keys() - info.structured:
        can = ", ".join(_NAMED[name] for name in sorted(info.structured))
        instead = f"It can to {can}" if can else "It cannot to anything"
        yield f"output.{kind}: {engine} cannot keep answers to {_NAMED[kind]}. {instead}: change or drop [output]"
