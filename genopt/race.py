"""Owns the policy of a search: which configuration (an *arm*) gets which examples next, and which one is put forward.

Pure arithmetic on numbers: no I/O, no clock, no trials. `genopt.search` follows it with real requests, `simulate` with
recorded ones. All arms see the same examples in one order, first once each, then again (replicates, fresh seeds), so an
arm is the list of its scores so far in that order: scores 0 .. N - 1 are the examples, the next N their replicates.

What it looks at is the posterior of all arms together (see field): no arm is compared with one that luck has lifted.
An arm that does not look worth it now is parked, and taken up again when it does: nothing is decided for good on few
examples. Where the budget is short, breadth comes first: a first look at many, then more for those that may be best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genopt.field import Field, fit
from genopt.racing import levels

Floats = NDArray[np.float64]

FIRST = (8, 0.15)  # the first look at an arm: at least so many examples, and at most this fraction of them
PILOT = 12  # the same before anything is known of the spread between arms
ALPHA = 0.3  # the chance that an arm as good as the best is parked, over all looks together; it may be taken up again
FEW = 10  # arms without which nothing is said of those to come
HELD, FINALISTS = 0.3, 4  # of a simulated study: the share of examples held out, and arms in a round of the choice
FINALS = 0.35  # of the calls before the verdict, what is kept for the choice among those that may be best


@dataclass(frozen=True, slots=True)
class Split:
    """How far a budget reaches, in calls: all that is spent before the verdict, and of it what may be spent until
    nothing new is begun any more and nothing is judged further."""

    search: float
    total: float

    @classmethod
    def of(cls, calls: float, verdict: float, *, finals: float | None = None) -> Split:
        """What is left of `calls` without the `verdict`'s; FINALS of it, and at most `finals`, are kept for the choice
        among the best."""
        total = max(calls - verdict, 0.0)
        kept = FINALS * total
        return cls(total - (kept if finals is None else min(kept, finals)), total)

    @staticmethod
    def least(search: float, verdict: float, *, finals: float | None = None) -> float:
        """The calls without which the search cannot have so many."""
        return verdict + min(search / (1 - FINALS), math.inf if finals is None else search + finals)


def first_look(field: Field | None, n_examples: int) -> int:
    """How many examples an arm sees before it is judged at all: as many as make the noise of its mean as large as the
    spread between good arms, within FIRST."""
    least = min(FIRST[0], n_examples)
    most = max(least, round(FIRST[1] * n_examples))
    wanted = PILOT if field is None else (field.noise / field.spread) ** 2
    return int(min(max(wanted, least), most))


def looks(first: int, n_examples: int) -> tuple[int, ...]:
    """The numbers of examples at which an arm is judged: doubling from the first, all below 85 % of the examples."""
    found: list[int] = []
    n = first
    while n <= 0.85 * n_examples:
        found.append(n)
        n *= 2
    return tuple(found)


def goes_on(field: Field, arm: int, level: float) -> bool:
    """Whether an arm is worth further examples now: its chance to beat the best of the others is at least `level`.

    With the levels of `racing.levels` an arm that is as good as the best is parked with probability `alpha` over all
    looks together. That holds although the best was picked for its scores: what an arm is compared with is the best's
    posterior worth, pulled back by as much as being picked has helped it. Parked is not lost: `promote` looks at all.
    """
    others = [k for k in range(len(field.worth)) if k != arm]
    best = max(others, key=lambda k: field.worth[k], default=arm)
    return field.chance(arm, best) >= level


def promote(
    field: Field, lengths: Sequence[int], most: Sequence[int], rng: np.random.Generator, *, arms: int
) -> list[int]:
    """The arms that get the next examples: those whose next `step` is worth most for each call, at most `arms` of them,
    none that has `most` scores already, or is in front in no draw of the posterior. None where nothing but the leader
    ever is: there is nothing left to choose.

    What a step is worth is how much better the best expected worth will be after it, in expectation (the knowledge
    gradient; Frazier, Powell and Dayanik 2008). A chance of winning alone would not do: an arm of which much is known
    has little left to show, and one that saw a few unlucky examples has.
    """
    from genopt.surrogate import log_expected_improvement  # brings scipy, which only the choice needs

    standing = sorted(set(field.stands))
    draws = field.worth[:, None] + _root(field.covariance) @ rng.standard_normal((len(field.worth), 512))
    leader = field.stands[int(np.argmax(field.worth))]
    may_win = np.bincount(np.array(standing)[draws[standing].argmax(axis=0)], minlength=len(lengths)) > 0
    may_win[leader] = True
    if may_win.sum() == 1:
        return []
    more = np.array([max(min(step(n, field.n_examples), top - n), 0) for n, top in zip(lengths, most, strict=True)])
    before, after = (
        np.array([1 / (field.spread**-2 + field.information(n)) for n in upto]) for upto in (lengths, lengths + more)
    )
    moved = np.sqrt(np.maximum(before - after, 1e-30))
    second = max(field.worth[k] for k in standing if k != leader)
    ahead = np.where(np.arange(len(more)) == leader, second, field.worth[leader])
    gain = log_expected_improvement(-np.abs(field.worth - ahead), moved, 0.0) - np.log(np.maximum(more, 1))
    return sorted((k for k in standing if more[k] > 0 and may_win[k]), key=lambda k: -gain[k])[:arms]


def step(length: int, n_examples: int) -> int:
    """How many scores more an arm of that many gets at once: a quarter of the examples, or of what it has."""
    return max(1, math.ceil(max(n_examples, length) / 4))


@dataclass(frozen=True)
class Prospect:
    """What going on can bring at most. `gain`: how much better the best arm, of those measured and those to come, is
    expected to be than the one that would be put forward now. `reach`: the gain over the baseline that this best arm
    stays below with probability 95 %."""

    gain: float
    reach: float


def prospect(field: Field, baseline: int, unseen: int, rng: np.random.Generator, *, draws: int = 1024) -> Prospect:
    """The value of perfect information about all arms, E[max worth] - max E[worth], with those that are still to come
    among them (Raiffa and Schlaifer 1961), from `draws` draws of the joint posterior. An upper bound of what any
    measuring can bring; a new arm is drawn from the normal distribution of the good ones about the median arm."""
    root = _root(field.covariance)
    worth = field.worth[:, None] + root @ rng.standard_normal((len(field.worth), draws))
    best = worth.max(axis=0)
    if unseen > 0:  # the largest of so many normals, by the inverse of its distribution function
        from scipy.special import ndtri

        top = ndtri(rng.random(draws) ** (1 / unseen))
        best = np.maximum(best, float(np.median(field.worth)) + field.spread * top)
    now = int(np.argmax(field.worth))
    return Prospect(float(best.mean() - worth[now].mean()), float(np.quantile(best - worth[baseline], 0.95)))


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    found: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
    return found


@dataclass(frozen=True)
class Outcome:
    """What a simulated study found: the winner's row, its posterior worth on the tune split, what the holdout says of
    it, and the calls that all of it took (holdout included)."""

    winner: int
    tune_estimate: float
    holdout_estimate: float
    baseline_estimate: float
    p_value: float
    calls: int
    lengths: tuple[int, ...]


def simulate(
    table: Floats,
    calls: int,
    seed: int,
    *,
    baseline: int = 0,
    order: Sequence[int] | None = None,
    certain: Sequence[bool] | None = None,
    common: bool = False,
    gain_below: float = 0.0,
    crossfit: bool = False,
) -> Outcome:
    """A whole study on recorded scores (arms x examples x samples; higher is better), by the policy of `genopt.search`.

    New arms are taken in `order` (default: random) while the calls of `Split` allow; with `gain_below` the study ends
    when what going on can bring is less. A fraction HELD of the examples is kept for the verdict, and one sample of
    every (arm, example) for its fresh seeds; arms that are `certain` write the same text again and are not asked for
    it. With `common` seeds all arms take the samples in one order, else each in its own. With `crossfit` no example is
    kept, and the claim is that of `genopt.crossfit`. Deterministic in `seed`.
    """
    from genopt.crossfit import chosen as choice
    from genopt.crossfit import folds
    from genopt.stats import paired

    rng = np.random.default_rng(seed)
    n_arms, n_all, samples = table.shape
    shuffled = rng.permutation(n_all)
    held = shuffled[: round(HELD * n_all)]
    tune = shuffled if crossfit else shuffled[len(held) :]
    n = len(tune)
    parts = folds([None] * n) if crossfit else ()
    held = tune[len(parts[0].before) :] if crossfit else held
    draws = np.argsort(rng.random(table.shape[1:] if common else table.shape), axis=-1)
    cells = np.broadcast_to(draws, table.shape)
    shuffled_table = np.take_along_axis(table, cells, axis=2)
    stream = shuffled_table[:, tune].transpose(0, 2, 1).reshape(n_arms, -1)
    sure = np.zeros(n_arms, dtype=bool) if certain is None else np.asarray(certain)
    most = np.where(sure, n, (samples - 1) * n)  # one sample of each is kept for the holdout's fresh seeds
    split = Split.of(calls, 2 * len(held))
    known: dict[int, int] = {baseline: min(n, int(split.total))}
    proposals = [int(k) for k in (rng.permutation(n_arms) if order is None else order) if k != baseline]

    def field() -> Field:
        return fit([stream[k, :m] for k, m in known.items()], n)

    spent = known[baseline]
    now: Field | None = None
    for arm in proposals:
        first = first_look(now, n)
        if (
            now is not None
            and len(known) >= FEW
            and gain_below
            and prospect(now, 0, n_arms - len(known), rng).gain < gain_below
        ):
            break
        if spent + first > split.search:
            break
        rungs = looks(first, n)
        for look, level in zip((*rungs, n), (*levels(rungs, ALPHA), 1.0), strict=True):
            spent += look - known.get(arm, 0)
            known[arm] = look
            now = field()
            if spent + look > split.search or not goes_on(now, len(known) - 1, level):
                break
    while True:
        now = field()
        names, lengths = list(known), list(known.values())
        chosen = promote(now, lengths, [int(most[k]) for k in names], rng, arms=FINALISTS)
        if gain_below and prospect(now, 0, 0, rng).gain < gain_below:
            break
        if not chosen or split.total - spent < 1:
            break
        for k in chosen:
            more = min(step(lengths[k], n), int(most[names[k]]) - lengths[k], int(split.total) - spent)
            known[names[k]] += more
            spent += more
    winner = names[now.stands[int(np.argmax(now.worth))]]
    late = shuffled_table[:, held, -1 if crossfit else 0]
    tried = [winner] * len(held)
    if crossfit:
        scores = [stream[k, :m] for k, m in known.items()]
        picks = [names[choice(scores, n, part.before, 0)] for part in parts]
        tried = [pick for pick, part in zip(picks, parts, strict=True) for _ in part.on]
    a, b = late[tried, range(len(held))], late[baseline]
    result = paired(a, b, resamples=1000, seed=seed)
    if winner == baseline:
        spent -= len(held)
    return Outcome(
        winner,
        float(now.worth.max()),
        float(a.mean()),
        float(b.mean()),
        result.p_value,
        spent + 2 * len(held),
        tuple(known.values()),
    )
