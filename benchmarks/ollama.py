"""python benchmarks/ollama.py: what genopt costs before a real Ollama server, and what several requests at once win.

The same requests go to the same server in turns: through genopt as a study makes them (rendered, checked, sent,
streamed, scored, stored as rows in SQLite) and through a bare loop over httpx that keeps nothing, once streamed and
once not. Every round asks with another temperature, so that nothing is known. A ratio is taken within each round.

GENOPT_OLLAMA names the folder of the ollama program; the model is the quickstart's. Option: --rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from genopt.events import silence  # noqa: E402
from genopt.prepare import prepare  # noqa: E402
from genopt.session import Session  # noqa: E402
from genopt.spec.read import make_study  # noqa: E402
from genopt.trial import Configuration, seed_of  # noqa: E402
from genopt.types import Example  # noqa: E402
from tests.real.engines import Ollama, ollama_program, ollama_server  # noqa: E402

QUICKSTART = ROOT / "studies" / "quickstart"
PARALLEL, BLOCK, ROWS = 4, 8, 80  # a round is short, so that what else the machine does strikes all ways alike


@dataclass(frozen=True)
class Round:
    """What one way did in one round."""

    observations: int
    tokens: int
    seconds: float
    cpu: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def observations_per_second(self) -> float:
        return self.observations / self.seconds


async def timed(work: Callable[[], Awaitable[tuple[int, int]]]) -> Round:
    """A round of `work`, which tells how many observations and tokens it made."""
    cpu, began = time.process_time(), time.perf_counter()
    observations, tokens = await work()
    return Round(observations, tokens, time.perf_counter() - began, time.process_time() - cpu)


def study(server: Ollama, folder: Path, concurrency: int) -> Any:
    """The quickstart's task on the server."""
    table = tomllib.loads((QUICKSTART / "study.toml").read_text(encoding="utf-8"))
    table |= {"name": f"at-{concurrency}", "storage": f"sqlite:///{folder / 'study.db'}", "search": {}}
    options = {"host": server.address, "num_ctx": 512, "num_thread": 1}
    table |= {"backend": {"kind": "ollama", "model": "walks", "concurrency": concurrency, "options": options}}
    table |= {"space": {"temperature": {"low": 0.1, "high": 1.5}}, "baseline": {"max_tokens": 64}}
    table |= {"objectives": [{"maximize": "facts"}]}
    table["scorers"] = {"facts": table["scorers"]["facts"]}
    table["dataset"] |= {"limit": ROWS, "holdout": 0.2}
    return make_study(table, folder=QUICKSTART)


async def through_genopt(session: Session, config: Configuration, examples: Sequence[Example]) -> tuple[int, int]:
    """Examples under one configuration, stored."""
    evaluation = await session.measure(config, examples=examples)
    await session.flush()
    written = sum(cell.metrics["completion_tokens"] for cell in evaluation.cells.values())
    return len(evaluation.cells), round(written)


async def bare(
    client: httpx.AsyncClient,
    session: Session,
    config: Configuration,
    examples: Sequence[Example],
    concurrency: int,
    *,
    stream: bool,
) -> tuple[int, int]:
    """The same requests from a loop that knows nothing else."""
    wire = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}
    options = {wire.get(name, name): value for name, value in config.request.items() if name != "model"}
    options |= {"num_ctx": 512, "num_thread": 1}
    waiting, written = list(examples), 0

    async def lane() -> None:
        nonlocal written
        while waiting:
            example = waiting.pop(0)
            messages = [{"role": m.role, "content": m.content} for m in session.observer.render(config, example)]
            seed = seed_of(session.plan.spec.seed, example.id, 0, "tune")
            body = {"model": "walks", "messages": messages, "stream": stream, "options": options | {"seed": seed}}
            if stream:
                async with client.stream("POST", "/api/chat", json=body) as reply:
                    lines = [json.loads(line) async for line in reply.aiter_lines()]
            else:
                lines = [(await client.post("/api/chat", json=body)).json()]
            written += lines[-1]["eval_count"]

    await asyncio.gather(*(lane() for _ in range(concurrency)))
    return len(examples), written


async def measure(server: Ollama, folder: Path, rounds: int) -> dict[tuple[str, int], list[Round]]:
    """Every way at every concurrency, in turns."""
    found: dict[tuple[str, int], list[Round]] = {}
    sessions: dict[int, Session] = {}
    async with httpx.AsyncClient(base_url=server.address, trust_env=False, timeout=600) as client:
        try:
            for concurrency in (1, PARALLEL):
                session = sessions[concurrency] = Session(await prepare(study(server, folder, concurrency)), silence)
                await session.open()
                await session.start()
            for number in range(rounds + 1):
                for concurrency, session in sessions.items():
                    config = session.plan.over_baseline({"temperature": 0.3 + number / 100})
                    examples = session.plan.tune[(number % 8) * BLOCK :][:BLOCK]
                    plain = partial(bare, client, session, config, examples, concurrency)
                    ways: dict[str, Callable[[], Awaitable[tuple[int, int]]]] = {
                        "genopt": partial(through_genopt, session, config, examples),
                        "httpx, streamed": partial(plain, stream=True),
                        "httpx, not streamed": partial(plain, stream=False),
                    }
                    order = list(ways) if number % 2 else list(reversed(ways))
                    for way in order:
                        found.setdefault((way, concurrency), []).append(await timed(ways[way]))
        finally:
            for session in sessions.values():
                await session.close()
                await session.plan.aclose()
    return {key: each[1:] for key, each in found.items()}  # the first round warms caches up


def spread(values: Sequence[float]) -> str:
    """The median with its 95 % interval (ranks of the binomial distribution, by the normal approximation)."""
    ranked, half = sorted(values), 0.98 * math.sqrt(len(values))
    low, high = math.floor(len(values) / 2 - half), math.ceil(len(values) / 2 + half)
    return f"{statistics.median(values):.2f} ({ranked[max(0, low)]:.2f} to {ranked[min(len(values) - 1, high)]:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    program = ollama_program()
    if program is None:
        sys.exit("set GENOPT_OLLAMA to the folder of the ollama program")
    with (
        tempfile.TemporaryDirectory() as name,
        ollama_server(program, Path(name), OLLAMA_NUM_PARALLEL=str(PARALLEL)) as server,
    ):
        server.create("walks", QUICKSTART / "model")
        found = asyncio.run(measure(server, Path(name), given.rounds))
    print("| way | at once | tokens/s | observations/s | CPU ms per observation | genopt's tokens/s over it |")
    print("|---|---|---|---|---|---|")
    for (way, concurrency), each in found.items():
        own = found["genopt", concurrency]
        ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(own, each, strict=True)]
        rates = (
            statistics.median(r.tokens_per_second for r in each),
            statistics.median(r.observations_per_second for r in each),
        )
        cpu = statistics.median(1000 * r.cpu / r.observations for r in each)
        print(f"| {way} | {concurrency} | {rates[0]:.0f} | {rates[1]:.1f} | {cpu:.1f} | {spread(ratios)} |")
    for way in dict.fromkeys(way for way, _ in found):
        pairs = zip(found[way, PARALLEL], found[way, 1], strict=True)
        gain = [a.observations_per_second / b.observations_per_second for a, b in pairs]
        print(f"{way}: {PARALLEL} at once make {spread(gain)} times the observations a second of 1")


if __name__ == "__main__":
    main()
