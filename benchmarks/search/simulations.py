"""python benchmarks/search/simulations.py [SEEDS] [SHAPE...]   the policy of the search against known truth.

Tables of several shapes, of 60 configurations x 80 examples x 6 samples where the name says nothing else, drawn anew
for each seed; no sampler, so that configurations come in a random order. Regret and optimism (reported minus true score
of the winner, signed mean) are in points of the score, each with its standard error; "naive" takes one sample of every
(configuration, example of the tune split), puts the largest mean forward and believes it. "Claims" are the studies
whose holdout test says "improved" at a nominal 5 %, which in the flat shape are false; the naive paired test is made on
the scores that picked the winner.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from genopt.race import simulate
from genopt.stats import paired

Floats = NDArray[np.float64]
ARMS, EXAMPLES, SAMPLES = 60, 80, 6
POLICIES: dict[str, tuple[float, float]] = {  # share of the full grid's calls, gain_below
    "race 35 %": (0.35, 0.0),
    "race 20 %": (0.20, 0.0),
    "race 35 %, stop_when 0.01": (0.35, 0.01),
}


def chances(
    rng: np.random.Generator, logits: Floats, *, ease: float = 1.5, taste: float = 0.5, examples: int = EXAMPLES
) -> Floats:
    """0/1 scores of arms with these logits; `ease` and `taste` are the sds of examples and of arm x example."""
    spread = rng.normal(0, ease, examples) + rng.normal(0, taste, (len(logits), examples))
    p = 1 / (1 + np.exp(-(logits[:, None] + spread)))
    return (rng.random((len(logits), examples, SAMPLES)) < p[..., None]).astype(np.float64)


def difficult(rng: np.random.Generator, arms: int = ARMS, examples: int = EXAMPLES) -> Floats:
    logits = rng.normal(0, 0.7, arms) - np.where(rng.random(arms) < 0.3, 2.0, 0.0)
    return chances(rng, logits, examples=examples)


def graded(rng: np.random.Generator) -> Floats:
    worth = rng.normal(0.6, 0.06, ARMS) - np.where(rng.random(ARMS) < 0.3, rng.exponential(0.2, ARMS), 0.0)
    cells = worth[:, None] + rng.normal(0, 0.15, EXAMPLES) + rng.normal(0, 0.07, (ARMS, EXAMPLES))
    return np.clip(cells[..., None] + rng.normal(0, 0.15, (ARMS, EXAMPLES, SAMPLES)), 0, 1)


def ties(rng: np.random.Generator) -> Floats:
    return chances(rng, rng.normal(1.5, 0.7, ARMS), ease=3.0, taste=0.3)


def one_winner(rng: np.random.Generator) -> Floats:
    return chances(rng, np.where(np.arange(ARMS) == rng.integers(1, ARMS), 1.5, 0.0), taste=0.0)


def near_ties(rng: np.random.Generator) -> Floats:
    return chances(rng, np.where(np.arange(ARMS) < 10, 0.5, 0.0) + rng.normal(0, 0.1, ARMS))


def flat(rng: np.random.Generator) -> Floats:
    return chances(rng, np.zeros(ARMS), taste=0.0)


def few_examples(rng: np.random.Generator) -> Floats:
    return difficult(rng, examples=50)


def many_arms(rng: np.random.Generator) -> Floats:
    return difficult(rng, arms=1000, examples=60)


def nearly_all_right(rng: np.random.Generator) -> Floats:
    return chances(rng, rng.normal(4.0, 0.7, ARMS), ease=1.0, taste=0.3)


def nearly_all_wrong(rng: np.random.Generator) -> Floats:
    return chances(rng, rng.normal(-4.5, 0.7, ARMS), ease=1.0, taste=0.3)


def very_noisy(rng: np.random.Generator) -> Floats:
    cells = rng.normal(0.5, 0.03, ARMS)[:, None] + rng.normal(0, 0.1, EXAMPLES) + rng.normal(0, 0.05, (ARMS, EXAMPLES))
    return cells[..., None] + rng.normal(0, 0.5, (ARMS, EXAMPLES, SAMPLES))


SHAPES: dict[str, Callable[[np.random.Generator], Floats]] = {
    "difficult 0/1": difficult,
    "graded": graded,
    "heavy ties": ties,
    "one winner": one_winner,
    "near ties": near_ties,
    "flat": flat,
    "50 examples": few_examples,
    "rates near 1": nearly_all_right,
    "rates near 0": nearly_all_wrong,
    "very noisy": very_noisy,
    "1,000 x 60": many_arms,
}


def naive(table: Floats, seed: int, baseline: int) -> tuple[int, float, bool]:
    """Winner, reported score and claim of the largest mean of one sample, on the same tune split's size."""
    examples = table.shape[1]
    seen = table[:, np.random.default_rng(seed).permutation(examples)[round(0.3 * examples) :], 0]
    winner = int(np.argmax(seen.mean(axis=1)))
    result = paired(seen[winner], seen[baseline], resamples=1000, seed=seed)
    return winner, float(seen[winner].mean()), result.p_value < 0.05 and result.difference > 0


def main() -> None:
    """Print one line per shape and policy."""
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(f"{'shape':14} {'policy':26} {'calls':>6} {'regret':>13} {'optimism':>13} {'claims':>7}")
    for shape in sys.argv[2:] or SHAPES:
        make = SHAPES[shape]
        rows: dict[str, list[tuple[float, float, float, bool]]] = {"naive 70 %": [], **{name: [] for name in POLICIES}}
        for seed in range(seeds):
            table = make(np.random.default_rng(seed))
            truth = table.mean(axis=(1, 2)) if shape != "flat" else np.full(ARMS, table.mean())
            baseline, grid = int(np.argsort(truth)[len(truth) // 2]), table.shape[0] * table.shape[1]
            winner, reported, claimed = naive(table, seed, baseline)
            rows["naive 70 %"].append((0.7, truth.max() - truth[winner], reported - truth[winner], claimed))
            for name, (share, below) in POLICIES.items():
                found = simulate(table, round(share * grid), seed, baseline=baseline, gain_below=below)
                gain = found.holdout_estimate - found.baseline_estimate
                claim = found.winner != baseline and gain > 0 and found.p_value < 0.05
                optimism = found.holdout_estimate - truth[found.winner]
                rows[name].append((found.calls / grid, truth.max() - truth[found.winner], optimism, claim))
        for name, values in rows.items():
            calls, regret, optimism, claims = np.array(values, dtype=np.float64).T * 100
            error = np.sqrt(seeds)
            print(
                f"{shape:14} {name:26} {calls.mean():5.0f}%  {regret.mean():5.2f} ± {regret.std() / error:4.2f}"
                f"  {optimism.mean():+5.2f} ± {optimism.std() / error:4.2f} {claims.mean():6.1f}%",
                flush=True,
            )


if __name__ == "__main__":
    main()
