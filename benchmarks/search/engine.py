"""Owns genopt's own engine as a policy of the benchmark: its pure functions on the recorded scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.search.outcomes import Outcome
from benchmarks.search.policies import Policy
from benchmarks.search.world import World

LEVEL = 0.05


def engine(world: World, budgets: Sequence[int]) -> list[Outcome]:
    """genopt's race, finalists and verdict, holdout included, over configurations in a random order: what the engine is
    worth without a sampler that learns.

    What is reported is the winner's mean on the holdout, or what the tune split says of the baseline when that is put
    forward. Calls are the engine's own count, which pays for samples of greedy configurations again; tokens are those
    of each configuration's mean generation.
    """
    from genopt import race

    table = world.table
    each = table.tokens.mean(axis=(1, 2))
    order = [int(c) for c in world.rng.permutation(world.configurations)]
    found = []
    for budget in budgets:
        done = race.simulate(table.utility, budget, world.seed, baseline=table.baseline, order=order)
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
