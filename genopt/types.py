"""Owns the records that pass between floors and the two seams, Backend and Scorer. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

ParamValue = bool | int | float | str | tuple[str, ...] | None
Params = Mapping[str, ParamValue]
Phase = Literal["tune", "confirm"]
Finish = Literal["stop", "length", "degenerate", "error"]
Need = Literal["references", "repeats"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant. `images` are paths of files."""

    role: str
    content: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the user's data: its fields as read, the acceptable answers, the group it must stay with, and the
    paths of the images that are shown with it."""

    id: str
    fields: Mapping[str, Any]
    references: tuple[str, ...] = ()
    group: str | None = None
    images: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One generation to make.

    `params` holds every generation parameter explicitly under genopt's names; a backend never fills one in from its
    own defaults. `seed` is in [0, 2**31). `sample` counts the generations of one example, from 0.
    At most one of `schema` (a JSON Schema), `regex` and `choices` constrains the text, where `BackendInfo.structured`
    has it; `top_logprobs` asks for so many alternatives of every token, at most `BackendInfo.top_logprobs`.
    """

    messages: tuple[Message, ...]
    params: Params
    seed: int
    example_id: str
    sample: int = 0
    phase: Phase = "tune"
    schema: Mapping[str, Any] | None = None
    regex: str | None = None
    choices: tuple[str, ...] = ()
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token, its natural log probability, and those of the likeliest tokens in its place, by text."""

    token: str
    logprob: float
    top: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote, without the stop string.

    `finish`: "stop" (end token or stop string), "length" (max_tokens), "degenerate" (endless repetition), "error" (the
    configuration or the prompt is to blame, e.g. the prompt is too long: `why` says so and the text is scored lowest).
    `seconds` is the time the engine took (loading a model left out) and means little while requests share an engine;
    `first_token_seconds` is how much of it passed before the first token, None where the engine does not tell.
    `logprobs` holds one entry per generated token when the request asked for them. `tokens` are the ids that the engine
    drew, end token included, where its `replay` can make other lengths of the text out of them.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    logprobs: Sequence[TokenLogprob] | None = None
    why: str = ""
    first_token_seconds: float | None = None
    tokens: tuple[int, ...] | None = None

    @property
    def failed(self) -> bool:
        """True when the text is not to be shown to a scorer: it is scored lowest instead."""
        return self.finish in ("error", "degenerate")


@dataclass(frozen=True, slots=True)
class Score:
    """A scorer's opinion of one generation; None means "could not be scored", which is never a silent 0."""

    value: float | None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Judgment:
    """A judge's answer to one question about a text.

    `value` is the expected value in [0, 1] over `probabilities` (label -> probability, summing to 1), or None when the
    judge could not be understood, and `why` says so. `raw` is what it wrote; `mode` how that was read. The rest is what
    it cost, over all `calls`.
    """

    value: float | None
    why: str
    probabilities: Mapping[str, float]
    raw: str
    mode: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Range:
    """Where it is worth searching a parameter: used when a study file names no space of its own."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """The legal values of one generation parameter of one backend, and what it does.

    kind     float | int | bool | str | strings (a list of strings)
    low/high inclusive bounds of numbers; `low_open` makes the lower one exclusive
    choices  the legal strings of a `str` parameter; empty = any
    neutral  the values at which the parameter does nothing; the first one is how "off" is sent
    search   the range a default space searches, None = not searched unless asked for
    """

    kind: Literal["float", "int", "bool", "str", "strings"]
    doc: str
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    choices: tuple[str, ...] = ()
    neutral: tuple[ParamValue, ...] = ()
    search: Range | None = None

    def coerce(self, value: Any) -> ParamValue:
        """The value in this domain's own Python type; ValueError in plain words when it is not legal."""
        if self.kind == "bool":
            if not isinstance(value, bool):
                raise ValueError(f"{value!r} is not true or false")
            return value
        if self.kind == "str":
            if not isinstance(value, str):
                raise ValueError(f"{value!r} is not a text")
            if self.choices and value not in self.choices:
                raise ValueError(f"{value!r} is not one of {', '.join(self.choices)}")
            return value
        if self.kind == "strings":
            items = [value] if isinstance(value, str) else value
            if not isinstance(items, Sequence) or not all(isinstance(item, str) and item for item in items):
                raise ValueError(f"{value!r} is not a list of non-empty texts")
            return tuple(items)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{value!r} is not a finite number")
        if self.kind == "int" and float(value) != int(value):
            raise ValueError(f"{value!r} is not a whole number")
        if not self.low <= value <= self.high or (self.low_open and value == self.low):
            raise ValueError(f"{value!r} is outside {self.bounds()}")
        return int(value) if self.kind == "int" else float(value)

    def bounds(self) -> str:
        """The legal range as people write it, e.g. `(0, 1]`, `>= 0` or `one of a, b`."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "str":
            return "one of " + ", ".join(self.choices) if self.choices else "text"
        if self.kind == "strings":
            return "a list of texts"
        if math.isinf(self.low) and math.isinf(self.high):
            return "any number"
        if math.isinf(self.high):
            return f"{'>' if self.low_open else '>='} {self.low:g}"
        return f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What an opened engine is and honours.

    `identity` (engine, version, model, digest ...) is part of every configuration's key. `params` are the generation
    parameters this engine, version and model honours per request; any other name is refused before a generation.
    `defaults` are the values the engine would use by itself today (generation_config.json, Modelfile): the baseline.
    `concurrency` is how many requests it is worth having in flight; `context` the model's window in tokens.
    `structured` says which constraints of a Request it keeps to, `top_logprobs` how many alternatives it can tell,
    `images` whether it sees them. `notes` are worth a warning: what this version ignores, how its defaults differ.
    `aliases` are other spellings of parameters that a study file may use (the engine's own -> genopt's); `dead` are
    names that people know and that do nothing here, each with the reason; `slots` is how many requests the engine
    works on at once, None where it does not tell. `seeded` says that equal requests with equal seeds are given equal
    texts (rounding aside), `hidden` that tokens may be written which the text does not show (thinking), `idle_is_free`
    that one request more costs next to nothing while slots are free, as on a GPU: then examples are asked for that may
    not be needed. `recommended` are the sampling settings that the model comes with (generation_config.json,
    Modelfile), also where they do nothing by default; only what it names.
    """

    identity: Mapping[str, str]
    params: Mapping[str, Domain]
    defaults: Params
    concurrency: int = 1
    context: int | None = None
    vocabulary: int | None = None
    notes: tuple[str, ...] = field(default=())
    structured: frozenset[Literal["schema", "regex", "choices"]] = frozenset()
    top_logprobs: int = 0
    images: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)
    dead: Mapping[str, str] = field(default_factory=dict)
    slots: int | None = None
    seeded: bool = False
    hidden: bool = False
    idle_is_free: bool = False
    recommended: Params = field(default_factory=dict)


@runtime_checkable
class Backend(Protocol):
    """One engine. Constructed as `Backend(model=..., options={...})`; nothing is loaded before `open`.

    Five things are optional. `known`, a BackendInfo of what any model and version may honour: a study's names are held
    against it before `open`. `tell`, an attribute that is set before `open`: a callable that takes a line for people
    (loading, waiting for a server). `stats()`: what the engine is doing right now, name -> number, for the progress
    line; "concurrency" among it takes the place of BackendInfo's, for an engine that learns how many texts fit. `async
    models(names)`: for an engine whose requests may name another `model`, what identifies each of these (name ->
    {"digest": ...}); raises SpecError for those it does not have. `replay(request, donor)`: what `generate` would give
    for a request that differs from the donor's in nothing but max_tokens and stop, made of `donor.tokens`; None where
    they end before its text does. It has to be right to the letter.
    """

    async def open(self) -> BackendInfo:
        """Load or reach the engine. Raises BackendError, MissingExtra or SpecError (a wrong model or option)."""
        ...

    async def generate(self, request: Request) -> Generation:
        """One generation. Cancelling the call frees its place in the engine. Raises BackendError."""
        ...

    async def aclose(self) -> None:
        """Free the engine; safe to call twice."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Scores all samples of one example at once; one that gains from batches gathers inside."""

    name: str
    needs: frozenset[Need]

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, in order, higher is better, in [0, 1] unless the scorer says otherwise."""
        ...

    async def aclose(self) -> None:
        """Free what the scorer holds; safe to call twice."""
        ...
