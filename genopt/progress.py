"""Owns what listeners are told of a study's progress: how far it is, how fast it goes, how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sized

from genopt.events import Listener, Progress, Stage, StageStarted
from genopt.meter import Meter, Rate
from genopt.plan import Plan
from genopt.stats import mean_se
from genopt.trial import Evaluation

EVERY = 0.25  # seconds between two events


class Ticker:
    """Tells a listener of stages and of progress within them; `known` are the configurations that are done, `best`
    gives the leading one, `elapsed` the seconds worked."""

    def __init__(
        self,
        plan: Plan,
        meter: Meter,
        emit: Listener,
        *,
        best: Callable[[], tuple[str, Evaluation] | None],
        known: Sized,
        elapsed: Callable[[], float],
    ) -> None:
        self._plan, self._meter, self._emit = plan, meter, emit
        self._best, self._known, self._elapsed = best, known, elapsed
        self._rate = Rate()
        self._stage: Stage = "opening"
        self._planned = 0
        self._last = 0.0

    def enter(self, stage: Stage, detail: str = "", planned: int = 0) -> None:
        """A stage begins, which takes `planned` generations at most."""
        self._stage, self._planned = stage, self._meter.made + planned
        self._emit(StageStarted(stage, detail, planned))

    def tick(self) -> None:
        """Something was generated."""
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        self._emit(self._progress(*self._rate.mark(self._meter)))

    def _progress(self, generations_per_second: float, tokens_per_second: float) -> Progress:
        best = self._best()
        interval = None
        if best is not None:
            mean, se = mean_se(best[1].utility())
            interval = (mean, mean - 1.96 * se, mean + 1.96 * se)
        done, planned = self._meter.made, max(self._planned, 1)
        budget, known = self._plan.trials, len(self._known)
        if self._stage == "search" and budget and known:
            each = self._meter.search_generations / known
            planned = round(done + max(0, budget - known) * each)
        left = (planned - done) / generations_per_second if generations_per_second > 0 else None
        hours = self._plan.spec.budget.hours
        if hours is not None:
            left_of_budget = max(0.0, hours * 3600 - self._elapsed())
            left = left_of_budget if left is None else min(left, left_of_budget)
        return Progress(
            stage=self._stage,
            trials=known,
            trial_budget=budget,
            best=interval,
            generations=done,
            tokens=self._meter.tokens,
            generations_per_second=generations_per_second,
            tokens_per_second=tokens_per_second,
            fraction=min(1.0, done / planned),
            seconds_left=left if left is None or math.isfinite(left) else None,
            engine=self._engine(),
        )

    def _engine(self) -> Mapping[str, float]:
        """What the engine is doing, where it tells."""
        stats = getattr(self._plan.backend, "stats", None)
        found: Mapping[str, float] = {} if stats is None else stats()
        return found
