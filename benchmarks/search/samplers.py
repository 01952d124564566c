"""python -m benchmarks.search.samplers: who proposes best, with the truth known.

Whole searches on made-up problems: every example has a difficulty, a configuration answers it rightly with some chance,
and a trial is one answer for each example. Trials are raced against the best so far (stopped at 12, 24, 48 ... examples
when the paired difference is clearly below 0), so that what samplers are told is of very different precision. At 20, 40
and 80 trials the three best are measured once more and one is returned; regret is the best possible mean minus its own,
in points. All samplers meet the same problems, and each draws its own answers. CPU is that of asking alone.

Where benchmarks/search/tables holds recorded tables, they are problems too (--tables), then of explicit choices.

Options: --seeds, --trials, --problems and --samplers (names with commas; gp is Optuna's and takes minutes),
--in-flight, --tables.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler

from genopt import canonical
from genopt.backends._domains import COMMON
from genopt.geometry import draw, mutate
from genopt.space import Choice, Constant, Number, SearchSpace, Switch
from genopt.study.hgp import distribution
from genopt.study.samplers import SeededSampler, maker, proposal_seed

Floats = NDArray[np.float64]
AT = (20, 40, 80)
STYLES = Choice.of(["none", "brief", "steps", "expert"])
LAYOUTS = Choice.of(["plain", "list", "table"])
NUMBERS = {
    "temperature": Number(0.0, 1.5),
    "top_p": Number(0.3, 1.0),
    "top_k": Number(1, 100, integer=True, log=True),
    "min_p": Number(0.0, 0.3),
    "repetition_penalty": Number(1.0, 1.3),
    "max_tokens": Number(32, 512, integer=True, log=True),
}
FLAT = SearchSpace({**NUMBERS, "style": STYLES, "layout": LAYOUTS})
SWITCH = SearchSpace(
    {
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "nucleus": {"temperature": Number(0.1, 1.5), "top_p": Number(0.3, 1.0)},
                "min_p": {"temperature": Number(0.1, 2.0), "min_p": Number(0.02, 0.3)},
            }
        ),
        "max_tokens": NUMBERS["max_tokens"],
        "style": STYLES,
    }
)
GRID = SearchSpace(
    {
        "temperature": Choice.of([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.3]),
        "top_p": Choice.of([0.5, 0.8, 0.9, 1.0]),
        "min_p": Choice.of([0.0, 0.1]),
        "style": STYLES,
    }
)


def live(space: SearchSpace) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """What acts in a configuration of a space, as a study knows it."""
    domains = {name: domain for name, domain in COMMON.items() if name in space.names()}

    def acts(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
        resolved = canonical.resolve(chosen, space=space, today={}, domains=domains)
        return canonical.live(resolved, domains, switches=space.switches())

    return acts


class Problem:
    """A space whose configurations answer each example rightly with a known chance."""

    def __init__(self, name: str, examples: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        self.name, self.examples, self.kind = name, examples, name.split("-")[0]
        self.space = {"switch": SWITCH, "grid": GRID}.get(self.kind, FLAT)
        self.live = live(self.space)
        self._difficulty = rng.normal(0.3, 1.5, examples)
        self._liking = rng.normal(0, 0.7, (examples, 4))
        self._style = rng.permutation([0.9, 0.5, 0.1, -0.3])
        self._layout = rng.permutation([0.4, 0.1, -0.2])
        self._at = {"temperature": rng.uniform(0.3, 1.0), "top_p": rng.uniform(0.6, 0.95)}
        self._at |= {"top_k": math.exp(rng.uniform(2, 4.3)), "min_p": rng.uniform(0, 0.12)}
        self._at |= {"repetition_penalty": rng.uniform(1.0, 1.12), "max_tokens": math.exp(rng.uniform(4.3, 5.8))}
        self._hot = rng.uniform(-0.4, 0.4, 4)
        self._long = rng.uniform(-0.9, 0.9, 4)
        self._mild = rng.uniform(-0.06, 0.12, 3)
        self.best = self._optimum(rng)

    def truth(self, answers: Mapping[str, Any]) -> Floats:
        """The chance of a right answer for each example."""
        acts = self.live(self.space.sample(lambda path, _: answers[path]))
        style = STYLES.labels.index(acts["style"])
        layout = LAYOUTS.labels.index(acts.get("layout", LAYOUTS.labels[0]))
        mixed = self.kind == "interaction"
        temperature = acts["temperature"]
        off = temperature - (self._at["temperature"] + (self._hot[style] if mixed else 0.0))
        # Truncation matters the more, the hotter: a hot tail that nothing cuts off breaks the text.
        cut = max(1 - acts.get("top_p", 1.0), 2 * acts.get("min_p", 0.0)) if temperature > 0 else 1.0
        broken = max(0.0, temperature - 0.7 - 3 * cut)
        quality = 1.4 + self._style[style] - 1.6 * off**2 - 3.0 * broken
        if temperature > 0:
            quality -= 1.5 * (acts.get("top_p", 1.0) - self._at["top_p"]) ** 2 * min(temperature, 1.0)
        if "max_tokens" in acts:
            short = math.log(acts["max_tokens"] / self._at["max_tokens"]) - (self._long[style] if mixed else 0.0)
            quality -= 0.5 * short**2
        if "repetition_penalty" in acts:
            at = self._at["repetition_penalty"] + (self._mild[layout] if mixed else 0.0)
            quality += self._layout[layout] - 25 * (acts["repetition_penalty"] - at) ** 2
        if self.kind == "level":
            quality = 1.4 + 0.02 * quality
        liking = self._liking[:, style] if self.kind != "level" else self._liking[:, 0]
        chances: Floats = 1 / (1 + np.exp(self._difficulty - quality - liking))
        return chances

    def scores(self, answers: Mapping[str, Any], rng: np.random.Generator) -> Floats:
        """One answer for each example, right (1) or wrong (0)."""
        return (rng.random(self.examples) < self.truth(answers)).astype(float)

    def _optimum(self, rng: np.random.Generator) -> float:
        if self.kind == "grid":
            return max(float(self.truth(answers).mean()) for answers in self.space.grid(100))
        tried = [draw(self.space, rng) for _ in range(1500)]
        best = sorted(((float(self.truth(a).mean()), i) for i, a in enumerate(tried)), reverse=True)[:5]
        top = []
        for worth, i in best:
            here = tried[i]
            for step in (0.2, 0.1, 0.05, 0.02, 0.01):
                for _ in range(60):
                    there = mutate(self.space, rng, here, step)
                    if (better := float(self.truth(there).mean())) > worth:
                        here, worth = there, better
            top.append(worth)
        return max(top)


class Recorded:
    """A recorded table as a problem: a trial draws one of the samples of each (configuration, example)."""

    def __init__(self, name: str, seed: int) -> None:
        from benchmarks.search import grid, table

        found = table.load(name)
        self.name, self.space, self._identity = name, grid.read(found.about["space"]), grid.identity
        self.live = live(self.space)
        self._explicit = grid.explicit
        of = [self._key(params) for params in found.configurations]
        self._number = {key: i for i, key in enumerate(of)}
        self._order = np.random.default_rng([seed, 78]).permutation(found.utility.shape[1])
        self._utility = found.utility[:, self._order]
        self.examples = len(self._order)
        self.best = float(found.truth.max())

    def _key(self, params: Mapping[str, Any]) -> str:
        return self._identity(self._explicit(params, self.space), self.space.switches())

    def _of(self, answers: Mapping[str, Any]) -> int:
        return self._number[self._key(self.space.sample(lambda path, _: answers[path]))]

    def truth(self, answers: Mapping[str, Any]) -> Floats:
        """The mean of each example over its samples."""
        result: Floats = self._utility[self._of(answers)].mean(axis=1)
        return result

    def scores(self, answers: Mapping[str, Any], rng: np.random.Generator) -> Floats:
        """One sample of each example."""
        samples = self._utility[self._of(answers)]
        result: Floats = samples[np.arange(len(samples)), rng.integers(samples.shape[1], size=len(samples))]
        return result


@dataclass
class Trial:
    """A trial of a search: its answers, and what was measured of it."""

    answers: Mapping[str, Any]
    handle: optuna.Trial
    scores: Floats = field(default_factory=lambda: np.zeros(0))
    estimate: float = math.nan


def search(
    problem: Problem | Recorded, make: Callable[[int], BaseSampler], *, trials: int, in_flight: int, seed: int
) -> tuple[dict[int, float], float]:
    """Regret after so many trials, and the CPU seconds of one ask."""
    rng = np.random.default_rng([seed, 79])
    study = optuna.create_study(direction="maximize", sampler=SeededSampler(make), pruner=optuna.pruners.NopPruner())
    numbers = {path: d for path, d in problem.space.open_dimensions().items() if isinstance(d, Number)}
    running: list[Trial] = []
    done: list[Trial] = []
    regret, asking = {}, 0.0
    while len(done) < trials:
        while len(running) < in_flight and len(done) + len(running) < trials:
            began = time.process_time()
            handle = study.ask()
            problem.space.sample(lambda path, d, handle=handle: handle._suggest(path, distribution(d)))  # type: ignore[misc]
            asking += time.process_time() - began
            # Optuna adds steps up: 1.2000000000000002 is the table's 1.2.
            tidy = {path: d.nearest(handle.params[path]) for path, d in numbers.items() if path in handle.params}
            running.append(Trial({**handle.params, **tidy}, handle))
        trial = running.pop(int(rng.integers(len(running))))
        se = measure(problem, trial, [t for t in done if len(t.scores) == problem.examples], rng)
        trial.handle.set_user_attr("outcome", {"estimate": trial.estimate, "se": se})
        study.tell(trial.handle, trial.estimate)
        done.append(trial)
        if len(done) in AT:
            regret[len(done)] = 100 * (problem.best - returned(problem, done, np.random.default_rng([seed, len(done)])))
    return regret, asking / trials


def measure(problem: Problem | Recorded, trial: Trial, whole: Sequence[Trial], rng: np.random.Generator) -> float:
    """Measure a trial, perhaps stopping early against the best of those that were measured whole; its standard error.

    A stopped trial's estimate is the best one's mean and the paired difference; its error is that of the difference.
    """
    scores = problem.scores(trial.answers, rng)
    best = max(whole, key=lambda t: t.scores.mean(), default=None)
    n = 12
    while best is not None and n <= 0.85 * len(scores):
        d = scores[:n] - best.scores[:n]
        se = float(d.std(ddof=1)) / math.sqrt(n)
        if d.mean() < -1.96 * se:
            trial.scores, trial.estimate = scores[:n], float(best.scores.mean() + d.mean())
            return max(se, 1e-3)
        n *= 2
    trial.scores, trial.estimate = scores, float(scores.mean())
    return max(float(scores.std(ddof=1)) / math.sqrt(len(scores)), 1e-3)


def returned(problem: Problem | Recorded, done: Sequence[Trial], rng: np.random.Generator) -> float:
    """The true mean of the configuration that a study would return now: the best of three, measured twice."""
    whole = sorted((t for t in done if len(t.scores) == problem.examples), key=lambda t: -t.estimate)[:3]
    again = [t.estimate + problem.scores(t.answers, rng).mean() for t in whole]
    return float(problem.truth(whole[int(np.argmax(again))].answers).mean())


def samplers(name: str, problem: Problem | Recorded, seed: int) -> Callable[[int], BaseSampler]:
    """What makes a sampler for each proposal: genopt's by their names; tpe5 is Optuna's default."""
    if name == "tpe5":
        return lambda proposal: optuna.samplers.TPESampler(seed=proposal_seed(seed, proposal))
    return maker(name, seed, problem.space, problem.live)


def problems(names: Sequence[str], tables: Sequence[str]) -> Iterator[tuple[str, Callable[[int], Problem | Recorded]]]:
    """The problems by name: kind-examples, or a table."""
    for name in names:
        yield name, lambda seed, name=name: Problem(name, int(name.split("-")[1]), seed)  # type: ignore[misc]
    for name in tables:
        yield name, lambda seed, name=name: Recorded(name, seed)  # type: ignore[misc]


def mean_se(values: Sequence[float]) -> str:
    """A mean with its standard error."""
    error = np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{np.mean(values):.2f} +- {error:.2f}"


def main() -> None:
    """Run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--trials", type=int, default=80)
    parser.add_argument("--problems", default="flat-40,flat-100,switch-40,interaction-40,grid-40,level-100")
    parser.add_argument("--samplers", default="random,tpe5,tpe,hgp")
    parser.add_argument("--in-flight", default="1,8")
    parser.add_argument("--tables", default="")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    chosen = options.samplers.split(",")
    named = [name for name in options.problems.split(",") if name], [n for n in options.tables.split(",") if n]
    at = [n for n in AT if n <= options.trials]
    columns = [f"regret at {n}" for n in at]
    print(f"| problem | in flight | sampler | {' | '.join(columns)} | minus {chosen[-1]}'s | CPU ms an ask |")
    print(f"|{'---|' * (len(at) + 5)}")
    for name, problem_of in problems(*named):
        made = [problem_of(seed) for seed in range(options.seeds)]
        for in_flight in map(int, options.in_flight.split(",")):
            found: dict[str, list[dict[int, float]]] = {}
            cpu: dict[str, float] = {}
            for sampler in reversed(chosen):
                runs = [
                    search(p, samplers(sampler, p, seed), trials=options.trials, in_flight=in_flight, seed=seed)
                    for seed, p in enumerate(made)
                ]
                found[sampler] = [regret for regret, _ in runs]
                cpu[sampler] = float(np.median([asking for _, asking in runs]))
            for sampler in chosen:
                cells = [mean_se([regret[n] for regret in found[sampler]]) for n in at]
                pairs = zip(found[sampler], found[chosen[-1]], strict=True)
                versus = mean_se([np.mean([a[n] - b[n] for n in at]) for a, b in pairs])  # type: ignore[misc]
                row = [name, str(in_flight), sampler, *cells, versus, f"{1000 * cpu[sampler]:.0f}"]
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
