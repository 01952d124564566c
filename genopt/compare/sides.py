"""Owns where the outputs that are compared come from: a file made anywhere, or a configuration of a stored study."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genopt import _rows
from genopt.archive import Archive, load
from genopt.compare import Asked, Output, Side
from genopt.errors import SpecError
from genopt.objectives import MEASURED
from genopt.store import Store
from genopt.types import Phase
from genopt.words import brief

if TYPE_CHECKING:
    import pandas

OBJECTIVE = "objective"  # a study's utility: what it searched for, turned so that more is better
WHICH = re.compile(r"(?P<study>.+)@(?P<which>baseline|best|\d+)")
SPLITS: Mapping[Phase, str] = {"confirm": "the holdout", "tune": "the tune split"}

TEXTS = ("output", "outputs", "text", "response", "completion")
SCORES = ("scores", "metrics")
OURS = (*TEXTS, *SCORES, "id", "score", "finish", "why", "references", "reference", "group", "fields")


@dataclass(frozen=True)
class Source:
    """A stored study with everything it observed, read once for both sides."""

    archive: Archive
    frame: pandas.DataFrame
    asked: Mapping[str, Asked]

    @classmethod
    def read(cls, where: str) -> Source:
        """Raises SpecError or StudyError."""
        archive = load(where)
        store = Store(archive.url, reading=True)
        try:
            examples = [example for example, _ in store.examples(archive.id)]
        finally:
            store.close()
        asked = {each.id: Asked(each.fields, each.references, each.group) for each in examples}
        return cls(archive, archive.observations(), asked)

    def config(self, which: str) -> tuple[str, str]:
        """The config_key of "baseline", "best" or a trial's number, and its name for people. Raises SpecError."""
        roles = self.archive.roles()
        if which == "best":
            found = [(key, number) for key, (number, role) in roles.items() if role == "winner"]
            if not found:
                put = "put no winner forward" if self.archive.verdict else "has no verdict yet"
                raise SpecError(f"{self.archive.name}@best: the study {put}. Name a trial, see: genopt trials")
            return found[0][0], f"{self.archive.name}, winner (trial {found[0][1]})"
        if which == "baseline":
            key = self.archive.baseline.get("key")
            if not key:
                raise SpecError(f"{self.archive.name}@baseline: its baseline was not measured yet. Name a trial")
            return str(key), f"{self.archive.name}, baseline"
        for trial in self.archive.trials:
            if str(trial.number) == which and trial.config.get("key"):
                return str(trial.config["key"]), f"{self.archive.name}, trial {which}"
        raise SpecError(f"{self.archive.name}@{which}: there is no such trial. See: genopt trials")

    def side(self, which: str, phase: Phase) -> Side:
        """The outputs of one configuration on one side of the split; empty when it did not answer there."""
        key, name = self.config(which)
        rows = self.frame[(self.frame["config_key"] == key) & (self.frame["phase"] == phase)]
        scores = {c: c.removeprefix("score.") for c in rows if c.startswith("score.")}
        scores |= {c: c for c in ("completion_tokens",)} | {"utility": OBJECTIVE}
        outputs = {}
        for example, together in rows.groupby("example_id", sort=False):
            means = {label: float(together[column].mean()) for column, label in scores.items()}
            known = {label: mean for label, mean in means.items() if math.isfinite(mean)}
            outputs[str(example)] = Output(str(together["text"].iloc[0]), known)
        params = self._params(key)
        goal = self.archive.goal
        first = goal.objectives[0]
        plain = not goal.weighted and first.direction == "maximize" and first.metric not in MEASURED
        metric = first.metric if plain else OBJECTIVE
        wanted = {objective.metric for objective in goal.objectives if objective.direction == "maximize"}
        less = goal.minimized() | ({"completion_tokens"} - wanted)
        return Side(name, outputs, self.asked, params, metric, f"on {SPLITS[phase]}: {brief(params)}", less)

    def _params(self, key: str) -> Mapping[str, Any]:
        if key == self.archive.baseline.get("key"):
            found: Mapping[str, Any] = self.archive.baseline["params"]
            return found
        return next(t.config.get("params", {}) for t in self.archive.trials if t.config.get("key") == key)


def sides(a: str, b: str | None, study: str | None = None) -> tuple[Side, Side]:
    """The two sides that the command line names. Each is a file of outputs, `STUDY@WHICH` (WHICH: baseline, best or a
    trial's number), a STUDY alone (its best), or with `study` just WHICH; one study alone means its baseline against
    its best. Configurations are compared on the holdout where both answered it, else on the tune split.

    Raises SpecError or StudyError.
    """
    if b is None:
        if study is not None or _is_file(a) or WHICH.fullmatch(a):
            raise SpecError("compare: needs two sides. Give A and B, or one study: its baseline against its best")
        a, b = f"{a}@baseline", f"{a}@best"
    sources: dict[str, Source] = {}
    places = [_place(each, study) for each in (a, b)]
    for place in places:
        if isinstance(place, tuple) and place[0] not in sources:
            sources[place[0]] = Source.read(place[0])
    phases: tuple[Phase, ...] = ("confirm", "tune")
    if any(source.archive.tried() for source in sources.values()):  # where nobody answered all that is held out
        phases = ("tune",)
    for phase in phases:
        found = [
            from_file(place) if isinstance(place, str) else sources[place[0]].side(place[1], phase) for place in places
        ]
        if found[0].outputs.keys() & found[1].outputs.keys():
            break
    return found[0], found[1]


def _place(named: str, study: str | None) -> str | tuple[str, str]:
    """A file, or a study and which of its configurations."""
    if study is not None and re.fullmatch(r"baseline|best|\d+", named):
        return study, named
    if _is_file(named):
        return named
    found = WHICH.fullmatch(named)
    return (found["study"], found["which"]) if found else (named, "best")


def _is_file(named: str) -> bool:
    return Path(named).suffix.lower() in _rows.SUFFIXES


def from_file(path: str) -> Side:
    """The outputs in a file (JSONL, JSON, CSV, TSV, Parquet) with an id and a text per row, and scores where there are
    any: `output` (or `outputs`, a list of samples, as `genopt evaluate -o` writes), `score` or numbers by name under
    `scores`. Other columns are shown as what was asked. Raises SpecError, naming the row."""
    found = _rows.read(path, Path.cwd(), None, None)
    for number, problem in found.problems:
        raise SpecError(f"{path}:{number}: {problem}")
    outputs: dict[str, Output] = {}
    asked: dict[str, Asked] = {}
    for number, row in found.rows:
        where = f"{path}:{number}"
        if row.get("id", "") == "":
            raise SpecError(f"{where}: has no id. Each row needs an id that both sides share")
        name = str(row["id"])
        if name in outputs:
            raise SpecError(f"{where}: the id {name!r} occurs twice. Each row needs an id of its own")
        outputs[name] = Output(_text(row, where), _scores(row, where))
        asked[name] = _asked(row)
    if not outputs:
        raise SpecError(f"{path}: holds no rows")
    return Side(Path(path).name, outputs, asked)


def _text(row: Mapping[str, Any], where: str) -> str:
    key = next((key for key in TEXTS if key in row), None)
    if key is None:
        raise SpecError(f"{where}: has no text. Call its column one of {', '.join(TEXTS)}")
    value = row[key]
    if isinstance(value, list):
        value = value[0] if value else ""
    if not isinstance(value, str):
        raise SpecError(f"{where}: {key} is {value!r}, not a text")
    return value


def _scores(row: Mapping[str, Any], where: str) -> dict[str, float]:
    table: dict[str, Any] = {}
    for key in SCORES:
        if isinstance(row.get(key), Mapping):
            table |= row[key]
    if row.get("score", "") != "":
        table["score"] = row["score"]
    found = {}
    for name, value in table.items():
        if value is None or value == "":
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise SpecError(f"{where}: the score {name} is {value!r}, not a number") from None
        if math.isfinite(number):
            found[name] = number
    return found


def _asked(row: Mapping[str, Any]) -> Asked:
    references = row.get("references", row.get("reference", ()))
    texts = tuple(map(str, references)) if isinstance(references, list) else (str(references),) if references else ()
    fields = row.get("fields")
    if not isinstance(fields, Mapping):
        fields = {key: value for key, value in row.items() if key not in OURS}
    group = row.get("group")
    return Asked(fields, texts, str(group) if group not in (None, "") else None)
