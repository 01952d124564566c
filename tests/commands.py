"""The command line as a user meets it: a study file in a folder, `genopt ARGS`, its exit code and both streams."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from genopt.cli import main
from tests.toy import rows

SMALL = 24  # rows: 14 to tune on, 10 held out


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs `genopt` in this process, through the same `main` that the installed script calls."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys

    def __call__(self, *arguments: object) -> Ran:
        self._monkeypatch.setattr("sys.argv", ["genopt", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        streams = self._capsys.readouterr()
        assert isinstance(exit.value.code, int)
        return Ran(exit.value.code, streams.out, streams.err)

    @property
    def log(self) -> Path:
        """One line per request that reached the toy engine."""
        return self.folder / "requests.log"

    @property
    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def write(self, table: Mapping[str, Any], name: str = "study.toml") -> Path:
        """A study file."""
        path = self.folder / name
        path.write_text(to_toml(table), encoding="utf-8")
        return path

    def table(self, **changes: Any) -> dict[str, Any]:
        """A small correct study on the toy engine whose rows lie in a file; `changes` replace whole tables."""
        write_rows(self.folder / "rows.jsonl", rows(SMALL))
        table: dict[str, Any] = {
            "name": "toy",
            "storage": "sqlite:///toy.db",
            "seed": 1,
            "dataset": {"path": "rows.jsonl", "holdout": 0.4},
            "prompt": {"user": "{{ question }}"},
            "backend": {"kind": "tests.toy:ToyBackend", "model": "toy", "options": {"log": str(self.log)}},
            "space": {"temperature": {"low": 0.1, "high": 1.5}, "top_p": {"low": 0.5, "high": 1.0}},
            "scorers": {"right": {"kind": "exact_match"}},
            "search": {"sampler": "random", "pruner": "none"},
            "budget": {"trials": 4},
        }
        return table | changes

    def count(self, table: str, database: str = "toy.db") -> int:
        """Rows of a table of the study's SQLite file; 0 when there is no such file or table."""
        path = self.folder / database
        if not path.exists():
            return 0
        with closing(sqlite3.connect(path)) as connection:
            names = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
            return connection.execute(f"select count(*) from {table}").fetchone()[0] if table in names else 0


def write_rows(path: Path, items: list[Any]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")


def to_toml(table: Mapping[str, Any]) -> str:
    """A table as TOML, one line per key."""
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
