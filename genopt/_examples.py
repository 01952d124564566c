"""Owns the way from rows to examples: renamed columns, ids, references, groups, and every mistake in them at once.

Knows no file format, and neither order nor split.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt._rows import Rows, plain
from genopt.errors import SpecError
from genopt.spec.outside import inside
from genopt.types import Example

REFERENCE_NAMES = ("reference", "references", "target", "answer", "expected", "ideal", "output", "completion", "label")
ID_NAMES = ("id", "_id", "uid")
GROUP_NAMES = ("group",)
ROLES = ("system", "user", "assistant")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
SHOWN = 20
_MISSING = object()


class Reader:
    """Turns rows into examples; `examples` raises every mistake at once. Paths of images start at `folder`."""

    def __init__(
        self,
        raw: Rows,
        *,
        reference: str | None,
        id: str | None,
        group: str | None,
        map: Mapping[str, str],
        images: str | None,
        folder: Path,
        within: Path | None = None,
    ) -> None:
        self.raw = raw
        self.problems: list[str] = []
        self.rows = [(number, self._renamed(row, map)) for number, row in raw.rows]
        self.columns = tuple(dict.fromkeys(name for _, row in self.rows for name in row))
        self._check_map(map)
        self.renamed = {old: new for new, old in map.items()}
        self.reference = self._column("reference", reference, REFERENCE_NAMES)
        self.id = self._column("id", id, ID_NAMES)
        self.group = self._column("group", group, GROUP_NAMES)
        self.images = self._column("images", images, ())
        self.folder, self.within = folder, within

    def examples(self) -> tuple[list[Example], dict[str, int]]:
        """The examples in the source's order, and the line or row of each id. Raises SpecError with every mistake."""
        found: list[Example] = []
        lines: dict[str, int] = {}
        faults = list(self.raw.problems)
        for position, (number, row) in enumerate(self.rows, start=1):
            try:
                example = self._example(position, row)
                if example.id in lines:
                    where = f"{'on' if self.raw.unit == 'line' else 'in'} {self.raw.unit} {lines[example.id]}"
                    what = f'id "{example.id}" is already used {where}'
                    raise ValueError(f"{what}. Make ids unique, or name another column with dataset.id")
            except ValueError as error:
                faults.append((number, str(error)))
            else:
                found.append(example)
                lines[example.id] = number
        self.problems += [f"{self._at(number)}: {what}" for number, what in sorted(faults)]
        if not self.problems and not found:
            self.problems.append(f"{self.raw.source}: no rows. Give at least one")
        if len(self.problems) > SHOWN:
            raise SpecError([*self.problems[:SHOWN], f"... and {len(self.problems) - SHOWN} more"])
        if self.problems:
            raise SpecError(self.problems)
        return found, lines

    def warnings(self, examples: Sequence[Example]) -> list[str]:
        """What is odd about these examples, which are some or all of what `examples` gave."""
        bodies = [
            json.dumps({k: v for k, v in example.fields.items() if k != self.id}, sort_keys=True)
            for example in examples
        ]
        found = []
        if twice := len(bodies) - len(set(bodies)):
            what = f"{twice} of {len(bodies)} rows repeat an earlier one"
            found.append(f"{self.raw.source}: {what}. Remove them, or give repeats a common group")
        without = sum(not example.references for example in examples)
        if 0 < without < len(examples):
            found.append(f"{self.raw.source}: {without} of {len(examples)} rows have no reference")
        return found

    def _at(self, number: int) -> str:
        return f"{self.raw.source}:{number}" if self.raw.unit == "line" else f"{self.raw.source}: row {number}"

    def _renamed(self, row: dict[str, Any], map: Mapping[str, str]) -> dict[str, Any]:
        if not map:
            return row
        taken = {old: _find(row, old) for old in map.values()}
        rest = {name: value for name, value in row.items() if name not in taken}
        return {new: taken[old] for new, old in map.items() if taken[old] is not _MISSING} | rest

    def _check_map(self, map: Mapping[str, str]) -> None:
        originals = tuple(dict.fromkeys(name for _, row in self.raw.rows for name in row))
        for new, old in map.items() if self.raw.rows else ():
            if all(_find(row, old) is _MISSING for _, row in self.raw.rows):
                self._unknown(f"map.{new}", old, originals)
            if new in originals and new not in map.values():
                what = f'dataset.map.{new} would hide the column "{new}"'
                self.problems.append(f"{self.raw.source}: {what}. Map that one to another name, or choose a new name")

    def _column(self, key: str, named: str | None, usual: Sequence[str]) -> str | None:
        if named is None:
            return next((name for name in usual if name in self.columns), None)
        for name in (named, self.renamed.get(named)):
            if name and any(_find(row, name) is not _MISSING for _, row in self.rows):
                return name
        if self.rows:
            self._unknown(key, named, self.columns)
        return None

    def _unknown(self, key: str, name: str, columns: Sequence[str]) -> None:
        close = difflib.get_close_matches(name, columns, n=1)
        guess = f'Did you mean "{close[0]}"? ' if close else ""
        listed = ", ".join(columns)
        self.problems.append(f'{self.raw.source}: no column "{name}" (dataset.{key}). {guess}Columns: {listed}')

    def _example(self, position: int, row: dict[str, Any]) -> Example:
        fields = {name: self._field(name, value) for name, value in row.items()}
        if all(_blank(value) for name, value in fields.items() if name != self.id or len(fields) == 1):
            raise ValueError("every field is empty. Fill it in or remove the row")
        answers: tuple[str, ...] = ()
        if "messages" in fields:
            fields["messages"], answer = _conversation(fields["messages"])
            answers = _references(answer) if self.reference is None else ()
        if self.reference is not None:
            answers = _references(_find(fields, self.reference))
        identity = str(position)
        if self.id is not None:
            identity = _label(_find(fields, self.id), f'the id "{self.id}"')
            if not identity:
                raise ValueError(f'no id in "{self.id}". Fill it in, or name another column with dataset.id')
        group = _label(_find(fields, self.group), f'the group "{self.group}"') if self.group is not None else ""
        images = _images(_find(fields, self.images), self.folder, self.within) if self.images is not None else ()
        return Example(identity, fields, answers, group or None, images)

    def _field(self, name: str, value: Any) -> Any:
        """A cell that is a JSON list becomes one: any list where a list is meant, else only one of texts or objects,
        so that a text like [1] stays as it was written."""
        if not self.raw.cells or not isinstance(value, str) or not value.strip().startswith("["):
            return value
        try:
            items = json.loads(value)
        except (ValueError, RecursionError):
            return value
        kinds = {type(item) for item in items} if isinstance(items, list) else {None}
        meant = name in (self.reference, self.images, "messages") and isinstance(items, list)
        return plain(items) if meant or kinds == {str} or kinds == {dict} else value


def _find(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    first, dot, rest = path.partition(".")
    inner = row.get(first)
    return _find(inner, rest) if dot and isinstance(inner, Mapping) else _MISSING


def _blank(value: Any) -> bool:
    return not value.strip() if isinstance(value, str) else value is None or value == [] or value == {}


def _label(value: Any, what: str) -> str:
    if value is _MISSING or value is None:
        return ""
    if isinstance(value, (list, dict)):
        kind = "a list" if isinstance(value, list) else "an object"
        raise ValueError(f"{what} is {kind}. It must be a text or a number")
    return _written(value)


def _references(value: Any) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, (list, dict)) for item in items):
        raise ValueError("the reference holds objects or lists of lists. It must be a text or a list of texts")
    texts = (_written(item) for item in items if item is not None and item is not _MISSING)
    return tuple(text for text in texts if text.strip())


def _images(value: Any, folder: Path, within: Path | None) -> tuple[str, ...]:
    """The absolute paths of the images that a cell names: none, one, or a list; all inside `within`, if given."""
    items = [] if value is _MISSING or value == "" else value if isinstance(value, list) else [value]
    found: list[str] = []
    for item in items:
        path = folder / os.path.expanduser(item) if isinstance(item, str) else folder
        if path.suffix.lower() not in IMAGES:
            raise ValueError(f'the image "{item}" is no path that ends in {", ".join(IMAGES)}. Correct it')
        if within is not None:
            inside(item, folder, within=within)
        if not path.is_file():
            raise ValueError(f'there is no image "{item}". Paths start at the data\'s folder ({folder.resolve()})')
        found.append(str(path.absolute()))
    return tuple(found)


def _written(value: Any) -> str:
    """Numbers and texts as they are, true and false as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _conversation(value: Any) -> tuple[list[dict[str, str]], str]:
    """The turns before the last assistant turn, and its text ("" when the last turn is another's)."""
    if not isinstance(value, list) or not value:
        raise ValueError("messages is not a list of {role, content}. Correct it, or rename the column with dataset.map")
    turns: list[dict[str, str]] = []
    for turn in value:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if isinstance(content, list) and all(isinstance(part, dict) and "text" in part for part in content):
            content = "".join(str(part["text"]) for part in content)  # content in parts, all of them text
        if role not in ROLES or not isinstance(content, str):
            raise ValueError(
                f"messages holds {str(turn)[:60]}. Each needs a role ({', '.join(ROLES)}) and a text content"
            )
        turns.append({"role": role, "content": content})
    answer = turns.pop()["content"] if turns[-1]["role"] == "assistant" else ""
    if not any(turn["role"] == "user" for turn in turns):
        raise ValueError("messages holds no user turn to answer. Add one or remove the row")
    return turns, answer
