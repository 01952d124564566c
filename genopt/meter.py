"""Owns counting what a study costs while it runs. Knows no budget and stops nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from genopt.types import Generation, Phase


@dataclass
class Meter:
    """What the study has spent, as it happens, and what it had for nothing: texts `harvested` from others."""

    search_generations: int = 0
    confirm_generations: int = 0
    tokens: int = 0
    here: int = 0
    tokens_here: int = 0
    harvested: int = 0
    saved_tokens: int = 0

    @property
    def generations(self) -> int:
        return self.search_generations + self.confirm_generations

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
