"""python -m benchmarks.search.pareto [TABLE:METRIC...] [--seeds 5] [--share 0.2]   fronts of quality against tokens.

Whole studies with the replay backend: a metric is maximized and the tokens of an answer are minimized, without weights.
genopt races on dominance and measures the front on the holdout; beside it, with as many calls each: the same study
without early stopping, and stock Optuna NSGA-II (all examples for every trial, no holdout; Optuna's own population of
50 and one of 10), whose front is that of the means it was told. Truth is the table's mean over all samples. Hypervolume
is that of what is put forward, by the truth, over that of the true front; the table's worst in each objective is the
reference point (100 is all of it); optimism is what is said of the metric of what is put forward minus the truth, in
points. Members is how many are put forward; inside is the share of genopt's 95 % intervals, of either objective, that
hold the truth. Means over seeds with 95 % intervals.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

import genopt
from benchmarks.search import grid
from benchmarks.search.replay import study
from benchmarks.search.table import Table, load
from genopt.events import TrialDone
from genopt.fronts import front
from genopt.spec.read import make_study

Floats = NDArray[np.float64]
TOKENS = "completion_tokens"
CASES = ("walks:facts", "stories:told", "styles:rouge_l")


@dataclass(frozen=True)
class Found:
    """A front: the configurations that are put forward, what is said of each (metric, minus tokens), what it took."""

    places: Sequence[int]
    said: Floats
    calls: int
    trials: int
    intervals: Sequence[tuple[float, float]] = ()


def truth(table: Table, metric: str) -> Floats:
    """Metric and minus tokens of every configuration."""
    return np.stack([table.metrics[metric].mean(axis=(1, 2)), -table.completion_tokens.mean(axis=(1, 2))], axis=1)


def volume(points: Floats, everything: Floats) -> float:
    """The hypervolume of points, in percent of that of the true front; the worst of the table is the reference."""

    def area(some: Floats) -> float:
        low = everything.min(axis=0)
        total, seen = 0.0, 0.0
        for x, y in sorted((some - low).tolist(), reverse=True):
            total += x * max(0.0, y - seen)
            seen = max(seen, y)
        return total

    return 100 * area(points) / area(everything)


def listed(space: Any) -> Any:
    """A space with its steps as choices, which draw exactly what was recorded."""
    if isinstance(space, dict) and "step" in space:
        count = round((space["high"] - space["low"]) / space["step"])
        return {"choices": [round(space["low"] + i * space["step"], 6) for i in range(count + 1)]}
    return {name: listed(each) for name, each in space.items()} if isinstance(space, dict) else space


def ours(table: Table, metric: str, seed: int, calls: int, **search: Any) -> Found:
    """A study through `genopt.optimize`; its front is the verdict's, or the baseline where nothing else is."""
    told: list[TrialDone] = []
    with tempfile.TemporaryDirectory() as folder:
        tables = study(table, seed=seed, storage=f"sqlite:///{folder}/study.db", budget={"generations": calls})
        tables |= {"objectives": [{"maximize": metric}, {"minimize": TOKENS}], "search": search}
        tables["space"] = listed(tables["space"])
        result = genopt.optimize(
            make_study(tables, folder=Path(folder)),
            on_event=lambda e: told.append(e) if isinstance(e, TrialDone) else None,
        )
    verdict, places = result.verdict, grid.Places(table.about["space"], table.configurations)
    of = [places.of(member["params"]) for member in verdict.front] or [table.baseline]
    said = [(m["objectives"][metric]["mean"], -m["objectives"][TOKENS]["mean"]) for m in verdict.front]
    limits = [tuple(m["objectives"][name]["interval"]) for m in verdict.front for name in (metric, TOKENS)]
    spent = verdict.search_generations + verdict.confirm_generations
    return Found(of, np.array(said).reshape(-1, 2), spent, verdict.trials, limits)


def nsga2(table: Table, metric: str, seed: int, calls: int, *, population: int = 50) -> Found:
    """Stock Optuna: every trial answers all examples once; what is known is not paid for again."""
    space, places = grid.read(listed(table.about["space"])), grid.Places(table.about["space"], table.configurations)
    examples, samples = table.completion_tokens.shape[1:]
    draws = np.random.default_rng(seed).integers(0, samples, examples)  # one for each example, the same in all trials
    sampler = optuna.samplers.NSGAIISampler(seed=seed, population_size=population)
    asked = optuna.create_study(directions=["maximize", "maximize"], sampler=sampler)
    means: dict[int, tuple[float, float]] = {}
    for _ in range(40 * calls // examples):
        trial = asked.ask()
        params = space.sample(lambda path, dimension: trial.suggest_categorical(path, dimension.labels))  # noqa: B023
        place = places.of(params)
        if place not in means:
            if (len(means) + 1) * examples > calls:
                break
            cells = (place, np.arange(examples), draws)
            means[place] = float(table.metrics[metric][cells].mean()), -float(table.completion_tokens[cells].mean())
        asked.tell(trial, means[place])
    points = np.array(list(means.values()))
    best = front(points)
    kept = [place for place, on in zip(means, best, strict=True) if on]
    return Found(kept, points[best], len(means) * examples, len(means))


WAYS = {
    "genopt": ours,
    "genopt, no early stopping": lambda *given: ours(*given, pruner="none"),
    "Optuna NSGA-II": nsga2,
    "Optuna NSGA-II, population 10": lambda *given: nsga2(*given, population=10),
}


def main() -> None:
    """Print a line for each table and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="TABLE:METRIC")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.2, help="of the full grid's calls")
    given = parser.parse_args()
    optuna.logging.set_verbosity(logging.ERROR)
    print("| table | way | calls | trials | members | hypervolume | optimism | inside |\n|" + "---|" * 8)
    for case in given.cases:
        name, metric = case.split(":")
        table = load(name)
        points, began = truth(table, metric), time.monotonic()
        calls = round(given.share * len(points) * len(table.examples))
        for way, run in WAYS.items():
            rows, inside = [], []
            for seed in range(given.seeds):
                found = run(table, metric, seed, calls)
                true = points[list(found.places)]
                optimism = 100 * (found.said - true)[:, 0].mean() if len(found.said) else 0.0
                rows.append((found.calls / calls, found.trials, len(true), volume(true, points), optimism))
                flat = (true * [1.0, -1.0]).ravel()
                inside += [low <= value <= high for (low, high), value in zip(found.intervals, flat, strict=False)]
            used, trials, members, share, bias = np.array(rows).T
            error, doubt = (1.96 * each.std(ddof=1) / np.sqrt(len(rows)) for each in (share, bias))
            held = f"{100 * np.mean(inside):.0f} % of {len(inside)}" if inside else ""
            print(
                f"| {case} | {way} | {100 * used.mean():.0f} % | {trials.mean():.0f} | {members.mean():.1f} |"
                f" {share.mean():.1f} ±{error:.1f} | {bias.mean():+.2f} ±{doubt:.2f} | {held} |",
                flush=True,
            )
        print(f"{case}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
