"""Owns measuring one configuration on one data set, outside any study; also the two trial rows of `check`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from genopt import dataset
from genopt._rows import SUFFIXES
from genopt.errors import SpecError, writing
from genopt.meter import Meter
from genopt.plan import Bill, Plan
from genopt.prepare import prepare
from genopt.runner import run
from genopt.schedule import run_trial
from genopt.space import Constant, Switch
from genopt.spec import StudySpec
from genopt.spec.mistakes import hint
from genopt.spec.outside import sent_to
from genopt.spec.read import as_study
from genopt.stats import interval, mean_se
from genopt.trial import Configuration, Evaluation, Memory, Observation, Observer
from genopt.types import Example
from genopt.warm import check_earlier
from genopt.words import finite


class _Nowhere:
    """A writer that keeps nothing."""

    def add(self, table: str, row: Mapping[str, Any]) -> None:
        """Let a row go."""


@dataclass(frozen=True)
class Measured:
    """One configuration on one data set: per metric the mean, its standard error and 95 % interval; and every row."""

    params: Mapping[str, Any]
    examples: int
    metrics: Mapping[str, Mapping[str, float]]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Checked:
    """What `check` found: two answered rows, and what the study will cost at most.

    `seconds_each` is the time of one generation when hardly anything shares the engine.
    """

    plan: Plan
    rows: Sequence[Mapping[str, Any]]
    bill: Bill
    tokens_each: float
    seconds_each: float

    def minutes(self) -> tuple[float, float]:
        """The study's length: if the engine answers all its slots at once as fast as one, and if it gains nothing."""
        longest = self.bill.total * self.seconds_each / 60
        return longest / self.plan.concurrency, longest


def evaluate(
    spec: StudySpec | Mapping[str, Any] | str | Path,
    params: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    output: Path | None = None,
) -> Measured:
    """Measure one configuration (default: the baseline) on the study's data, or on `data`.

    `params` are flat, as `best` prints them; what they do not name stays as the baseline has it. Each row is appended
    to `output` (JSONL) the moment it is scored. Raises SpecError, BackendError or ScorerError.
    """
    return run(evaluate_async(spec, params, data=data, output=output))


async def evaluate_async(
    spec: StudySpec | Mapping[str, Any] | str | Path,
    params: Mapping[str, Any] | None = None,
    *,
    data: str | None = None,
    output: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Measured:
    """The same inside a running event loop; `tell` takes a line for people while the engine loads."""
    spec = as_study(spec)
    read = [Path(data)] if data is not None else []
    read += [spec.folder / spec.dataset.path] if spec.dataset.path is not None else []
    if output is not None and output.resolve() in [path.resolve() for path in read]:
        raise SpecError(f"-o {output}: is read for its rows, and answers would be added to them. Name another file")
    if data is not None:
        others = _load(spec, data)
    plan = await prepare(spec, tell=tell)
    try:
        config = chosen(plan, params)
        examples = plan.dataset.examples
        if data is not None:
            examples = others.examples
            dataset.require_references(others, [n for n, s in plan.scorers.items() if "references" in s.needs])
            for example in examples:  # a row that cannot be asked is found before any is
                plan.prompt.render(example, config.variables)
        if output is None:
            return await _measure(plan, config, examples, None)
        with writing(f"-o {output}"):
            file = output.open("a", encoding="utf-8")
        with file:
            return await _measure(plan, config, examples, file)
    finally:
        await asyncio.shield(plan.aclose())


def _load(spec: StudySpec, data: str) -> dataset.Dataset:
    """Other rows, read as the study's are. They are only answered: few-shot examples still come from the study."""
    here, table = Path(data).exists(), spec.dataset
    if not here and Path(data).suffix in SUFFIXES and not (spec.folder / data).exists():
        raise SpecError(f"--data {data}: no such file in {Path.cwd()}. Check the path")
    return dataset.load(
        path=str(Path(data).resolve()) if here else data,  # else a hub id
        folder=spec.folder,
        reference=table.reference,
        id=table.id,
        map=table.map,
        images=table.images,
        split=None if here else table.split,
        within=Path(data).resolve().parent if here and spec.within is not None else spec.within,
    )


def chosen(plan: Plan, params: Mapping[str, Any] | None) -> Configuration:
    """The configuration with these settings over the baseline's. Raises SpecError for a name that means nothing."""
    if params is None:
        return plan.baseline()
    params = {plan.info.aliases.get(name, name): value for name, value in params.items()}
    known = {*plan.domains, *plan.names, *plan.space.switches()}
    problems = [f"--params: {name!r} is no parameter here.{hint(name, known)}" for name in params if name not in known]
    for name, value in params.items():
        if name in plan.domains:
            try:
                plan.domains[name].coerce(value)
            except ValueError as error:
                problems.append(f"--params: {name}: {error}")
    flat = {name: tuple(value) if isinstance(value, list) else value for name, value in params.items()}
    for _, name, dimension in plan.space.walk():
        if not isinstance(dimension, Switch) or name not in flat:
            continue
        branch = dimension.branches.get(str(flat[name]))
        if branch is None:
            problems.append(
                f"--params: {name}: {flat[name]!r} is no branch.{hint(str(flat[name]), dimension.branches)}"
            )
        for inner, part in (branch or {}).items():
            if isinstance(part, Constant):
                flat.setdefault(inner, part.value)
            elif inner not in flat:
                problems.append(f"--params: {name} = {flat[name]!r} leaves {inner} open. Give it too")
    if problems:
        raise SpecError(problems)
    if plan.space.switches() & flat.keys() and plan.space.locate(flat) is not None:
        return plan.configure(flat)  # as the trial had it: what only another branch sets is off
    return plan.over_baseline(flat)


async def check_async(
    spec: StudySpec | Mapping[str, Any] | str | Path, *, tell: Callable[[str], None] = lambda text: None
) -> Checked:
    """Read everything, answer two rows, and estimate the cost; `tell` takes a line for people while the engine loads.

    Raises SpecError, StudyError, BackendError or ScorerError.
    """
    spec = as_study(spec)
    for where in sent_to(spec):
        if ", with the value of " in where:
            tell(f"about to ask {where}")  # before it is sent: a study file may be a stranger's
    plan = await prepare(spec, tell=tell, stored=partial(check_earlier, spec, tell))
    try:
        observer = plan.observer(0, _Nowhere(), Meter())
        memory: Memory = {}
        answered: list[Mapping[str, Any]] = []
        for example in plan.tune[:2]:  # one after the other: the first warms the engine up, the second is timed
            began = time.monotonic()
            measured = await _measure(plan, plan.baseline(), [example], None, observer=observer, memory=memory)
            asked = [asdict(message) for message in observer.render(plan.baseline(), example)]
            answered += [{**row, "prompt": asked} for row in measured.rows]
        seconds = (time.monotonic() - began) / (len(memory) / len(answered))
        rows = list(memory.values())
        tokens = sum(row.generation.prompt_tokens + row.generation.completion_tokens for row in rows) / len(rows)
        budget, least = plan.spec.budget.tokens, plan.least()
        if budget is not None and budget < least * tokens:
            plan.warnings.append(
                f"budget.tokens: {budget:,} pay for some {budget / tokens:,.0f} generations of this length; baseline,"
                f" one trial and the verdict take {least:,}, about {least * tokens:,.0f} tokens. Raise it"
            )
        return Checked(plan, answered, plan.bill(), tokens, seconds)
    finally:
        await asyncio.shield(plan.aclose())


async def _measure(
    plan: Plan,
    config: Configuration,
    examples: Sequence[Example],
    output: IO[str] | None,
    *,
    observer: Observer | None = None,
    memory: Memory | None = None,
) -> Measured:
    observer = observer or plan.observer(0, _Nowhere(), Meter())
    memory = {} if memory is None else memory
    evaluation = Evaluation(config, examples)
    rows: dict[int, dict[str, Any]] = {}

    async def observe(index: int) -> Observation:
        example = examples[index]
        observation = await observer.observe(config, memory, example, 0, "confirm", None)
        places = observer.answers.places(0, observer.repeats, config.n)
        samples = [memory[key] for key in [(example.id, s) for s in places] if key in memory]
        rows[index] = {
            "id": example.id,
            "fields": {k: v for k, v in example.fields.items()},
            "references": list(example.references),
            "outputs": [row.generation.text for row in samples],
            "finish": [row.generation.finish for row in samples],
            "metrics": finite(
                {k: v for k, v in observation.metrics.items() if k in plan.scorers or k == "completion_tokens"}
            ),
            "why": {
                name: [row.scores[key].why for row in samples if key in row.scores]
                for name, key in plan.scorer_keys.items()
            },
        }
        if output is not None:
            output.write(json.dumps(rows[index], ensure_ascii=False, default=str) + "\n")
            output.flush()
        return observation

    found = await run_trial(len(examples), observe, window=2 * plan.concurrency)
    evaluation.cells = {(position, 0): observation for position, observation in enumerate(found)}
    metrics = {}
    for name in dict.fromkeys([*plan.goal.metrics(), *plan.scorers, "completion_tokens"]):
        values = evaluation.metric(name)
        mean, se = mean_se(values)
        low, high = interval(mean, se, len(examples))
        metrics[name] = {"mean": mean, "se": se, "low": low, "high": high}
    return Measured(config.params, len(examples), metrics, [rows[index] for index in sorted(rows)])
