"""Owns counting what a study costs while it runs, whoever works on it. Knows no budget and stops nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from genopt.leases import Spent, Worker, worked
from genopt.types import Generation, Phase


@dataclass
class Meter:
    """What the study has spent, as it happens, calls that `failed` among it; and what it had for nothing: texts
    `harvested` from others."""

    search_generations: int = 0
    confirm_generations: int = 0
    tokens: int = 0
    failed: int = 0
    here: int = 0
    tokens_here: int = 0
    harvested: int = 0
    saved_tokens: int = 0

    @property
    def made(self) -> int:
        """Generations that exist."""
        return self.search_generations + self.confirm_generations

    @property
    def generations(self) -> int:
        """How often the engine was asked, as budgets count it: also where it failed, which may have cost as much."""
        return self.made + self.failed

    def add(self, generation: Generation, phase: Phase) -> None:
        """Count one new generation."""
        if phase == "tune":
            self.search_generations += 1
        else:
            self.confirm_generations += 1
        self.here += 1
        tokens = generation.prompt_tokens + generation.completion_tokens
        self.tokens += tokens
        self.tokens_here += tokens

    def fail(self) -> None:
        """Count one call that made no generation."""
        self.failed += 1

    def spare(self, generation: Generation) -> None:
        """Count one generation that was not necessary."""
        self.harvested += 1
        self.saved_tokens += generation.prompt_tokens + generation.completion_tokens


@dataclass
class Rate:
    """Generations and tokens per second over the last `span` seconds."""

    span: float = 20.0
    marks: list[tuple[float, int, int]] = field(default_factory=list)

    def mark(self, meter: Meter) -> tuple[float, float]:
        """Note the meter's reading and give the two rates."""
        now = time.monotonic()
        self.marks.append((now, meter.here, meter.tokens_here))
        while len(self.marks) > 2 and now - self.marks[0][0] > self.span:
            self.marks.pop(0)
        then, generations, tokens = self.marks[0]
        elapsed = max(now - then, 1e-6)
        return (meter.here - generations) / elapsed, (meter.tokens_here - tokens) / elapsed


class Account:
    """What the worker `me` knows of what all have spent: generations, failed calls and tokens on its meter, and
    the time."""

    def __init__(self, meter: Meter, me: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._meter, self._me, self._clock = meter, me, clock
        self._before, self._started = 0.0, clock()
        self._paid = Spent()  # by the others, as far as the meter has it

    def elapsed(self) -> float:
        """Seconds in which anybody worked on the study, until now."""
        return self._before + self._clock() - self._started

    def count(self, workers: Sequence[Worker]) -> None:
        """Put on the meter what others have paid since it was last looked up, and on the clock when they worked without
        this one: hours are the study's, however many share them."""
        others = [worker for worker in workers if worker.id != self._me]
        me = next((worker for worker in workers if worker.id == self._me), None)
        if me is not None:
            own, now = self._clock() - self._started, me.heartbeat + me.age
            self._before = worked([(now - own, now), *(worker.span for worker in others)]) - own
        paid = sum((worker.paid for worker in others), Spent())
        new, self._paid = paid - self._paid, paid
        self._meter.search_generations += new.search_generations
        self._meter.confirm_generations += new.confirm_generations
        self._meter.tokens += new.tokens
        self._meter.failed += new.failed
