"""Bad input of every kind through the real command line: exit code 2, one clear message, and nothing spent.

A message names the file and the key or the value and says what to do; a case's needles are these parts of it.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest

from tests.commands import SMALL, Ran, Shell, write_rows
from tests.toy import rows

Table = dict[str, Any]
Change = Callable[[Table, Path], None]
JARGON = ("validation error", "input should be", "pydantic", "type=", "errors.pydantic", "item after validation", "ctx")


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))  # a study's folder is put on it
    return Shell(tmp_path, monkeypatch, capsys)


def put(key: str, value: Any) -> Change:
    """Set one dotted key of the study file."""

    def change(table: Table, folder: Path) -> None:
        *outer, last = key.split(".")
        for name in outer:
            table = table.setdefault(name, {})
        table[last] = value

    return change


def drop(key: str) -> Change:
    def change(table: Table, folder: Path) -> None:
        outer, _, last = key.rpartition(".")
        del (table[outer] if outer else table)[last]

    return change


def row(number: int, **fields: Any) -> Change:
    """Change the fields of one line of the data, counted from 1."""

    def change(table: Table, folder: Path) -> None:
        data = [r | fields if i == number else r for i, r in enumerate(rows(SMALL), 1)]
        write_rows(folder / "rows.jsonl", data)

    return change


def file(name: str, text: str | bytes, then: Change | None = None) -> Change:
    """Write a file beside the study file."""

    def change(table: Table, folder: Path) -> None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        if then is not None:
            then(table, folder)

    return change


def each(*changes: Change) -> Change:
    def change(table: Table, folder: Path) -> None:
        for one in changes:
            one(table, folder)

    return change


def scorer(kind: str, **keys: Any) -> Change:
    return put("scorers", {"right": {"kind": kind, **keys}})


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "a scorer of one's own without a module": (
        scorer(":exact"),
        ("':exact' is not written as it has to be", 'Give "module:name", e.g. "my_scorers:exact"'),
    ),
    # what would be searched without any effect, or could never show anything
    "shots that are no whole number": (
        put("space.shots", {"low": 0.0, "high": 3.0}),
        ("space.shots: 0.0 is no number",),
    ),
    "shots that are negative": (put("space.shots", {"low": -1, "high": 3}), ("space.shots: -1 is no number",)),
    "more shots than rows": (put("space.shots", {"choices": [0, 500]}), ("space.shots: 500", "tune rows")),
    "a proxy without a port": (
        put("storage_proxy", "nowhere"),
        ("storage_proxy: 'nowhere' is not written as it has to be. Give host:port of a `genopt studies proxy`",),
    ),
    "a storage in memory": (put("storage", "sqlite://"), ("storage: a database in memory", "sqlite:///study.db")),
    "a list of texts for one of them": (
        each(put("space.way", ["Tersely.", "At length."]), put("prompt.system", "{{ way }}")),
        ("space.way", 'Write { choices = ["Tersely.", "At length."] }'),
    ),
    "a list of system prompts for one of them": (
        put("space.system", ["Tersely.", "At length."]),
        ("space.system", 'Write { choices = ["Tersely.", "At length."] }'),
    ),
    "a list of texts in a branch": (
        each(put("space.mode", {"a": {"way": ["A.", "B."]}, "b": {}}), put("prompt.system", "{{ way }}")),
        ("space.mode.a.way", 'Write { choices = ["A.", "B."] }'),
    ),
    "a list of texts as the baseline's": (
        each(
            put("space.way", {"choices": ["A.", "B."]}),
            put("prompt.system", "{{ way }}"),
            put("baseline", {"way": ["A.", "B."]}),
        ),
        ('baseline.way: ["A.", "B."] is a list', "Write one of its texts"),
    ),
    # unknown keys, at every level
    "unknown key, top": (put("budgett", {}), ("budgett: unknown key", "Did you mean 'budget'?")),
    "unknown key, dataset": (put("dataset.refrence", "a"), ("dataset.refrence", "Did you mean 'reference'?")),
    "unknown key, prompt": (put("prompt.usr", "a"), ("prompt.usr", "Did you mean 'user'?")),
    "unknown key, backend": (put("backend.modell", "a"), ("backend.modell", "Did you mean 'model'?")),
    "unknown key, range": (
        put("space.top_p", {"low": 0.5, "high": 1.0, "logg": True}),
        ("space.top_p.logg", "Did you mean 'log'?"),
    ),
    "unknown key, scorer": (
        put("scorers.right.normalise", True),
        ("scorers.right.normalise", "Did you mean 'normalize'?"),
    ),
    "unknown key, objective": (
        put("objectives", [{"maximise": "right"}]),
        ("objectives[0].maximise", "Did you mean 'maximize'?"),
    ),
    "unknown key, constraint": (
        put("constraints", [{"metric": "right", "at_lest": 0.5}]),
        ("constraints[0].at_lest", "Did you mean 'at_least'?"),
    ),
    "unknown key, search": (put("search.samplers", "tpe"), ("search.samplers", "Did you mean 'sampler'?")),
    "unknown key, budget": (put("budget.trails", 3), ("budget.trails", "Did you mean 'trials'?")),
    # values
    "low above high": (
        put("space.top_p", {"low": 1.0, "high": 0.5}),
        ("space.top_p: low (1.0)", "high (0.5)", "Swap or widen"),
    ),
    "log from zero": (
        put("space.temperature", {"low": 0.0, "high": 1.0, "log": True}),
        ("space.temperature", "low is 0.0", "Raise low or drop log"),
    ),
    "step too wide": (
        put("space.top_p", {"low": 0.5, "high": 1.0, "step": 2.0}),
        ("space.top_p: step (2.0)", "smaller"),
    ),
    "choice twice": (put("space.top_p", {"choices": [0.5, 0.5]}), ("space.top_p", "twice", "Remove one")),
    "choice that is the same to a sampler": (
        each(put("space.way", {"choices": [1, 1.0]}), put("prompt.user", "{{ question }} {{ way }}")),
        ("space.way", "1 and 1.0 are the same", "Remove one"),
    ),
    "range without an end": (
        each(put("space.way", {"low": 0.0, "high": math.inf}), put("prompt.user", "{{ question }} {{ way }}")),
        ("space.way.high: inf", "not a finite number"),
    ),
    "constant that is no number": (
        each(put("space.way", math.nan), put("prompt.user", "{{ question }} {{ way }}")),
        ("space.way: nan", "a finite number"),
    ),
    "bound that is no number": (
        put("constraints", [{"metric": "right", "at_least": math.nan}]),
        ("constraints[0].at_least: nan", "not a finite number"),
    ),
    "bounds that exclude each other": (
        put("constraints", [{"metric": "right", "at_least": 0.9, "at_most": 0.1}]),
        ("constraints[0]: at_least (0.9) is above at_most (0.1)", "Swap"),
    ),
    "weight without an end": (
        put("objectives", [{"maximize": "right", "weight": math.inf}]),
        ("objectives[0].weight: inf", "not a finite number"),
    ),
    "one metric as two objectives": (
        put("objectives", [{"maximize": "right"}, {"minimize": "right"}]),
        ("objectives: right", "more than once", "Keep one"),
    ),
    "no choice at all": (put("space.top_p", {"choices": []}), ("space.top_p.choices: is empty", "Give at least one")),
    "text for a number": (put("budget.trials", "ten"), ("budget.trials: 'ten'", "a whole number")),
    "fraction for a count": (put("budget.trials", 2.5), ("budget.trials: 2.5", "a whole number")),
    "zero for a count": (put("budget.trials", 0), ("budget.trials: 0", "Use 1 or more")),
    "text for a table": (put("dataset", "rows.jsonl"), ("dataset: 'rows.jsonl'", "a table")),
    "text for a scorer": (put("scorers.right", "bleu"), ("scorers.right: 'bleu'", "{ kind =")),
    "text for a bound": (put("space.top_p", {"low": "a", "high": 1.0}), ("space.top_p.low: 'a'", "a number")),
    "word for a count": (put("backend.concurrency", "many"), ("concurrency: 'many'", "a whole number or 'auto'")),
    "too large a fraction": (put("dataset.holdout", 1.5), ("dataset.holdout: 1.5", "Use less than 1")),
    "too small a count": (put("backend.concurrency", 0), ("backend.concurrency: 0", "Use 1 or more")),
    "number for a prompt": (put("prompt.user", 3), ("prompt.user: 3", "a text in quotes or a table")),
    "missing table": (drop("dataset"), ("dataset: is missing", "Add it")),
    "missing key": (drop("backend.model"), ("backend.model: is missing", "Add it")),
    "misspelt required key": (
        put("backend", {"kind": "tests.toy:ToyBackend", "modell": "toy"}),
        ("backend.modell: unknown key", "Did you mean 'model'?"),
    ),
    "no scorer": (put("scorers", {}), ("scorers: is empty", "Give at least one")),
    "unknown scorer": (scorer("exact_mach"), ("scorers.right", "'exact_mach'", "Did you mean 'exact_match'?")),
    "unknown sampler": (put("search.sampler", "gridd"), ("search.sampler: 'gridd'", "Did you mean 'grid'?")),
    # names and ranges against the engine
    "unknown parameter": (
        put("space.temprature", {"low": 0.1, "high": 1.0}),
        ("space.temprature", "neither a parameter of toy", "Did you mean 'temperature'?"),
    ),
    "illegal range": (
        put("space.top_p", {"low": 0.5, "high": 1.5}),
        ("space.top_p: 1.5 is outside (0, 1]", "Stay inside"),
    ),
    "integers for a float": (
        put("space.temperature", {"low": 0, "high": 2}),
        ("space.temperature", "takes floats", "Write low = 0.0 and high = 2.0"),
    ),
    "floats for an integer": (
        put("space.top_k", {"low": 1.0, "high": 20.0}),
        ("space.top_k", "takes whole numbers", "Drop the decimal points"),
    ),
    "switch with a parameter's name": (
        put("space", {"temperature": {"a": {"top_p": 0.3}, "b": {"top_p": 0.4}}}),
        ("space.temperature", "Rename the switch"),
    ),
    "nothing to search": (
        put("space", {"temperature": 0.3}),
        ("space: there is nothing to search", "at least one", "of one value is held against"),
    ),
    "unknown baseline": (
        put("baseline", {"temprature": 0.5}),
        ("baseline.temprature", "Did you mean 'temperature'?"),
    ),
    "illegal baseline": (put("baseline", {"temperature": 9.5}), ("baseline.temperature: 9.5", "[0, 2]")),
    "gp with a switch": (
        each(
            put("search.sampler", "gp"),
            put("space", {"way": {"greedy": {"temperature": 0.0}, "warm": {"temperature": {"low": 0.1, "high": 1.0}}}}),
        ),
        ("search.sampler: gp", "Use tpe or auto"),
    ),
    # prompt
    "template of an unknown name": (
        put("prompt.user", "{{ quesion }}"),
        ('prompt: the user template uses "quesion"', 'Did you mean "question"?'),
    ),
    "variable without a template": (
        put("space.style", {"choices": ["", "Be brief."]}),
        ("space.style", "nor a variable that the prompt uses", "{{ style }}"),
    ),
    "broken template": (put("prompt.user", "{{ question }"), ("prompt: the user template, line 1", "Correct it")),
    "no prompt": (put("prompt", {}), ("prompt: there is no user prompt", "Set prompt.user")),
    "prompt file missing": (put("prompt.user", {"file": "nope.txt"}), ("nope.txt: no such file", "Paths start at")),
    "prompt file unknown key": (put("prompt.user", {"fil": "a.txt"}), ("prompt.user.fil", "Did you mean 'file'?")),
    "empty prompt": (row(5, question=" "), ('example "r4"', "prompt is empty", "Fill in the row")),
    # data
    "data missing": (put("dataset.path", "row.jsonl"), ("row.jsonl: no such file", 'Did you mean "rows.jsonl"?')),
    "data that is a folder": (
        each(lambda table, folder: (folder / "rows").mkdir(), put("dataset.path", "rows")),
        ("rows: is a folder, not a file. Paths start",),
    ),
    "data empty": (file("rows.jsonl", ""), ("rows.jsonl: no rows", "Give at least one")),
    "data malformed": (
        file("rows.jsonl", '{"question": "a", "answer": "b"}\n{"question": \n'),
        ("rows.jsonl:2: malformed JSON", "one object per line"),
    ),
    "data not UTF-8": (
        file("rows.jsonl", b'{"question": "\xff"}\n'),
        ("rows.jsonl:1", "0xff", "Save the file as UTF-8"),
    ),
    "ids twice": (row(5, id="r1"), ('rows.jsonl:5: id "r1"', "on line 2", "Make ids unique")),
    "references missing": (
        row(5, answer=""),
        ("rows.jsonl: no reference, which right compares with, on line 5", "Fill them in"),
    ),
    "no reference at all": (
        lambda table, folder: write_rows(folder / "rows.jsonl", [{"question": f"q{i}"} for i in range(SMALL)]),
        ("rows.jsonl: no row has a reference", "Set dataset.reference"),
    ),
    "unknown reference": (put("dataset.reference", "anwser"), ('"anwser"', "dataset.reference", '"answer"?')),
    "holdout too small": (
        put("dataset.holdout", 0.1),
        ("dataset.holdout: 24 rows split into 22", "2 held out", "each side needs 8", "Add rows"),
    ),
    # engine and plug-ins
    "unknown engine": (put("backend.kind", "transformer"), ("backend.kind", "Did you mean 'transformers'?")),
    "no such class": (put("backend.kind", "tests.toy:ToyBackends"), ("backend.kind", "Did you mean 'ToyBackend'?")),
    "no such module": (
        put("backend.kind", "nowhere:Engine"),
        ("backend.kind", "no module 'nowhere'", "Check the name"),
    ),
    "file for a module": (
        scorer("./scorer.py:score"),
        ("scorers.right: './scorer.py:score'", '"scorer:score"', "scorer.py, from the study file's folder"),
    ),
    "script for a module": (
        file("script.py", "import sys\nsys.exit(3)\n", scorer("script:score")),
        ("scorers.right", "importing script ended the program (exit code 3)", "__main__"),
    ),
    "scorer that cannot be made": (
        file(
            "fussy.py",
            "class Fussy:\n    def __init__(self, *, name):\n        raise ValueError('no luck')\n",
            scorer("fussy:Fussy"),
        ),
        ("scorers.right: cannot be made: ValueError: no luck", "Check its keys"),
    ),
    "engine that cannot be made": (
        file(
            "fussy.py",
            "class Fussy:\n    def __init__(self, *, model, options):\n        raise RuntimeError('no card')\n",
            put("backend.kind", "fussy:Fussy"),
        ),
        ("backend.kind: fussy:Fussy cannot be made: RuntimeError: no card", "Correct its options"),
    ),
    "class that is no engine": (put("backend.kind", "tests.toy:Path"), ("backend.kind", "it needs open, generate")),
    "plug-in that raises": (
        file("raises_on_import.py", "raise ValueError('no luck')\n", scorer("raises_on_import:score")),
        ("scorers.right", "raises_on_import", "ValueError: no luck", "Correct"),
    ),
    "plug-in that needs more": (
        file("needs_more.py", "import certainly_not_installed\n", scorer("needs_more:score")),
        ("scorers.right", "'certainly_not_installed'", "Install what it needs"),
    ),
    "plug-in of the wrong shape": (
        file("wrong_shape.py", "def score(text):\n    return 1.0\n", scorer("wrong_shape:score")),
        ("scorers.right", "score(text)", "has to take (example, text)"),
    ),
    "diversity of one sample": (scorer("diversity"), ("scorers.right", "Set search.repeats = 2")),
    "broken pattern": (scorer("regex", pattern="("), ("scorers.right", "pattern", "Correct '('")),
    # objectives and budget
    "seconds in company": (
        lambda table, folder: table.update(objectives=[{"minimize": "seconds"}], search={"trials_in_flight": 2}),
        ("objectives: seconds", "Drop search.trials_in_flight"),
    ),
    "seconds with requests side by side": (
        lambda table, folder: table.update(
            objectives=[{"minimize": "tokens_per_second"}], backend={**table["backend"], "concurrency": 2}
        ),
        ("objectives: tokens_per_second", "backend.concurrency"),
    ),
    "some weights": (
        put("objectives", [{"maximize": "right", "weight": 1.0}, {"minimize": "completion_tokens"}]),
        ("objectives: some have a weight", "all of them one, or none"),
    ),
    "unknown metric": (put("objectives", [{"maximize": "rihgt"}]), ("objectives[0]: 'rihgt'", "Did you mean 'right'?")),
    "two scorers, no objective": (
        put("scorers.other", {"kind": "rouge_l"}),
        ("objectives: there are several scorers", '"right" | "other"'),
    ),
    "budget below the verdict": (
        put("budget", {"generations": 60}),
        ("budget.generations: 60 is too few", "Raise it"),
    ),
    "a field that one row lacks": (
        lambda table, folder: write_rows(
            folder / "rows.jsonl", [*rows(SMALL), {"id": "odd", "questoin": "?", "answer": "yes"}]
        ),
        ('the user template uses "question"', "missing in 1 of the rows (the first: odd)", "default"),
    ),
    "scorers as a list": (
        put("scorers", [{"name": "right", "kind": "exact_match"}]),
        ("scorers: is a list of tables", "[scorers.NAME]"),
    ),
    "one objective without a list": (
        put("objectives", {"maximize": "right"}),
        ("objectives: is one table", "[[objectives]] in double brackets"),
    ),
    "an engine of no known kind": (put("backend.kind", "hf"), ("no engine 'hf'", '"module:Class"', "Known: ollama, ")),
    "a space that is the baseline": (
        lambda table, folder: table.update(space={"temperature": {"choices": [0.0]}}, baseline={"temperature": 0.0}),
        ("space: all that it holds is what you run today", "Widen it"),
    ),
    "a space whose ranges do nothing": (  # greedy does not care for top_p
        lambda table, folder: table.update(
            space={"temperature": {"choices": [0.0]}, "top_p": {"low": 0.5, "high": 1.0}}, baseline={"temperature": 0.0}
        ),
        ("space: all that it holds is what you run today", "Widen it"),
    ),
    # storage
    "storage folder missing": (
        put("storage", "sqlite:///nowhere/toy.db"),
        ("storage: sqlite:///", "nowhere/toy.db", "check the path"),
    ),
    "storage below a file": (
        file("file", "x", put("storage", "sqlite:///file/toy.db")),
        ("storage: sqlite:///", "file/toy.db", "check the path"),
    ),
    "storage is no URL": (put("storage", "toy.db"), ("storage: 'toy.db'", "sqlite:///study.db")),
    "storage of no known kind": (put("storage", "nosuch://host/x"), ("storage: nosuch://host/x", "sqlite:///study.db")),
}


def refused(ran: Ran, *needles: str, lines: int = 1) -> None:
    """Exit code 2, `lines` messages that hold every needle in the words of a person, and nothing on stdout."""
    assert ran.code == 2, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert not [word for word in JARGON if word in ran.err.lower()]
    told = [line for line in ran.err.splitlines() if line and not line.startswith("  ")]
    assert len(told) == lines and told[0].startswith("error: "), ran.err
    for needle in needles:
        assert needle in ran.err


def nothing_spent(shell: Shell, *, requests: int = 0, trials: int = 0) -> None:
    assert len(shell.requests) == requests
    assert shell.count("genopt_generations") == requests
    assert shell.count("trials") == trials


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_in_the_study_is_refused_in_one_clear_message_and_costs_nothing(shell: Shell, name: str) -> None:
    change, needles = CASES[name]
    table = shell.table()
    change(table, shell.folder)
    path = shell.write(table)
    ran = shell("optimize", path)
    refused(ran, *needles)
    assert ("study.toml" in ran.err) or ran.err.startswith("error: storage: ")
    nothing_spent(shell)


@pytest.mark.parametrize("storage", ["toy.db", "sqlite:///nowhere/toy.db"])
def test_a_storage_that_cannot_be_is_told_with_the_other_mistakes_and_by_check(shell: Shell, storage: str) -> None:
    """Opened it is last, when a model may have been loaded for minutes."""
    table = shell.table(storage=storage)
    refused(shell("check", shell.write(table)), "study.toml: storage: ", "toy.db")
    table["dataset"]["reference"] = "anwser"
    refused(shell("optimize", shell.write(table)), "study.toml: storage: ", "anwser", lines=2)
    nothing_spent(shell)
    ran = shell("evaluate", shell.write(shell.table(storage=storage)))
    assert ran.code == 0, "which stores nothing"


@pytest.mark.parametrize("command", ["check", "optimize"])
def test_a_study_to_begin_with_that_the_storage_lacks_is_told_before_anything_is_spent(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """And before the engine is opened, which may take minutes."""
    table = shell.table(search={"sampler": "random", "warm_start": "toyy"})
    opened = shell.folder / "opened"
    opened.write_text("1\n2\n")  # whoever opens the engine adds a line, and waits for nobody else
    table["backend"]["options"] = {**table["backend"].get("options", {}), "meet": str(opened)}
    refused(shell(command, shell.write(table)), "search.warm_start: 'toyy'", "toy.db does not exist")
    assert shell("optimize", shell.write(shell.table(storage="sqlite:///other.db")), "--quiet").code == 0
    shell.log.unlink()
    monkeypatch.setenv("GENOPT_STORAGE", f"sqlite:///{shell.folder / 'other.db'}")
    refused(shell(command, shell.write(table)), "search.warm_start: 'toyy'", "has no study 'toyy'", "it has: toy")
    nothing_spent(shell)
    assert opened.read_text() == "1\n2\n"
    path = shell.write(table | {"search": {"sampler": "random", "warm_start": "toy"}, "name": "new"})
    assert shell(command, path).code == 0
    assert opened.read_text() == "1\n2\nhere\n"


def test_a_storage_that_cannot_be_written_is_told_before_the_engine_is_opened(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.folder / "diary.db").write_text("Dear diary, this is no database.")
    (shell.folder / "folder.db").mkdir()
    for name, words in (("diary.db", "the file is not a database"), ("folder.db", "is a folder")):
        table = shell.table(storage=f"sqlite:///{name}")
        table["backend"]["options"] = {"meet": str(shell.folder / "opened")}  # what would wait for another process
        refused(shell("optimize", shell.write(table)), "study.toml: storage: ", name, words)
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != shell.folder and writable(path, mode))
    for command in ("check", "optimize"):  # root may write anywhere, but not to a disk that is read only
        refused(shell(command, shell.write(shell.table())), "study.toml: storage: ", "no file can be made in")
    nothing_spent(shell)


def test_the_unchanged_study_is_accepted(shell: Shell) -> None:
    ran = shell("optimize", shell.write(shell.table()), "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert len(shell.requests) == shell.count("genopt_generations") > 0


@pytest.mark.parametrize("command", ["optimize", "check", "evaluate", "best", "report", "trials", "dashboard"])
def test_every_command_refuses_a_missing_study_file(shell: Shell, command: str) -> None:
    ran = shell(command, shell.folder / "study.tml")
    refused(ran, "study.tml: no such study file", "Check the path", "genopt init")


def test_a_folder_is_no_study_file(shell: Shell) -> None:
    refused(shell("optimize", shell.folder), str(shell.folder), "is a folder", "Name the .toml file")


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        (b'name = "a\n', ("is not valid TOML", "line 1", "Check quotes")),
        (b'name = "a"\nname = "b"\n', ("is not valid TOML", "line 2")),
        (b'name = "a"\nstorage = "\xff"\n', ("line 2: byte 0xff is not valid UTF-8", "Save the file as UTF-8")),
    ],
)
def test_a_file_that_is_no_toml_is_refused_with_its_line(shell: Shell, text: bytes, needles: tuple[str, ...]) -> None:
    path = shell.folder / "study.toml"
    path.write_bytes(text)
    refused(shell("optimize", path), "study.toml", *needles)


def test_all_mistakes_of_a_study_file_are_told_at_once(shell: Shell) -> None:
    table = shell.table(space={"top_p": {"low": 1.0, "high": 0.5}}, budget={"trails": 3})
    table["search"] = {"sampler": "tpee", "repeats": "two"}
    ran = shell("optimize", shell.write(table))
    needles = ("space.top_p: low", "budget.trails: unknown", "search.sampler: 'tpee'", "search.repeats: 'two'")
    refused(ran, *needles, lines=4)


def test_mistakes_in_data_prompt_scorer_and_engine_are_told_at_once(shell: Shell) -> None:
    table = shell.table(prompt={"user": "{{ question"}, scorers={"right": {"kind": "regex", "pattern": "("}})
    table["backend"]["kind"] = "tests.toy:Nothing"
    file("rows.jsonl", '{"question": \n')(table, shell.folder)
    ran = shell("optimize", shell.write(table))
    refused(ran, "rows.jsonl:1: malformed", "scorers.right: pattern", "backend.kind", lines=3)
    nothing_spent(shell)


def test_all_unknown_names_are_told_at_once(shell: Shell) -> None:
    table = shell.table(baseline={"tempature": 0.3}, prompt={"user": "{{ qestion }}"})
    table["space"]["topp"] = {"low": 0.5, "high": 1.0}
    ran = shell("optimize", shell.write(table))
    refused(ran, "space.topp", "baseline.tempature", 'uses "qestion"', lines=3)
    nothing_spent(shell)


def test_a_mistake_in_an_option_is_told_as_the_option(shell: Shell) -> None:
    ran = shell("optimize", shell.write(shell.table()), "--storage-proxy", "nowhere")
    refused(ran, "--storage-proxy nowhere: 'nowhere' is not written as it has to be. Give host:port of a")
    nothing_spent(shell)


@pytest.mark.parametrize(
    ("override", "needles"),
    [
        ("budget.trials", ("--set budget.trials", "is not key=value", "--set budget.trials=10")),
        ("budget.trails=3", ("--set budget.trails=3", "unknown key", "Did you mean 'trials'?")),
        ("budget.trials=many", ("--set budget.trials=many", "'many' is not a whole number")),
        ("name.first=3", ("--set name.first=3", "name is not a table")),
        ("space.temperature.high=0.01", ("space.temperature", "low (0.1)", "high (0.01)")),
    ],
)
def test_a_bad_override_is_blamed_on_the_command_line(shell: Shell, override: str, needles: tuple[str, ...]) -> None:
    refused(shell("optimize", shell.write(shell.table()), "--set", override), *needles)
    nothing_spent(shell)


def test_a_folder_without_a_model_is_refused(shell: Shell) -> None:
    pytest.importorskip("transformers", reason="the embedded engine needs transformers")
    (shell.folder / "model").mkdir()
    table = shell.table(backend={"kind": "transformers", "model": "model"})
    ran = shell("optimize", shell.write(table))
    refused(ran, "study.toml", "backend.model", "model", "no config.json", "Name the folder")
    assert shell.count("trials") == 0


def test_a_model_folder_that_does_not_exist_is_refused(shell: Shell) -> None:
    pytest.importorskip("transformers", reason="the embedded engine needs transformers")
    table = shell.table(backend={"kind": "transformers", "model": "./modle"})
    refused(shell("optimize", shell.write(table)), "backend.model", "./modle does not exist", "Check the path")
    assert shell.count("trials") == 0


def test_the_database_of_another_program_is_left_alone(shell: Shell) -> None:
    path = shell.folder / "toy.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("create table customers (id integer)")
        connection.commit()
    before = path.read_bytes()
    ran = shell("optimize", shell.write(shell.table()))
    refused(ran, "storage: sqlite:///", "toy.db", "another program (customers)", "name another file")
    assert path.read_bytes() == before
    assert shell.requests == []


def test_a_file_that_is_no_database_is_left_alone(shell: Shell) -> None:
    path = shell.folder / "toy.db"
    path.write_text("Dear diary, this is no database. " * 20)
    before = path.read_bytes()
    ran = shell("optimize", shell.write(shell.table()))
    refused(ran, "storage: sqlite:///", "toy.db", "not a database", "name another storage")
    assert path.read_bytes() == before
    assert shell.requests == []


def test_a_study_of_plain_optuna_is_not_taken_over(shell: Shell) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{shell.folder / 'toy.db'}")
    study = optuna.create_study(storage=storage, study_name="toy")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    storage.remove_session()
    storage.engine.dispose()
    ran = shell("optimize", shell.write(shell.table()))
    refused(ran, "the study 'toy'", "toy.db", "was not made by genopt", "choose another name")
    nothing_spent(shell, trials=1)


def test_a_changed_study_is_not_resumed_and_the_changed_keys_are_named(shell: Shell) -> None:
    assert shell("optimize", shell.write(shell.table()), "-q").code == 0
    spent, trials = len(shell.requests), shell.count("trials")
    table = shell.table(seed=2, prompt={"user": "{{ question }}?"})
    table["space"]["top_p"]["low"] = 0.6
    ran = shell("optimize", shell.write(table))
    refused(ran, "study.toml", "'toy'", "seed", "prompt", "space.top_p.low", "--fork")
    assert "dataset" not in ran.err and "temperature" not in ran.err
    nothing_spent(shell, requests=spent, trials=trials)


@pytest.mark.parametrize("command", ["best", "report", "trials"])
def test_a_storage_without_a_study_name_is_refused(shell: Shell, command: str) -> None:
    ran = shell(command, f"sqlite:///{shell.folder / 'toy.db'}")
    refused(ran, "toy.db: names a storage but no study", "Write storage-URL#name")
    assert not (shell.folder / "toy.db").exists()


def test_reading_a_storage_that_does_not_exist_makes_none(shell: Shell) -> None:
    ran = shell("best", f"sqlite:///{shell.folder / 'toy.db'}#toy")
    refused(ran, "toy.db does not exist", "check the path")
    assert not (shell.folder / "toy.db").exists()


def test_an_unknown_study_is_refused_with_those_there_are(shell: Shell) -> None:
    assert shell("optimize", shell.write(shell.table()), "-q").code == 0
    ran = shell("best", f"sqlite:///{shell.folder / 'toy.db'}#tox")
    refused(ran, "has no study 'tox'", "it has: toy")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:geheim@127.0.0.1:9/x",
        "postgresql://me:geheim@127.0.0.1:port/x",
        "postgresql://me:geh#geheim@127.0.0.1:9/x",
        "nosuch://me:geheim@host/x",
        "mysql+nosuch://me:geheim@host/x",
        "me:geheim@host/x",
    ],
)
def test_a_password_in_a_storage_url_is_never_shown(shell: Shell, url: str) -> None:
    ran = shell("optimize", shell.write(shell.table(storage=url)), "--wait", "0")
    refused(ran, "storage: ")
    assert "geheim" not in ran.err
    assert shell.requests == []
    if "://" in url:
        for arguments in (["best", f"{url}#toy"], ["best", url], ["studies", "list", url]):
            ran = shell(*arguments)
            assert ran.code == 2 and "geheim" not in ran.out + ran.err


def test_several_real_processes_refuse_as_one_does_here(shell: Shell) -> None:
    bad = shell.write(shell.table(budget={"trials": 0}), "bad.toml")
    commands = [
        (["optimize", str(shell.folder / "none.toml")], "no such study file"),
        (["optimize", str(bad)], "bad.toml: budget.trials: 0 is too small. Use 1 or more"),
        (["optimise"], "Did you mean 'optimize'?"),
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "genopt", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=shell.folder,
        )
        for arguments, _ in commands
    ]
    for process, (_, needle) in zip(running, commands, strict=True):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (2, "")
        assert needle in err and "Traceback" not in err
        assert len(re.findall(r"^error: ", err, re.IGNORECASE | re.MULTILINE)) == 1
    nothing_spent(shell)
