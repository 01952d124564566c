"""Owns what a running study tells whoever listens. Plain records: how they look is the listener's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from genopt.types import Params

Stage = Literal["opening", "baseline", "search", "finalists", "confirm", "done"]


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line."""

    text: str
    level: Literal["info", "warning"] = "info"


@dataclass(frozen=True, slots=True)
class StageStarted:
    """The study entered a stage; `detail` is a line for people, `planned` how many generations it takes at most."""

    stage: Stage
    detail: str = ""
    planned: int = 0


@dataclass(frozen=True, slots=True)
class TrialDone:
    """A trial ended. `mean` and `se` are of the utility, on `n` of `of` examples; `best` says it now leads."""

    number: int | None
    params: Params
    mean: float
    se: float
    n: int
    of: int
    outcome: Literal["complete", "stopped early", "duplicate", "failed"]
    best: bool
    why: str = ""
    baseline: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the study is; sent as generations arrive. `engine` is what the engine says of itself."""

    stage: Stage
    trials: int
    trial_budget: int | None
    best: tuple[float, float, float] | None
    generations: int
    tokens: int
    generations_per_second: float
    tokens_per_second: float
    fraction: float
    seconds_left: float | None
    engine: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decided:
    """The study reached a verdict (the fields of `optimize --json`)."""

    verdict: Mapping[str, object]


Event = Note | StageStarted | TrialDone | Progress | Decided
Listener = Callable[[Event], None]


def silence(event: Event) -> None:
    """The listener that hears nothing."""
