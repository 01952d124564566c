"""An instant engine with known truth, for tests and benchmarks of everything around the engine.

The chance of the right answer depends on temperature and top_p alone: 0.9 at temperature 0.6 with top_p 0.8, falling
with the distance from there; greedy gets 0.55. Each example has a difficulty of its own, so that pairing matters.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt.errors import BackendError
from genopt.types import BackendInfo, Domain, Generation, Params, Range, Request

PARAMETERS = {
    "temperature": Domain("float", "randomness", 0.0, 2.0, search=Range(0.1, 1.5)),
    "top_p": Domain("float", "nucleus", 0.0, 1.0, low_open=True, neutral=(1.0,), search=Range(0.5, 1.0)),
    "top_k": Domain("int", "truncation", 0, 1000, neutral=(0,)),
    "max_tokens": Domain("int", "length", 1, 4096),
}
DEFAULTS: Params = {"temperature": 1.2, "top_p": 1.0, "top_k": 0, "max_tokens": 64}


def uniform(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but the parts."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) / 2**64


def truth(params: Params) -> float:
    """The chance of a right answer, averaged over examples."""
    temperature, top_p = float(params["temperature"] or 0.0), float(params["top_p"] or 1.0)
    if temperature == 0:
        return 0.55
    return max(0.05, 0.9 - 0.5 * abs(temperature - 0.6) - 0.8 * abs(top_p - 0.8))


class ToyBackend:
    """Options: `log` (a file that gets one JSON line per request), `delay` (seconds), `late_delay` (the same for
    replicates and the verdict), `fail_every` (every n-th request fails, retryable), `broken` (every request fails for
    good), `broken_after` (every request after the n-th does), `refuses` ([name, low, high]: requests with such a value
    of a parameter do), `withholds` ([rows, low, high]: late requests about one of these rows, or about any where there
    are none, at such a temperature do; with `away` as if a server had not come back), `models` (name -> what it adds to
    the chance: requests name one of them, and only one is loaded at a time; `loads` lists them in order), `kill_after`
    (the process dies at its n-th), `flat` (the parameters change nothing), `meet` (a file: open waits until two
    processes have opened), `structured`, `images` and `seeded` (what it says it can). `requests` and `cancelled`
    count."""

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self.model, self.options = model, dict(options or {})
        self.requests = self.cancelled = 0
        self.opened = self.closed = 0
        self.running = 0
        self.loads: list[str] = []

    async def open(self) -> BackendInfo:
        self.opened += 1
        if meet := self.options.get("meet"):
            with Path(meet).open("a", encoding="utf-8") as file:
                file.write("here\n")
            while len(Path(meet).read_text(encoding="utf-8").splitlines()) < 2:
                await asyncio.sleep(0.01)
        params, defaults = PARAMETERS, DEFAULTS
        if models := self.options.get("models"):
            params = params | {"model": Domain("str", "which model answers", choices=tuple(models))}
            defaults = defaults | {"model": next(iter(models))}
        return BackendInfo(
            {"engine": "toy", "version": "1", "model": self.model},
            params,
            defaults,
            concurrency=16,
            structured=frozenset(self.options.get("structured", ())),
            images=bool(self.options.get("images")),
            seeded=bool(self.options.get("seeded")),
            idle_is_free=bool(self.options.get("idle_is_free")),
        )

    async def models(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        return {name: {"digest": f"of {name}"} for name in names}

    async def generate(self, request: Request) -> Generation:
        self.requests += 1
        if log := self.options.get("log"):
            line = {"params": dict(request.params), "example": request.example_id, "sample": request.sample}
            line |= {"phase": request.phase, "seed": request.seed, "time": time.time()}
            line |= {"schema": request.schema, "regex": request.regex, "choices": request.choices}
            line |= {"images": [image for message in request.messages for image in message.images]}
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        model = str(request.params.get("model", ""))
        if not self.loads or self.loads[-1] != model:
            assert not self.running, "a model was changed under running requests"
            self.loads.append(model)
        self.running += 1
        try:
            return await self._answer(request, self.options.get("models", {}).get(model, 0.0))
        finally:
            self.running -= 1

    async def _answer(self, request: Request, better: float) -> Generation:
        late = request.phase == "confirm" or request.sample > 0
        if delay := self.options.get("late_delay" if late and "late_delay" in self.options else "delay"):
            try:
                await asyncio.sleep(delay * (0.5 + uniform(request.seed, request.example_id)))
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if refuses := self.options.get("refuses"):
            name, low, high = refuses
            if low <= request.params[name] < high:
                raise BackendError(f"refused: {name} {request.params[name]}", retryable=False)
        if late and (withholds := self.options.get("withholds")):
            ids, low, high = withholds
            if (not ids or request.example_id in ids) and low <= request.params["temperature"] < high:
                raise BackendError(f"cannot answer {request.example_id}", outside=bool(self.options.get("away")))
        if self.options.get("broken") or self.requests > self.options.get("broken_after", math.inf):
            raise BackendError("the engine is broken", retryable=False)
        if (every := self.options.get("fail_every")) and self.requests % every == 0:
            raise BackendError("the engine is busy", retryable=True)
        if self.options.get("kill_after") == self.requests:
            os.kill(os.getpid(), 9)
        chance = (0.6 if self.options.get("flat") else truth(request.params)) + better
        ease = 0.6 * (uniform("ease", request.example_id) - 0.5)
        greedy = request.params["temperature"] == 0
        right = uniform("draw", 0 if greedy else request.seed, request.example_id) < chance + ease
        return Generation("yes" if right else "no", "stop", 10, 1, 0.0)

    async def aclose(self) -> None:
        self.closed += 1


def rows(count: int) -> list[dict[str, Any]]:
    """Rows whose right answer is "yes"."""
    return [{"id": f"r{i}", "question": f"Is {i} right?", "answer": "yes"} for i in range(count)]


def study(folder: Path, *, count: int = 60, **changes: Any) -> dict[str, Any]:
    """A study on the toy engine, as the table of a study file; `changes` replace whole tables."""
    table: dict[str, Any] = {
        "name": "toy",
        "storage": f"sqlite:///{folder / 'toy.db'}",
        "seed": 1,
        "dataset": {"rows": rows(count), "holdout": 0.4},
        "prompt": {"user": "{{ question }}"},
        "backend": {"kind": "tests.toy:ToyBackend", "model": "toy"},
        "space": {
            "top_p": {"low": 0.5, "high": 1.0},
            "decoding": {"greedy": {"temperature": 0.0}, "sampling": {"temperature": {"low": 0.1, "high": 1.5}}},
        },
        "scorers": {"right": {"kind": "exact_match"}},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials": 6},
    }
    return table | changes
