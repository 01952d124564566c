"""python -m benchmarks.search.crossfit [STUDIES [EXAMPLES ...]]   claims with few examples.

Cross-fitting against a holdout: whole simulated studies (race, finalists, verdict; no sampler) at equal calls, verdict
included: as many as 15 samples of every example. False claims: the recorded flat table (other examples of it for each
study), and drawn tables in which every configuration suits some examples and not others but none is better, once with
and once nearly without noise of sampling. Power: drawn tables of 40 configurations, worth N(-0.2, 0.25) against a
baseline of 0. A claim is p < 0.05 and counts by its direction: each has a nominal rate of 2.5 % where nothing is.
Intervals are Clopper and Pearson's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.search.intervals import rate
from benchmarks.search.table import Floats, load
from genopt.race import simulate

CALLS = 15  # for each example
ARMS, SAMPLES = 40, 3


def drawn(interaction: float, noise: float, spread: float) -> Callable[[np.random.Generator, int], tuple[Floats, int]]:
    """A table of configurations that differ by `spread`, on examples that suit each one differently."""

    def make(rng: np.random.Generator, n: int) -> tuple[Floats, int]:
        truth = rng.normal(-0.2, 0.25, ARMS) if spread else np.zeros(ARMS)
        truth[0] = 0.0
        ease = 0.3 * rng.standard_normal(n)
        ability = truth[:, None] + ease + interaction * rng.standard_normal((ARMS, n))
        return ability[:, :, None] + noise * rng.standard_normal((ARMS, n, SAMPLES)), 0

    return make


def part_of(name: str) -> Callable[[np.random.Generator, int], tuple[Floats, int]]:
    """Some examples of a recorded table."""
    table = load(name)

    def make(rng: np.random.Generator, n: int) -> tuple[Floats, int]:
        some = rng.choice(len(table.examples), n, replace=False)
        if not table.pooled:
            return table.utility[:, some], table.baseline
        own = [rng.permuted(table.utility[0, some], axis=1) for _ in table.configurations]  # equal, but not in luck
        return np.stack(own), table.baseline

    return make


CASES = {
    "flat, recorded": part_of("flat"),
    "flat, drawn": drawn(0.3, 0.3, 0.0),
    "flat, drawn, hardly any noise": drawn(0.4, 0.05, 0.0),
    "something to find": drawn(0.3, 0.3, 0.25),
}


def main(studies: int, sizes: Sequence[int]) -> None:
    print(
        "| table | examples | cross-fitting: improved | worse | holdout: improved | worse |\n|---|---|---|---|---|---|"
    )
    for case, make in CASES.items():
        for n in sizes:
            shown = []
            for crossfit in (True, False):
                up = down = 0
                for seed in range(studies):
                    table, baseline = make(np.random.default_rng([seed, n]), n)
                    done = simulate(table, CALLS * n, seed, baseline=baseline, crossfit=crossfit)
                    claimed = done.winner != baseline and done.p_value < 0.05
                    better = done.holdout_estimate > done.baseline_estimate
                    up, down = up + (claimed and better), down + (claimed and not better)
                shown += [rate(int(hits), studies).shown(3) for hits in (up, down)]
            print(f"| {case} | {n} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    studies, *sizes = (int(each) for each in sys.argv[1:] or ["400"])
    main(studies, sizes or [12, 20, 30, 40, 50])
