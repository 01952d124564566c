"""python benchmarks/search/harvest.py [--plot FILE]   what harvesting saves, and what more samples give and cost.

The quickstart's model and rows, the embedded engine, whole studies through `genopt.optimize` without racing (so that
every configuration answers every row):

lengths   a grid over max_tokens, stop strings and temperatures, with harvesting and with every text generated; then
          all rows of both databases are held against each other. Beside it: what would have been generated if each
          request had asked for the largest max_tokens of the space at once.
search    the quickstart's own space, where temperature and the rest are continuous, both ways.
answers   a grid over n and temperatures: a vote about the length of the walk, and the text most alike the others; what
          nine samples an answer are worth, and what they cost.

Options: --rows of the data (default 80), --plot FILE (needs matplotlib).
"""

from __future__ import annotations

import argparse
import json
import resource
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genopt
from genopt.plan import Plan
from genopt.spec.read import make_study

QUICKSTART = Path(__file__).parents[2] / "studies" / "quickstart"
LENGTHS = (16, 24, 32, 48, 64)
STOPS: tuple[list[str], ...] = ([], ["."], [" and", "km"])
TEMPERATURES = (0.0, 0.8, 1.2)
SAMPLES = (1, 3, 5, 9)
ROW = "config_key, example_id, sample, phase, seed, params, text, finish, prompt_tokens, completion_tokens"


@dataclass(frozen=True)
class Ran:
    """What one study left in its database, and its CPU seconds."""

    path: Path
    cpu: float

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with sqlite3.connect(self.path) as connection:
            return connection.execute(query).fetchall()

    def counted(self) -> tuple[int, int, int]:
        """Texts in all, texts generated, completion tokens generated."""
        total = self.rows("SELECT COUNT(*) FROM genopt_generations")[0][0]
        made, tokens = self.rows(
            "SELECT COUNT(*), SUM(completion_tokens) FROM genopt_generations WHERE harvested_from IS NULL"
        )[0]
        return total, made, tokens


def study(folder: Path, name: str, rows: int, **changes: Any) -> dict[str, Any]:
    """A study on the quickstart's model and rows."""
    table: dict[str, Any] = {
        "name": name,
        "storage": f"sqlite:///{folder / name}.db",
        "seed": 7,
        "dataset": {
            "path": str(QUICKSTART / "data.jsonl"),
            "id": "id",
            "reference": "references",
            "holdout": 0.2,
            "limit": rows,
        },
        "prompt": {"user": prompt()},
        "backend": {"kind": "transformers", "model": str(QUICKSTART / "model"), "options": {"threads": 1}},
        "scorers": {"facts": {"kind": "scorer:facts"}},
        "search": {"sampler": "grid", "grid_points": 8, "pruner": "none", "finalists": 2},
    }
    return table | changes


def prompt() -> str:
    """The quickstart's user prompt."""
    import tomllib

    table = tomllib.loads((QUICKSTART / "study.toml").read_text(encoding="utf-8"))
    return str(table["prompt"]["user"])


def run(table: Mapping[str, Any], folder: Path) -> Ran:
    """The study, run to its verdict."""
    before = cpu()
    genopt.optimize(make_study(dict(table), folder=QUICKSTART))
    return Ran(folder / f"{table['name']}.db", cpu() - before)


def cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def without_harvesting() -> Iterator[None]:
    """No configuration has kin: every text is generated."""
    own = Plan._kin
    Plan._kin = lambda *_: ""  # type: ignore[method-assign]
    try:
        yield
    finally:
        Plan._kin = own  # type: ignore[method-assign]


def both(folder: Path, name: str, rows: int, **changes: Any) -> tuple[Ran, Ran]:
    """A study without and with harvesting."""
    with without_harvesting():
        plain = run(study(folder, f"{name}-plain", rows, **changes), folder)
    return plain, run(study(folder, f"{name}-harvested", rows, **changes), folder)


def lengths_study(folder: Path, rows: int) -> tuple[Ran, Ran]:
    space = {
        "max_tokens": {"choices": list(LENGTHS)},
        "stop": {"choices": [list(stop) for stop in STOPS]},
        "temperature": {"choices": list(TEMPERATURES)},
    }
    baseline = {"temperature": 0.8, "max_tokens": 64, "stop": []}
    trials = len(LENGTHS) * len(STOPS) * len(TEMPERATURES)
    return both(folder, "lengths", rows, space=space, baseline=baseline, budget={"trials": trials})


def search_study(folder: Path, rows: int) -> tuple[Ran, Ran]:
    import tomllib

    own = tomllib.loads((QUICKSTART / "study.toml").read_text(encoding="utf-8"))
    kept = {name: own[name] for name in ("space", "baseline", "scorers", "objectives")}
    search = {"repeats": 2, "pruner": "none", "sampler": "random", "finalists": 2}
    return both(folder, "search", rows, **kept, search=search, budget={"trials": 12})


def differing(plain: Ran, harvested: Ran) -> tuple[int, int]:
    """Rows that both studies have, and how many of them are not the same to the letter."""
    query = f"SELECT {ROW} FROM genopt_generations"
    left, right = ({row[:4]: row for row in ran.rows(query)} for ran in (plain, harvested))
    shared = left.keys() & right.keys()
    return len(shared), sum(left[key] != right[key] for key in shared)


def at_once(plain: Ran) -> int:
    """Tokens that a study generates if each request asks for the largest max_tokens of the space: of the rows that
    differ in max_tokens alone only the longest."""
    longest: dict[tuple[Any, ...], int] = {}
    for example, sample, phase, params, tokens in plain.rows(
        "SELECT example_id, sample, phase, params, completion_tokens FROM genopt_generations"
    ):
        alike = json.loads(params)
        del alike["max_tokens"]
        key = (example, sample, phase, json.dumps(alike))
        longest[key] = max(longest.get(key, 0), tokens)
    return sum(longest.values())


def tokens_by_length(plain: Ran) -> dict[int, float]:
    """max_tokens -> mean tokens of a sampled text without stop strings."""
    found: dict[int, list[int]] = {}
    for params, tokens in plain.rows("SELECT params, completion_tokens FROM genopt_generations"):
        settings = json.loads(params)
        if settings["temperature"] > 0 and not settings["stop"]:
            found.setdefault(settings["max_tokens"], []).append(tokens)
    return {length: sum(each) / len(each) for length, each in sorted(found.items())}


def answers_study(folder: Path, rows: int, name: str, answer: Mapping[str, Any], scorer: Mapping[str, Any]) -> Ran:
    return run(
        study(
            folder,
            name,
            rows,
            space={"temperature": {"choices": [0.8, 1.2, 1.6]}},
            answer={"n": {"choices": list(SAMPLES)}, **answer},
            baseline={"temperature": 1.2, "top_p": 1.0, "top_k": 0, "max_tokens": 64},
            scorers={"score": dict(scorer)},
            budget={"trials": 3 * len(SAMPLES)},
        ),
        folder,
    )


def curve(ran: Ran) -> dict[float, dict[int, tuple[float, float, float]]]:
    """temperature -> n -> mean score on the tune rows, its standard error, tokens of an answer."""
    from genopt.archive import load

    found: dict[float, dict[int, tuple[float, float, float]]] = {}
    for trial in load(f"sqlite:///{ran.path}#{ran.path.stem}").trials:
        if trial.state == "complete" and "duplicate_of" not in trial.outcome:
            params, outcome = trial.config["params"], trial.outcome
            value = (outcome["mean"], outcome["se"], outcome["metrics"]["completion_tokens"])
            found.setdefault(params["temperature"], {})[params["n"]] = value
    return dict(sorted(found.items()))


def tell_savings(name: str, plain: Ran, harvested: Ran, reach: int | None = None) -> None:
    (texts, made, tokens), (_, fewer, less) = plain.counted(), harvested.counted()
    shared, wrong = differing(plain, harvested)
    print(f"\n{name}: {texts:,} texts in all, {shared:,} of them in both databases, {wrong} of these differ\n")
    print("| way | texts generated | tokens generated | share | CPU s |\n|---|---|---|---|---|")
    print(f"| every text | {made:,} | {tokens:,} | 100 % | {plain.cpu:.0f} |")
    print(f"| harvesting | {fewer:,} | {less:,} | {less / tokens:.0%} | {harvested.cpu:.0f} |")
    if reach is not None:
        print(f"| the largest max_tokens at once (reckoned) | | {reach:,} | {reach / tokens:.0%} | |")


def tell_answers(name: str, found: Mapping[float, Mapping[int, tuple[float, float, float]]], ran: Ran) -> None:
    total, made, _ = ran.counted()
    print(f"\n{name} ({made:,} texts generated for {total:,}; score ±SE, tokens of an answer)\n")
    print("| temperature | " + " | ".join(f"n = {n}" for n in SAMPLES) + " |")
    print("|---|" + "---|" * len(SAMPLES))
    for temperature, by_n in found.items():
        cells = (f"{by_n[n][0]:.3f} ±{by_n[n][1]:.3f}, {by_n[n][2]:.0f}" if n in by_n else "" for n in SAMPLES)
        print(f"| {temperature:g} | " + " | ".join(cells) + " |")


def plot(path: Path, bars: Mapping[str, float], curves: Mapping[str, Any]) -> None:
    """Tokens by way, and scores against the tokens of an answer."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "genopt"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 1 + len(curves), figsize=(4 * (1 + len(curves)), 3.6), constrained_layout=True)
    axes[0].barh(list(bars), list(bars.values()), color="#4c72b0")
    axes[0].invert_yaxis()
    axes[0].set_xlabel("tokens generated, thousands")
    for axis, (name, found) in zip(axes[1:], curves.items(), strict=True):
        for temperature, by_n in found.items():
            points = [by_n[n] for n in sorted(by_n)]
            scores, errors, tokens = zip(*points, strict=True)
            axis.errorbar(tokens, scores, yerr=errors, marker="o", capsize=2, label=f"temperature {temperature:g}")
        axis.set_xscale("log")
        axis.set_xlabel("tokens of an answer (n = " + ", ".join(map(str, SAMPLES)) + ")")
        axis.set_title(name, fontsize=10)
        axis.legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=80, help="rows of the data (default 80)")
    parser.add_argument("--plot", type=Path, help="write a figure (needs matplotlib)")
    options = parser.parse_args()
    sys.path.insert(0, str(QUICKSTART))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        plain, harvested = lengths_study(folder, options.rows)
        reach = at_once(plain)
        tell_savings("Lengths and stop strings, a grid", plain, harvested, reach)
        means = tokens_by_length(plain)
        print("\nmean tokens of a sampled text by max_tokens: ", end="")
        print(", ".join(f"{length}: {mean:.1f}" for length, mean in means.items()))
        tell_savings("The quickstart's continuous space, random", *search_study(folder, options.rows))
        about = {
            "vote about the length": answers_study(
                folder, options.rows, "vote", {"aggregate": "vote", "extract": "last_number"}, {"kind": "numeric"}
            ),
            "most alike, facts": answers_study(
                folder, options.rows, "alike", {"aggregate": "best", "by": "consistency"}, {"kind": "scorer:facts"}
            ),
        }
        curves = {name: curve(ran) for name, ran in about.items()}
        for name, found in curves.items():
            tell_answers(name, found, about[name])
        if options.plot:
            every, some = plain.counted()[2], harvested.counted()[2]
            bars = {"every text": every / 1e3, "harvesting": some / 1e3, "largest at once": reach / 1e3}
            plot(options.plot, bars, curves)


if __name__ == "__main__":
    main()
