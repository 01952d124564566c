"""python benchmarks/scale_ray.py [--runs 3] [--actors 1 2 4] [--vllm MODEL] [--plot scale_ray.svg]

Observations a second of a study's engine in 1, 2 and 4 actors of a local Ray cluster, against the same engine in this
process: an engine of fixed service time (its 4 places take 0.5 s each), so that whatever is lost is lost between genopt
and the actors. With --vllm a folder of a model, real vLLM engines instead, one and two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt.prepare import prepare
from genopt.schedule import run_trial
from genopt.spec.read import make_study
from genopt.trial import Meter, Observation
from genopt.types import BackendInfo, Domain, Generation, Request

SERVICE, PLACES = 0.5, 4
ROUNDS = 12  # times that all places are filled


class Fixed:
    """An engine whose every answer takes SERVICE seconds, PLACES of them at once."""

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._places = asyncio.Semaphore(PLACES)

    async def open(self) -> BackendInfo:
        temperature = Domain("float", "nothing", 0.0, 2.0)
        return BackendInfo(
            {"engine": "fixed", "model": "m"}, {"temperature": temperature}, {"temperature": 1.0}, PLACES
        )

    async def generate(self, request: Request) -> Generation:
        async with self._places:
            await asyncio.sleep(SERVICE)
        return Generation("yes", "stop", 10, 1, SERVICE)

    async def aclose(self) -> None: ...


class Nowhere:
    """Rows are not kept: it is the way to the engines that is measured."""

    def add(self, table: str, row: Mapping[str, Any]) -> None: ...


async def rate(engine: Mapping[str, Any], actors: int, observations: int) -> float:
    """Observations a second, all of them rendered, answered and scored as in a study."""
    backend = dict(engine) if not actors else {"kind": "ray", "engine": dict(engine), "replicas": actors}
    rows = [{"id": f"r{n}", "question": f"Is {n} right? Tell me why.", "answer": "yes"} for n in range(40)]
    table = {
        "dataset": {"rows": rows},
        "prompt": {"user": "{{ question }}"},
        "backend": backend,
        "space": {"temperature": {"low": 0.1, "high": 1.5}},
        "scorers": {"right": {"kind": "contains"}},
    }
    plan = await prepare(make_study(table, folder=Path(__file__).parent))
    try:
        while actors and plan.backend.stats()["engines"] < actors:  # type: ignore[attr-defined]
            await asyncio.sleep(0.1)
        observer, config = plan.observer(0, Nowhere(), Meter()), plan.baseline()
        examples = plan.dataset.examples

        async def observe(index: int) -> Observation:
            position, replicate = index % len(examples), index // len(examples)
            return await observer.observe(config, {}, examples[position], replicate, "tune", None)

        warm = min(observations // 4, 64)
        await run_trial(warm, observe, window=2 * plan.concurrency)
        began = time.perf_counter()
        await run_trial(observations, observe, window=2 * plan.concurrency)
        return observations / (time.perf_counter() - began)
    finally:
        await plan.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--vllm", metavar="MODEL")
    parser.add_argument("--observations", type=int, default=400, help="with --vllm")
    parser.add_argument("--plot", metavar="FILE.svg")
    args = parser.parse_args()
    if args.vllm:
        options = {"dtype": "float32", "kv_cache_memory_bytes": 2**27, "max_num_seqs": 16}
        engine: dict[str, Any] = {"kind": "vllm", "model": str(Path(args.vllm).resolve()), "options": options}
    else:
        engine = {"kind": "scale_ray:Fixed", "model": "m"}
    found: dict[int, list[float]] = {n: [] for n in (0, *args.actors)}
    for _ in range(args.runs):
        for actors in found:
            count = args.observations if args.vllm else ROUNDS * PLACES * max(actors, 1)
            found[actors].append(asyncio.run(rate(engine, actors, count)))
            print(json.dumps({"actors": actors, "observations_per_second": round(found[actors][-1], 2)}), flush=True)
    medians = {actors: statistics.median(rates) for actors, rates in found.items()}
    print("\n| engines | observations/s | of linear |\n|---|---|---|")
    for actors, median in medians.items():
        name = f"{actors} in actors" if actors else "1 in this process"
        print(f"| {name} | {median:.2f} | {median / (medians[0] * max(actors, 1)):.3f} |")
    if args.plot:
        plot(args.plot, {n: rates for n, rates in found.items() if n}, medians[0])


def plot(file: str, found: Mapping[int, Sequence[float]], one: float) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.4))
    numbers = sorted(found)
    axes.plot(numbers, [n * one for n in numbers], "--", color="grey", label="linear, from one in this process")
    axes.plot(numbers, [0.9 * n * one for n in numbers], ":", color="grey", label="0.9 of it")
    axes.plot(numbers, [statistics.median(found[n]) for n in numbers], "o-", label="engines in Ray actors")
    axes.set(xlabel="engine actors", ylabel="observations a second", xticks=numbers)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(file)


if __name__ == "__main__":
    main()
