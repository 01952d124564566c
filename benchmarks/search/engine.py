"""Owns genopt's own engine as a policy of the benchmark: its pure functions on the recorded scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.search.outcomes import Outcome
from benchmarks.search.policies import Policy
from benchmarks.search.world import World

LEVEL = 0.05


def engine(world: World, budgets: Sequence[int], *, gain_below: float = 0.0) -> list[Outcome]:
    """genopt's race, finalists and verdict, holdout included, over configurations in a random order: what the engine is
    worth without a sampler that learns. With `gain_below` it ends when going on is not worth it.

    What is reported is the winner's mean on the holdout, or what the tune split says of the baseline when that is put
    forward. Seeds are common to all configurations, as when the table was recorded. Calls are the engine's own count;
    tokens are those of each configuration's mean generation. A greedy configuration is not asked for the same text
    again.
    """
    from genopt import race

    table = world.table
    certain = [count == 1 for count in table.samples]
    each = table.tokens.mean(axis=(1, 2))
    order = [int(c) for c in world.rng.permutation(world.configurations)]
    found = []
    for budget in budgets:
        done = race.simulate(
            table.utility,
            budget,
            world.seed,
            baseline=table.baseline,
            order=order,
            certain=certain,
            common=not table.pooled,
            gain_below=gain_below,
        )
        arms = [table.baseline, *(c for c in order if c != table.baseline)][: len(done.lengths)]
        new = done.winner != table.baseline
        gain = done.holdout_estimate - done.baseline_estimate
        found.append(
            Outcome(
                winner=done.winner,
                reported=done.holdout_estimate if new else done.tune_estimate,
                calls=done.calls,
                tokens=sum(n * each[c] for n, c in zip(done.lengths, arms, strict=True))
                + (done.calls - sum(done.lengths)) * (each[done.winner] + each[table.baseline]) / 2,
                claimed=bool(new and gain > 0 and done.p_value < LEVEL),
            )
        )
    return found


ENGINE: Mapping[str, Policy] = {"genopt": engine}
STOPPED: Mapping[str, Policy] = {
    f"genopt, gain_below {below:g}": partial(engine, gain_below=below) for below in (0.005, 0.01, 0.02)
}
