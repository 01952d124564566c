"""Owns how [space] is written: ranges, choices, files, constants, switches. Knows no backend."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    model_validator,
)
from typing_extensions import TypeAliasType

from genopt.errors import SpecError
from genopt.space import Choice, Constant, Dimension, Number, SearchSpace, Switch
from genopt.spec._base import Table

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Value = Scalar | list[StrictStr]


class Range(Table):
    """Numbers from low to high, both included. `0.0` is a float, `0` an integer: all of low, high and step agree."""

    low: StrictInt | StrictFloat
    """Smallest value."""
    high: StrictInt | StrictFloat
    """Largest value."""
    log: bool = False
    """Search the logarithm: for parameters that act by ratios."""
    step: StrictInt | StrictFloat | None = None
    """Distance between neighbouring values, counted from low."""

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be smaller than high ({self.high}). Swap or widen them")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs low > 0, but low is {self.low}. Raise low or drop log")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ValueError(f"step ({self.step}) must lie between 0 and high - low. Choose a smaller step")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other. Drop one of them")
        return self

    def build(self) -> Number:
        numbers = [self.low, self.high] + ([self.step] if self.step is not None else [])
        integer = all(isinstance(number, int) for number in numbers)
        high = self.high
        if self.step is not None:  # the largest value that steps reach, as a sampler would see it
            high = self.low + int((self.high - self.low) / self.step + 1e-9) * self.step
            high = high if integer else min(self.high, float(f"{high:.12g}"))  # 3 * 0.1 is a little more than 0.3
        return Number(self.low, high, integer=integer, log=self.log, step=self.step)


class Choices(Table):
    """One of several values: texts, numbers, true / false, or lists of texts (stop strings)."""

    choices: Annotated[list[Value], Field(min_length=1)]
    """The values."""

    @model_validator(mode="after")
    def _distinct(self) -> Choices:
        for first, second in combinations(self.choices, 2):
            if first == second:  # so are 1, 1.0 and true, which a sampler cannot tell apart
                same = "" if repr(first) == repr(second) else f" ({first!r} and {second!r} are the same)"
                raise ValueError(f"a choice is listed twice{same}. Remove one of them")
        return self

    def build(self) -> Choice:
        return Choice.of([tuple(value) if isinstance(value, list) else value for value in self.choices])


class Files(Table):
    """One of several texts kept in files, named by their paths from the study file's folder."""

    files: Annotated[list[StrictStr], Field(min_length=1)]
    """Paths of text files."""

    def build(self, folder: Path) -> Choice:
        return Choice.of([read_text(folder, name) for name in self.files], labels=self.files)


def _kind(value: Any) -> str:
    if isinstance(value, (Range, Choices, Files)):
        return "#" + type(value).__name__.lower()
    if not isinstance(value, dict):
        return "#constant"
    if "choices" in value:
        return "#choices"
    if "files" in value:
        return "#files"
    if value and all(isinstance(inner, dict) for inner in value.values()):
        return "#switch"
    return "#range"


def _plain(value: Any) -> Any:
    """A value to keep. Raises ValueError for a list that was meant to be searched: only stop strings are one."""
    value = list(value) if isinstance(value, tuple) else value
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        listed = json.dumps(value, ensure_ascii=False, default=str)
        numbers = len(value) == 2 and all(type(item) in (int, float) for item in value) and value[0] < value[1]
        between = f", or {{ low = {value[0]}, high = {value[1]} }} for a number between them" if numbers else ""
        raise ValueError(f"{listed} is a list. Write {{ choices = {listed} }} for one of them{between}")
    return value


if TYPE_CHECKING:  # a recursive alias that only pydantic can follow
    DimensionSpec = Any
else:
    DimensionSpec = TypeAliasType(  # named, since a branch of a switch holds dimensions again
        "DimensionSpec",
        Annotated[
            Annotated[Range, Tag("#range")]
            | Annotated[Choices, Tag("#choices")]
            | Annotated[Files, Tag("#files")]
            | Annotated[Value, BeforeValidator(_plain), Tag("#constant")]
            | Annotated[dict[str, dict[str, "DimensionSpec"]], Tag("#switch")],
            Discriminator(_kind),
        ],
    )
SpaceSpec = dict[str, DimensionSpec]


def build_space(table: SpaceSpec, folder: Path) -> SearchSpace:
    """The search space that a checked [space] table describes. Raises SpecError for an unreadable file, and for a
    parameter that one trial would get from two places: one of them would be searched without any effect."""
    space = SearchSpace({name: _build(value, folder) for name, value in table.items()})
    found = [
        f"space.{second}: is given twice: a trial that takes it may take space.{first} too. Keep one of them"
        for (first, name, _), (second, other, _) in combinations(space.walk(), 2)
        if name == other and not _alternatives(first, second)
    ]
    if found:
        raise SpecError(found)
    return space


def _alternatives(first: str, second: str) -> bool:
    """True when two paths part at the branch of a switch; they read name.branch.name.branch ... name."""
    parts = zip(first.split("."), second.split("."), strict=False)
    return next((i for i, (a, b) in enumerate(parts) if a != b), 0) % 2 == 1


def _build(value: Any, folder: Path) -> Dimension:
    if isinstance(value, (Range, Choices)):
        return value.build()
    if isinstance(value, Files):
        return value.build(folder)
    if isinstance(value, dict):
        return Switch({b: {n: _build(v, folder) for n, v in inner.items()} for b, inner in value.items()})
    return Constant(tuple(value) if isinstance(value, list) else value)


def read_text(folder: Path, name: str) -> str:
    """The text of a file named in the study file. Raises SpecError when it cannot be read."""
    try:
        return (folder / name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{folder / name}: is not valid UTF-8. Save the file as UTF-8") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SpecError(f"{folder / name}: {reason}. Paths start at the study file's folder") from error
