"""Owns the judgement whether an answer is JSON of a given shape. The only user of jsonschema here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jsonschema
import referencing
from jsonschema.validators import Draft202012Validator, validator_for

from genopt import extract
from genopt.errors import ScorerError, SpecError
from genopt.scorers._plain import NOTHING, Plain
from genopt.types import Example, Generation, Score

_DATA_KEYS = ("enum", "const", "default", "examples")


class JsonSchema(Plain):
    """1 when the answer is JSON that the schema accepts (any JSON without one), 0 otherwise.

    Text around the JSON (a code fence, a sentence) is forgiven unless `strict`. With `partial` the score is the
    fraction of required properties (of all, where none is required) of an object that are there and valid; one more is
    counted as failed when they all are but the rest of the answer is not. Raises SpecError for a wrong schema.
    """

    needs = NOTHING

    def __init__(
        self, *, name: str, schema: Mapping[str, Any] | None = None, partial: bool = False, strict: bool = False
    ) -> None:
        self.name = name
        self._strict = strict
        schema = checked_schema(dict(schema or {}), f"scorers.{name}: schema")
        # An own registry, because the default one fetches remote references over the network.
        self._validator = validator_for(schema, default=Draft202012Validator)(schema, registry=referencing.Registry())
        self._properties = tuple(schema.get("required") or schema.get("properties") or ()) if partial else ()

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation; `why` is the first thing that is wrong."""
        return [self._one(generation.text) for generation in generations]

    def _one(self, text: str) -> Score:
        try:
            value = extract.extract_json(text, strict=self._strict)
        except ValueError as error:
            return Score(0.0, f"not JSON: {error}")
        try:
            errors = sorted(self._validator.iter_errors(value), key=lambda error: [str(part) for part in error.path])
        except (RecursionError, OverflowError) as error:
            return Score(0.0, f"cannot be checked: {error}")
        except referencing.exceptions.Unresolvable as error:
            raise ScorerError(f"scorers.{self.name}: schema: $ref {error.ref!r} leads nowhere") from error
        if not errors:
            return Score(1.0)
        why = f"{errors[0].json_path}: {errors[0].message}"
        return Score(self._share(value, errors), why if len(why) <= 200 else why[:197] + "...")

    def _share(self, value: Any, errors: Sequence[jsonschema.ValidationError]) -> float:
        if not self._properties or not isinstance(value, dict):
            return 0.0
        broken = {error.path[0] for error in errors if error.path}
        good = sum(name in value and name not in broken for name in self._properties)
        return good / max(len(self._properties), good + 1)


def checked_schema(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The schema as it is; SpecError that begins with `where` when it is none, or refers to what it does not have."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except jsonschema.SchemaError as error:
        raise SpecError(f"{where}: {error.json_path}: {error.message}") from None
    for reference in _references(schema):
        if not _resolves(schema, reference):
            raise SpecError(f"{where}: $ref {reference!r} leads nowhere. Define it under $defs")
    return schema


def _references(part: Any) -> Iterator[str]:
    """Every $ref inside a schema, those inside mere data left out."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key == "$ref" and isinstance(value, str):
                yield value
            elif key not in _DATA_KEYS:
                yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def _resolves(schema: Mapping[str, Any], reference: str) -> bool:
    """Whether a JSON pointer leads somewhere; a name ($id, $anchor) has to be defined in the schema itself."""
    if reference == "#":
        return True
    if not reference.startswith("#/"):
        name = reference.lstrip("#").split("#")[0]
        return any(name in (value, str(value).rsplit("/", 1)[-1]) for value in _names(schema))
    part: Any = schema
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(part, list) and step.isdigit() and int(step) < len(part):
            part = part[int(step)]
        elif isinstance(part, Mapping) and step in part:
            part = part[step]
        else:
            return "$id" in str(schema)  # relative to another document inside this one: known when it is used
    return True


def _names(part: Any) -> Iterator[Any]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in ("$id", "$anchor", "$dynamicAnchor"):
                yield value
            yield from _names(value)
    elif isinstance(part, list):
        for value in part:
            yield from _names(value)
