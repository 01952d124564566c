"""python -m benchmarks.search.studies [TABLE...] [--seeds 20] [--budgets 0.2 0.35]   tables through `genopt optimize`.

Each seed is a whole study with the replay backend and SQLite: another split, another order, other draws. The budget is
a share of the full grid's calls and includes replicates and the verdict. What is counted is the configuration that is
put forward (the baseline when nothing looks better) and, as `deployed`, the settings that the verdict says to use.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import genopt
from benchmarks.search.grid import Places
from benchmarks.search.outcomes import Outcome, append, done
from benchmarks.search.replay import study
from benchmarks.search.table import Table, load, names
from genopt.events import TrialDone
from genopt.spec.read import make_study

NAME = "genopt optimize"


def one(table: Table, seed: int, budget: int, folder: Path, *, where: Path | None = None, **changes: Any) -> Outcome:
    """A study of the table with so many calls; `where` is the table's JSON when it is not one of the benchmark's.

    Where no configuration is put forward, what is reported is the baseline's mean on the tune split.
    """
    url = f"sqlite:///{folder / f'{table.name}-{budget}-{seed}.db'}"
    tables = study(table, seed=seed, storage=url, where=where, budget={"generations": budget}, **changes)
    means: list[float] = []

    def listen(event: object) -> None:
        if isinstance(event, TrialDone) and event.baseline:
            means.append(event.mean)

    began = time.process_time()
    result = genopt.optimize(make_study(tables, folder=folder), on_event=listen)
    verdict, places = result.verdict, Places(table.about["space"], table.configurations)
    return Outcome(
        winner=places.of(verdict.params),
        reported=means[0] if verdict.winner_score is None else verdict.winner_score,
        calls=verdict.search_generations + verdict.confirm_generations,
        tokens=verdict.tokens,
        claimed=verdict.verdict == "improved",
        deployed=places.of(result.params),
        seconds=round(time.process_time() - began, 2),
    )


def main() -> None:
    """Run what the results lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=names(), metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed: processes can share the work")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.35], help="shares of the full grid's calls")
    parser.add_argument("--results", type=Path, default=Path("results.jsonl"), help="where outcomes are added")
    parser.add_argument("--minutes", type=float, default=5.0, help="stop after so long; the same command goes on")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    known = done(given.results)
    for seed in range(given.first, given.first + given.seeds):
        for name in given.tables:
            table = load(name)
            for share in given.budgets:
                if (name, NAME, share, seed) in known:
                    continue
                if time.monotonic() > until:
                    sys.exit("not finished; the same command goes on")
                with tempfile.TemporaryDirectory() as folder:
                    budget = round(share * table.utility.shape[0] * table.utility.shape[1])
                    found = one(table, seed, budget, Path(folder))
                append(given.results, table, NAME, share, seed, found)
                print(json.dumps({"table": name, "budget": share, "seed": seed, **found.plain()}), file=sys.stderr)


if __name__ == "__main__":
    main()
