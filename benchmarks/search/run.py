"""python -m benchmarks.search.run [TABLE...] [--policies plain optuna engine] [--seeds 200]   policies on the tables.

Pure functions on recorded rows: no engine, no storage. Every (table, policy, seed) is a world of its own; a budget is a
share of the full grid's calls. Optuna's policies go on from budget to budget and take seconds each: give them fewer
seeds (`--policies optuna --seeds 12`). `stopped` is the engine with several `stop_when`. Outcomes are added to
`--results`; `benchmarks.search.report` makes the tables.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.search.engine import ENGINE, STOPPED
from benchmarks.search.outcomes import append, done
from benchmarks.search.policies import OPTUNA, PLAIN, Policy
from benchmarks.search.table import Table, load, names
from benchmarks.search.world import World

BUDGETS = (0.03, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
MOST = {"TPE": 1.0}  # of Optuna's ways the others end earlier: a study asks for a second or two of its own
GROUPS: Mapping[str, Mapping[str, Policy]] = {"plain": PLAIN, "optuna": OPTUNA, "engine": ENGINE, "stopped": STOPPED}


def shares(group: str, name: str, wanted: Sequence[float]) -> list[float]:
    """Those of the wanted budgets that a policy is given."""
    low, high = (0.1, MOST.get(name, 0.35)) if group == "optuna" else (0.0, 1.0)
    return [share for share in sorted(wanted) if low <= share <= high]


def run(table: Table, group: str, name: str, budgets: Sequence[float], seed: int, results: Path) -> None:
    """One study of one policy, at all its budgets."""
    calls = [round(share * table.utility.shape[0] * table.utility.shape[1]) for share in budgets]
    for share, found in zip(budgets, GROUPS[group][name](World(table, seed), calls), strict=True):
        append(results, table, name, share, seed, found)


def main() -> None:
    """Run what the results lack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=names(), metavar="TABLE")
    parser.add_argument("--policies", nargs="+", choices=list(GROUPS), default=["plain", "optuna", "engine"])
    parser.add_argument("--only", nargs="+", help="names of policies")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--budgets", type=float, nargs="+", default=BUDGETS, help="shares of the full grid's calls")
    parser.add_argument("--results", type=Path, default=Path("results.jsonl"), help="where outcomes are added")
    parser.add_argument("--minutes", type=float, default=5.0, help="stop after so long; the same command goes on")
    given = parser.parse_args()
    until = time.monotonic() + 60 * given.minutes
    known = done(given.results)
    tables = [load(name) for name in given.tables]
    for seed in range(given.seeds):
        for table in tables:
            for group in given.policies:
                for name in GROUPS[group]:
                    budgets = shares(group, name, given.budgets)
                    if given.only and name not in given.only:
                        continue
                    if all((table.name, name, share, seed) in known for share in budgets):
                        continue
                    if time.monotonic() > until:
                        sys.exit(f"not finished (seed {seed}); the same command goes on")
                    run(table, group, name, budgets, seed, given.results)


if __name__ == "__main__":
    main()
