"""python -m benchmarks.search.asking: what it costs to ask for the next configuration, on SQLite, with 8 in flight.

A study of eight parameters is filled with finished trials, eight more are asked for and not told; then asking is timed,
a trial told in between, through `genopt.study.Study.ask` as a search does it. Fits happen as the history grows, and are
in the figures: the median, and the slowest.

Options: --sizes, --asks, --samplers.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.search.samplers import FLAT, live
from genopt.study import Asked, Study, open_study

IN_FLIGHT = 8


def key(params: Mapping[str, Any]) -> str:
    """A configuration's identity."""
    return str(sorted(params.items()))


def worth(params: Mapping[str, Any], draw: random.Random) -> tuple[float, dict[str, Any]]:
    """A value and an outcome as a study tells them."""
    value = 0.7 - abs(params["temperature"] - 0.6) - 0.3 * abs(params["top_p"] - 0.8) + draw.gauss(0, 0.05)
    return value, {"mean": value, "se": 0.05, "n": 40, "metrics": {"completion_tokens": float(params["max_tokens"])}}


def fill(study: Study, count: int, draw: random.Random) -> None:
    """Finished trials at random places."""
    for _ in range(count):
        answers: dict[str, Any] = {}
        params = FLAT.sample(
            lambda path, d, answers=answers: answers.setdefault(  # type: ignore[misc]
                path, draw.choice(d.labels) if hasattr(d, "labels") else d.at(draw.random())
            )
        )
        value, outcome = worth(params, draw)
        study.enter(answers, [value], config={"key": key(params), "params": params}, outcome=outcome, violations={})


def ask(study: Study) -> Asked:
    """The next trial."""
    asked = study.ask(key)
    assert asked is not None
    return asked


def measure(sampler: str, size: int, asks: int, folder: Path) -> tuple[list[float], list[float]]:
    """Wall and CPU seconds of each ask."""
    draw = random.Random(size)
    url = f"sqlite:///{folder / f'{sampler}-{size}.db'}"
    study = open_study(url, "asking", FLAT, sampler=sampler, worker="w", live=live(FLAT))
    study.set_attribute("study", {"made": "by a benchmark"})
    fill(study, size, draw)
    flight = [ask(study) for _ in range(IN_FLIGHT)]
    wall, cpu = [], []
    for _ in range(asks):
        told = flight.pop(draw.randrange(IN_FLIGHT - 1))
        value, outcome = worth(told.params, draw)
        study.tell(told, [value], outcome=outcome)
        before, spent = time.perf_counter(), time.process_time()
        flight.append(ask(study))
        wall.append(time.perf_counter() - before)
        cpu.append(time.process_time() - spent)
    study.close()
    return wall, cpu


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="100,1000")
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--samplers", default="random,tpe,hgp")
    options = parser.parse_args()
    print(
        "| sampler | finished | median ms | slowest ms | CPU ms, median | CPU ms, slowest |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, options.sizes.split(",")):
            for sampler in options.samplers.split(","):
                wall, cpu = measure(sampler, size, options.asks, Path(folder))
                cells = [1000 * figure for figure in (median(wall), max(wall), median(cpu), max(cpu))]
                print(f"| {sampler} | {size} | {' | '.join(f'{cell:.0f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
