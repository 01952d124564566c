"""Owns the replay of a table: a backend that serves recorded rows, the scorer that reads them, the study around both.

    [backend]
    kind    = "benchmarks.search.replay:Replay"
    model   = "walks"
    options = { table = "walks" }          # a name, or the path of a table's JSON
    [scorers.facts]
    kind    = "benchmarks.search.replay:Metric"
    metric  = "facts"

The table is taken for the truth: a request draws one of its configuration's recorded samples of the example, with
replacement, by its seed. Equal seeds draw the same place in every configuration, as they had the same seed when they
were recorded (common random numbers); another seed is a fresh draw, and the mean over all draws is the table's mean. In
a pooled table, whose configurations are equal in distribution, every configuration draws for itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.search import grid
from benchmarks.search.table import Table, load
from genopt.errors import BackendError, SpecError
from genopt.types import BackendInfo, Example, Generation, Need, Request, Score

SLOTS = 64


def drawn(seed: int, samples: int, apart: int | None = None) -> int:
    """Which recorded sample a seed draws; `apart` numbers those that draw each for itself."""
    if samples == 1:
        return 0
    text = f"{seed}" if apart is None else f"{seed} {apart}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) % samples


class Replay:
    """A table instead of an engine: it answers at once and only what was recorded.

    A request's parameters, and the prompt's variables, which its last message holds as JSON, name a configuration; its
    example and seed name the row. The text is JSON too: the metrics and which sample it is. Raises BackendError for a
    configuration or an example that the table lacks. Option: `table`.
    """

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._model, self._options = model, dict(options or {})
        if unknown := sorted(set(self._options) - {"table"}):
            raise SpecError(f"backend.options.{unknown[0]}: there is no such option. Known: table")
        self._table: Table | None = None
        self._places: grid.Places | None = None
        self._examples: dict[str, int] = {}
        self._known: dict[tuple[str, str], int] = {}
        self._variables: frozenset[str] = frozenset()

    async def open(self) -> BackendInfo:
        """Read the table. Raises SpecError when there is none."""
        name = str(self._options.get("table", self._model))
        try:
            table = load(name)
        except (OSError, ValueError) as error:
            raise SpecError(
                f"backend.options.table: {name}: {error}. Record it with benchmarks.search.record"
            ) from error
        space = grid.read(table.about["space"])
        full = [grid.explicit(params, space) for params in table.configurations]
        self._places = grid.Places(table.about["space"], table.configurations)
        self._examples = {example: n for n, example in enumerate(table.examples)}
        self._table = table
        self._known = {}
        self._variables = space.names() - grid.DOMAINS.keys()
        today = {n: d.neutral[0] for n, d in grid.DOMAINS.items() if d.neutral} | full[table.baseline]
        names = [name for name in grid.DOMAINS if any(name in params for params in full)]
        return BackendInfo(
            identity={"engine": "replay", "version": "1", "model": table.name, "table": table.digest},
            params={name: grid.DOMAINS[name] for name in names},
            defaults={name: today[name] for name in names},
            concurrency=SLOTS,
            seeded=True,
        )

    async def generate(self, request: Request) -> Generation:
        """The recorded row. Raises BackendError for what was not recorded."""
        if self._table is None or self._places is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        table, number = self._table, self._configuration(request, self._places)
        example = self._examples.get(request.example_id)
        if example is None:
            raise BackendError(f"{table.name}: example {request.example_id!r} was not recorded")
        sample = drawn(request.seed, int(table.samples[number]), number if table.pooled else None)
        place = (number, example, sample)
        text = json.dumps({"sample": sample, **{name: float(v[place]) for name, v in table.metrics.items()}})
        written = int(table.completion_tokens[place])
        limit = request.params.get("max_tokens")
        finish = "length" if written == limit else "stop"
        return Generation(text, finish, int(table.prompt_tokens[place]), written, 0.0)

    def _configuration(self, request: Request, places: grid.Places) -> int:
        last = request.messages[-1].content if self._variables else ""
        asked = (json.dumps(sorted(request.params.items())), last)
        if asked not in self._known:
            written = json.loads(last) if last else {}
            params = {**request.params, **{name: written[name] for name in self._variables}}
            try:
                self._known[asked] = places.of(params)
            except KeyError as error:
                raise BackendError(f"{self._model}: this configuration was not recorded: {error}") from None
        return self._known[asked]

    async def aclose(self) -> None:
        """Let the table go; safe to call twice."""
        self._table = None


class Metric:
    """What was recorded of one metric. Option: `metric`, its name in the table."""

    needs: frozenset[Need] = frozenset()

    def __init__(self, *, name: str, metric: str) -> None:
        self.name, self._metric = name, metric

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """The recorded values; None where the text is not a replayed one."""
        return [self._of(generation.text) for generation in generations]

    def _of(self, text: str) -> Score:
        try:
            return Score(float(json.loads(text)[self._metric]))
        except (ValueError, KeyError, TypeError):
            return Score(None, f"no {self._metric} was recorded in {text!r}")

    async def aclose(self) -> None:
        """Nothing is held."""


def study(table: Table, *, seed: int, storage: str, where: str | Path | None = None, **changes: Any) -> dict[str, Any]:
    """A study of the table, as the tables of a study file; `where` is the path of its JSON when it is not one of the
    benchmark's, and `changes` are further tables (search, budget, ...)."""
    space = grid.read(table.about["space"])
    variables = sorted(name for name in space.names() if name not in grid.DOMAINS)
    pairs = ", ".join(f'"{name}": {{{{ {name} | tojson }}}}' for name in variables)
    return {
        "name": f"{table.name}-{seed}",
        "storage": storage,
        "seed": seed,
        "dataset": {"rows": [{"id": example} for example in table.examples], "id": "id"},
        "prompt": {"user": "{" + pairs + "}"},
        "backend": {
            "kind": "benchmarks.search.replay:Replay",
            "model": table.name,
            "options": {"table": str(where or table.name)},
        },
        "space": table.about["space"],
        "baseline": table.about["baseline"],
        "scorers": {name: {"kind": "benchmarks.search.replay:Metric", "metric": name} for name in table.metrics},
        "objectives": table.about["objectives"],
        **changes,
    }
