"""Owns how a user's own Python function scores. Finding it by name is plugins.py's."""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genopt.errors import ScorerError, SpecError
from genopt.scorers._plain import NOTHING, Plain
from genopt.types import Example, Generation, Score

_SLACK = 1e-9  # what rounding may add to a mean of ones


class Function(Plain):
    """Scores with `function(example, text)`, which gives a number in [0, 1], (number, why) or a Score.

    None, NaN and infinity mean "could not be scored". A second parameter called `texts` receives all samples of the
    example at once and gives one result for each. An `async def` is awaited; any other function runs in the event
    loop's own thread, so one that waits for something should be an `async def`. Raises SpecError when the function
    cannot take two arguments; ScorerError when it raises or gives anything else.
    """

    needs = NOTHING

    def __init__(self, *, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self._function = function
        if not callable(function):
            raise SpecError(f"scorers.{name}: function: {function!r} cannot be called. Name a function")
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some built-in functions have none
            self._together = False
            return
        try:
            bound = signature.bind(None, None)
        except TypeError:
            raise SpecError(
                f"scorers.{name}: function: {_named(function)}{signature} has to take (example, text)"
            ) from None
        self._together = list(bound.arguments)[-1] == "texts"

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, in order."""
        texts = [generation.text for generation in generations]
        if not self._together:
            return [self._score(example, await self._call(example, text)) for text in texts]
        results = await self._call(example, texts)
        if not isinstance(results, Sequence) or len(results) != len(texts):
            raise ScorerError(f"scorer {self.name!r} gave {results!r} for {len(texts)} texts of example {example.id!r}")
        return [self._score(example, result) for result in results]

    async def _call(self, example: Example, given: str | list[str]) -> Any:
        try:
            result = self._function(example, given)
            return await result if inspect.isawaitable(result) else result
        except (Exception, SystemExit) as error:
            raise ScorerError(
                f"scorer {self.name!r} failed on example {example.id!r}: {type(error).__name__}: {error}",
                hint=f"the error was raised in {_named(self._function)}{_place(error)}",
            ) from error

    def _score(self, example: Example, result: Any) -> Score:
        if isinstance(result, Score):
            value, why = result.value, result.why
        elif isinstance(result, tuple) and len(result) == 2:
            value, why = result
        else:
            value, why = result, ""
        why = "" if why is None else str(why)
        if value is None:
            return Score(None, why or "the function gave None")
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = None
        if number is None or isinstance(value, str):
            raise ScorerError(
                f"scorer {self.name!r} gave {result!r} for example {example.id!r}",
                hint="return a number in [0, 1], (number, why), a genopt.Score, or None when it cannot be scored",
            )
        if not math.isfinite(number):
            return Score(None, why or f"the function gave {number}")
        if not -_SLACK <= number <= 1 + _SLACK:
            raise ScorerError(
                f"scorer {self.name!r} gave {number:g} for example {example.id!r}, which is outside [0, 1]",
                hint="divide by the largest possible score; where less is better, return 1 minus that",
            )
        return Score(min(max(number, 0.0), 1.0), why)


def _named(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))


def _place(error: BaseException) -> str:
    """Where the innermost call failed, as file and line."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the call of the function
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
