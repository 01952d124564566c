"""Owns what a stored study observed, as tables: one row per text, and configurations against examples.

An observation's metrics and utility are made by the functions that the search used: nothing is worth something else
here. Pandas is imported when it is needed: the command line must start quickly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genopt.answers import Answers
from genopt.errors import MissingExtra, SpecError, writing
from genopt.measures import metrics_of
from genopt.objectives import Goal
from genopt.store import Store
from genopt.tables import Row
from genopt.types import Phase, Score

if TYPE_CHECKING:
    import pandas

Stored = tuple[str, Phase, int, Row]
UNSCORED = Score(None)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet takes for a formula
FORMATS = (".jsonl", ".csv", ".parquet")


def read(
    url: str, study_id: int, *, goal: Goal, description: Mapping[str, Any], roles: Mapping[str, tuple[int | None, str]]
) -> pandas.DataFrame:
    """Every text of a study, one row each, ordered by trial (the baseline first), phase, example and sample.

    trial, config_key, role   who wrote it: baseline, winner, finalist (measured again with fresh seeds) or trial;
                              `trial` is missing for a baseline outside the space
    phase                     tune (the search) or confirm (the holdout)
    example_id, group         which row of the data
    sample, seed              which of several texts; the samples r * repeats .. (r + 1) * repeats - 1 are observation r
                              (n times as many where an answer is made of up to n samples)
    text, finish, why, prompt_tokens, completion_tokens, seconds, first_token_seconds
    score.NAME, why.NAME      of each scorer, as stored: a score is missing where none could be given, both where the
                              trial was stopped before
    metric.NAME               of the observation the text belongs to: scorers, completion_tokens, objectives, bounds
    utility                   what the observation is worth: its objective, turned so that more is better
    """
    store = Store(url, reading=True)
    try:
        rows = store.all_rows(study_id)
        groups = {example.id: example.group for example, _ in store.examples(study_id)}
    finally:
        store.close()
    answers = Answers.from_description(description)
    repeats = int(description.get("search.repeats", 1)) * answers.most
    again = {key for key, phase, _, row in rows if phase == "tune" and row.sample >= repeats}
    table: dict[str, list[Any]] = {}

    def put(name: str, values: Sequence[Any]) -> None:
        table[name] = list(values)

    def role(key: str) -> str:
        found = roles.get(key, (None, "trial"))[1]
        return "finalist" if found == "trial" and key in again else found

    put("trial", [roles.get(key, (None, ""))[0] for key, *_ in rows])
    put("config_key", [key for key, *_ in rows])
    put("role", [role(key) for key, *_ in rows])
    put("phase", [phase for _, phase, _, _ in rows])
    put("example_id", [row.example_id for *_, row in rows])
    put("group", [groups.get(row.example_id) for *_, row in rows])
    put("sample", [row.sample for *_, row in rows])
    put("seed", [seed for _, _, seed, _ in rows])
    for name in ("text", "finish", "why", "prompt_tokens", "completion_tokens", "seconds", "first_token_seconds"):
        put(name, [getattr(row.generation, name) for *_, row in rows])
    scorers: Mapping[str, str] = description.get("scorers", {})
    for name, key in scorers.items():
        given = [row.scores.get(key) for *_, row in rows]
        put(f"score.{name}", [None if score is None else score.value for score in given])
        put(f"why.{name}", [None if score is None else score.why for score in given])
    worth = _worth(rows, scorers, goal, repeats, answers)
    for name in dict.fromkeys([*goal.metrics(), *scorers, "completion_tokens"]):
        put(f"metric.{name}", [metrics.get(name, math.nan) for metrics, _ in worth])
    put("utility", [utility for _, utility in worth])
    return _typed(table)


def _worth(
    rows: Sequence[Stored], scorers: Mapping[str, str], goal: Goal, repeats: int, answers: Answers
) -> list[tuple[Mapping[str, float], float]]:
    """For each row the metrics and the utility of its observation."""

    def observation(stored: Stored) -> tuple[str, str, str, int]:
        key, phase, _, row = stored
        return key, phase, row.example_id, row.sample // repeats

    found: list[tuple[Mapping[str, float], float]] = []
    for _, together in groupby(rows, observation):
        members = [row for *_, row in together]
        chosen = answers.chosen(members)
        scores = {name: [row.scores.get(key, UNSCORED) for row in chosen] for name, key in scorers.items()}
        metrics = answers.charged(metrics_of([row.generation for row in chosen], scores, goal), members)
        found += [(metrics, goal.utility(metrics))] * len(members)
    return found


def _typed(table: Mapping[str, list[Any]]) -> pandas.DataFrame:
    import pandas

    frame = pandas.DataFrame(table)
    whole = {name: "Int64" if name == "trial" else "int64" for name in ("trial", "sample", "seed")}
    whole |= dict.fromkeys(("prompt_tokens", "completion_tokens"), "int64")
    numbers = [name for name in frame if str(name).startswith(("score.", "metric."))]
    whole |= dict.fromkeys(["seconds", "first_token_seconds", "utility", *map(str, numbers)], "float64")
    words = {str(name): "str" for name in frame if name not in whole}
    frame = frame.astype({**whole, **words})
    frame["_first"] = frame["role"] != "baseline"
    order = ["_first", "trial", "config_key", "phase", "example_id", "sample"]
    frame = frame.sort_values(order, ascending=[True, True, True, False, True, True], kind="stable", ignore_index=True)
    return frame.drop(columns="_first")


def paired_table(frame: pandas.DataFrame, phase: Phase = "tune", value: str = "utility") -> pandas.DataFrame:
    """Configurations (config_key, in the frame's order) against examples (sorted): the mean of a column over the
    observations of each example; NaN where nothing is known. Missing values are left out of a mean."""
    chosen = frame[frame["phase"] == phase]
    table = chosen.pivot_table(index="config_key", columns="example_id", values=value, aggfunc="mean", dropna=False)
    return table.reindex(chosen["config_key"].drop_duplicates())


def write(frame: pandas.DataFrame, path: Path) -> None:
    """Write the rows to a file; its suffix chooses the format: .jsonl, .csv or .parquet. Numbers come back as they are;
    in CSV, and only there, a text that a spreadsheet would run as a formula gets an apostrophe before it.
    Raises SpecError for another suffix or a path that cannot be written, MissingExtra for Parquet without pyarrow."""
    writers: dict[str, Callable[[], object]] = {
        ".jsonl": lambda: _write_lines(frame, path),
        ".csv": lambda: _without_formulas(frame).to_csv(path, index=False),
        ".parquet": lambda: frame.to_parquet(path, index=False, engine="pyarrow"),
    }
    if path.suffix not in writers:
        raise SpecError(f"{path}: {path.suffix or 'no suffix'} is no format. Use one of {', '.join(FORMATS)}")
    try:
        with writing(str(path)):
            writers[path.suffix]()
    except ImportError:
        raise MissingExtra("pyarrow", "parquet") from None


def _without_formulas(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows with an apostrophe before texts that a spreadsheet would run; numbers stay as they are."""

    def guarded(value: Any) -> Any:
        if not isinstance(value, str) or not value.startswith(FORMULA):
            return value
        try:
            float(value)
        except ValueError:
            return f"'{value}"
        return value

    from pandas.api import types as pandas_types

    names = [name for name in frame if not pandas_types.is_numeric_dtype(frame[name])]
    return frame.assign(**{str(name): frame[name].map(guarded) for name in names})


def _write_lines(frame: pandas.DataFrame, path: Path) -> None:
    plain = frame.astype(object).where(frame.notna(), None)
    with path.open("w", encoding="utf-8") as file:
        for row in plain.to_dict("records"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
