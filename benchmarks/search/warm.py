"""python -m benchmarks.search.warm [TABLE...] [--seeds 20] [--budgets 0.05 0.1]   what an earlier study is worth.

Half of a table's examples, drawn by the seed, have had a study with 35 % of their full grid's calls. The other half
gets two: one in the same storage, which begins with the settings of the earlier one, and one that begins with nothing.
Both have so many of their own full grid's calls, replicates and the verdict included. Regret is in points of the truth
of all examples, the earlier study's calls are not counted, and the difference is paired by seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import genopt
from benchmarks.search.grid import Places
from benchmarks.search.intervals import mean
from benchmarks.search.replay import study
from benchmarks.search.table import Table, load, names
from genopt.spec.read import make_study

EARLIER = 0.35  # of the full grid's calls


def regret(table: Table, examples: Sequence[str], budget: float, storage: Path, seed: int, **changes: Any) -> float:
    """Of the configuration that a study of these examples puts forward, with this share of their full grid's calls."""
    calls = round(budget * len(table.configurations) * len(examples))
    dataset = {"rows": [{"id": example} for example in examples], "id": "id"}
    same = {"dataset": dataset, "budget": {"generations": calls}}
    tables = study(table, seed=seed, storage=f"sqlite:///{storage}", **same, **changes)
    verdict = genopt.optimize(make_study(tables, folder=storage.parent)).verdict
    winner = Places(table.about["space"], table.configurations).of(verdict.params)
    return 100 * float(table.truth.max() - table.truth[winner])


def halves(table: Table, seed: int) -> tuple[list[str], list[str]]:
    """The examples that are known from before, and the new ones."""
    order = np.random.default_rng(seed).permutation(len(table.examples))
    examples = [table.examples[i] for i in order]
    return examples[: len(examples) // 2], examples[len(examples) // 2 :]


def main() -> None:
    """Print a row for each table and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=names(), metavar="TABLE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.05, 0.1], help="shares of the full grid's calls")
    given = parser.parse_args()
    print("| table | budget | regret alone | after an earlier study | difference |\n|---|---|---|---|---|")
    for name in given.tables:
        table = load(name)
        for budget in given.budgets:
            alone, after = [], []
            for seed in range(given.seeds):
                old, new = halves(table, seed)
                with tempfile.TemporaryDirectory() as folder:
                    known, fresh = Path(folder, "known.db"), Path(folder, "fresh.db")
                    regret(table, old, EARLIER, known, seed, name="earlier")
                    after.append(regret(table, new, budget, known, seed))
                    alone.append(regret(table, new, budget, fresh, seed))
            apart = mean([warm - cold for warm, cold in zip(after, alone, strict=True)])
            print(
                f"| {name} | {budget:.0%} | {mean(alone).shown()} | {mean(after).shown()} | {apart.shown()} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
