"""Owns the keys of the human scorer's table. What it does lives in genopt/scorers/human.py."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from genopt.spec._base import Table


class Human(Table):
    """A person grades every text, blind: `genopt grade STUDY` asks, and the study goes on as grades come."""

    kind: Literal["human"]
    question: Annotated[str, Field(min_length=1)]
    """What to grade by, e.g. "Would you send this answer?"."""
    levels: dict[str, str] | None = None
    """What each grade means; the names are single digits (default 1 to 5)."""
    reference: bool = True
    """Show the row's references to the person where there are any."""
    show: list[str] | None = None
    """Fields of the row shown as what was asked (default: all but those that hold the references)."""

    @model_validator(mode="after")
    def _keys(self) -> Human:
        names = ["1", "5"] if self.levels is None else list(self.levels)
        if len(names) < 2 or not all(name.isascii() and name.isdigit() and len(name) == 1 for name in names):
            raise ValueError('levels: at least two single digits name the grades, e.g. { 1 = "no", 2 = "yes" }')
        return self
