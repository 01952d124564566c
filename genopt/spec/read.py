"""Owns the way from a TOML file and `--set` to a StudySpec, and the words in which every mistake is told at once."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from genopt.errors import SpecError
from genopt.objectives import TIMED
from genopt.presets import PRESETS
from genopt.spec import StudySpec
from genopt.spec._base import Table
from genopt.spec.answer import answer_problems
from genopt.spec.confirm import confirm_problems
from genopt.spec.dimensions import Choices, Range
from genopt.spec.outside import confined
from genopt.spec.scorers import KINDS, ScorerSpec

Where = tuple[str | int, ...]
WANTS = {
    "string_type": "a text in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list [...]",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a table"),
    "callable_type": 'a callable or "module:name"',
}
BOUNDS = {
    "greater_than_equal": ("ge", "too small", "{} or more"),
    "greater_than": ("gt", "too small", "more than {}"),
    "less_than_equal": ("le", "too large", "{} or less"),
    "less_than": ("lt", "too large", "less than {}"),
    "string_too_long": ("max_length", "too long", "at most {} characters"),
}


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
    try:
        spec = StudySpec.model_validate(table)
    except ValidationError as error:
        raise SpecError([_blamed(problem, source, overrides) for problem in _explain(error, table)]) from None
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
            return f"--set {override}: {what}"
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
    prefix, _, path = spec.url.partition("?")[0].partition("://")
    if prefix.startswith("sqlite") and path in ("", "/", "/:memory:"):
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


def hint(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the list of what exists."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(sorted(known))}" if known else ""


def _explain(error: ValidationError, table: dict[str, Any]) -> list[str]:
    """One line per mistake: `key: what is wrong. What to do`."""
    places: dict[Where, list[Any]] = {}
    for item in error.errors(include_url=False):
        places.setdefault(tuple(part for part in item["loc"] if not _is_tag(part)), []).append(item)
    misspelt = [where for where, items in places.items() if items[0]["type"] == "extra_forbidden"]
    lines: dict[str, None] = {}  # ordered and distinct: the branches of a union repeat themselves
    for where, items in places.items():
        if items[0]["type"] == "missing" and any(_is_slip(other, where) for other in misspelt):
            continue  # told as the unknown key that it was written as
        told = [item for item in items if item["type"] not in WANTS and item["type"] != "literal_error"]
        if not told and any(other[: len(where)] == where and other != where for other in places):
            continue  # it was meant as a table, whose own mistakes are told
        if len(items) > 1 and not told:  # no branch of a union takes a value of this type
            lines[f"{_dotted(where)}: {_wanted(items)}"] = None
            continue
        for item in told or items[:1]:
            lines[f"{_dotted(where)}: {_say(item, where, table)}"] = None
    return list(lines)


def _is_slip(written: Where, meant: Where) -> bool:
    """True when a key beside the one meant looks like a misspelling of it."""
    return written[:-1] == meant[:-1] and bool(difflib.get_close_matches(str(written[-1]), [str(meant[-1])], n=1))


def _wanted(items: Sequence[Any]) -> str:
    """What would have been taken, when several types of value would."""
    wants = [
        WANTS.get(item["type"], item["ctx"]["expected"] if item["type"] == "literal_error" else "") for item in items
    ]
    kinds = [w for w in dict.fromkeys(wants) if w != "a whole number" or not {"a number", "a finite number"} & {*wants}]
    listed = " or ".join([*([", ".join(kinds[:-1])] if kinds[:-1] else []), kinds[-1]])
    return f"{_short(items[0]['input'])} is not {listed}. Write it as {'one of these' if kinds[:-1] else 'one'}"


def _is_tag(part: str | int) -> bool:
    """True for the parts of a location that pydantic adds for the members of a union."""
    if not isinstance(part, str):
        return False
    members = ("bool", "int", "float", "str", "TextFile", "DimensionSpec")
    made_up = ("#", "constrained-", "function-", "callable", "literal[", "list[", "dict[")
    return part.startswith(made_up) or part in members


def _dotted(where: Where) -> str:
    text = ""
    for part in where:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "study"


def _say(item: Any, where: Where, table: dict[str, Any]) -> str:
    kind, given = item["type"], item["input"]
    name = str(where[-1]) if where else ""
    if kind == "extra_forbidden":
        model = _model_at(where[:-1], table)
        return "unknown key." + hint(name, _keys(model) if model else ())
    if kind == "missing":
        model = _model_at(where[:-1], table)
        field = model.model_fields.get(name) if model else None
        return "is missing. " + (f"Add it: {field.description}" if field and field.description else "Add it")
    if kind in ("scorer_kind", "union_tag_not_found"):
        if not isinstance(given, dict):
            return f'{_short(given)} is not a table. Write {name} = {{ kind = "exact_match" }}'
        wanted = given.get("kind")
        if wanted is None:
            return f'has no kind. Add kind = one of {", ".join(sorted(KINDS))}, or "module:name" of your own'
        return f'kind {wanted!r} is not a scorer genopt knows.{hint(str(wanted), KINDS)} Your own is "module:name"'
    if kind == "value_error":
        return str(item["ctx"]["error"]) + f" (given: {_short(given)})" * (not isinstance(given, (dict, list)))
    if kind == "literal_error":
        words = [word.strip("'") for word in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        close = difflib.get_close_matches(str(given), words, n=1)
        guess = f"Did you mean {close[0]!r}?" if close else "Use one of them"
        return f"{_short(given)} is not {item['ctx']['expected']}. {guess}"
    if kind in WANTS:
        return f"{_short(given)} is not {WANTS[kind]}. Write it as one"
    if kind in BOUNDS:
        key, what, instead = BOUNDS[kind]
        return f"{_short(given)} is {what}. Use {instead.format(item['ctx'][key])}"
    if kind in ("too_short", "string_too_short"):
        return "is empty. Give at least one" if kind == "too_short" else "is empty. Write a text"
    return f"{_short(given)} is not allowed: {item['msg'][0].lower()}{item['msg'][1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(where: Where, table: Any) -> type[BaseModel] | None:
    """The model of the table at a location, to know which keys it has."""
    model: type[BaseModel] = StudySpec
    for depth, part in enumerate(where):
        table = _child(table, part)
        if isinstance(part, int):
            continue
        if depth == 0 and part in ("scorers", "space"):
            return _open_table(str(part), where, table)
        field = model.model_fields.get(part)
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if _is_table(a)] if field else []
        if not inner:
            return None
        model = inner[0]
    return model


def _open_table(kind: str, where: Where, table: Any) -> type[BaseModel] | None:
    """The model inside a table whose names the user chooses."""
    for part in where[1:]:
        table = _child(table, part)
    if kind == "scorers":
        return KINDS.get(str(table.get("kind"))) if isinstance(table, dict) else None
    return Choices if isinstance(table, dict) and "choices" in table else Range


def _child(table: Any, part: str | int) -> Any:
    if isinstance(table, dict):
        return table.get(str(part))
    return table[part] if isinstance(table, list) and isinstance(part, int) and part < len(table) else None


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Table)
