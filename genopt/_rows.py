"""Owns the file formats of data: from a file or a hub id to numbered rows of plain values. Knows no example."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genopt.errors import MissingExtra, SpecError

SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_CELL_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of plain values (text, numbers, true / false, lists, objects), each with its number in the source.

    `unit` says what the numbers count: lines of a text file, or rows from 1. `cells` is true when every value is the
    text of a cell (CSV, TSV). `problems` holds the mistakes of single rows, which are then not among `rows`.
    """

    source: str
    unit: Literal["line", "row"]
    rows: tuple[tuple[int, dict[str, Any]], ...]
    problems: tuple[tuple[int, str], ...] = ()
    warnings: tuple[str, ...] = ()
    cells: bool = False


def read(path: str, folder: Path, format: str | None, split: str | None) -> Rows:
    """All rows of a file (relative to `folder`) or of a hub data set `owner/name` or `owner/name:config`.

    Raises SpecError when nothing can be read at all, MissingExtra when the format needs an optional library.
    """
    file = folder / Path(path).expanduser()
    suffix = file.suffix.lower()
    if format == "hub" or (format is None and suffix not in SUFFIXES and not file.exists() and _HUB.fullmatch(path)):
        return _hub(path, split or "train")
    if split is not None:
        raise SpecError(f'{path}: split = "{split}" is only for hub data sets. Remove dataset.split')
    if not file.is_file():
        what = "is a folder, not a file" if file.is_dir() else "no such file"
        here = "" if folder.resolve() == Path.cwd() else "the study file's folder, "
        raise SpecError(f"{path}: {what}. {_nearest(file)}Paths start at {here}{folder.resolve()}")
    kind = format or SUFFIXES.get(suffix)
    if kind is None:
        known = ", ".join(SUFFIXES)
        raise SpecError(f"{path}: the suffix does not tell the format. Use one of {known}, or set dataset.format")
    if kind == "parquet":
        return _parquet(path, file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror or error}). Check its permissions") from error
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SpecError(f"{path}:1: the file is UTF-16. Save it as UTF-8")
    readers: dict[str, Callable[[str, bytes], Rows]] = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _tsv}
    if kind not in readers:
        raise SpecError(f'{path}: unknown format "{kind}". Use one of {", ".join(readers)}, parquet, hub')
    return readers[kind](path, data.removeprefix(b"\xef\xbb\xbf"))


def collect(source: str, unit: Literal["line", "row"], items: Iterable[tuple[int, Any]], **more: Any) -> Rows:
    """Rows of the items that are mappings of valid text; the others become problems."""
    rows: list[tuple[int, dict[str, Any]]] = []
    problems: list[tuple[int, str]] = list(more.pop("problems", ()))
    for number, item in items:
        if not isinstance(item, Mapping):
            problems.append((number, f"{_name(item)} where an object was expected. Write one {{...}} per row"))
            continue
        try:
            row = {_text(str(key)): plain(value) for key, value in item.items()}
        except (ValueError, RecursionError) as error:
            problems.append((number, f"{error}. Correct the text"))
        else:
            # A missing value shows as nothing in a prompt, never as "None" or "nan".
            rows.append((number, {key: "" if value is None else value for key, value in row.items()}))
    return Rows(source, unit, tuple(rows), tuple(sorted(problems)), **more)


def plain(value: Any) -> Any:
    """The value as JSON knows it: arrays become lists, missing numbers None, anything unknown its text.

    Raises ValueError for text that is no valid Unicode (half of a surrogate pair).
    """
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return None if value != value else float(value)
    if isinstance(value, Mapping):
        return {_text(str(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (Sequence, set, frozenset)):
        return [plain(inner) for inner in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays, without importing NumPy
        return plain(value.tolist())
    return None if type(value).__name__ in ("NaTType", "NAType") else _text(str(value))


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair (\\u{ord(value[error.start]):04x}) is no text") from None
    return value


def _name(value: Any) -> str:
    names = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _nearest(file: Path) -> str:
    names = [path.name for path in file.parent.iterdir() if path.is_file()] if file.parent.is_dir() else []
    close = difflib.get_close_matches(file.name, names, n=1)
    return f'Did you mean "{close[0]}"? ' if close else ""


def _decode(source: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{source}:{line}: {_bad_byte(error)}") from None


def _bad_byte(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is not valid UTF-8. Save the file as UTF-8"


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _jsonl(source: str, data: bytes) -> Rows:
    items: list[tuple[int, Any]] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(data.split(b"\n"), start=1):  # only \n ends a line: texts may hold U+2028 or \x0b
        if not line.strip():
            continue
        try:
            items.append((number, _loads(line.decode("utf-8"))))
        except UnicodeDecodeError as error:
            problems.append((number, _bad_byte(error)))
        except json.JSONDecodeError as error:
            problems.append((number, f"malformed JSON ({error.msg}, column {error.colno}). Write one object per line"))
        except ValueError as error:
            problems.append((number, f"malformed JSON ({error}). Write one object per line"))
    if problems and data.lstrip()[:1] == b"[":
        raise SpecError(f"{source}:1: looks like one JSON list, not JSON Lines. Name it .json, or set dataset.format")
    return collect(source, "line", items, problems=problems)


def _json(source: str, data: bytes) -> Rows:
    try:
        root = _loads(_decode(source, data))
    except json.JSONDecodeError as error:
        hint = " For one object per line, name it .jsonl" if error.msg == "Extra data" else " Correct it"
        raise SpecError(f"{source}:{error.lineno}: malformed JSON ({error.msg}, column {error.colno}).{hint}") from None
    except ValueError as error:
        raise SpecError(f"{source}: malformed JSON ({error}). Correct it") from None
    items = _json_items(root)
    if items is None:
        raise SpecError(f'{source}: not a table. Write a list of objects, {{"data": [...]}}, or equally long columns')
    return collect(source, "row", enumerate(items, start=1))


def _json_items(root: Any) -> list[Any] | None:
    if isinstance(root, list):
        return root
    if not isinstance(root, dict):
        return None
    inner = root.get("data")
    if isinstance(inner, list) and all(isinstance(item, dict) for item in inner):
        return inner
    columns = list(root.values())
    if all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(root, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        return [{name: column[key] for name, column in root.items()} for key in columns[0]]
    return None


def _csv(source: str, data: bytes) -> Rows:
    return _delimited(source, data, ",")


def _tsv(source: str, data: bytes) -> Rows:
    return _delimited(source, data, "\t")


def _delimited(source: str, data: bytes, delimiter: str) -> Rows:
    """The standard library's reader rather than a data frame's: it knows the line of each row and of each mistake."""
    if csv.field_size_limit() < _CELL_LIMIT:  # 128 KiB is less than one document; the limit is the process's, raised
        csv.field_size_limit(_CELL_LIMIT)  # and left so, since lowering it again could fail a reader in another thread
    reader = csv.reader(io.StringIO(_decode(source, data), newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    items: list[tuple[int, dict[str, Any]]] = []
    problems: list[tuple[int, str]] = []
    warnings: tuple[str, ...] = ()
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            problems.append((number, f"{error}, in the row that starts here. Double the quotes inside a quoted cell"))
            break
        if not cells:
            continue
        if header is None:
            header = _header(source, number, cells, delimiter)
            if "" in header:
                warnings = (f"{source}: a column without a name is left out",)
        elif len(cells) != len(header):
            what = f"{len(cells)} cells, but the header has {len(header)}"
            problems.append((number, f"{what}. Quote cells that hold the separator or a newline"))
        else:
            items.append((number, {name: cell for name, cell in zip(header, cells, strict=True) if name}))
    return collect(source, "line", items, problems=problems, warnings=warnings, cells=True)


def _header(source: str, number: int, cells: Sequence[str], delimiter: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise SpecError(f"{source}:{number}: column {', '.join(twice)} is there twice. Rename one of them")
    other = {",": ";", "\t": ","}[delimiter]
    if len(header) == 1 and other in header[0]:
        raise SpecError(f"{source}:{number}: the columns seem to be separated by '{other}'. Save it as CSV with commas")
    return header


def _parquet(source: str, file: Path) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "parquet") from error
    try:
        # Not by way of a data frame, which turns whole numbers beside a missing one into floats and lists into arrays.
        rows = pyarrow.parquet.ParquetFile(file).read().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise SpecError(f"{source}: not a readable Parquet file ({_first_line(error)}). Write it again") from error
    return collect(source, "row", enumerate(rows, start=1))


def _hub(path: str, split: str) -> Rows:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "hub") from error
    name, _, config = path.partition(":")
    try:
        rows: Any = datasets.load_dataset(name, config or None, split=split)
        items = [dict(row) for row in rows]
    except Exception as error:  # the hub client raises errors of a dozen kinds; each means that there are no rows
        raise SpecError(
            f'{path}: neither a file nor a hub data set that can be loaded, split "{split}" '
            f"({type(error).__name__}: {_first_line(error)})",
            hint="Check the name, dataset.split and the network; a data set with configurations is written "
            "owner/name:config. Without a network, save it as JSONL and give the file's path.",
        ) from error
    return collect(path, "row", enumerate(items, start=1))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
