"""Owns what a source of sentence embeddings gives: unit vectors. The sources are the `_embed_*` files beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Embedded:
    """A unit vector (zeros for a text in which the model reads nothing), and whether it saw only the beginning."""

    vector: npt.NDArray[np.float32]
    cut: bool


class Source(Protocol):
    """Where vectors come from; used by one caller at a time, in batches as large as they come."""

    limit: str
    """How much of a text the model reads, for people."""

    async def open(self) -> Mapping[str, str]:
        """What identifies the model, where its name does not. Raises SpecError, BackendError."""
        ...

    async def load(self) -> None:
        """Return when the model is ready. Raises MissingExtra, SpecError, BackendError."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """One vector per text, none of which is blank."""
        ...

    async def aclose(self) -> None:
        """Free the model; safe to call twice."""
        ...
