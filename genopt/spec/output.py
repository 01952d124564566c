"""Owns the keys of the [output] table: what every answer is kept to while it is written."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from genopt.spec._base import Table, TextFile


class OutputSpec(Table):
    """What every answer is kept to while it is written, where the engine can do that. Exactly one of the keys."""

    schema_: Annotated[
        Annotated[TextFile | dict[str, Any], Field(union_mode="left_to_right")] | None, Field(alias="schema")
    ] = None
    """A JSON Schema, or { file = "answer.schema.json" }."""
    regex: Annotated[str, Field(min_length=1)] | None = None
    """A regular expression that the whole answer matches."""
    choices: list[str] | None = None
    """The texts one of which is the answer."""

    @model_validator(mode="after")
    def _one(self) -> OutputSpec:
        given = [value for value in (self.schema_, self.regex, self.choices) if value is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of schema, regex and choices")
        if self.choices is not None and (len(set(self.choices)) < 2 or not all(self.choices)):
            raise ValueError("choices: needs at least two different texts, none of them empty")
        return self
