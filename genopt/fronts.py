"""Owns what is said of configurations (*arms*) by several measures at once: who is beaten in all, which bounds hold,
who is on the front, and where its knee is.

Pure arithmetic on numbers: no I/O, no clock, no trials. Objectives are utilities, more is better in every column.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genopt.field import Field
from genopt.stats import UNBOUNDED, cluster_codes, paired

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SURE = 0.05  # the chance that an arm which meets every bound is stopped for missing one, over all looks together


def front(points: ArrayLike) -> Mask:
    """Which of the points (..., arms, objectives) no other one beats in one objective without losing in another. Equal
    points do not beat each other; a point with a NaN is on no front, and beats nobody."""
    p = np.asarray(points, dtype=np.float64)
    mine, other = p[..., :, None, :], p[..., None, :, :]
    beaten = ((other >= mine).all(axis=-1) & (other > mine).any(axis=-1)).any(axis=-1)
    found: Mask = np.asarray(~beaten & ~np.isnan(p).any(axis=-1))
    return found


def beaten_by(
    fields: Sequence[Field], scores: Sequence[Floats], arm: int, level: float, rivals: Iterable[int]
) -> int | None:
    """The arm on the front of `rivals` that is better than `arm` in every objective beyond luck; None without such.

    `fields` has one field for each objective, all of the same arms; `scores` holds for each arm its scores in the
    study's order, (observations, objectives). What is compared is the posterior worth, as in `race.goes_on`: a rival
    that luck has lifted is pulled back by as much as being picked has helped it. The error is the larger of the
    posterior's and of that of the paired differences on the shared examples, since tokens of one arm may vary ten times
    as much as those of another; it is Student's, with the shared examples' degrees of freedom.

    To be beaten is to be worse in all objectives at once, so each is held to the whole `level` (intersection-union
    test; Berger 1982, doi 10.1080/00401706.1982.10487790): an arm that is as good as the best in one objective is
    stopped with probability `level` at most, whatever the others. With the levels of `racing.levels` that is `alpha`
    over all looks together, which tests/test_fronts.py simulates.
    """
    from scipy.special import stdtr

    kept = [k for k in rivals if k != arm]
    worth = np.array([field.worth for field in fields]).T
    for rival in (k for k, best in zip(kept, front(worth[kept]), strict=True) if best):
        shared = min(len(scores[rival]), len(scores[arm]))
        differences = scores[rival][:shared] - scores[arm][:shared]
        differences = differences[~np.isnan(differences).any(axis=1)]
        if (n := len(differences)) < 2:
            continue
        errors = differences.std(axis=0, ddof=1) / math.sqrt(n)
        gaps = worth[rival] - worth[arm]
        sds = np.maximum([field.sd(rival, arm) for field in fields], errors)
        with np.errstate(divide="ignore", invalid="ignore"):
            if np.all((gaps > 0) & (stdtr(n - 1, -gaps / sds) < level)):
                return int(rival)
    return None


def membership(fields: Sequence[Field], able: Sequence[int], rng: np.random.Generator, *, draws: int = 256) -> Floats:
    """The posterior chance of each arm to be on the front of the `able` ones; 0 for the others."""
    columns = []
    for field in fields:
        values, vectors = np.linalg.eigh(field.covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        columns.append((field.worth[:, None] + root @ rng.standard_normal((len(values), draws)))[list(able)])
    shares = np.zeros(len(fields[0].worth))
    if able:
        points = np.stack(columns, axis=-1).transpose(1, 0, 2)
        shares[list(able)] = np.mean([front(point) for point in points], axis=0)
    return shares


def thinned(points: ArrayLike, most: int) -> list[int]:
    """At most `most` of the points of a front, in their order: its ends, its knee, then again and again the one that is
    farthest from those taken, on axes scaled to the front."""
    scaled = _scaled(np.asarray(points, dtype=np.float64))
    if len(scaled) <= most:
        return list(range(len(scaled)))
    ends = [int(np.lexsort((-scaled.sum(axis=1), -column))[0]) for column in scaled.T]
    taken = list(dict.fromkeys([*ends, knee(points).place]))[:most]
    while len(taken) < most:
        apart = np.linalg.norm(scaled[:, None] - scaled[taken], axis=2).min(axis=1)
        taken.append(int(np.argmax(np.where(np.isin(np.arange(len(scaled)), taken), -1.0, apart))))
    return sorted(taken)


@dataclass(frozen=True, slots=True)
class Knee:
    """Which point of a front is its knee, and how far it lies beyond the chord, on axes scaled to the front; 0 or less
    where the front has no bulge, and the ends are as good an answer."""

    place: int
    distance: float


def knee(points: ArrayLike) -> Knee:
    """The point of the front that is farthest beyond the chord between the front's ends, each objective scaled to
    [0, 1] over the front (Das 1999, doi 10.1007/BF01195985; with more than two objectives the chord is the plane on
    which the scaled objectives sum to 1). Of equals, as the ends are, the one that is best in the first objective.
    Points that others beat are left out."""
    p = np.asarray(points, dtype=np.float64)
    if not (on := front(p)).any():
        return Knee(0, 0.0)  # nothing is known of any
    distance = _beyond(p, on)
    place = int(_places(p, on))
    return Knee(place, float(distance[place]))


def _scaled(points: Floats, among: Mask | None = None) -> Floats:
    """Each objective on [0, 1] over the points `among` (..., points, objectives); 1 where they are all equal in it."""
    kept = points if among is None else np.where(among[..., None], points, math.nan)
    low, high = np.nanmin(kept, axis=-2, keepdims=True), np.nanmax(kept, axis=-2, keepdims=True)
    found: Floats = np.divide(points - low, high - low, out=np.ones_like(points), where=high > low)
    return found


def _beyond(points: Floats, among: Mask) -> Floats:
    """How far each point lies beyond the chord; -inf for those that are not `among` the front."""
    objectives = points.shape[-1]
    found: Floats = np.where(among, (_scaled(points, among).sum(axis=-1) - 1) / math.sqrt(objectives), -math.inf)
    return found


def _places(points: Floats, among: Mask) -> NDArray[np.intp]:
    """Where the knee is (...); ties go to the first objective."""
    found: NDArray[np.intp] = np.argmax(_beyond(points, among) + 1e-9 * _scaled(points, among)[..., 0], axis=-1)
    return found


@dataclass(frozen=True, slots=True)
class Shares:
    """How sure a front and its knee are: the shares of the resamples in which each point is on it, and is its knee."""

    front: Floats
    knee: Floats


def shares(values: Floats, *, groups: Sequence[Hashable] | None = None, resamples: int = 2000, seed: int = 0) -> Shares:
    """The bootstrap over examples, the same ones for all points: `values` (points, examples, objectives), NaN where
    nothing is known. Examples of one group are drawn together. Deterministic in `seed`."""
    codes = cluster_codes(groups, values.shape[1])
    clusters, known = int(codes.max()) + 1, ~np.isnan(values)
    member = (codes == np.arange(clusters)[:, None]).astype(np.float64)
    sums = np.einsum("ce,mek->cmk", member, np.where(known, values, 0.0))
    sizes = np.einsum("ce,mek->cmk", member, known.astype(np.float64))
    counts = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), resamples)
    totals, weights = (np.tensordot(counts.astype(np.float64), each, axes=1) for each in (sums, sizes))
    points = np.divide(totals, weights, out=np.full(totals.shape, math.nan), where=weights > 0)
    points = points[~np.isnan(points).any(axis=(1, 2))]
    if not len(points):
        return Shares(np.zeros(len(values)), np.zeros(len(values)))
    on = front(points)
    knees = _places(points, on)
    return Shares(on.mean(axis=0), np.bincount(knees, minlength=len(values)) / len(points))


def holds(
    values: ArrayLike,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    ends: tuple[float, float] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> float:
    """The probability that the mean of a measure lies within the bounds, from its mean over the examples and the
    standard error of that (Student's t, robust to groups); 0 where nothing was measured.

    n equal values of a measure with a scale are no certainty: with `ends` one more value at each end of the scale is
    counted, as the posterior of a share under a flat prior counts them.
    """
    from scipy.special import stdtr

    x = np.asarray(values, dtype=np.float64)
    if np.isnan(x).all():
        return 0.0
    if ends is not None:
        x = np.concatenate([x, ends])
        groups = None if groups is None else [*groups, None, None]
    found = paired(x, np.zeros(x.size), groups=groups, resamples=0)
    low = -math.inf if at_least is None else at_least - found.difference
    high = math.inf if at_most is None else at_most - found.difference
    if found.se == 0:
        return float(low <= 0 <= high)
    if found.se >= UNBOUNDED:  # of one value nobody can say
        return 0.5
    return float(stdtr(found.clusters - 1, high / found.se) - stdtr(found.clusters - 1, low / found.se))
