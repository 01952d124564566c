"""python benchmarks/overhead.py: what genopt itself costs per observation, with an engine that answers at once.

Whole studies run through `genopt.optimize` with everything on: prompts are rendered, rows and scores are kept in
SQLite, Optuna is asked and told, finalists and a verdict follow. Each run has a process of its own. CPU is user and
system time of that process; an observation is one example under one configuration. Beside it stand the plain way with
Optuna (ask, a loop over the examples, report and user attributes, default SQLite storage) and a bare loop that keeps
nothing.

Options: --rows of the long study, --peer-rows, --runs, --plot FILE (needs matplotlib).
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import genopt
from genopt.events import Event, Progress
from genopt.spec.read import make_study
from genopt.types import BackendInfo, Domain, Example, Generation, Params, Range, Request

HERE = Path(__file__).resolve().parent
RIGHT, WRONG = "The answer is 42, as far as I can see.", "I do not know the answer to that."
HOLDOUT = 50
PLAIN = "Optuna, an attribute per trial"
THREADS = {"MainThread": "loop", "genopt-study_0": "study", "genopt-writer": "writer"}


class InstantBackend:
    """An engine that answers at once with one of two texts; how often the right one, temperature and top_p decide."""

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self.model = model

    async def open(self) -> BackendInfo:
        parameters = {
            "temperature": Domain("float", "randomness", 0.0, 2.0, search=Range(0.1, 1.5)),
            "top_p": Domain("float", "nucleus", 0.0, 1.0, low_open=True, neutral=(1.0,), search=Range(0.5, 1.0)),
        }
        defaults: Params = {"temperature": 1.0, "top_p": 1.0}
        return BackendInfo({"engine": "instant", "model": self.model}, parameters, defaults, concurrency=16)

    async def generate(self, request: Request) -> Generation:
        text = answer(request.params["temperature"], request.params["top_p"], request.seed)
        return Generation(text, "stop", 20, 10, 0.0)

    async def aclose(self) -> None:
        """Nothing is held."""


def answer(temperature: Any, top_p: Any, seed: int) -> str:
    """The right text in 85 % of the seeds at the best place, in fewer the farther away."""
    chance = 0.85 - 0.4 * abs(temperature - 0.6) - 0.4 * abs(top_p - 0.8)
    return RIGHT if seed % 1000 < 1000 * chance else WRONG


def correct(example: Example, text: str) -> float:
    """The user's own scorer."""
    return float(example.references[0] in text)


def questions(count: int) -> list[dict[str, Any]]:
    """Rows of the data set."""
    return [{"id": f"q{i}", "question": f"What is {i} + {42 - i}?", "answer": "42"} for i in range(count)]


@dataclass(frozen=True)
class Mark:
    """A reading after a number of observations: seconds of wall time, of CPU, and of CPU by thread."""

    rows: int
    wall: float
    cpu: float
    threads: Mapping[str, float]


def reading(rows: int) -> Mark:
    """The clocks now. A thread's clock is read where the system has one."""
    threads: dict[str, float] = {}
    if hasattr(time, "pthread_getcpuclockid"):
        for thread in threading.enumerate():
            if thread.name in THREADS and thread.ident is not None:
                clock = time.pthread_getcpuclockid(thread.ident)
                threads[THREADS[thread.name]] = time.clock_gettime(clock)
    return Mark(rows, time.perf_counter(), time.process_time(), threads)


def genopt_study(folder: Path, rows: int, examples: int) -> list[Mark]:
    """A whole study of about `rows` observations, `examples` a trial; a mark about four times a second."""
    data = questions(examples + HOLDOUT)
    spec = make_study(
        {
            "name": "overhead",
            "storage": f"sqlite:///{folder / 'overhead.db'}",
            "dataset": {"rows": data, "holdout": HOLDOUT / len(data), "reference": "answer"},
            "prompt": {"system": "Answer briefly.", "user": "{{ question }}"},
            "backend": {"kind": "overhead:InstantBackend", "model": "instant"},
            "space": {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}},
            "scorers": {"correct": {"kind": "function", "function": correct}},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"trials": max(2, rows // examples)},
        },
        folder=HERE,
    )
    marks = [reading(0)]

    def listen(event: Event) -> None:
        if isinstance(event, Progress) and event.generations > marks[-1].rows:
            marks.append(reading(event.generations))

    result = genopt.optimize(spec, on_event=listen)
    verdict = result.verdict
    marks.append(reading(verdict.search_generations + verdict.confirm_generations))
    return marks


def optuna_loop(folder: Path, rows: int, examples: int, *, each: bool) -> list[Mark]:
    """What people write today; `each`: an attribute per example, kept as it is made, else one per trial at its end."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = questions(examples)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'plain.db'}", study_name="plain", direction="maximize", sampler=sampler
    )
    marks = [reading(0)]
    for number in range(rows // examples):
        trial = study.ask()
        temperature, top_p = trial.suggest_float("temperature", 0.1, 1.5), trial.suggest_float("top_p", 0.5, 1.0)
        scores: list[float] = []
        outputs: list[dict[str, Any]] = []
        for i, row in enumerate(data):
            output, score = plain_observation(row, temperature, top_p, seed=i)
            scores.append(score)
            trial.report(score, i)
            if each:
                trial.set_user_attr(row["id"], output)
            outputs.append(output)
        if not each:
            trial.set_user_attr("outputs", outputs)
        study.tell(trial, statistics.fmean(scores))
        marks.append(reading((number + 1) * examples))
    return marks


def bare_loop(folder: Path, rows: int, examples: int) -> list[Mark]:
    """The upper bound: the same texts and scores, nothing kept and nothing searched."""
    data = questions(examples)
    marks = [reading(0)]
    for number in range(rows // examples):
        for i, row in enumerate(data):
            plain_observation(row, 0.6, 0.8, seed=number * examples + i)
    marks.append(reading(rows // examples * examples))
    return marks


def plain_observation(row: Mapping[str, Any], temperature: float, top_p: float, seed: int) -> tuple[Any, float]:
    """Prompt, answer and score without any tool."""
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": str(row["question"])},
    ]
    text = answer(temperature, top_p, seed * 7919)
    score = float(row["answer"] in text)
    return {"messages": messages, "text": text, "score": score, "prompt_tokens": 20, "completion_tokens": 10}, score


WAYS: dict[str, Callable[[Path, int, int], list[Mark]]] = {
    "genopt": genopt_study,
    PLAIN: lambda folder, rows, examples: optuna_loop(folder, rows, examples, each=False),
    "Optuna, an attribute per example": lambda folder, rows, examples: optuna_loop(folder, rows, examples, each=True),
    "bare loop": bare_loop,
}


def run(way: str, rows: int, examples: int) -> list[Mark]:
    """One run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return WAYS[way](Path(folder), rows, examples)


def fresh(way: str, rows: int, examples: int) -> list[Mark]:
    """The same in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (way, rows, examples))


def per_observation(marks: Sequence[Mark], low: int = 0, high: int | None = None, thread: str = "") -> float:
    """CPU microseconds per observation between two numbers of rows (the marks nearest to them; None: the last).

    Of the whole process, or of one of its threads.
    """
    first = min(marks, key=lambda mark: abs(mark.rows - low))
    last = marks[-1] if high is None else min(marks, key=lambda mark: abs(mark.rows - high))
    spent = last.threads.get(thread, 0.0) - first.threads.get(thread, 0.0) if thread else last.cpu - first.cpu
    return 1e6 * spent / max(last.rows - first.rows, 1)


def rate(marks: Sequence[Mark]) -> float:
    """Observations per second of wall time, opening, closing and verdict included."""
    return (marks[-1].rows - marks[0].rows) / (marks[-1].wall - marks[0].wall)


def median(values: Iterator[float]) -> float:
    """The median of what is measured in several runs."""
    return statistics.median(values)


def decades(rows: int) -> list[tuple[int, int]]:
    """(1000, 10000), (10000, 100000) ... up to `rows`; one stretch when it is short."""
    found = [(10**k, 10 ** (k + 1)) for k in range(3, 9) if 10 ** (k + 1) <= rows]
    return found or [(rows // 10, rows)]


def long_table(studies: Mapping[int, Sequence[Sequence[Mark]]], rows: int) -> Iterator[str]:
    """What an observation costs as a study grows, by examples per trial; medians over runs."""
    parts = decades(rows)
    heads = [f"CPU us, {low:,} to {high:,}" for low, high in parts]
    yield (
        "| examples per trial | observations | obs/s | "
        + " | ".join(heads)
        + " | last / first | "
        + " | ".join(f"{thread} thread" for thread in THREADS.values())
        + " |"
    )
    yield "|---" * (5 + len(parts) + len(THREADS) - 1) + "|"
    for examples, runs in studies.items():
        cells = [str(examples), f"{runs[0][-1].rows:,}", f"{median(rate(marks) for marks in runs):,.0f}"]
        cells += [f"{median(per_observation(marks, *part) for marks in runs):.0f}" for part in parts]
        growth = median(per_observation(marks, *parts[-1]) / per_observation(marks, *parts[0]) for marks in runs)
        cells.append(f"{growth:.2f}")
        low, high = parts[0][0], parts[-1][1]
        for thread in THREADS.values():
            cells.append(f"{median(per_observation(marks[:-1], low, high, thread) for marks in runs):.0f}")
        yield "| " + " | ".join(cells) + " |"
    if len(studies) == 2:
        few, many = sorted(studies)
        cost = {n: median(per_observation(marks, parts[0][0], parts[-1][1]) for marks in studies[n]) for n in studies}
        trial = (cost[few] - cost[many]) / (1 / few - 1 / many)
        yield ""
        yield (
            f"CPU = {cost[many] - trial / many:.0f} us an observation + {trial / 1000:.1f} ms a trial"
            " (ask, running means, tell), from the two rows above."
        )


def peer_table(peers: Mapping[str, Sequence[Sequence[Mark]]]) -> Iterator[str]:
    """The ways side by side, against the quicker plain one; medians over runs."""
    yield "| way | observations | obs/s | times plain Optuna | CPU us per observation |"
    yield "|---|---|---|---|---|"
    plain = median(rate(marks) for marks in peers[PLAIN])
    for way, runs in peers.items():
        speed = median(rate(marks) for marks in runs)
        cpu = median(per_observation(marks) for marks in runs)
        yield f"| {way} | {runs[0][-1].rows:,} | {speed:,.0f} | {speed / plain:,.3g} | {cpu:,.0f} |"


def plot(
    studies: Mapping[int, Sequence[Sequence[Mark]]], peers: Mapping[str, Sequence[Sequence[Mark]]], path: Path
) -> None:
    """CPU per observation as studies grow, and the ways' speeds."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "genopt"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.4), width_ratios=(3, 2), layout="constrained")
    for examples, runs in studies.items():
        total = runs[0][-1].rows
        edges = [1000 * 2**k for k in range(20) if 1000 * 2**k < total] + [total]
        pairs = list(pairwise(edges))
        cost = [median(per_observation(marks[:-1], low, high) for marks in runs) for low, high in pairs]
        left.plot([high for _, high in pairs], cost, marker="o", label=f"{examples} examples per trial")
    left.set(xscale="log", xlabel="observations in the study", ylabel="CPU per observation (us)", ylim=(0, None))
    left.legend(frameon=False)
    names = list(peers)[::-1]
    speeds = [median(rate(marks) for marks in peers[name]) for name in names]
    right.barh(names, speeds, color=["C0" if name.startswith("genopt") else "0.7" for name in names])
    right.bar_label(right.containers[0], [f"{speed:,.0f}" for speed in speeds], padding=3)
    right.set(xscale="log", xlabel="observations per second", xlim=(min(speeds) / 3, max(speeds) * 10))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="What genopt itself costs per observation.")
    parser.add_argument("--rows", type=int, default=100_000, help="observations of the long studies")
    parser.add_argument("--peer-rows", type=int, default=2_000, help="observations beside the peers")
    parser.add_argument("--runs", type=int, default=3, help="runs of everything; medians are printed")
    parser.add_argument("--plot", type=Path, help="write a figure (needs matplotlib)")
    arguments = parser.parse_args()
    studies: dict[int, list[list[Mark]]] = {100: [], 500: []}
    peers: dict[str, list[list[Mark]]] = {way: [] for way in WAYS}
    for _ in range(arguments.runs):  # turn by turn, so that a busy neighbour hits all of them alike
        for examples, runs in studies.items():
            runs.append(fresh("genopt", arguments.rows, examples))
        for way, found in peers.items():
            found.append(fresh(way, arguments.peer_rows, 100))
    versions = ", ".join(f"{name} {version(name)}" for name in ("optuna", "sqlalchemy"))
    print(f"{time.strftime('%Y-%m-%d')}: {versions}, Python {platform.python_version()}; {arguments.runs} runs\n")
    peers = {"genopt, the long study": studies[100], **peers}
    print(*long_table(studies, arguments.rows), "", *peer_table(peers), sep="\n")
    if arguments.plot is not None:
        plot(studies, peers, arguments.plot)


if __name__ == "__main__":
    main()
