"""Owns the words in which every mistake in a study's tables is told at once. Reads no file and no study."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, get_args

from pydantic import BaseModel, ValidationError

from genopt.errors import SpecError
from genopt.spec._base import Table
from genopt.spec.dimensions import Choices, Range
from genopt.spec.scorers import KINDS, Plugin

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
# What others call a key -> what it is called here; where that is missing too, or takes the place of what is, it is told
# once.
CALLED = {
    **dict.fromkeys(("min", "minimum", "lower", "from"), ("low",)),
    **dict.fromkeys(("max", "maximum", "upper", "to"), ("high",)),
    **dict.fromkeys(("choice", "values", "options", "one_of"), ("choices", "low", "high")),
}
BOUNDS = {
    "greater_than_equal": ("ge", "too small", "{} or more"),
    "greater_than": ("gt", "too small", "more than {}"),
    "less_than_equal": ("le", "too large", "{} or less"),
    "less_than": ("lt", "too large", "less than {}"),
    "string_too_long": ("max_length", "too long", "at most {} characters"),
}


class Whole(Table):
    """A table of tables that is made from Python, too: what it does not take is a SpecError with every mistake."""

    if not TYPE_CHECKING:  # to a type checker the fields are the arguments

        def __init__(self, /, **table: Any) -> None:
            self._take(table, lambda mistake: f"{type(self).__name__}: {mistake}")

    @classmethod
    def of(cls, table: dict[str, Any], told: Callable[[str], str]) -> Self:
        """What the table describes. Raises SpecError with every mistake in it, each as `told` words a `key: what is
        wrong. What to do`."""
        made = cls.__new__(cls)
        made._take(table, told)
        return made

    def _take(self, table: dict[str, Any], told: Callable[[str], str]) -> None:
        try:
            Table.__init__(self, **table)
        except ValidationError as error:
            raise SpecError([told(mistake) for mistake in _explain(error, table, type(self))]) from None


def hint(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the list of what exists."""
    known = list(known)
    if close := _closest(word, known):
        return f" Did you mean {close!r}?"
    return f" Known: {', '.join(sorted(known))}" if known else ""


def _explain(error: ValidationError, table: dict[str, Any], of: type[BaseModel]) -> list[str]:
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
            lines[f"{_dotted(where)}: {_say(item, where, table, of)}"] = None
    return list(lines)


def _is_slip(written: Where, meant: Where) -> bool:
    """True when a key beside the one meant looks like a misspelling of it, or like another word for it."""
    word, key = str(written[-1]), str(meant[-1])
    return written[:-1] == meant[:-1] and (key in CALLED.get(word, ()) or bool(_closest(word, [key])))


def _closest(word: str, known: Iterable[str]) -> str:
    """The known word that is nearest to this one, however it is capitalized; "" where none is near."""
    spelt = {each.lower(): each for each in known}
    close = difflib.get_close_matches(word.lower(), spelt, n=1)
    return spelt[close[0]] if close else ""


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


def _say(item: Any, where: Where, table: dict[str, Any], of: type[BaseModel]) -> str:
    kind, given = item["type"], item["input"]
    name = str(where[-1]) if where else ""
    if kind == "extra_forbidden":
        model = _model_at(where[:-1], table, of)
        keys = [*(_keys(model) if model else ()), *(("choices", "files") if model is Range else ())]
        return "unknown key." + hint(next((key for key in CALLED.get(name, ()) if key in keys), name), keys)
    if kind == "missing":
        model = _model_at(where[:-1], table, of)
        field = model.model_fields.get(name) if model else None
        return "is missing. " + (f"Add it: {field.description}" if field and field.description else "Add it")
    if kind in ("scorer_kind", "union_tag_not_found"):
        if not isinstance(given, dict):
            named = _closest(given, KINDS) if isinstance(given, str) else ""
            return f'{_short(given)} is not a table. Write {name} = {{ kind = "{named or "exact_match"}" }}'
        wanted = given.get("kind")
        if wanted is None:
            return f'has no kind. Add kind = one of {", ".join(sorted(KINDS))}, or "module:name" of your own'
        return f'kind {wanted!r} is not a scorer genopt knows (your own is "module:name").{hint(str(wanted), KINDS)}'
    if kind == "value_error":
        return str(item["ctx"]["error"]) + f" (given: {_short(given)})" * (not isinstance(given, (dict, list)))
    if kind == "literal_error":
        words = [word.strip("'") for word in item["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        close = _closest(str(given), words)
        guess = f"Did you mean {close!r}?" if close else "Use one of them"
        return f"{_short(given)} is not {item['ctx']['expected']}. {guess}"
    if WANTS.get(kind) == "a table" and isinstance(given, list) and all(isinstance(each, dict) for each in given):
        header = f"{_dotted(where)}.NAME" if kind == "dict_type" else _dotted(where)
        rows = ", and rows from Python as its rows" if where == ("dataset",) else ""
        return f"is a list of tables. Write [{header}] in single brackets{rows}"
    if kind == "list_type" and isinstance(given, dict):
        return f"is one table, not a list of them. Write [[{_dotted(where)}]] in double brackets"
    if kind in WANTS:
        return f"{_short(given)} is not {WANTS[kind]}. Write it as one"
    if kind in BOUNDS:
        key, what, instead = BOUNDS[kind]
        return f"{_short(given)} is {what}. Use {instead.format(item['ctx'][key])}"
    if kind in ("too_short", "string_too_short"):
        return "is empty. Give at least one" if kind == "too_short" else "is empty. Write a text"
    if kind == "string_pattern_mismatch" and (model := _model_at(where[:-1], table, of)) and name in model.model_fields:
        return f"{_short(given)} is not written as it has to be. Give {model.model_fields[name].description}"
    return f"{_short(given)} is not allowed: {item['msg'][0].lower()}{item['msg'][1:]}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(where: Where, table: Any, of: type[BaseModel]) -> type[BaseModel] | None:
    """The model of the table at a location in one of these, to know which keys it has."""
    model = of
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
        named = str(table.get("kind")) if isinstance(table, dict) else ""
        return KINDS.get(named) or (Plugin if ":" in named else None)
    return Choices if isinstance(table, dict) and "choices" in table else Range


def _child(table: Any, part: str | int) -> Any:
    if isinstance(table, dict):
        return table.get(str(part))
    return table[part] if isinstance(table, list) and isinstance(part, int) and part < len(table) else None


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Table)
