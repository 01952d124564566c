"""Owns what the dashboard shows besides Optuna's own: made from what the study has observed, and made anew while it
runs. Reads the database in a thread of its own and writes nothing."""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from genopt.archive import Archive, load
from genopt.dashboard import people
from genopt.dashboard.figures import front_figure, heat_map, score_figure
from genopt.dashboard.notes import Gain, Shown, study_note, trial_note
from genopt.database import masked
from genopt.objectives import pareto_front
from genopt.observations import paired_table
from genopt.stats import interval, mean_se
from genopt.store import Store
from genopt.study.annotated import artifact_id, figure, note, table
from genopt.types import Example

if TYPE_CHECKING:
    import pandas

OUTPUTS = "outputs.jsonl"
EVERY = 3.0  # seconds between looks at a study that runs
LONGEST_WAIT = 2.0  # seconds that opening waits for the first reading
MOST_ROWS = 80  # configurations in the heat map


@dataclass(frozen=True)
class Snapshot:
    """One reading of the study: the attributes to show, and what the tables are made from."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, pandas.DataFrame] = field(default_factory=dict)
    examples: Mapping[str, Example] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    baseline: str = ""


class Live:
    """The annotations of one study. `attributes` and `file` answer at once, from the latest reading."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._seen: tuple[int, ...] | None = None
        self._snapshot = Snapshot()
        self._stop, self._read = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="genopt-dashboard", daemon=True)

    def start(self) -> None:
        """Read the study, and again as it goes on; a large one is still being read when this returns."""
        self._thread.start()
        self._read.wait(LONGEST_WAIT)

    def close(self) -> None:
        """Stop reading; returns when the reader has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def attributes(self) -> Mapping[str, Any]:
        """System attributes in the places where the dashboard looks for notes, tables and figures."""
        return self._snapshot.attributes

    def file(self, identity: str) -> bytes | None:
        """A trial's table of outputs as JSON lines, None for an id that is not ours."""
        now = self._snapshot
        key = now.configs.get(identity)
        if key is None:
            return None
        rows = outputs_table(now.texts, key, now.baseline, now.examples)
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()

    def refresh(self) -> None:
        """Take a new reading when something changed since the last one."""
        archive = load(self._where)
        people.settle(archive)
        finished = sum(trial.state != "running" for trial in archive.trials)
        grown = archive.spent.generations if people.humans_of(archive) else 0  # texts to grade are shown as they come
        state = (len(archive.trials), finished, bool(archive.baseline), bool(archive.verdict), grown)
        if state == self._seen:
            return
        store = Store(archive.url, reading=True)
        try:
            examples = {example.id: example for example, _ in store.examples(archive.id)}
        finally:
            store.close()
        self._snapshot = read(archive, examples, self._where, frame=archive.observations())
        self._seen = state

    def _follow(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            began = time.monotonic()
            # The study was deleted, its database is away or locked (the driver's own error): what was read stays, and
            # people's next grades must still be read.
            with contextlib.suppress(Exception):
                self.refresh()
            self._read.set()
            pause = max(EVERY, 5 * (time.monotonic() - began))  # a large study is read less often


def read(archive: Archive, examples: Mapping[str, Example], where: str, *, frame: pandas.DataFrame) -> Snapshot:
    """Everything the dashboard shows of a study, as it is now; `where` is how the user named it, `frame` what it
    observed."""
    values = paired_table(frame)
    texts = {str(key): part for key, part in frame.groupby("config_key", sort=False)}
    firsts = first_texts(frame)
    baseline = str(archive.baseline.get("key") or "")
    named = f"{masked(archive.url)}#{archive.name}" if "://" in where else where  # never a password
    humans = people.humans_of(archive)
    told = study_note(archive.verdict, named, failed=archive.spent.failed)
    told += people.how_to_grade(named) if humans else ""
    attributes: dict[str, Any] = {**note(told), **people.forms(humans)}
    ids = {trial.number: trial.trial_id for trial in archive.trials}
    rows = archive.rows()
    of = len(values.columns)
    configs: dict[str, str] = {}
    for row in rows:
        if row["number"] is None:
            continue
        trial_id, key = ids[row["number"]], row["config_key"]
        gain = shown = None
        if key in values.index and baseline in values.index:
            gain, shown = against_baseline(firsts, values, key, baseline)
        tokens = float(texts[key]["completion_tokens"].mean()) if key in texts else math.nan
        body = trial_note(row, examples=of, gain=gain, tokens=tokens, shown=shown or ())
        if row["state"] == "running" and humans and key in texts:
            body += people.to_grade(firsts.get(key, {}), examples)
        attributes |= note(body, trial_id)
        if key in values.index:
            attributes |= table(trial_id, OUTPUTS)
            configs[artifact_id(trial_id, OUTPUTS)] = key
    attributes |= _figures(archive, rows, values, examples, baseline, frame)
    return Snapshot(attributes, texts, examples, configs, baseline)


def against_baseline(
    firsts: Mapping[str, Mapping[str, str]], values: pandas.DataFrame, key: str, baseline: str
) -> tuple[Gain | None, list[Shown]]:
    """A configuration's gain, and the example it gains most on, the median one, and the one it loses most on."""
    gains = (values.loc[key] - values.loc[baseline]).dropna().sort_values(kind="stable")
    if gains.empty or key == baseline:
        return None, []
    mean, se = mean_se(gains)
    low, high = interval(mean, se, len(gains))
    gain = Gain(mean, low, high, len(gains), int((gains > 0).sum()), int((gains < 0).sum()))
    mine, before = firsts.get(key, {}), firsts.get(baseline, {})
    shown: dict[str, Shown] = {}
    for title, place in {"Best against the baseline": -1, "Median": len(gains) // 2, "Worst": 0}.items():
        name = str(gains.index[place])
        each = Shown(title, name, float(gains.iloc[place]), mine.get(name, ""), before.get(name, ""))
        shown.setdefault(name, each)
    return gain, list(shown.values())


def first_texts(frame: pandas.DataFrame) -> dict[str, dict[str, str]]:
    """What each configuration wrote first for each example of the tune split."""
    found: dict[str, dict[str, str]] = {}
    first = frame[(frame["phase"] == "tune") & (frame["sample"] == 0)]
    for key, name, text in first[["config_key", "example_id", "text"]].itertuples(index=False):
        found.setdefault(key, {})[name] = text
    return found


def outputs_table(
    texts: Mapping[str, pandas.DataFrame], key: str, baseline: str, examples: Mapping[str, Example]
) -> list[dict[str, Any]]:
    """Every text of a configuration with its reference, scores, reasons, tokens, seconds, and the baseline's text."""
    mine = texts[key]
    before = first_texts(texts[baseline]).get(baseline, {}) if baseline in texts else {}
    names = [str(name).removeprefix("score.") for name in mine if str(name).startswith("score.")]
    rows = []
    for row in mine.to_dict("records"):
        example = examples.get(row["example_id"])
        entry = {"example": row["example_id"], "split": "holdout" if row["phase"] == "confirm" else "tune"}
        entry |= {"sample": row["sample"], "output": row["text"], "finish": row["finish"]}
        entry["reference"] = " | ".join(example.references) if example is not None else ""
        if key != baseline and row["phase"] == "tune":
            entry["baseline"] = before.get(row["example_id"], "")
        for name in names:
            value = row[f"score.{name}"]
            entry |= {name: None if value != value else round(value, 6), f"{name}: why": row[f"why.{name}"]}
        entry |= {"tokens": row["completion_tokens"], "seconds": round(row["seconds"], 3)}
        rows.append(entry)
    return rows


def _figures(
    archive: Archive,
    rows: Sequence[Mapping[str, Any]],
    values: pandas.DataFrame,
    examples: Mapping[str, Example],
    baseline: str,
    frame: pandas.DataFrame,
) -> dict[str, Any]:
    """The figures that Optuna's pages lack."""
    goal = archive.goal
    found = figure("score-by-trial", score_figure(rows, goal.title))
    complete = [
        row
        for row in rows
        if row["config_key"] in values.index and row["duplicate_of"] is None and not row["stopped_early"]
    ]
    if baseline in values.index and complete:
        found |= _heat_maps(complete, values, examples, baseline)
    if goal.several:
        found |= _front(archive, complete, frame)
    return found


def _heat_maps(
    rows: Sequence[Mapping[str, Any]], values: pandas.DataFrame, examples: Mapping[str, Example], baseline: str
) -> dict[str, Any]:
    """Gain over the baseline by configuration and group (or example); one sheet per model where models are searched."""
    groups = {name: example.group for name, example in examples.items()}
    named = len({group for group in groups.values() if group is not None}) > 1
    models = list(dict.fromkeys(row["params"].get("model") for row in rows))
    found: dict[str, Any] = {}
    for number, model in enumerate(models):
        mine = {row["config_key"]: row for row in rows if row["params"].get("model") == model}
        gains = values.loc[list(mine)] - values.loc[baseline]
        if named:
            gains = gains.T.groupby(lambda name: groups.get(name) or name).mean().T
        order = gains.mean(axis=1).sort_values(ascending=False).index[:MOST_ROWS]
        labels = [f"trial {mine[key]['number']}" if mine[key]["number"] is not None else "baseline" for key in order]
        what = "group" if named else "example"
        name = "gain-by-" + what + (f"-{number}" if len(models) > 1 else "")
        content = heat_map(gains.loc[order].to_numpy(np.float64), labels, [str(c) for c in gains.columns], what)
        if len(models) > 1:
            content["layout"]["title"]["text"] += f" ({model})"
        found |= figure(name, content)
    return found


def _front(archive: Archive, rows: Sequence[Mapping[str, Any]], frame: pandas.DataFrame) -> dict[str, Any]:
    """The first two objectives with intervals, and which trials no other beats in both."""
    objectives = archive.goal.objectives[:2]
    names = [objective.metric for objective in objectives]
    tables = [paired_table(frame, value=f"metric.{name}") for name in names]
    measured = [
        {"number": row["number"], "stats": [mean_se(each.loc[row["config_key"]].dropna()) for each in tables]}
        for row in rows
        if row["number"] is not None
    ]
    if not measured:
        return {}
    points = [tuple(mean for mean, _ in each["stats"]) for each in measured]
    best = set(pareto_front(points, [objective.direction for objective in objectives]))
    shown = [
        {
            "number": each["number"],
            "values": point,
            "halves": [1.96 * se for _, se in each["stats"]],
            "on_front": index in best,
            "knee": False,
        }
        for index, (each, point) in enumerate(zip(measured, points, strict=True))
    ]
    if held := (archive.verdict or {}).get("front"):  # these lie where the holdout puts them
        members = {member["trial"] for member in held}
        shown = [{**each, "on_front": False} for each in shown if each["number"] not in members]
        shown += [_member(member, names, archive.verdict or {}) for member in held if member["trial"] is not None]
    return figure("pareto-front", front_figure(shown, names))


def _member(member: Mapping[str, Any], names: Sequence[str], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A member of the front as the holdout has it, as a row of the figure."""
    found = [member["objectives"][name] for name in names]
    return {
        "number": member["trial"],
        "values": tuple(each["mean"] for each in found),
        "halves": [0.0 if each["interval"][1] is None else each["interval"][1] - each["mean"] for each in found],
        "on_front": True,
        "knee": member["trial"] == verdict["knee"]["trial"],
    }
