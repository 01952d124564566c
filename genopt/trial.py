"""Owns one observation: render, find or generate, score, store. Knows no Optuna and decides nothing.

An observation is one example under one configuration: `repeats` answers, their scores, and the metrics' means. An
answer is a sample, or made of several (see `answers`). Replicate number r uses the answers r * repeats ..
(r + 1) * repeats - 1, so that it is a fresh, equal measurement also for scorers that look at several at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from genopt import handed
from genopt.answers import Answers
from genopt.asking import Asker
from genopt.errors import BackendError, ScorerError
from genopt.harvest import Harvest
from genopt.measures import metrics_of
from genopt.meter import Meter
from genopt.objectives import LOWEST, Goal
from genopt.prompt import Prompt, choose_shots
from genopt.schedule import gather
from genopt.tables import FAILED, Donor, Row, generation_row, score_row
from genopt.types import Backend, Example, Message, Params, Phase, Request, Score, Scorer

MAX_MISSING = 0.05  # fraction of observations without a utility beyond which a configuration cannot win


@dataclass(frozen=True)
class Configuration:
    """One way to generate: the flat parameters as chosen, what is sent, what the prompt gets, and its identity; `kin`
    is that of all whose texts may be cuts of each other, "" where none may be."""

    params: Params
    request: Params
    variables: Mapping[str, Any]
    shots: int
    key: str
    deterministic: bool
    kin: str = ""
    n: int = 1


@dataclass(frozen=True, slots=True)
class Observation:
    """One example under one configuration: the mean of every metric over its samples (NaN: missing), and for how many
    texts the engine was asked and how many tokens those took, with their prompts; what was harvested is in neither. Two
    that saw the same are equal, whatever they took."""

    metrics: Mapping[str, float]
    utility: float
    asked: int = field(default=0, compare=False)
    tokens: int = field(default=0, compare=False)


@dataclass
class Evaluation:
    """Everything measured of one configuration on one list of examples, by (example position, replicate)."""

    config: Configuration
    examples: Sequence[Example]
    cells: dict[tuple[int, int], Observation] = field(default_factory=dict)
    _series: tuple[Any, NDArray[np.float64]] | None = field(default=None, init=False, repr=False, compare=False)

    def utility(self, n: int | None = None) -> NDArray[np.float64]:
        """Mean utility over the replicates of each of the first `n` examples; NaN where nothing is known."""
        return self._means(lambda cell: cell.utility, n)

    def series(self) -> NDArray[np.float64]:
        """Every utility in the order of measuring: the examples once, then replicates. Made once: not for writing."""
        if self._series is None or self._series[0] is not self.cells or len(self._series[1]) != len(self.cells):
            self._series = self.cells, np.array([cell.utility for cell in self.cells.values()], dtype=np.float64)
        return self._series[1]

    def metric(self, name: str) -> NDArray[np.float64]:
        return self._means(lambda cell: cell.metrics.get(name, math.nan), None)

    def _means(self, value: Callable[[Observation], float], n: int | None) -> NDArray[np.float64]:
        count = len(self.examples) if n is None else n
        positions = np.array([position for position, _ in self.cells], dtype=np.intp)
        values = np.array([value(cell) for cell in self.cells.values()], dtype=np.float64)
        kept = ~np.isnan(values) & (positions < count)
        known = np.bincount(positions[kept], minlength=count)
        totals = np.bincount(positions[kept], weights=values[kept], minlength=count)
        means = np.full(count, math.nan)
        np.divide(totals, known, out=means, where=known > 0)
        return means

    def chances(self, goal: Goal) -> dict[str, float]:
        """Constraint -> the probability that it holds, from what was measured."""
        groups = [example.group for example in self.examples]
        return {str(c): c.probability(self.metric(c.metric), groups=groups) for c in goal.constraints}

    def means(self) -> dict[str, float]:
        """The mean of every metric over the examples, missing ones left out."""
        names = {name for cell in self.cells.values() for name in cell.metrics}
        return {name: mean_of(self.metric(name)) for name in sorted(names)}

    def missing(self) -> float:
        """Fraction of observations without a utility."""
        if not self.cells:
            return 0.0
        return float(np.isnan(self.series()).mean())


def mean_of(values: NDArray[np.float64]) -> float:
    """The mean without NaN; NaN when nothing is left."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def seed_of(study_seed: int, example_id: str, sample: int, phase: Phase) -> int:
    """The seed of a generation, in [0, 2**31): the same for every configuration, so that trials are compared on equal
    random numbers."""
    digest = hashlib.blake2b(f"{study_seed}\0{example_id}\0{sample}\0{phase}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 2**31


Memory = dict[tuple[str, int], Row]


class Sink(Protocol):
    """Where rows go."""

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Take one row of a table."""


@dataclass
class Observer:
    """Makes observations; one per open study."""

    study_id: int
    seed: int
    repeats: int
    backend: Backend
    prompt: Prompt
    pool: Sequence[Example]
    scorers: Mapping[str, Scorer]
    scorer_keys: Mapping[str, str]
    goal: Goal
    writer: Sink
    meter: Meter
    slots: asyncio.Semaphore
    on_generation: Callable[[], None] = lambda: None
    output: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)
    harvest: Harvest = field(default_factory=Harvest)
    kind: str = ""

    def __post_init__(self) -> None:
        self.asker = Asker(self.backend, self.kind, self.fail)

    async def observe(
        self,
        config: Configuration,
        memory: Memory,
        example: Example,
        replicate: int,
        phase: Phase,
        trial_id: int | None,
    ) -> Observation:
        """One observation; what is in `memory` (the stored rows of this configuration and phase) is not made again.

        Raises BackendError when a request failed for good (see `asking`), ScorerError when a scorer did.
        """
        first = replicate * self.repeats
        samples = [0] * self.repeats if config.deterministic else self.answers.places(first, self.repeats, config.n)
        rows = await gather([self._row(config, memory, example, s, phase) for s in dict.fromkeys(samples)])
        by_sample = {row.sample: row for row in rows}
        if trial_id is not None:
            for row in rows:
                self.writer.add("genopt_trial_rows", {"trial_id": trial_id, "generation_id": row.id})
        rows = [by_sample[sample] for sample in samples]
        chosen = await self.answers.choose(example, rows, self._chooser_scores)
        scores = {
            name: await score_rows(scorer, self.scorer_keys[name], example, chosen, self.writer)
            for name, scorer in self.scorers.items()
        }
        return self._observation(rows, chosen, scores)

    def stored(self, config: Configuration, memory: Memory, example: Example, replicate: int) -> Observation | None:
        """What `observe` gives where every row and score of it is in `memory`; None where something is to be made."""
        own = self.answers.places(replicate * self.repeats, self.repeats, config.n)
        places = [(example.id, sample) for sample in ([0] * self.repeats if config.deterministic else own)]
        rows = [memory[place] for place in places if place in memory]
        if len(rows) < len(places) or not self.answers.settled(rows):
            return None
        chosen, keys = self.answers.chosen(rows), {name: self.scorer_keys[name] for name in self.scorers}
        if any(key not in row.scores for key in keys.values() for row in chosen):
            return None
        scores = {name: [row.scores[key] for row in chosen] for name, key in keys.items()}
        return self._observation(rows, chosen, scores)

    def _observation(
        self, rows: Sequence[Row], chosen: Sequence[Row], scores: Mapping[str, Sequence[Score]]
    ) -> Observation:
        metrics = self.answers.charged(metrics_of([row.generation for row in chosen], scores, self.goal), rows)
        paid = [row.generation for row in {row.id: row for row in rows}.values() if not row.harvested]
        tokens = sum(generation.prompt_tokens + generation.completion_tokens for generation in paid)
        return Observation(metrics, self.goal.utility(metrics), len(paid), tokens)

    async def _chooser_scores(self, example: Example, rows: Sequence[Row]) -> list[Score]:
        answers = self.answers
        return await score_rows(self.scorers[answers.chooser], answers.key, example, rows, self.writer)

    async def _row(self, config: Configuration, memory: Memory, example: Example, sample: int, phase: Phase) -> Row:
        known = memory.get((example.id, sample))
        if known is not None:
            return known
        request = self.request(config, example, sample, phase)
        kin = self.harvest.kin(config.kin, phase)
        async with kin.turn((example.id, sample)):
            found = self.harvest.find(kin, request)
            if found is None:
                async with self.slots:
                    generation, source = await self.asker.generation(request, config.key), None
                self.meter.add(generation, phase)
            else:
                generation, source = found
                self.meter.spare(generation)
            stored = generation_row(
                self.study_id, config.key, example.id, sample, phase, request.seed, config.request, generation,
                kin=config.kin, harvested_from=source,
            )  # fmt: skip
            self.writer.add("genopt_generations", stored)
            if source is None:
                kin.add(Donor(stored["id"], example.id, sample, config.request, generation))
        row = Row(stored["id"], example.id, sample, replace(generation, tokens=None), {}, source is not None)
        memory[(example.id, sample)] = row
        self.on_generation()
        return row

    def request(self, config: Configuration, example: Example, sample: int, phase: Phase) -> Request:
        """What the engine is asked."""
        seed = seed_of(self.seed, example.id, sample, phase)
        return Request(self.render(config, example), config.request, seed, example.id, sample, phase, **self.output)

    def render(self, config: Configuration, example: Example) -> tuple[Message, ...]:
        """The messages of a request."""
        shots = choose_shots(self.pool, example, config.shots) if config.shots else ()
        return self.prompt.render(example, config.variables, shots)

    def fail(self, calls: int = 1) -> None:
        """Count calls of the engine that made nothing: they may have cost as much."""
        for _ in range(calls):
            self.meter.fail()
            self.writer.add(FAILED, {})


async def score_rows(scorer: Scorer, key: str, example: Example, rows: Sequence[Row], writer: Sink) -> list[Score]:
    """The scores of an observation's samples by one scorer, under its key: those that are stored taken from there, the
    others added to the rows and written. Raises ScorerError."""
    if all(key in row.scores for row in rows):
        return [row.scores[key] for row in rows]
    together = "repeats" in scorer.needs
    wanted = rows if together else {row.id: row for row in rows if key not in row.scores}.values()
    asked = [row for row in wanted if not row.generation.failed]
    try:
        given = await scorer.score(example, [row.generation for row in asked]) if asked else []
    except (ScorerError, BackendError):
        raise
    except Exception as error:
        raise ScorerError(
            f"scorer {scorer.name!r} failed on example {example.id!r}: {type(error).__name__}: {error}"
        ) from error
    found = dict(zip((row.id for row in asked), handed.scores(given, len(asked), scorer.name, example.id), strict=True))
    for row in rows:
        if key not in row.scores:
            score = found.get(row.id) or Score(LOWEST, row.generation.why or row.generation.finish)
            row.scores[key] = score
            writer.add("genopt_scores", score_row(row.id, key, score))
    return [row.scores[key] for row in rows]  # as stored, so that a resumed study reads the same
