"""Owns what a policy of the pure benchmark sees of a table, and the bill. Knows no policy.

A world is one study of a table: a seeded order of its examples and a seeded draw for every (example, replicate), which
all configurations share (common random numbers); in a pooled table each configuration draws for itself. What was asked
for once is known and not paid for again; a configuration that leaves nothing to chance is never asked twice.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.search.outcomes import Outcome
from benchmarks.search.table import Table

Floats = NDArray[np.float64]
REPLICATES = 12  # replicate 0 is what every search asks for first


class World:
    """One seeded study of a table. `paid` holds how many (example, replicate) of each configuration are bought."""

    def __init__(self, table: Table, seed: int) -> None:
        rng = np.random.default_rng([seed, 0x5EED])
        self.table, self.seed = table, seed
        self.configurations, self.examples, samples = table.utility.shape
        self.order = rng.permutation(self.examples)
        shape = (self.configurations if table.pooled else 1, self.examples, REPLICATES)
        self._draws = np.broadcast_to(rng.integers(0, samples, size=shape), (self.configurations, *shape[1:]))
        self._bought = np.zeros((self.configurations, self.examples, REPLICATES), dtype=bool)
        self.rng = rng
        self.calls = 0
        self.tokens = 0.0

    def fresh(self) -> World:
        """The same world before anything was asked."""
        return World(self.table, self.seed)

    @property
    def grid(self) -> int:
        """The calls of a full grid: one sample per (configuration, example)."""
        return self.configurations * self.examples

    @property
    def baseline(self) -> int:
        return self.table.baseline

    def price(self, configuration: int, start: int, stop: int, replicate: int = 0) -> int:
        """How many calls `ask` would pay for."""
        return int((~self._bought[configuration, start:stop, self._place(configuration, replicate)]).sum())

    def ask(self, configuration: int, start: int, stop: int, replicate: int = 0) -> Floats:
        """The utility of a configuration on the examples start..stop of the study's order."""
        where = self._place(configuration, replicate)
        positions = np.arange(start, stop)
        examples = self.order[positions]
        draws = self._draws[configuration, positions, where]
        new = ~self._bought[configuration, positions, where]
        if new.any():
            self._bought[configuration, positions, where] = True
            self.calls += int(new.sum())
            self.tokens += float(self.table.tokens[configuration, examples[new], draws[new]].sum())
        found: Floats = self.table.utility[configuration, examples, draws]
        return found

    def written(self, configuration: int, start: int, stop: int) -> Floats:
        """The tokens of what `ask` answered (replicate 0)."""
        examples = self.order[start:stop]
        found: Floats = self.table.tokens[configuration, examples, self._draws[configuration, start:stop, 0]]
        return found

    def outcome(self, winner: int, reported: float, *, claimed: bool = False) -> Outcome:
        """The outcome with what was paid until now."""
        return Outcome(int(winner), float(reported), self.calls, self.tokens, claimed)

    def _place(self, configuration: int, replicate: int) -> int:
        return 0 if self.table.samples[configuration] == 1 else replicate
