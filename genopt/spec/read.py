"""Owns the way from a TOML file and `--set` to a StudySpec: every mistake in it is told at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt.errors import SpecError
from genopt.objectives import TIMED
from genopt.presets import PRESETS
from genopt.spec import StudySpec
from genopt.spec.answer import answer_problems
from genopt.spec.confirm import confirm_problems
from genopt.spec.mistakes import hint
from genopt.spec.outside import confined
from genopt.spec.scorers import ScorerSpec
from genopt.spec.storage import sqlite_file


class Option(str):
    """An override that was written as an option of its own, and is told as that."""

    told: str

    @classmethod
    def of(cls, option: str, key: str, text: str) -> Option:
        """That the option gives the key this text."""
        made = cls(f"{key}={json.dumps(text)}")
        made.told = f"{option} {text}"
        return made


def as_study(given: StudySpec | Mapping[str, Any] | str | Path) -> StudySpec:
    """What Python names a study by: a StudySpec as it is, the tables of a study file, or its path. Raises SpecError."""
    if isinstance(given, StudySpec):
        return given
    return make_study(dict(given)) if isinstance(given, Mapping) else read_study(given)


def read_study(path: str | Path, *, overrides: Sequence[str] = (), allow_outside: bool = False) -> StudySpec:
    """The study in a TOML file and overrides. Raises SpecError with all mistakes, paths outside its folder included."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SpecError(f"{path}: no such study file. Check the path, or write one with: genopt init") from None
    except IsADirectoryError:
        raise SpecError(f"{path}: is a folder, not a study file. Name the .toml file in it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{error.object[error.start]:02x} is not valid UTF-8"
        raise SpecError(f"{path}: line {line}: {what}. Save the file as UTF-8") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SpecError(f"{path}: cannot be read ({reason}). Check the path and its permissions") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{path}: is not valid TOML: {error}. Check quotes, brackets and equals signs there") from error
    table.setdefault("name", path.stem)
    spec = make_study(table, overrides=overrides, folder=path.resolve().parent, source=str(path))
    return spec if allow_outside else confined(spec, [override.partition("=")[0].strip() for override in overrides])


def make_study(
    table: dict[str, Any], *, overrides: Sequence[str] = (), folder: Path | None = None, source: str = "StudySpec"
) -> StudySpec:
    """The study that a table of tables describes. Raises SpecError with every mistake in it."""
    if overrides:
        table = _copied(table)
    problems = [message for override in overrides if (message := _apply(table, override))]
    if problems:
        raise SpecError(problems)
    spec = StudySpec.of(table, lambda mistake: _blamed(mistake, source, overrides))
    spec._source = source
    if folder is not None:
        spec._folder = folder
    problems = list(consistency(spec))
    if problems:
        raise SpecError([f"{source}: {problem}" for problem in problems])
    return spec


def read_scorer(written: str, name: str) -> ScorerSpec:
    """A scorer as a command line writes it: a kind (`rouge_l`), its table (`{kind = "contains", values = ["x"]}`)
    or the path of a TOML file that holds it. Raises SpecError."""
    text = written.strip()
    if text.endswith(".toml"):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise SpecError(f"--scorer {written}: cannot be read ({error.strerror})") from None
    elif not text.startswith("{"):
        text = f"kind = {json.dumps(text)}"
    else:
        text = f"table = {text}"
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f'--scorer {written}: is no table ({error}). Write e.g. {{kind = "rouge_l"}}') from None
    study = {"dataset": {"rows": []}, "backend": {"model": "-"}, "scorers": {name: table.get("table", table)}}
    return make_study(study, source="--scorer").scorers[name]


def _blamed(problem: str, source: str, overrides: Sequence[str]) -> str:
    """The problem with where its key was written: on the command line, or in the study file."""
    key, _, what = problem.partition(": ")
    for override in overrides:
        if override.partition("=")[0].strip() == key:
            return f"{override.told if isinstance(override, Option) else f'--set {override}'}: {what}"
    return f"{source}: {problem}"


def _copied(table: dict[str, Any]) -> dict[str, Any]:
    """The tables copied, what they hold shared: rows may be many and callables may not be copyable."""
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in table.items()}


def _apply(table: dict[str, Any], override: str) -> str | None:
    """Carry out one `--set a.b=value`; a message when it cannot be done."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        return f"--set {override}: is not key=value. Write e.g. --set budget.trials=10"
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    at: Any = table
    *tables, last = key.strip().split(".")
    for name in tables:
        at = at.setdefault(name, {})
        if not isinstance(at, dict):
            return f"--set {override}: {name} is not a table. Set the whole of it instead"
    at[last] = value
    return None


def consistency(spec: StudySpec) -> Iterator[str]:
    """Mistakes that no single table shows."""
    known = spec.known_metrics()
    goal = spec.goal()
    if not goal.objectives:
        yield "objectives: there are several scorers and no objective. Say [[objectives]] maximize = " + " | ".join(
            f'"{name}"' for name in spec.scorers
        )
    named = {f"objectives[{i}]": o.metric for i, o in enumerate(goal.objectives)}
    named |= {f"constraints[{i}]": c.metric for i, c in enumerate(goal.constraints)}
    for key, metric in named.items():
        if metric not in known:
            yield f"{key}: {metric!r} is no metric of this study.{hint(metric, known)}"
    if (file := sqlite_file(spec.url)) is not None and not file[1]:
        yield "storage: a database in memory is gone when the study ends or is stopped. Name a file: sqlite:///study.db"
    for i, start in enumerate(spec.search.start):
        if isinstance(start, str) and start not in PRESETS:
            yield f"search.start[{i}]: {start!r} is no preset.{hint(start, PRESETS)}"
    weights = [objective.weight is not None for objective in goal.objectives]
    if any(weights) and not all(weights):
        yield "objectives: some have a weight and some do not. Give all of them one, or none"
    for name in spec.scorers:
        if name in known[len(spec.scorers) :]:
            yield f"scorers.{name}: is the name of a measured quantity. Choose another name"
    shared = spec.search.trials_in_flight not in (1, "auto") or spec.backend.concurrency not in (1, "auto")
    if shared and goal.timed:
        timed = next(name for name in goal.metrics() if name in TIMED)
        yield (
            f"objectives: {timed} is not a property of a configuration while requests share an engine."
            " Drop search.trials_in_flight and backend.concurrency: both are 1 then"
        )
    yield from confirm_problems(spec.confirm, spec.audit, spec.scorers)
    yield from answer_problems(spec.answer, spec.scorers, spec.space)
    if goal.several and spec.search.sampler == "gp" and spec.search.pruner == "median":
        yield "search.pruner: median works with one objective. Use paired or none"
