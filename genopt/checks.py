"""Owns what is wrong between the parts of a study: the rows and the scorers, the names and the engine. Says it, and
changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genopt import dataset as data
from genopt import output as constrained
from genopt._examples import REFERENCE_NAMES
from genopt.backends import make_backend
from genopt.backends._vllm_memory import Size, card_bytes, crowded, size_of, told
from genopt.backends._vllm_options import cpu_build, sharing
from genopt.crossfit import LEAST
from genopt.database import masked, unusable
from genopt.errors import SpecError
from genopt.prompt import Prompt, problems
from genopt.space import Choice, Constant, Dimension, Number, SearchSpace, Switch
from genopt.spec import BackendSpec, StudySpec
from genopt.spec.mistakes import hint
from genopt.spec.storage import sqlite_file
from genopt.types import BackendInfo, Domain, Example, Scorer

SMALLEST = 8  # examples on each side of the split, below which nothing can be shown or chosen
_SINGLE = re.compile(r"(?<!\{)\{ *(\w+) *\}(?!\})")  # as Python's own templates have it
FEWEST_GROUPS = 6  # independent groups held out: with five the smallest p-value of flipping signs is 2 / 2**5 = .06


def audit_problems(spec: StudySpec) -> tuple[str, ...]:
    """What is wrong with the second judge's engine, as far as can be told without opening it."""
    if spec.audit is not None:
        try:
            make_backend(BackendSpec(**spec.audit.backend.model_dump()), spec.folder)
        except SpecError as error:
            return tuple(f"audit.{problem}" for problem in error.problems)
    return ()


def storage_problems(spec: StudySpec) -> Iterator[str]:
    """What is wrong with the storage, as far as can be told without opening it: an engine would be loaded first."""
    if "://" not in spec.url:
        yield f"storage: {masked(spec.url)} is no URL. Write e.g. sqlite:///study.db"
    elif (file := sqlite_file(spec.url)) is not None and (why := unusable(Path(file[1]))):
        yield f"storage: {masked(spec.url)}: {why}"


def data_problems(
    spec: StudySpec,
    dataset: data.Dataset,
    tune: Sequence[Example],
    holdout: Sequence[Example],
    scorers: Mapping[str, Scorer],
) -> Iterator[str]:
    if spec.dataset.holdout == "cross-fitting" and spec.goal().several:
        yield "dataset.holdout: cross-fitting tries one choice at a time, not a front. Name a fraction, or give weights"
        return
    if spec.dataset.holdout in ("auto", "cross-fitting") and not holdout:
        rows, named = len(dataset.examples), {e.group for e in dataset.examples if e.group is not None}
        few = f"too few to choose by and to show anything with: that takes {LEAST}"
        if named and rows >= LEAST:
            yield (
                f"dataset.group: {rows} rows are only {_independent(dataset.examples)} groups by {spec.dataset.group},"
                f" and those of one group count as one: {few}. Name another column, or none, or add rows"
            )
        else:
            yield f"dataset: {rows} rows are {few}. Add rows"
        return
    if min(len(tune), len(holdout)) < SMALLEST:
        yield (
            f"dataset.holdout: {len(dataset.examples)} rows split into {len(tune)} to tune on and {len(holdout)} held"
            f" out; each side needs {SMALLEST}. Add rows, or change holdout ({spec.dataset.fraction:g})"
        )
    groups = _independent(holdout)
    if len(holdout) >= SMALLEST and groups < FEWEST_GROUPS:
        yield (
            f"dataset.group: too few groups of rows are held out ({groups}) to show anything: rows of one group"
            f" count as one. Name a column with more groups, or change holdout ({spec.dataset.fraction:g})"
        )
    needing = [name for name, scorer in scorers.items() if "references" in scorer.needs]
    if needing:
        try:
            data.require_references(dataset, needing)
        except SpecError as error:
            yield from error.problems


def memory_problems(spec: StudySpec) -> Iterator[str]:
    """Engines of vLLM, the study's and its judges', that do not fit into their shares of the GPU, or together ask for
    more than the whole."""
    if not cpu_build():
        engines = _engines(spec)
        found = list(sharing({name: table.options for name, table in engines.items()}))
        yield from (f"backend.options.{problem}" for problem in found)
        if not found:
            yield from crowded(*_measured(spec, engines))


def memory_told(spec: StudySpec) -> Iterator[str]:
    """What engines of vLLM will hold on the GPU, as far as it can be told before they are loaded."""
    if not cpu_build():
        yield from told(*_measured(spec, _engines(spec)))


def _engines(spec: StudySpec) -> dict[str, Any]:
    tables: dict[str, Any] = {"backend": spec.backend}
    tables |= {f"scorers.{name}.backend": getattr(table, "backend", None) for name, table in spec.scorers.items()}
    return {name: table for name, table in tables.items() if table is not None and table.kind == "vllm"}


def _measured(spec: StudySpec, engines: Mapping[str, Any]) -> tuple[dict[str, Size], dict[str, Mapping[str, Any]], int]:
    """The sizes of engines whose models are folders, their options, and the GPU's memory; nothing without a GPU."""
    here = {name: spec.folder / Path(str(table.model)).expanduser() for name, table in engines.items()}
    here = {name: folder for name, folder in here.items() if folder.is_dir()}
    card = card_bytes() if here else 0
    found = {name: size_of(folder, engines[name].options) for name, folder in here.items() if card}
    sizes = {name: size for name, size in found.items() if size is not None}
    return sizes, {name: engines[name].options for name in sizes}, card


def chooser_problems(spec: StudySpec, scorers: Mapping[str, Scorer]) -> Iterator[str]:
    """What is wrong with who chooses among the samples of an answer, and with the baseline's number of them."""
    if spec.answer is None:
        return
    chooser = scorers.get(spec.answer.by or "")
    if chooser is not None and "references" in chooser.needs:
        yield (
            f"answer.by: {chooser.name} compares with references, which nobody has when the answer is used."
            ' Take a judge, or "consistency"'
        )
    n = spec.baseline.get("n", 1)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= spec.answer.most:
        yield f"baseline.n: {n!r} is no number of samples from 1 to answer.n's largest, {spec.answer.most}. Correct it"


def _independent(examples: Sequence[Example]) -> int:
    """How many there are where those of one group count as one."""
    return len({("id", e.id) if e.group is None else ("group", e.group) for e in examples})


def prompt_warnings(spec: StudySpec, prompt: Prompt, examples: Sequence[Example]) -> Iterator[str]:
    """What is seldom meant in a prompt, though it can be sent: rows that all ask the same, fields in single braces."""
    fields = {name for example in examples for name in example.fields}
    asks = any(role == "user" for role, _ in (*prompt.templates, *prompt.variants))
    if asks and spec.dataset.images is None and not prompt.names() & fields:
        unasked = {spec.dataset.id or "id", spec.dataset.group, spec.dataset.reference, *REFERENCE_NAMES}
        named = next((name for name in examples[0].fields if name not in unasked), "question")
        yield f"prompt: uses no field of the rows, so that all ask the same. A field is written {{{{ {named} }}}}"
    for label, source in prompt.sources():
        for name in sorted(set(_SINGLE.findall(source)) & fields):
            yield f"prompt: {label} has {{{name}}} in single braces, which is sent as it is. Write {{{{ {name} }}}}"


def shots_problems(spec: StudySpec, space: SearchSpace, tune: Sequence[Example]) -> Iterator[str]:
    """What is wrong with the numbers of few-shot examples, wherever they are set."""
    found: list[tuple[str, Any]] = [("prompt.shots", spec.prompt.shots)]
    if "shots" in spec.baseline:
        found.append(("baseline.shots", spec.baseline["shots"]))
    for path, name, dimension in space.walk():
        if name != "shots":
            continue
        match dimension:
            case Number(low, high, integer):
                found += [(f"space.{path}", bound if integer else float(bound)) for bound in (low, high)]
            case Choice(values):
                found += [(f"space.{path}", value) for value in values]
            case Constant(value):
                found.append((f"space.{path}", value))
    usable = max(0, sum(bool(example.references) for example in tune) - 1)  # never the example itself
    said: set[str] = set()
    for key, value in found:
        if key in said:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            said.add(key)
            yield f"{key}: {value!r} is no number of examples. Write whole numbers from 0, without a decimal point"
        elif value > usable:
            said.add(key)
            yield (
                f"{key}: {value} few-shot examples are asked for, but only {usable} other tune rows have a reference"
                " to show. Lower it, or set dataset.reference"
            )


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that every row has, in the first one's order; those that only some have, each with the ids of the
    others."""

    common: Sequence[str]
    lacking: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Fields:
        common = [name for name in examples[0].fields if all(name in example.fields for example in examples)]
        some = dict.fromkeys(name for example in examples for name in example.fields)
        lacking = {
            name: [example.id for example in examples if name not in example.fields]
            for name in some
            if name not in common
        }
        return cls(common, lacking)


def names_are_known(spec: StudySpec, prompt: Prompt, space: SearchSpace, info: BackendInfo, fields: Fields) -> None:
    """Hold every name in the space and the baseline against the backend, the prompt and the rows' fields. Raises
    SpecError."""
    used = prompt.names()
    apart = ("system", "user", "shots", *(("n",) if spec.answer else ()))
    variables = frozenset({name for name in space.names() if name in used or name in apart})
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
        elif name not in known and name in info.dead:
            found.append(f"space.{path}: {info.dead[name]}")
        elif name not in known:
            found.append(
                f"space.{path}: is neither a parameter of {engine} nor a variable that the prompt uses"
                f" ({{{{ {name} }}}})." + hint(name, [*info.params, *used.difference(fields.common)])
            )
        elif isinstance(dimension, Constant) and _misplaced(dimension.value, name, info):
            listed = json.dumps(dimension.value, ensure_ascii=False)
            found.append(f"space.{path}: {listed} is a list. Write {{ choices = {listed} }} for one of them")
        elif name in info.params:
            found += [f"space.{path}: {problem}" for problem in _illegal(dimension, info.params[name])]
    lists = {name for _, name, dimension in space.walk() if isinstance(dimension, Choice) and _lists(dimension)}
    tables = {"baseline": spec.baseline}
    tables |= {f"search.start[{i}]": table for i, table in enumerate(spec.search.start) if isinstance(table, dict)}
    settable = [*info.params, *variables, *space.switches()]
    for key, name, value in ((key, name, value) for key, table in tables.items() for name, value in table.items()):
        if name in info.params:
            try:
                info.params[name].coerce(value)
            except ValueError as error:
                found.append(f"{key}.{name}: {_refused(info.params[name], error)}")
        elif name not in {*settable, "shots"} and name not in used and name in info.dead:
            found.append(f"{key}.{name}: {info.dead[name]}")
        elif name not in {*settable, "shots"} and name not in used:
            found.append(
                f"{key}.{name}: is neither a parameter of {engine} nor a variable of the prompt." + hint(name, settable)
            )
        elif _misplaced(value, name, info) and name not in lists:
            found.append(f"{key}.{name}: {json.dumps(value, ensure_ascii=False)} is a list. Write one of its texts")
    of_prompt = (variables | (spec.baseline.keys() & used)) - ({"n"} if spec.answer else set())
    found += [f"prompt: {problem}" for problem in problems(prompt, fields.common, of_prompt, fields.lacking)]
    if not space.open_dimensions():
        found.append(
            "space: there is nothing to search. Give at least one range, choice or switch; a choice of one value is"
            " held against the baseline"
        )
    if found:
        raise SpecError(found)


def engine_can(spec: StudySpec, examples: Sequence[Example], output: Mapping[str, Any], info: BackendInfo) -> None:
    """Hold the constraint on answers and the images against the engine. Raises SpecError for what it cannot do."""
    engine = info.identity.get("engine", spec.backend.kind)
    found = list(constrained.problems(output, info, engine))
    if not info.images and any(example.images for example in examples):
        found.append(
            f"dataset.images: the model {spec.backend.model} of {engine} does not see images."
            " Take one that does, or drop the key"
        )
    if found:
        raise SpecError(found)


def _misplaced(value: Any, name: str, info: BackendInfo) -> bool:
    """Whether a value is a list where one text is wanted: only stop strings and their like are lists, and a prompt
    would show the brackets."""
    return isinstance(value, (list, tuple)) and (name not in info.params or info.params[name].kind != "strings")


def _lists(choice: Choice) -> bool:
    """Whether what is chosen from are lists, which a template may loop over."""
    return any(isinstance(value, tuple) for value in choice.values)


def _illegal(dimension: Dimension, domain: Domain) -> Iterator[str]:
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
    elif isinstance(dimension, Constant):
        values = (dimension.value,)
    for value in values:
        try:
            domain.coerce(value)
        except ValueError as error:
            yield _refused(domain, error)


def _refused(domain: Domain, error: ValueError) -> str:
    """Why a value is not legal, and what would be."""
    return f"{error}. " + ("Stay inside it" if domain.bounds() in str(error) else f"Legal: {domain.bounds()}")
