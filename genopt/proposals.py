"""Owns which configuration is worth trying next, given what the finished ones were worth, how sure that is, and which
ones run. Knows no Optuna and no storage; what it proposes is a function of its arguments.

First configurations are spread over the space, over its switches' branches before all. Then a Gaussian process is asked
(surrogate.py): the proposal is the one with the highest expected gain over the best *expected* value so far (the best
measured one is mostly luck), made smaller by the chance that a constraint is missed and by what it costs. Running
trials count as if they had shown what is expected of them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from genopt import surrogate
from genopt.geometry import Geometry, Live, draw, mutate
from genopt.space import SearchSpace, Switch
from genopt.surrogate import Array, Data, Hyper, Posterior, Scale

Answers = Mapping[str, Any]

FIRST, MOST_FIRST = 4, 12  # configurations that are spread: one more than there are dimensions, within these
SPREAD = 48  # from so many random ones the most lonely is taken: more would all lie in corners
ENUMERATED = 400  # configurations up to which a space is gone through, not drawn from
DRAWN, NEAR, LEADERS, ROUNDS = 150, 16, 5, 3  # candidates: random ones, near each of the leaders; rounds of refining
MODELLED, FITTED = 250, 150  # trials in the process at most; trials that its hyperparameters are fitted to
REFIT = 1.1  # hyperparameters are fitted anew when the history has grown by this factor
APART = 0.03  # of some range: what is nearer to a known configuration would only measure it again
CHEAP = 0.25  # exponent of the predicted tokens by which an expected gain is divided
FLOOR = 0.25  # of the median variance: ten right answers out of ten are not certainty
COSTS = 5  # trials whose tokens are known, from which on cost is predicted


@dataclass(frozen=True, slots=True)
class Finished:
    """What a trial answered and was worth. `values` are turned so that more is better; `se` is the standard error of
    the first, 0 where it is not known. `violations` are those of the constraints (above 0: missed)."""

    answers: Answers
    values: tuple[float, ...]
    se: float = 0.0
    tokens: float = 0.0
    violations: tuple[float, ...] = ()


@dataclass
class Proposer:
    """Proposes in one space; what it remembers (rows, fits) it could work out again, so that nothing depends on it."""

    space: SearchSpace
    live: Live | None = None
    _rows: dict[Any, Array] = field(default_factory=dict, repr=False)
    _fits: dict[bytes, Hyper] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._geometry = Geometry(self.space, self.live)
        self._switches = [path for path, _, dimension in self.space.walk() if isinstance(dimension, Switch)]
        self._all = self._enumerate()
        self.first = min(max(FIRST, len(self.space.open_dimensions()) + 1), MOST_FIRST)

    def _enumerate(self) -> list[dict[str, Any]] | None:
        """Every configuration of a small space without continuous dimensions, else None."""
        for dimension in self.space.open_dimensions().values():
            if not hasattr(dimension, "labels") and not dimension.integer and dimension.step is None:
                return None
        points = list(islice(self.space.grid(ENUMERATED + 1), ENUMERATED + 1))
        return points if len(points) <= ENUMERATED else None

    def propose(
        self,
        finished: Sequence[Finished],
        running: Sequence[Answers] = (),
        *,
        seed: int,
        fixed: Answers | None = None,
        avoid: Sequence[Answers] = (),
    ) -> dict[str, Any]:
        """Answers for every open dimension of one configuration, unlike any known one where the space has such.

        `finished` in the order in which they finished; `fixed` is answered already; `avoid` was tried and has no value.
        """
        rng = np.random.default_rng(seed)
        rows, pending = self._known([each.answers for each in finished]), self._known(running)
        known = [*rows, *pending, *self._known(avoid)]
        taken = {row.tobytes() for row in known}
        if not len(self._geometry.groups):
            return draw(self.space, rng, fixed)
        if len(finished) < FIRST or len(finished) + len(running) < self.first:
            asked = [*(each.answers for each in finished), *running]
            return self._spread(np.array(known), asked, taken, rng, fixed)
        worth = _Worth(self, finished, rows, pending, rng)
        new, where = self._untaken(self._candidates(worth.leaders, rng, fixed), taken)
        if not new:
            return draw(self.space, rng, fixed)
        score = worth.of(where)
        for around in range(ROUNDS if self._all is None else 0):
            best = np.argsort(-score, kind="stable")[:LEADERS]
            near = [mutate(self.space, rng, new[i], 0.1 / 2**around, fixed) for i in best for _ in range(NEAR // 2)]
            more, there = self._untaken(near, taken)
            if more:
                new, score = [*new, *more], np.concatenate([score, worth.of(there)])
        return new[int(np.argmax(score))]

    def _spread(
        self,
        known: Array,
        asked: Sequence[Answers],
        taken: set[bytes],
        rng: np.random.Generator,
        fixed: Answers | None,
    ) -> dict[str, Any]:
        """One far from everything known, in the branches that were visited least."""
        pool = self._candidates([], rng, fixed)
        new, where = self._untaken([pool[i] for i in rng.permutation(len(pool))], taken)
        if not new:
            return draw(self.space, rng, fixed)
        visits = Counter(self._branches(answers) for answers in asked)
        visited = np.array([visits[self._branches(answers)] for answers in new])
        among = np.flatnonzero(visited == visited.min())[:SPREAD]
        if not len(known):
            return new[int(among[0])]
        lonely = ((where[among, None, :] - known[None]) ** 2).sum(axis=2).min(axis=1)
        return new[int(among[np.argmax(lonely)])]

    def _branches(self, answers: Answers) -> tuple[Any, ...]:
        return tuple(answers.get(path) for path in self._switches)

    def _candidates(
        self, leaders: Sequence[Answers], rng: np.random.Generator, fixed: Answers | None
    ) -> list[dict[str, Any]]:
        """All of a small space; else random configurations, and some near the best."""
        if self._all is not None:
            agree = (fixed or {}).items()
            return [point for point in self._all if all(point.get(path, value) == value for path, value in agree)]
        found = [draw(self.space, rng, fixed) for _ in range(DRAWN)]
        steps = (0.05, 0.2)
        return found + [mutate(self.space, rng, leader, steps[i % 2], fixed) for leader in leaders for i in range(NEAR)]

    def _untaken(self, candidates: Sequence[dict[str, Any]], taken: set[bytes]) -> tuple[list[dict[str, Any]], Array]:
        """The candidates that are no known configuration, nor all but one, and their rows."""
        rows = self._known(candidates) if self._all is not None else self._geometry.rows(candidates)
        new = [i for i, row in enumerate(rows) if row.tobytes() not in taken]
        if self._all is None and taken and new:
            known = np.array([np.frombuffer(row) for row in taken])
            apart = cdist(rows[new], known, "chebyshev").min(axis=1) > APART
            new = [i for i, far in zip(new, apart, strict=True) if far] or new
        return [candidates[i] for i in new], rows[new]

    def _known(self, many: Sequence[Answers]) -> Array:
        """The rows of configurations that will be met again."""
        found = []
        for answers in many:
            key = tuple(answers.items())
            if key not in self._rows:
                self._rows[key] = self._geometry.row(answers)
            found.append(self._rows[key])
        return np.array(found).reshape(len(found), len(self._geometry.groups))

    def hyper(self, rows: Array, values: Array, variances: Array) -> Hyper:
        """The fitted hyperparameters of these values."""
        data = Data(rows, values, variances, self._geometry.groups)
        digest = hashlib.blake2b(rows.tobytes() + values.tobytes() + variances.tobytes()).digest()
        if digest not in self._fits:
            if len(self._fits) > 64:
                self._fits.clear()
            self._fits[digest] = surrogate.fit(data)
        return self._fits[digest]

    def posterior(self, rows: Array, values: Array, variances: Array, hyper: Hyper) -> Posterior:
        """The process through these values."""
        return Posterior(Data(rows, values, variances, self._geometry.groups), hyper)


class _Worth:
    """What the finished trials say about the worth of others."""

    def __init__(
        self, proposer: Proposer, finished: Sequence[Finished], rows: Array, pending: Array, rng: np.random.Generator
    ) -> None:
        self._proposer, self._rows = proposer, rows
        values = np.array([each.values for each in finished])
        told, errors = values[:, 0], [each.se for each in finished]
        if values.shape[1] > 1:
            told = surrogate.augmented_chebyshev(values, rng.dirichlet(np.ones(values.shape[1])).tolist())
            errors = [0.0] * len(told)
        kept = _kept(told, MODELLED)
        process = self._process(_utility, told, _variances(errors), np.arange(len(told)))
        self._means = process.mean(rows[kept])
        typical = float(np.median(process.data.variances))
        self._believing = process.believing(pending, typical)
        self._noise = math.sqrt(process.hyper.factor * typical + process.hyper.nugget)
        violations = np.array([each.violations for each in finished])
        nothing = np.zeros(len(told))
        self._constraints = [
            self._process(_violation, column, nothing, np.arange(len(told))) for column in violations.T
        ]
        feasible = np.all(violations[kept] <= 0, axis=1)
        self._best = float(self._means[feasible].max()) if feasible.any() else None
        order = np.lexsort((-self._means, ~feasible))[:LEADERS]
        self.leaders = [finished[kept[i]].answers for i in order]
        tokens = np.array([each.tokens for each in finished])
        priced = np.flatnonzero(tokens > 0)
        self._cost = None
        if len(priced) >= COSTS and np.ptp(tokens[priced]) > 0:
            logs = np.log(tokens[priced])
            self._cost = self._process(_standard, logs, nothing, priced)
            self._spread = float(logs.std())

    def _process(
        self,
        model: Callable[[Array, Array], tuple[Array, Array]],
        values: Array,
        variances: Array,
        where: NDArray[np.int64],
    ) -> Posterior:
        """The process through what `model` makes of values (and their variances) at the rows `where`; many are thinned.

        Its hyperparameters are fitted to the values that had been told at the last checkpoint, and so seldom.
        """
        kept = _kept(values, MODELLED)
        part = _kept(values[: _checkpoint(len(values))], FITTED)
        hyper = self._proposer.hyper(self._rows[where[part]], *model(values[part], variances[part]))
        return self._proposer.posterior(self._rows[where[kept]], *model(values[kept], variances[kept]), hyper)

    def of(self, rows: Array) -> Array:
        """The logarithm of the expected gain, discounted by constraints and cost, at rows (m, p)."""
        score = np.zeros(len(rows))
        if self._best is not None:
            mean, sd = self._believing.at(rows)
            score = surrogate.log_expected_improvement(mean, sd, self._best) + surrogate.log_augmented(sd, self._noise)
        for constraint in self._constraints:
            score = score + surrogate.log_feasible(*constraint.at(rows))
        if self._cost is not None:
            score = score - CHEAP * self._spread * self._cost.mean(rows)
        return score


def _variances(errors: Sequence[float]) -> Array:
    """Variances from standard errors; the median where one is unknown, and a share of it at least."""
    squares = np.square(np.asarray(errors, dtype=np.float64))
    known = squares[squares > 0]
    if not len(known):
        return squares
    typical = float(np.median(known))
    return np.where(squares > 0, np.maximum(squares, FLOOR * typical), typical)


def _utility(values: Array, variances: Array) -> tuple[Array, Array]:
    scale = Scale.of(values)
    return scale.apply(values), variances * scale.slope(values) ** 2


def _violation(values: Array, variances: Array) -> tuple[Array, Array]:
    """Violations in units of a typical one, bent so that a missing value's (1e9) is a large one and no more."""
    size = float(np.median(np.abs(values))) or 1.0
    return 3 * np.tanh(values / (3 * size)), variances


def _standard(values: Array, variances: Array) -> tuple[Array, Array]:
    return (values - values.mean()) / (values.std() or 1.0), variances


def _kept(values: Array, most: int) -> NDArray[np.int64]:
    """Which of many trials are modelled: the best half of `most`, and the latest."""
    if len(values) <= most:
        return np.arange(len(values))
    best = np.argsort(-values, kind="stable")[: most // 2]
    rest = np.setdiff1d(np.arange(len(values)), best)
    return np.sort(np.concatenate([best, rest[-(most - len(best)) :]]))


def _checkpoint(count: int) -> int:
    """The largest number of trials up to `count` at which hyperparameters are fitted."""
    reached = 16
    if count <= reached:
        return count
    while (following := int(reached * REFIT)) <= count:
        reached = following
    return reached
