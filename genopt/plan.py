"""Owns the step from a study's specification to its parts, ready to run: everything is read, opened and held against
everything else before a single generation is made."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genopt import dataset as data
from genopt import space as spaces
from genopt.backends import make_backend
from genopt.errors import BackendError, GenoptError, MissingExtra, SpecError
from genopt.objectives import Goal
from genopt.prompt import Prompt, problems
from genopt.scorers import make_scorer, scorer_key
from genopt.space import Choice, Number, SearchSpace, Switch
from genopt.spec import StudySpec, TextFile
from genopt.spec.dimensions import build_space, read_text
from genopt.spec.read import consistency, hint
from genopt.study.samplers import SamplerChoice, choose_sampler
from genopt.trial import Configuration
from genopt.types import Backend, BackendInfo, Domain, Example, Params, ParamValue, Scorer

SMALLEST = 8  # examples on each side of the split, below which nothing can be shown or chosen
DEFAULT_TRIALS = 60


@dataclass(frozen=True)
class Bill:
    """What a study costs at most, in generations; racing makes the search cheaper, never dearer."""

    search: int
    finalists: int
    confirm: int

    @property
    def total(self) -> int:
        return self.search + self.finalists + self.confirm

    @property
    def reserve(self) -> int:
        """What is kept back from the search for choosing and confirming a winner."""
        return self.finalists + self.confirm


@dataclass
class Plan:
    """The parts of a study, opened. `aclose` frees the engine and the scorers."""

    spec: StudySpec
    dataset: data.Dataset
    tune: tuple[Example, ...]
    holdout: tuple[Example, ...]
    prompt: Prompt
    backend: Backend
    info: BackendInfo
    space: SearchSpace
    goal: Goal
    scorers: Mapping[str, Scorer]
    scorer_keys: Mapping[str, str]
    sampler: SamplerChoice
    today: Params
    warnings: list[str] = field(default_factory=list)

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self.info.params

    @property
    def trials(self) -> int | None:
        """The budget in trials; a default when no budget is named at all."""
        budget = self.spec.budget
        if budget.trials is None and budget.generations is budget.tokens is budget.hours is None:
            return DEFAULT_TRIALS
        return budget.trials

    @property
    def concurrency(self) -> int:
        wanted = self.spec.backend.concurrency
        return self.info.concurrency if wanted == "auto" else wanted

    @property
    def names(self) -> frozenset[str]:
        """Every flat parameter that is not the backend's: prompt variables and shots."""
        return frozenset(self.space.names() | self.today.keys()) - self.domains.keys()

    def baseline(self) -> Configuration:
        """What the user runs today."""
        return self._configuration(dict(self.today))

    def configure(self, chosen: Params) -> Configuration:
        """The configuration behind flat parameters as the space gives them."""
        resolved = spaces.resolve(chosen, space=self.space, today=self.today, domains=self.domains)
        return self._configuration(resolved)

    def over_baseline(self, params: Params) -> Configuration:
        """The baseline with some of its settings replaced."""
        coerced = {n: self.domains[n].coerce(v) if n in self.domains else v for n, v in params.items()}
        return self._configuration({**self.today, **coerced})

    def _configuration(self, resolved: Mapping[str, ParamValue]) -> Configuration:
        request = {name: value for name, value in resolved.items() if name in self.domains and value is not None}
        switches = self.space.switches()
        variables = {n: v for n, v in resolved.items() if n not in request and n not in switches and n != "shots"}
        shots = resolved.get("shots", self.spec.prompt.shots)
        count = shots if isinstance(shots, int) else 0
        kept = spaces.canonical(resolved, self.domains, switches=switches, vocabulary=self.info.vocabulary)
        texts = list(self.prompt.texts(variables))
        if count:
            texts.append(self._pool_digest())
        identity = {**self.info.identity, **({"shots": str(count)} if count else {})}
        key = spaces.config_key(identity, texts, {n: v for n, v in kept.items() if n in self.domains})
        shown = {name: value for name, value in resolved.items() if value is not None}
        return Configuration(shown, request, variables, count, key, spaces.deterministic(kept))

    def _pool_digest(self) -> str:
        ids = [(example.id, data.example_digest(example)) for example in self.tune]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()

    def digests(self) -> dict[str, tuple[str, str]]:
        """Example id -> (digest of its content, split)."""
        sides = (("tune", self.tune), ("holdout", self.holdout))
        return {example.id: (data.example_digest(example), side) for side, part in sides for example in part}

    def bill(self) -> Bill:
        """The cost at most. Without a limit on trials the search costs whatever the other budgets leave."""
        spec = self.spec.search
        each = len(self.tune) * spec.repeats
        return Bill(
            search=each * (self.trials or 0),
            finalists=each * spec.replicates * (spec.finalists + 1),
            confirm=2 * len(self.holdout) * spec.repeats * spec.confirm_repeats,
        )

    def description(self) -> dict[str, Any]:
        """What must not change while a study goes on, by key of the study file. Plain JSON."""
        spec = self.spec
        return {
            "seed": spec.seed,
            "dataset": self.dataset.digest,
            "dataset.holdout": spec.dataset.holdout,
            "prompt": [*self.prompt.texts({}), spec.prompt.shots],
            "backend": dict(sorted(self.info.identity.items())),
            "space": self.space.describe(),
            "baseline": json.loads(json.dumps(self.baseline().params)),
            "scorers": {name: key for name, key in sorted(self.scorer_keys.items())},
            "objectives": self.goal.title,
            "constraints": [str(constraint) for constraint in self.goal.constraints],
            "search.repeats": spec.search.repeats,
        }

    async def aclose(self) -> None:
        """Free the engine and the scorers; safe to call twice."""
        for scorer in self.scorers.values():
            await scorer.aclose()
        await self.backend.aclose()


async def prepare(spec: StudySpec) -> Plan:
    """The plan of a study, with its engine open. Raises SpecError with every mistake, before anything is generated."""
    found: list[str] = list(consistency(spec))
    dataset = _attempt(found, lambda: _load(spec))
    space = _attempt(found, lambda: build_space(spec.space, spec.folder))
    prompt = _attempt(found, lambda: _prompt(spec, space))
    scorers: dict[str, Scorer] = {}
    for name, table in spec.scorers.items():
        scorer = _attempt(found, lambda name=name, table=table: make_scorer(name, table, spec.folder))
        if scorer is not None:
            scorers[name] = scorer
            if "repeats" in scorer.needs and spec.search.repeats < 2:
                found.append(f"scorers.{name}: compares samples of one example. Set search.repeats = 2 or more")
    backend = _attempt(found, lambda: make_backend(spec.backend, spec.folder))
    tune: tuple[Example, ...] = ()
    holdout: tuple[Example, ...] = ()
    if dataset is not None:
        tune, holdout = data.split(dataset.examples, holdout=spec.dataset.holdout, seed=spec.seed)
        found += _data_problems(spec, dataset, tune, holdout, scorers)
    if found or dataset is None or prompt is None or space is None or backend is None:
        raise SpecError([line if line.startswith(spec.source) else f"{spec.source}: {line}" for line in found])

    goal = spec.goal()
    try:
        info = await backend.open()
        space = space if space.dimensions else spaces.default_space(info.params)
        fields = _fields(dataset.examples)
        _names_are_known(spec, prompt, space, info, fields)
        today = _today(spec, space, info, fields)
        sampler = choose_sampler(
            spec.search.sampler, space, trials=spec.budget.trials or DEFAULT_TRIALS, several=goal.several
        )
        keys = {n: scorer_key(spec.scorers[n], s, spec.folder, repeats=spec.search.repeats) for n, s in scorers.items()}
        plan = Plan(
            spec, dataset, tune, holdout, prompt, backend, info, space, goal, scorers, keys, sampler, today,
            warnings=[*dataset.warnings, *info.notes],
        )  # fmt: skip
        _render_everything(plan)
        _affordable(plan)
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
        limit=table.limit,
        shuffle=table.shuffle,
        seed=spec.seed,
        split=table.split,
        format=table.format,
    )


def _prompt(spec: StudySpec, space: SearchSpace | None) -> Prompt:
    def text(part: str | TextFile | None) -> str | None:
        return read_text(spec.folder, part.file) if isinstance(part, TextFile) else part

    dimensions = space.dimensions if space is not None else {}
    replaced = {role: dimensions.get(role) for role in ("system", "user")}
    return Prompt.from_parts(
        system=text(spec.prompt.system),
        user=text(spec.prompt.user),
        messages=spec.prompt.messages,
        variables=space.names() if space is not None else (),
        variants={
            role: [str(value) for value in choice.values]
            for role, choice in replaced.items()
            if isinstance(choice, Choice)
        },
    )


def _data_problems(
    spec: StudySpec,
    dataset: data.Dataset,
    tune: Sequence[Example],
    holdout: Sequence[Example],
    scorers: Mapping[str, Scorer],
) -> Iterator[str]:
    if min(len(tune), len(holdout)) < SMALLEST:
        yield (
            f"dataset.holdout: {len(dataset.examples)} rows split into {len(tune)} to tune on and {len(holdout)} held"
            f" out; each side needs {SMALLEST}. Add rows, or change holdout ({spec.dataset.holdout:g})"
        )
    needing = [name for name, scorer in scorers.items() if "references" in scorer.needs]
    if needing:
        try:
            data.require_references(dataset, needing)
        except SpecError as error:
            yield from error.problems


def _fields(examples: Sequence[Example]) -> frozenset[str]:
    """The fields that every row has."""
    return frozenset.intersection(*(frozenset(example.fields) for example in examples))


def _names_are_known(
    spec: StudySpec, prompt: Prompt, space: SearchSpace, info: BackendInfo, fields: frozenset[str]
) -> None:
    """Hold every name in the space and the baseline against the backend and the prompt. Raises SpecError."""
    used = prompt.names()
    variables = frozenset({name for name in space.names() if name in used or name in ("system", "user", "shots")})
    known = frozenset(info.params) | variables
    found: list[str] = []
    engine = info.identity.get("engine", spec.backend.kind)
    for path, name, dimension in space.walk():
        if isinstance(dimension, Switch):
            if name in info.params:
                found.append(f"space.{path}: is a parameter of {engine}, so it cannot name a switch. Rename the switch")
            named = spec.baseline.get(name)
            if named is not None and named not in dimension.branches:
                found.append(f"baseline.{name}: {named!r} is no branch.{hint(str(named), dimension.branches)}")
        elif name not in known:
            found.append(
                f"space.{path}: is neither a parameter of {engine} nor a variable that the prompt uses"
                f" ({{{{ {name} }}}})." + hint(name, [*info.params, *used - fields])
            )
        elif name in info.params:
            found += [f"space.{path}: {problem}" for problem in _illegal(dimension, info.params[name])]
    switches = space.switches()
    for name, value in spec.baseline.items():
        if name in info.params:
            try:
                info.params[name].coerce(value)
            except ValueError as error:
                found.append(f"baseline.{name}: {_refused(info.params[name], error)}")
        elif name not in variables | switches | {"shots"} and name not in used:
            found.append(
                f"baseline.{name}: is neither a parameter of {engine} nor a variable of the prompt."
                + hint(name, [*info.params, *variables, *switches])
            )
    found += [f"prompt: {problem}" for problem in problems(prompt, fields, variables | (spec.baseline.keys() & used))]
    if not space.open_dimensions():
        found.append("space: there is nothing to search. Give at least one range, choice or switch")
    if found:
        raise SpecError(found)


def _illegal(dimension: spaces.Dimension, domain: Domain) -> Iterator[str]:
    """What is wrong with a dimension of a backend parameter."""
    if isinstance(dimension, Number) and dimension.integer and domain.kind == "float":
        low, high = float(dimension.low), float(dimension.high)
        yield f"takes floats, but the range is written in integers. Write low = {low} and high = {high}"
        return
    if isinstance(dimension, Number) and not dimension.integer and domain.kind == "int":
        yield "takes whole numbers, but the range is written in floats. Drop the decimal points"
        return
    values: tuple[Any, ...] = ()
    if isinstance(dimension, Number):
        values = (dimension.low, dimension.high)
    elif isinstance(dimension, Choice):
        values = dimension.values
    elif isinstance(dimension, spaces.Constant):
        values = (dimension.value,)
    for value in values:
        try:
            domain.coerce(value)
        except ValueError as error:
            yield _refused(domain, error)


def _refused(domain: Domain, error: ValueError) -> str:
    """Why a value is not legal, and what would be."""
    return f"{error}. " + ("Stay inside it" if domain.bounds() in str(error) else f"Legal: {domain.bounds()}")


def _today(spec: StudySpec, space: SearchSpace, info: BackendInfo, fields: frozenset[str]) -> dict[str, ParamValue]:
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
        if isinstance(dimension, spaces.Constant) and _taken(path, spec.baseline):
            today[name] = info.params[name].coerce(dimension.value) if name in info.params else dimension.value
        if name in info.params or name in today or isinstance(dimension, Switch):
            continue
        if isinstance(dimension, Choice):
            today[name] = dimension.values[0]
        elif isinstance(dimension, spaces.Constant):
            today[name] = dimension.value
        elif isinstance(dimension, Number):
            today[name] = int(dimension.low) if dimension.integer else float(dimension.low)
    if "shots" in space.names():
        today["shots"] = spec.prompt.shots
    for name, value in spec.baseline.items():
        plain = tuple(value) if isinstance(value, list) else value
        today[name] = info.params[name].coerce(plain) if name in info.params else plain
    return today


def _taken(path: str, baseline: Mapping[str, Any]) -> bool:
    """True when the baseline names every branch on the path of a dimension inside a switch."""
    *branches, _ = path.split(".")
    return bool(branches) and all(baseline.get(s) == b for s, b in zip(branches[::2], branches[1::2], strict=True))


def _render_everything(plan: Plan) -> None:
    """Render every row once with today's settings, so that an empty prompt is found before anything is spent."""
    config = plan.baseline()
    for example in plan.dataset.examples:
        plan.prompt.render(example, config.variables)


def _affordable(plan: Plan) -> None:
    """Raise SpecError when the budget cannot even pay for a baseline, one trial and the verdict."""
    budget, least = plan.spec.budget.generations, plan.bill().reserve + 2 * len(plan.tune) * plan.spec.search.repeats
    if budget is not None and budget < least:
        raise SpecError(
            f"budget.generations: {budget} is too few: baseline, one trial and the verdict take {least}. Raise it,"
            " or use fewer rows (dataset.limit)"
        )
