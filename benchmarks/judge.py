"""python benchmarks/judge.py [ENGINE] [ROWS] [ROUNDS]: judging beside generation, against the engine alone.

genopt answers rows and has the same engine judge each answer as soon as it is there: render, generate, judge, score.
Every request that reaches the engine is written down. Then the engine alone is given the very same requests, all of
them at once: that is what it can do on this mix. Prompts are not cached between requests, or the
second way would find what the first one left. The model is the quickstart's, which cannot judge: its grades mean
nothing here, its tokens do.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genopt.backends import KINDS
from genopt.plan import Plan
from genopt.plugins import load_object
from genopt.prepare import prepare
from genopt.schedule import run_trial
from genopt.spec.read import make_study
from genopt.trial import Memory, Meter, Observation
from genopt.types import Backend, BackendInfo, Generation, Request

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "studies" / "quickstart"
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "vllm": {"dtype": "float32", "kv_cache_memory_bytes": 2**28, "enable_prefix_caching": False},
    "transformers": {"threads": 1},
}
PROMPT = "Walk: {{ name }}\nLength: {{ length }}\nLevel: {{ level }}\nStart: {{ start }}\nSight: {{ sight }}"
JUDGED = "{{ criterion }}\n{{ input }}\n{{ output }}\n{{ answer }}"


class Recorded:
    """An engine that writes down its requests and counts their tokens. Options: `engine` (its kind) and its own."""

    def __init__(self, *, model: str, options: Mapping[str, Any]) -> None:
        own = dict(options)
        self._engine: Backend = load_object(KINDS[own.pop("engine")], HERE, key="engine")(model=model, options=own)
        self.requests: list[Request] = []
        self.tokens = 0

    async def open(self) -> BackendInfo:
        return await self._engine.open()

    async def generate(self, request: Request) -> Generation:
        self.requests.append(request)
        done = await self._engine.generate(request)
        self.tokens += done.prompt_tokens + done.completion_tokens
        return done

    async def aclose(self) -> None:
        await self._engine.aclose()


class Nowhere:
    """A sink: what storing costs is overhead.py's."""

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Let a row go."""


@dataclass(frozen=True)
class Pass:
    """One way through all requests."""

    requests: int
    tokens: int
    seconds: float
    cpu: float

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds

    @property
    def thrift(self) -> float:
        """Tokens per second of this process's CPU time, which neighbours hardly change."""
        return self.tokens / self.cpu


async def beside(plan: Plan, replicate: int) -> Pass:
    """All rows answered and judged, with the seeds of a replicate: no text was there before."""
    engine: Any = plan.backend
    engine.requests, engine.tokens = [], 0
    config = plan.over_baseline({"temperature": 1.5})
    observer, memory = plan.observer(0, Nowhere(), Meter()), Memory()

    async def observe(index: int) -> Observation:
        return await observer.observe(config, memory, plan.tune[index], replicate, "tune", None)

    began, cpu = time.perf_counter(), time.process_time()
    await run_trial(len(plan.tune), observe, window=2 * plan.concurrency)
    return Pass(len(engine.requests), engine.tokens, time.perf_counter() - began, time.process_time() - cpu)


async def alone(plan: Plan) -> Pass:
    """The same requests, all given to the engine at once."""
    engine: Any = plan.backend
    requests, engine.tokens = list(engine.requests), 0

    async def ask(index: int) -> Generation:
        return await engine.generate(requests[index])

    began, cpu = time.perf_counter(), time.process_time()
    await run_trial(len(requests), ask, window=len(requests))
    return Pass(len(requests), engine.tokens, time.perf_counter() - began, time.process_time() - cpu)


def study(kind: str, rows: int, folder: Path) -> dict[str, Any]:
    """A study whose judge has no engine of its own."""
    lines = (QUICKSTART / "data.jsonl").read_text(encoding="utf-8").splitlines()
    walks = [json.loads(line) for line in lines]
    chosen = [
        {**walks[n % len(walks)], "id": str(n), "name": f"{walks[n % len(walks)]['name']} {n}"} for n in range(rows)
    ]
    return {
        "name": "judging",
        "storage": f"sqlite:///{folder / 'judging.db'}",
        "dataset": {"rows": chosen, "id": "id", "holdout": 0.1},
        "prompt": {"user": PROMPT},
        "backend": {
            "kind": "judge:Recorded",
            "model": str(QUICKSTART / "model"),
            "options": {"engine": kind, **OPTIONS[kind]},
        },
        "space": {"temperature": {"low": 0.1, "high": 1.5}},
        "baseline": {"max_tokens": 64},
        "scorers": {
            "told": {
                "kind": "judge",
                "rubric": "Does the text tell the facts?",
                "show": ["name", "length", "level"],
                "templates": {"system": "", "user": JUDGED},
            }
        },
    }


async def measure(kind: str, rows: int, rounds: int) -> list[tuple[Pass, Pass]]:
    """(beside, alone) of each round, after one that warms the engine up."""
    with tempfile.TemporaryDirectory() as folder:
        plan = await prepare(make_study(study(kind, rows, Path(folder)), folder=HERE))
        try:
            found = []
            for number in range(rounds + 1):
                both = await beside(plan, number), await alone(plan)
                found.append(both)
            return found[1:]
        finally:
            await plan.aclose()


def main(kind: str = "vllm", rows: int = 400, rounds: int = 5) -> None:
    found = asyncio.run(measure(kind, rows, rounds))
    print("round  requests  tokens  beside tok/s  alone tok/s  ratio  beside tok/CPU s  alone tok/CPU s  ratio")
    for number, (one, other) in enumerate(found, start=1):
        print(
            f"{number:>5}  {one.requests:>8}  {one.tokens:>6}  {one.speed:>12,.0f}  {other.speed:>11,.0f}"
            f"  {one.speed / other.speed:>5.2f}  {one.thrift:>16,.0f}  {other.thrift:>15,.0f}"
            f"  {one.thrift / other.thrift:>5.2f}"
        )
    for what, ratios in (
        ("wall", [one.speed / other.speed for one, other in found]),
        ("CPU", [one.thrift / other.thrift for one, other in found]),
    ):
        print(f"{what}: median ratio {statistics.median(ratios):.3f}, from {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:2], *(int(number) for number in sys.argv[2:]))
