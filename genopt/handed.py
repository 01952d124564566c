"""Owns what engines and scorers hand over, held against what they promise: their code may be anybody's, and what is
amiss in it would show as a fault of the storage or of the arithmetic."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, get_args

from genopt.errors import BackendError, GenoptError, ScorerError, SpecError
from genopt.types import BackendInfo, Finish, Generation, Score

COUNTS = ("prompt_tokens", "completion_tokens")
FINISHES = get_args(Finish)
REFUSED = "refused for good: "  # how the reason begins of a text that an engine would not write
PAUSES = (0.5, 2.0, 8.0)  # seconds before a request that the engine says may be tried again is


@contextmanager
def raised(engine: str, method: str) -> Iterator[None]:
    """What an engine's `method` raises is an error of genopt's inside: its own kind of error as it is, any other as a
    BackendError that names the engine as `engine` does: by its key and kind, `backend.kind: module:Class`."""
    try:
        yield
    except GenoptError:
        raise
    except Exception as error:
        failure = BackendError(
            f"{engine}: {method}() raised {type(error).__name__}: {error}",
            outside=isinstance(error, (ConnectionError, TimeoutError)),
            hint="genopt --debug ... shows where. Correct an engine of your own there, or have it raise"
            " genopt.BackendError, with retryable=True for what may pass",
        )
        raise failure.with_traceback(error.__traceback__) from error  # the cause alone is lost among tasks


async def patiently(ask: Callable[[], Awaitable[Generation]], sleep: Callable[[float], Awaitable[None]]) -> Generation:
    """What `ask` gives, asked again after growing pauses while the engine says that this may help. Raises what it
    raises."""
    for pause in PAUSES:
        try:
            return await ask()
        except BackendError as error:
            if not error.retryable:
                raise
        await sleep(pause)
    return await ask()


def info(given: Any, kind: str) -> BackendInfo:
    """What an engine's `open` gave. Raises SpecError where that does not describe an engine; `kind` is its name."""
    if not isinstance(given, BackendInfo):
        raise SpecError(f"backend.kind: {kind}: open() gave {_short(given)}. It has to give a genopt.BackendInfo")
    found = []
    if given.concurrency < 1:  # nothing would ever be asked, and nobody told
        found.append(f"a concurrency of {given.concurrency}. It has to be 1 or more")
    if unset := sorted(given.params.keys() - given.defaults.keys()):
        found.append(f"no default of {', '.join(unset)}. Each of its params needs its value of today in defaults")
    if found:
        raise SpecError([f"backend.kind: {kind}: open() tells {what}" for what in found])
    return given


def generation(given: Any, engine: object) -> Generation:
    """What an engine's `generate` gave, its numbers as Python's own (NumPy's cannot be stored). Raises BackendError
    where that is no text that can be kept."""
    if amiss := _amiss(given):
        raise BackendError(
            f"{type(engine).__name__}.generate() gave {amiss}",
            hint="it has to give a genopt.Generation: a text, how it ended, whole numbers of tokens, seconds",
        )
    made: Generation = given
    if all(type(getattr(made, name)) is int for name in COUNTS) and type(made.seconds) in (int, float):
        return made
    prompt, written = (int(getattr(made, name)) for name in COUNTS)
    return replace(made, prompt_tokens=prompt, completion_tokens=written, seconds=float(made.seconds))


def _amiss(given: Any) -> str:
    if not isinstance(given, Generation):
        return _short(given)
    if not isinstance(given.text, str):
        return f"the text {_short(given.text)}"
    if given.finish not in FINISHES:
        return f"the finish {given.finish!r}, which is none of {', '.join(FINISHES)}"
    for name in COUNTS:
        count = getattr(given, name)
        if not isinstance(count, Integral) or count < 0:
            return f"{name} = {_short(count)}"
    if not isinstance(given.seconds, Real) or not math.isfinite(given.seconds):
        return f"seconds = {_short(given.seconds)}"
    return ""


def scores(given: Any, count: int, scorer: str, example: str) -> list[Score]:
    """What a scorer's `score` gave for `count` generations of an example. What is not finite could not be scored.
    Raises ScorerError where it is not a score for each."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise ScorerError(f"scorer {scorer!r} gave {_short(given)} for example {example!r}", hint=SCORES)
    if len(given) != count:
        raise ScorerError(f"scorer {scorer!r} gave {len(given)} scores for {count} generations")
    for each in given:
        if not isinstance(each, Score) or not (each.value is None or isinstance(each.value, Real)):
            raise ScorerError(f"scorer {scorer!r} gave {_short(each)} for example {example!r}", hint=SCORES)
    return [_plain(each) for each in given]


SCORES = "it has to give a list with one genopt.Score for each generation; Score(None, why) where it cannot tell"


def _plain(given: Score) -> Score:
    """The score as it is kept: what is not finite is not known, and a NumPy number is a Python one."""
    if given.value is None or (type(given.value) is float and math.isfinite(given.value)):
        return given
    if not math.isfinite(given.value):
        return Score(None, given.why or f"the scorer gave {given.value}")
    return replace(given, value=float(given.value))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
