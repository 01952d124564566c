"""Owns the policies that genopt is measured against, each a pure function of a world and budgets in calls.

They report the mean of what they measured of their winner, as their tools do; none of them keeps a holdout. Where a
tool has a policy and much else, here is its policy and nothing of its code: what it proposes, when it stops a
configuration, what it takes for the best.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.search.grid import Places
from benchmarks.search.outcomes import Outcome
from benchmarks.search.world import Floats, World

# One outcome for each budget, which are increasing: a policy that searches on spends the smaller one on its way.
Policy = Callable[[World, Sequence[int]], list[Outcome]]
BLOCK = 10  # examples between two looks
Z = 1.96


def anew(one: Callable[[World, int], Outcome]) -> Policy:
    """The policy that starts a new study for every budget."""

    def policy(world: World, budgets: Sequence[int]) -> list[Outcome]:
        return [one(world.fresh(), budget) for budget in budgets]

    return policy


def full_grid(world: World, budget: int) -> Outcome:
    """Every configuration on every example once, and the best mean; below the full budget on fewer examples, the same
    for all (llmsearch's way: its search scores the whole grid on the data it is given). It claims what a paired test of
    the best against the baseline claims on the very examples that chose it."""
    examples = max(1, min(world.examples, budget // world.configurations))
    scores = np.array([world.ask(c, 0, examples) for c in range(world.configurations)])
    means = scores.mean(axis=1)
    winner = int(means.argmax())
    claimed = better(scores[winner] - scores[world.baseline])
    return world.outcome(winner, means[winner], claimed=claimed)


def random(world: World, budget: int) -> Outcome:
    """Random configurations on every example once, and the best mean."""
    count = max(1, min(world.configurations, budget // world.examples))
    tried = world.rng.permutation(world.configurations)[:count]
    means = np.array([world.ask(c, 0, world.examples).mean() for c in tried])
    return world.outcome(int(tried[means.argmax()]), means.max())


def cost_pruned(world: World, budget: int) -> Outcome:
    """EcoOptiGen's: local search from the cheapest corner; what costs more tokens than twice the baseline on its first
    examples is left and counts nothing; quality stops nothing; the best mean wins."""
    features = _features(world)
    limit = 2 * float(np.mean(world.written(world.baseline, 0, world.examples)))
    best, best_mean, step, stuck = -1, -np.inf, 0.5, 0
    left = set(range(world.configurations))
    here = int(features.sum(axis=1).argmin())
    while left and world.calls + world.examples <= max(budget, world.examples):
        if best >= 0:
            target = features[best] + step * world.rng.normal(size=features.shape[1])
            tried = sorted(left)
            here = tried[int(((features[tried] - target) ** 2).sum(axis=1).argmin())]
        left.discard(here)
        world.ask(here, 0, BLOCK)
        if world.written(here, 0, BLOCK).mean() > limit:
            continue
        mean = float(world.ask(here, 0, world.examples).mean())
        stuck += 1
        if mean > best_mean:
            best, best_mean, stuck = here, mean, 0
        if stuck >= 4:
            step, stuck = max(step / 2, 0.1) if step > 0.1 else 0.5, 0
    return world.outcome(best if best >= 0 else here, best_mean if best >= 0 else 0.0)


def paired_race(world: World, budget: int) -> Outcome:
    """All configurations race on growing prefixes; who is behind the leader by more than 1.96 paired standard errors
    leaves; the survivors get up to three replicates; the best mean of everything measured wins."""
    racing = list(range(world.configurations))
    done = 0
    while done < world.examples and len(racing) * BLOCK <= budget - world.calls:
        for c in racing:
            world.ask(c, done, done + BLOCK)
        done = min(done + BLOCK, world.examples)
        scores = {c: world.ask(c, 0, done) for c in racing}
        leader = max(racing, key=lambda c: scores[c].mean())
        racing = [c for c in racing if not _behind(scores[c] - scores[leader])]
    done = max(done, 1)
    means = {c: [world.ask(c, 0, done)] for c in racing}
    for replicate in (1, 2, 3):
        price = sum(world.price(c, 0, done, replicate) for c in racing)
        if price == 0 or price > budget - world.calls:
            break
        for c in racing:
            means[c].append(world.ask(c, 0, done, replicate))
        totals = {c: np.mean(values, axis=0) for c, values in means.items()}
        leader = max(racing, key=lambda c: totals[c].mean())
        racing = [c for c in racing if not _behind(totals[c] - totals[leader])]
    totals = {c: np.mean(means[c], axis=0) for c in racing}
    winner = max(racing, key=lambda c: totals[c].mean())
    return world.outcome(winner, float(totals[winner].mean()))


def optuna_tpe(pruner: str = "none", *, examples: int | None = None) -> Policy:
    """Stock Optuna: its TPE with its own defaults and a pruner, and the best trial. Numbers are suggested as numbers,
    choices as categories, a switch by branches. A configuration proposed again costs nothing and changes nothing, which
    a plain loop would pay for; a budget also ends after three times as many trials as it pays for in full.

    "median", "halving" and "wilcoxon" are Optuna's pruners (running means at every tenth example; Wilcoxon's gets every
    example under its number), "unpaired" is syftr's rule: a trial ends when the upper end of its 95 % interval is below
    the lower end of the best trial's.
    """

    def policy(world: World, budgets: Sequence[int]) -> list[Outcome]:
        import optuna

        logging.getLogger("optuna").setLevel(logging.ERROR)
        places = Places(world.table.about["space"], world.table.configurations)
        count = min(examples or world.examples, world.examples)
        found: list[Outcome] = []
        best, best_mean, floor = 0, -np.inf, -np.inf
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(seed=int(world.rng.integers(2**31)))
            study = optuna.create_study(direction="maximize", sampler=sampler, pruner=_pruner(optuna, pruner))
            asked = 0
            while len(found) < len(budgets):
                asked += 1
                trial = study.ask()
                c = places.of(places.space.sample(lambda *asked, trial=trial: _suggest(trial, *asked)))
                done, stopped = 0, False
                while done < count and not stopped and len(found) < len(budgets):
                    after = min(done + BLOCK, count)
                    price = world.price(c, done, after)
                    while len(found) < len(budgets) and (
                        world.calls + price > budgets[len(found)] or asked > 3 * budgets[len(found)] / count
                    ):
                        found.append(world.outcome(best, best_mean))
                    values = world.ask(c, 0, after)
                    if pruner == "wilcoxon":
                        for n in range(done, after):
                            trial.report(float(values[n]), n)
                    elif pruner in ("median", "halving"):
                        trial.report(float(values.mean()), after)
                    done = after
                    if pruner == "unpaired":
                        stopped = float(values.mean()) + _half(values) < floor
                    elif pruner != "none" and done < count:
                        stopped = trial.should_prune()
                if stopped:
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    continue
                mean = float(values.mean())
                study.tell(trial, mean)
                if mean > best_mean:
                    best, best_mean, floor = c, mean, mean - _half(values)
        return found

    return policy


PLAIN: Mapping[str, Policy] = {
    "full grid / llmsearch": anew(full_grid),
    "random": anew(random),
    "cost pruning (EcoOptiGen)": anew(cost_pruned),
    "paired race, replicates": anew(paired_race),
}
OPTUNA: Mapping[str, Policy] = {
    "TPE": optuna_tpe(),
    "TPE, Median": optuna_tpe("median"),
    "TPE, SuccessiveHalving": optuna_tpe("halving"),
    "TPE, Wilcoxon": optuna_tpe("wilcoxon"),
    "TPE, 25 examples": optuna_tpe(examples=25),
    "TPE, unpaired (syftr)": optuna_tpe("unpaired"),
}


def better(d: Floats) -> bool:
    """Whether a paired t test says so: two-sided at 5 %."""
    from scipy.stats import t

    spread = float(d.std(ddof=1)) if d.size > 1 else 0.0
    if spread == 0:
        return False
    return bool(float(d.mean()) / (spread / float(np.sqrt(d.size))) > t.ppf(0.975, d.size - 1))


def _half(values: Floats) -> float:
    """Half of the 95 % interval of a mean that knows nothing of pairs."""
    return Z * float(values.std(ddof=1)) / float(np.sqrt(values.size))


def _behind(d: Floats) -> bool:
    if d.size < 2:
        return False
    se = float(d.std(ddof=1)) / np.sqrt(d.size)
    return bool(d.mean() < 0 and d.mean() < -Z * se)


def _features(world: World) -> Floats:
    """Every configuration as a point: each parameter's rank among its values, from 0 to 1, absent ones .5."""
    configurations: Sequence[Mapping[str, Any]] = world.table.configurations
    names = sorted({name for params in configurations for name in params})
    columns = []
    for name in names:
        values = sorted({params[name] for params in configurations if name in params}, key=lambda v: (str(type(v)), v))
        places = {value: n / max(1, len(values) - 1) for n, value in enumerate(values)}
        columns.append([places[params[name]] if name in params else 0.5 for params in configurations])
    return np.array(columns, dtype=np.float64).T


def _pruner(optuna: Any, name: str) -> Any:
    match name:
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=BLOCK)
        case "halving":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=BLOCK, reduction_factor=2)
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(p_threshold=0.1, n_startup_steps=14)
        case _:
            return optuna.pruners.NopPruner()


def _suggest(trial: Any, path: str, dimension: Any) -> Any:
    if hasattr(dimension, "labels"):
        return trial.suggest_categorical(path, dimension.labels)
    if dimension.integer:
        return trial.suggest_int(path, int(dimension.low), int(dimension.high), step=int(dimension.step or 1))
    value = trial.suggest_float(path, dimension.low, dimension.high, step=dimension.step)
    return dimension.nearest(value)
