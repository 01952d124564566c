"""Owns the step from a study's specification to its plan: everything is read, opened and held against everything else
before a single generation is made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from genopt import dataset as data
from genopt import handed
from genopt.backends import make_backend
from genopt.checks import (
    Fields,
    audit_problems,
    chooser_problems,
    data_problems,
    engine_can,
    memory_problems,
    memory_told,
    names_are_known,
    prompt_warnings,
    shots_problems,
    storage_problems,
)
from genopt.crossfit import ENOUGH, Fold, folds
from genopt.errors import BackendError, GenoptError, MissingExtra, SpecError
from genopt.names import with_own_names
from genopt.output import constraint, scorers_with
from genopt.plan import DEFAULT_TRIALS, Plan, concurrency
from genopt.prompt import REPLACED, Prompt
from genopt.rehearsal import rehearse
from genopt.scorers import make_scorer, scorer_key
from genopt.space import Choice, Constant, Number, SearchSpace, Switch, default_space
from genopt.spec import StudySpec, TextFile
from genopt.spec.dimensions import build_space, read_text
from genopt.spec.read import consistency
from genopt.study.samplers import choose_sampler
from genopt.types import Backend, BackendInfo, Example, ParamValue, Scorer


async def prepare(
    spec: StudySpec,
    *,
    tell: Callable[[str], None] = lambda text: None,
    stored: Callable[[], Awaitable[None]] | None = None,
) -> Plan:
    """The plan of a study, with its engine open. Raises SpecError with every mistake, before anything is generated;
    those in its storage's URL where it is to be `stored`, which is awaited before the engine is opened.

    `tell` takes a line for people while an engine loads or a server is waited for; it is called in the event loop.
    """
    found: list[str] = [*consistency(spec), *(storage_problems(spec) if stored is not None else ())]
    of_engine: list[str] = []
    backend = _attempt(of_engine, lambda: make_backend(spec.backend, spec.folder))
    known: BackendInfo | None = getattr(backend, "known", None)
    if known is not None:
        spec = _attempt(found, lambda: with_own_names(spec, known.aliases)) or spec
    dataset = _attempt(found, lambda: _load(spec))
    space = _attempt(found, lambda: build_space(spec.space, spec.folder))
    prompt = _attempt(found, lambda: _prompt(spec, space))
    output: dict[str, Any] = _attempt(found, lambda: constraint(spec)) or {}
    tables = scorers_with(output, spec)
    scorers: dict[str, Scorer] = {}
    for name, table in tables.items():
        scorer = _attempt(found, lambda name=name, table=table: make_scorer(name, table, spec.folder, seed=spec.seed))
        if scorer is not None:
            scorers[name] = scorer
            if "repeats" in scorer.needs and spec.search.repeats < 2:
                found.append(f"scorers.{name}: compares samples of one example. Set search.repeats = 2 or more")
    found += of_engine
    found += audit_problems(spec)
    found += memory_problems(spec)
    found += chooser_problems(spec, scorers)
    tune: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    parts: tuple[Fold, ...] = ()
    if dataset is not None:
        tune, holdout, parts = sides(spec, dataset.examples)
        found += data_problems(spec, dataset, tune, holdout, scorers)
        found += shots_problems(spec, space, tune) if space is not None else ()
    if found or dataset is None or prompt is None or space is None or backend is None:
        raise SpecError([line if line.startswith(spec.source) else f"{spec.source}: {line}" for line in found])

    goal = spec.goal()
    loop = asyncio.get_running_loop()
    for part in (backend, *scorers.values()):
        if hasattr(part, "tell"):
            part.tell = lambda text: loop.call_soon_threadsafe(tell, text)
    rows = dataset.examples
    fields = Fields.of(rows)
    try:
        if known is not None:  # a slip costs no loading of a model
            names_are_known(spec, prompt, searched(spec, space, known), known, fields)
        if stored is not None:
            await stored()
        for line in memory_told(spec):
            tell(line)
        engine = f"backend.kind: {spec.backend.kind}"
        with handed.raised(engine, "open"):
            opened = await backend.open()
        info = handed.info(opened, spec.backend.kind)
        space = searched(spec, space, info)
        names_are_known(spec, prompt, space, info, fields)
        info = _one_model(info, spec, space)
        engine_can(spec, dataset.examples, output, info)
        today = _today(spec, space, info)
        with handed.raised(engine, "models"):
            models = await _models(backend, space, today)
        slots = asyncio.Semaphore(concurrency(spec, info))
        for scorer in scorers.values():
            attach = getattr(scorer, "attach", None)
            if attach is not None:
                await attach(backend, info, slots)
        sampler = choose_sampler(
            spec.search.sampler, space, trials=spec.budget.trials or DEFAULT_TRIALS, several=goal.several
        )
        keys = {n: scorer_key(tables[n], s, spec.folder, repeats=spec.search.repeats) for n, s in scorers.items()}
        plan = Plan(
            spec, dataset, tune, holdout, prompt, backend, info, space, goal, scorers, keys, sampler, today,
            slots, models, output, parts, warnings=[*dataset.warnings, *info.notes],
        )  # fmt: skip
        plan.warnings += [*(() if parts else data.one_sided(tune, holdout)), *prompt_warnings(spec, prompt, rows)]
        if info.slots is not None and plan.concurrency > info.slots:
            plan.warnings.append(
                f"backend.concurrency: {plan.concurrency} requests are in flight, but the engine works on {info.slots}"
                " at once: the others wait"
            )
        if sampler.name == "grid" and plan.trials is not None:
            points = sum(1 for _ in islice(space.grid(spec.search.grid_points), plan.trials + 1))
            if points > plan.trials:
                plan.warnings.append(
                    f"the grid has more points than the budget's {plan.trials} trials, so only a corner of it is"
                    " visited: raise budget.trials, lower search.grid_points, or take another sampler"
                )
        rehearse(plan)
        for scorer in scorers.values():
            warm = getattr(scorer, "prepare", None)
            if warm is not None:
                plan.warnings += list(await warm(dataset.examples))
        return plan
    except BaseException as error:
        for part in (*scorers.values(), backend):
            await asyncio.shield(part.aclose())
        if isinstance(error, SpecError):
            raise SpecError(
                [p if p.startswith(spec.source) else f"{spec.source}: {p}" for p in error.problems], hint=error.hint
            ) from None
        raise


def searched(spec: StudySpec, space: SearchSpace, info: BackendInfo) -> SearchSpace:
    """The space that is searched: the engine's own where none is named, and how many samples an answer has."""
    dimensions = (space if space.dimensions else default_space(info.params)).dimensions
    return SearchSpace({**dimensions, **({"n": spec.answer.dimension()} if spec.answer else {})})


def _attempt(found: list[str], make: Any) -> Any:
    """What `make` makes, or None with its mistakes noted."""
    try:
        return make()
    except SpecError as error:
        found += error.problems
        if error.hint:
            found[-1] += f". {error.hint}"
    except MissingExtra:
        raise
    except GenoptError as error:
        found.append(str(error))
    return None


def _load(spec: StudySpec) -> data.Dataset:
    table = spec.dataset
    return data.load(
        path=table.path,
        rows=table.rows,
        folder=spec.folder,
        reference=table.reference,
        id=table.id,
        group=table.group,
        map=table.map,
        images=table.images,
        limit=table.limit,
        shuffle=table.shuffle,
        seed=spec.seed,
        split=table.split,
        format=table.format,
        within=spec.within,
    )


def sides(
    spec: StudySpec, examples: Sequence[Example]
) -> tuple[tuple[Example, ...], tuple[Example, ...], tuple[Fold, ...]]:
    """What is tuned on, what the claim is made on, and the folds where the two are not apart."""
    table, units = spec.dataset, {example.group or ("alone", example.id) for example in examples}
    many = len(units) >= ENOUGH or spec.goal().several  # a front is measured at one place, on what no choice has seen
    if table.holdout != "cross-fitting" and (table.holdout != "auto" or many):
        return *data.split(examples, holdout=table.fraction, seed=spec.seed), ()
    tune, _ = data.split(examples, holdout=0, seed=spec.seed)
    parts = folds([example.group for example in tune])
    return tune, tuple(tune[at] for at in sorted(at for part in parts for at in part.on)), parts


def _prompt(spec: StudySpec, space: SearchSpace | None) -> Prompt:
    def text(part: str | TextFile | None) -> str | None:
        return read_text(spec.folder, part.file) if isinstance(part, TextFile) else part

    variants: dict[str, list[str]] = {}  # those in branches of switches, too
    for _, role, dimension in space.walk() if space is not None else ():
        if role in REPLACED and isinstance(dimension, (Choice, Constant)):
            values = dimension.values if isinstance(dimension, Choice) else (dimension.value,)
            variants.setdefault(role, []).extend(str(value) for value in values)
    return Prompt.from_parts(
        system=text(spec.prompt.system),
        user=text(spec.prompt.user),
        messages=spec.prompt.messages,
        variables=space.names() if space is not None else (),
        variants=variants,
    )


def _today(spec: StudySpec, space: SearchSpace, info: BackendInfo) -> dict[str, ParamValue]:
    """Every parameter as the user runs it today: the engine's defaults under [baseline], where a named branch of a
    switch brings its constants; a prompt variable that is not set takes its first choice or lowest value."""
    today: dict[str, ParamValue] = {}
    for name, default in info.defaults.items():
        try:  # as the space's own values are, so that 1 and 1.0 are the same configuration
            known = name in info.params and default is not None
            today[name] = info.params[name].coerce(default) if known else default
        except ValueError as error:
            raise BackendError(f"{spec.backend.kind}: the model's own {name} cannot be used: {error}") from None
    for path, name, dimension in space.walk():
        if isinstance(dimension, Constant) and _taken(path, spec.baseline):
            today[name] = info.params[name].coerce(dimension.value) if name in info.params else dimension.value
        if name in info.params or name in today or isinstance(dimension, Switch):
            continue
        if isinstance(dimension, Choice):
            today[name] = dimension.values[0]
        elif isinstance(dimension, Constant):
            today[name] = dimension.value
        elif isinstance(dimension, Number):
            today[name] = int(dimension.low) if dimension.integer else float(dimension.low)
    if "shots" in space.names():
        today["shots"] = spec.prompt.shots
    if spec.answer is not None:
        today["n"] = 1
    for name, value in spec.baseline.items():
        plain = tuple(value) if isinstance(value, list) else value
        today[name] = info.params[name].coerce(plain) if name in info.params else plain
    return today


def _one_model(info: BackendInfo, spec: StudySpec, space: SearchSpace) -> BackendInfo:
    """The engine without its parameter `model`, where a study has only one and so no trial need name it."""
    if "model" in space.names() or "model" in spec.baseline:
        return info
    params = {name: domain for name, domain in info.params.items() if name != "model"}
    return replace(info, params=params, defaults={name: info.defaults[name] for name in params})


async def _models(
    backend: Backend, space: SearchSpace, today: Mapping[str, ParamValue]
) -> Mapping[str, Mapping[str, str]]:
    """What identifies each model, where several are searched. Raises SpecError for one the engine does not have."""
    names = {str(today["model"])} if today.get("model") is not None else set()
    for _, name, dimension in space.walk():
        if name == "model" and isinstance(dimension, Choice):
            names |= {str(value) for value in dimension.values}
        if name == "model" and isinstance(dimension, Constant):
            names.add(str(dimension.value))
    ask = getattr(backend, "models", None)
    if "model" not in space.names() or ask is None:
        return {}
    found: Mapping[str, Mapping[str, str]] = await ask(sorted(names))
    return found


def _taken(path: str, baseline: Mapping[str, Any]) -> bool:
    """True when the baseline names every branch on the path of a dimension inside a switch."""
    *branches, _ = path.split(".")
    return bool(branches) and all(baseline.get(s) == b for s, b in zip(branches[::2], branches[1::2], strict=True))
