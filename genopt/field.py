"""Owns what all configurations (*arms*) are worth together, from the scores of each on the examples it saw.

The model. score = example's ease + arm's worth + arm x example + sampling noise. Eases are free, so every arm is
compared with *all* arms that saw the same examples: half the variance of a comparison with one incumbent, and no
incumbent that was picked for its luck. Worths are drawn from a normal distribution whose spread is fitted to the arms
above the median alone: among bad settings the spread of all says nothing about that of the good. What the policy looks
at are the posterior means and covariances (empirical Bayes; Henderson 1975 for the equations), in which a lucky arm is
pulled back by as much as it is uncertain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from genopt.twins import representatives

Floats = NDArray[np.float64]

QUIET = 1e-9  # of the variance of all scores: what a score's noise makes at least
PRIOR_DF = 10.0  # the weight of two guesses, in scores: examples make half of the variance, sampling half of the noise


@dataclass(frozen=True)
class Field:
    """What is known of all arms together.

    `worth` and `covariance` are the posterior's, on the objective's scale over all `n_examples`; `raw` is each arm's
    estimate adjusted for the examples it saw but not pulled back, `se` the standard error of what is the arm's own in
    it (that of an arm without scores: infinite). `noise` is the sd of one score about the additive model, `spread` the
    sd between good arms. `stands` names for each arm the one that stands for it (see twins), itself mostly; what is
    said of an arm is said of that one.
    """

    worth: Floats
    covariance: Floats
    raw: Floats
    se: Floats
    noise: float
    spread: float
    sampling: float
    n_examples: int
    stands: tuple[int, ...]

    def at(self, arms: Sequence[int] | NDArray[np.intp], stands: Sequence[int]) -> Field:
        """The field of some of its arms, in this order and perhaps more than once; `stands` names their places."""
        arms = np.asarray(arms, dtype=np.intp)
        return replace(
            self,
            worth=self.worth[arms],
            covariance=self.covariance[np.ix_(arms, arms)],
            raw=self.raw[arms],
            se=self.se[arms],
            stands=tuple(stands),
        )

    def information(self, scores: int) -> float:
        """What so many scores tell of an arm: one over the variance of their mean. Those beyond the examples are
        replicates, which do not tell of examples that suit an arm by chance."""
        if scores == 0:
            return 0.0
        own = self.sampling**2
        return 1 / (max(self.noise**2 - own, 0.0) / min(scores, self.n_examples) + own / scores)

    def sd(self, arm: int, other: int) -> float:
        """Posterior sd of the difference of two arms."""
        c = self.covariance
        return math.sqrt(max(c[arm, arm] + c[other, other] - 2 * c[arm, other], 0.0))

    def chance(self, arm: int, other: int) -> float:
        """The posterior probability that an arm is better than another one; 1/2 for equals."""
        gap, sd = float(self.worth[arm] - self.worth[other]), self.sd(arm, other)
        if sd <= 0:
            return 0.5 + 0.5 * float(np.sign(gap))
        return 0.5 * math.erfc(-gap / (sd * math.sqrt(2)))


def fit(scores: Sequence[Sequence[float] | Floats], n_examples: int) -> Field:
    """The field of these arms, each given by its scores in the study's order; a NaN counts as not seen.

    Arms that are one and the same count once. Without any score the arms are equals of which nothing is known.
    """
    stands = representatives(scores, n_examples)
    kept = sorted(set(stands))
    found = _fit([scores[k] for k in kept], n_examples)
    return found.at(np.searchsorted(kept, stands), stands)


def _fit(scores: Sequence[Sequence[float] | Floats], n_examples: int) -> Field:
    """The same, each arm by itself."""
    arms = len(scores)
    rounds = max(1, math.ceil(max((len(s) for s in scores), default=0) / n_examples))
    cube = np.full((arms, rounds, n_examples), math.nan)
    for row, own in zip(cube.reshape(arms, -1), scores, strict=True):
        row[: len(own)] = own
    known = ~np.isnan(cube)
    counts = known.sum(axis=1).astype(np.float64)
    seen = counts > 0
    if not seen.any():
        nothing, alone = np.zeros(arms), tuple(range(arms))
        return Field(nothing, np.eye(arms), nothing, np.full(arms, math.inf), 1.0, 1.0, 1.0, n_examples, alone)
    values = np.where(known, cube, 0.0)
    y = np.divide(values.sum(axis=1), counts, out=np.zeros_like(counts), where=seen)
    inner = float(np.where(known, (values - y[:, None, :]) ** 2, 0.0).sum())
    inner_df = float(counts[seen].sum() - seen.sum())

    # The noise of one score: what an additive fit leaves over.
    raw, ease = _additive(y, seen.astype(np.float64))
    residual = np.where(seen, y - raw[:, None] - ease[None, :], 0.0)
    df = max(0.0, float(seen.sum() - seen.any(axis=1).sum() - seen.any(axis=0).sum() + 1))
    centred = np.where(seen, y - (y.sum(axis=1) / np.maximum(seen.sum(axis=1), 1))[:, None], 0.0)
    guess = 0.5 * float((centred**2).sum()) / max(1.0, float(seen.sum() - seen.any(axis=1).sum()))
    between = (float((residual**2).sum()) + PRIOR_DF * guess) / (df + PRIOR_DF)
    share = float(seen.sum() / counts[seen].sum())  # a cell's sampling noise is averaged over its replicates
    sampling = (inner + PRIOR_DF * 0.5 * between) / (inner_df + PRIOR_DF)
    interaction = max(between - sampling * share, 0.1 * between)
    least = QUIET * float(np.var(values[known])) or 1e-12
    if interaction + sampling < least:  # each arm scores the same everywhere: without noise nothing could be solved
        interaction = least
    total = interaction + sampling
    w = np.divide(1.0, interaction + sampling / np.maximum(counts, 1), out=np.zeros_like(counts), where=seen)

    raw, ease = _additive(y, w)
    weight = w.sum(axis=1)
    measured = weight > 0
    se2 = np.divide(1.0, weight, out=np.full(arms, math.inf), where=measured)
    centre = float(np.median(raw[measured]))
    gap = raw - centre
    upper = measured & (gap >= 0)
    spread2 = float(np.mean(gap[upper] ** 2) - np.mean(se2[upper]))
    spread2 = max(spread2, float(np.median(se2[measured])) / 25)
    prior = np.where(gap < 0, np.maximum(spread2, gap**2), spread2)
    precision = 1 / prior

    column = w.sum(axis=0)
    inverse = np.divide(1.0, column, out=np.zeros_like(column), where=column > 0)
    covariance = _inverse(precision + weight, w, column)
    right = (w * y).sum(axis=1) - (w * inverse) @ (w * y).sum(axis=0)
    # Eases are free, so only differences are told by the data; the prior's centre is the median of the arms.
    worth = covariance @ right
    level = float(np.mean((w * (y - worth[:, None])).sum(axis=0)[column > 0] * inverse[column > 0]))
    return Field(
        worth + level,
        covariance,
        raw + float(np.mean(ease[column > 0])),
        np.sqrt(se2),
        math.sqrt(total),
        math.sqrt(spread2),
        math.sqrt(sampling),
        n_examples,
        tuple(range(arms)),
    )


def _inverse(diagonal: Floats, w: Floats, column: Floats) -> Floats:
    """The inverse of diag(diagonal) - w diag(1 / column) w', where `column` is what w's columns sum to: by the smaller
    of the two systems of equations, the arms' or the examples' (Woodbury's identity)."""
    w = w[:, column > 0]
    column = column[column > 0]
    if len(diagonal) <= len(column):
        return np.asarray(np.linalg.inv(np.diag(diagonal) - (w / column) @ w.T), dtype=np.float64)
    scaled = w / diagonal[:, None]
    return scaled @ np.linalg.solve(np.diag(column) - w.T @ scaled, scaled.T) + np.diag(1 / diagonal)


def _additive(y: Floats, w: Floats) -> tuple[Floats, Floats]:
    """Weighted least squares arm effects (median 0) and example eases; a ridge holds what nothing connects."""
    own, column = w.sum(axis=1), w.sum(axis=0)
    inverse = np.divide(1.0, column, out=np.zeros_like(column), where=column > 0)
    measured = own > 0
    arm = np.zeros(len(own))
    arm[measured] = _effects(y[measured], w[measured], own[measured], inverse)
    return arm, (w * (y - arm[:, None])).sum(axis=0) * inverse


def _effects(y: Floats, w: Floats, own: Floats, inverse: Floats) -> Floats:
    """The arms' part of the equations, solved by way of the examples where these are fewer."""
    arms, scale = len(own), float(own.max())
    ridge, free = 1e-9 * scale, scale / arms**2 * 1e-3  # the free constant
    right = (w * y).sum(axis=1) - (w * inverse) @ (w * y).sum(axis=0)
    if arms <= w.shape[1]:
        matrix = np.diag(own) - (w * inverse) @ w.T
        matrix += np.eye(arms) * ridge + free
        arm = np.linalg.solve(matrix, right)
    else:
        factors = np.column_stack([w * np.sqrt(inverse), np.full(arms, math.sqrt(free))])
        signs = np.append(np.full(w.shape[1], -1.0), 1.0)
        scaled = factors / (own + ridge)[:, None]
        inner = np.diag(signs) + factors.T @ scaled
        arm = right / (own + ridge) - scaled @ np.linalg.solve(inner, scaled.T @ right)
    effects: Floats = arm - np.median(arm)
    return effects
