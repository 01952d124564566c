"""Owns what all tables of the study file share: nothing unknown, nothing coerced, nothing changed afterwards."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A table of the study file: unknown keys and wrong types are mistakes, never guesses."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class TextFile(Table):
    """A text kept in a file, from the study file's folder."""

    file: str
    """Path of the file."""
