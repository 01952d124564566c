"""python -m benchmarks.search.studies [TABLE...] [--seeds 20] [--budgets 0.35 0.2]   tables through `genopt optimize`.

Each seed is a whole study with the replay backend and SQLite: another split, another order, other draws. The budget is a
share of the full grid's calls and includes replicates and the verdict. Regret is that of the configuration that is put
forward (the baseline when nothing looks better) and, `deployed`, of the settings that the verdict says to use.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import genopt
from benchmarks.search import grid
from benchmarks.search.replay import study
from benchmarks.search.statistics import Estimate, claims, mean
from benchmarks.search.table import Table, load, names
from genopt.spec.read import make_study


@dataclass(frozen=True)
class Found:
    """One study: winner and deployed configuration, what was reported of the winner, the bill and the verdict."""

    winner: int
    deployed: int
    reported: float
    calls: int
    tokens: int
    verdict: str
    trials: int
    seconds: float


def one(table: Table, seed: int, budget: int, folder: Path, *, where: Path | None = None, **changes: Any) -> Found:
    """A study of the table with so many calls; `where` is the table's JSON when it is not one of the benchmark's."""
    url = f"sqlite:///{folder / f'{table.name}-{budget}-{seed}.db'}"
    tables = study(table, seed=seed, storage=url, where=where, budget={"generations": budget}, **changes)
    began = time.process_time()
    result = genopt.optimize(make_study(tables, folder=folder))
    seconds = time.process_time() - began
    verdict = result.verdict
    space = grid.read(table.about["space"])
    full = [grid.explicit(params, space) for params in table.configurations]
    of = {grid.identity(params, space.switches()): n for n, params in enumerate(full)}

    def number(params: Any) -> int:
        return of[grid.identity(grid.explicit(params, space), space.switches())]

    winner = number(verdict.params)
    deployed = number(result.params)
    reported = verdict.winner_score
    if reported is None:  # nothing looked better: what is reported is the baseline, which was not measured again
        reported = genopt.load(url, tables["name"]).baseline_mean if hasattr(genopt, "nothing") else float("nan")
    calls = verdict.search_generations + verdict.confirm_generations
    return Found(
        winner, deployed, reported, calls, verdict.tokens, str(verdict.verdict), verdict.trials, seconds
    )
