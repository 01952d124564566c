"""What each command prints, where it prints it, and what it leaves behind."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genopt.archive import load
from genopt.cli import COMMANDS, one_blas_thread
from genopt.liveness import as_worker
from genopt.spec.scorers import KINDS
from genopt.store import Store
from genopt.tables import FAILED
from tests.commands import SMALL, Ran, Shell, write_rows
from tests.toy import DEFAULTS, PARAMETERS, rows

ROOT = Path(__file__).parents[1]
VERDICT = {
    *("schema", "verdict", "params", "baseline_params", "difference", "interval", "p_value", "winner_score"),
    *("baseline_score", "holdout_examples", "trials", "search_generations", "confirm_generations", "tokens"),
}
TRIAL = {"number", "state", "stopped_early", "params", "config_key", "n", "mean", "se"}
GROUP = ["studies list", "studies inspect", "studies clone", "studies delete"]
GROUP += ["judge show", "judge check", "judge calibrate"]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr(sys, "path", list(sys.path))  # a study's folder is put on it
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first study that reached its verdict is kept."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def study(shell: Shell, kept: Path) -> Path:
    """A small study that reached its verdict: for the first who needs one it is made, the others get a copy."""
    path = shell.write(shell.table())
    if (kept / "toy.db").exists():
        shutil.copytree(kept, shell.folder, ignore=shutil.ignore_patterns(path.name), dirs_exist_ok=True)
    else:
        assert shell("optimize", path, "--quiet").code == 0
        shutil.copytree(shell.folder, kept, dirs_exist_ok=True)
    return path


def url(shell: Shell, name: str = "toy") -> str:
    return f"sqlite:///{shell.folder / 'toy.db'}#{name}"


def ok(ran: Ran) -> Ran:
    assert ran.code == 0, ran.err
    return ran


def bad(ran: Ran, *needles: str) -> None:
    assert ran.code == 2 and ran.out == ""
    assert "Traceback" not in ran.err
    for needle in needles:
        assert needle in ran.err


# --- help


def test_help_lists_every_command_and_the_exit_codes(shell: Shell) -> None:
    text = ok(shell("--help")).out
    commands = text.partition("Commands:")[2]
    assert [line.split()[0] for line in commands.splitlines() if line.startswith("  ") and line[2] != " "][
        : len(COMMANDS)
    ] == list(COMMANDS)
    assert "75 stopped" in " ".join(text.split()) and "130 Ctrl-C" in " ".join(text.split())


@pytest.mark.parametrize("command", [*COMMANDS, *GROUP])
def test_the_help_of_every_command_teaches(shell: Shell, command: str) -> None:
    text = ok(shell(*command.split(), "--help")).out
    assert any(line.strip().startswith(f"genopt {command}") for line in text.splitlines()), "no example of its use"
    options = text.partition("Options:")[2].partition("Commands:")[0]
    for line in options.splitlines():
        if line.startswith("  -") and len(line.split("  ")) < 3:  # the description stands on the next line
            assert options.splitlines()[options.splitlines().index(line) + 1].startswith("   ")
    names = [line for line in options.splitlines() if line.startswith("  -")]
    assert names and "--help" in names[-1]


def test_a_misspelt_command_is_answered_with_the_nearest(shell: Shell) -> None:
    bad(shell("optimise", "study.toml"), "'optimise'", "Did you mean 'optimize'?")
    ran = shell("xyzzy")
    bad(ran, "'xyzzy'")
    assert "Did you mean" not in ran.err


def test_help_is_quick_and_loads_no_heavy_library() -> None:
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "genopt", "--help"], check=True, capture_output=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.5
    look = (
        "import sys; sys.argv = ['genopt', '--help']\n"
        "from genopt.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('loaded:', [m for m in ('torch', 'optuna', 'pandas', 'pydantic', 'numpy') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1] == "loaded: []"


def test_nothing_is_loaded_before_ctrl_c_is_seen_to() -> None:
    code = "import sys; before = {*sys.modules}; import genopt.__main__; print(*sorted({*sys.modules} - before))"
    ran = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.split() == ["__future__", "genopt", "genopt.__main__"], ran.stderr


@pytest.mark.parametrize("loading", ["click", "genopt.cli._title", "genopt.archive"])
@pytest.mark.parametrize("start", ["python -m genopt", "genopt"])
def test_ctrl_c_while_it_loads_ends_it_quietly(start: str, loading: str) -> None:
    module = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["genopt"]
    script = f"from {module.replace(':', ' import ')} as run; run()"
    code = (
        "import runpy, sys; sys.argv = ['genopt', 'best', 'study.toml']\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {loading!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
    ) + (script if start == "genopt" else "runpy.run_module('genopt', run_name='__main__')")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (ran.returncode, ran.stdout, ran.stderr.strip()) == (130, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_disk_is_nobodys_fault() -> None:
    with open("/dev/full", "w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "genopt", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
    assert ran.returncode == 1 and "No space left" in ran.stderr and "make room" in ran.stderr
    assert "fault" not in ran.stderr


def test_the_version_is_printed(shell: Shell) -> None:
    try:
        expected = metadata.version("genopt")
    except metadata.PackageNotFoundError:
        expected = "unknown: genopt is not installed"
    assert ok(shell("--version")).out.strip() == expected


# --- optimize, best, trials, report


def test_optimize_json_puts_the_verdict_alone_on_stdout_and_progress_on_stderr(shell: Shell) -> None:
    ran = ok(shell("optimize", shell.write(shell.table()), "--json"))
    found = ran.json
    assert found.keys() >= VERDICT
    assert found["verdict"] in ("improved", "not shown", "worse")
    assert found["trials"] == 4
    counts = {phase: sum(r["phase"] == phase for r in shell.requests) for phase in ("tune", "confirm")}
    assert (found["search_generations"], found["confirm_generations"]) == (counts["tune"], counts["confirm"])
    assert found["tokens"] == 11 * len(shell.requests)  # the toy engine reads 10 tokens and writes one
    low, high = found["interval"]
    assert low <= found["difference"] <= high and 0 <= found["p_value"] <= 1
    assert "Baseline: " in ran.err and "Search: " in ran.err and "trial" in ran.err
    assert "\x1b" not in ran.err and "Traceback" not in ran.err


def test_optimize_quiet_prints_the_verdict_in_words_and_nothing_else(shell: Shell) -> None:
    ran = ok(shell("optimize", shell.write(shell.table()), "--quiet"))
    assert ran.err == ""
    assert ran.out.startswith(("Improved: ", "Not shown: ", "Worse: "))
    assert "Cost: 4 configurations" in ran.out


def test_best_is_the_verdict_that_optimize_printed_by_file_and_by_url(shell: Shell) -> None:
    path = shell.write(shell.table())
    verdict = ok(shell("optimize", path, "--json", "-q")).json
    by_file, by_url = ok(shell("best", path, "--json")), ok(shell("best", url(shell), "--json"))
    assert by_file.json == by_url.json == verdict
    assert by_file.err == by_url.err == ""
    assert ok(shell("best", path)).out == ok(shell("best", url(shell))).out != ""


def test_best_before_a_verdict_shows_the_leader_as_unconfirmed(shell: Shell, study: Path) -> None:
    with closing(sqlite3.connect(shell.folder / "toy.db")) as connection:
        connection.execute("delete from study_user_attributes where key = 'genopt:verdict'")
        connection.commit()
    found = ok(shell("best", study, "--json")).json
    assert found.keys() >= VERDICT
    assert found["verdict"] is None and found["p_value"] is None
    lines = [json.loads(line) for line in ok(shell("trials", study, "--jsonl")).out.splitlines()]
    assert found["params"] == max(lines, key=lambda line: line["mean"])["params"]
    assert ok(shell("best", study)).out.startswith("No verdict yet")
    assert "No verdict yet" in ok(shell("report", study)).out
    bad(shell("compare", study), "toy@best: the study has no verdict yet", "genopt trials")


def test_trials_jsonl_has_one_line_per_trial_with_the_fixed_fields(shell: Shell, study: Path) -> None:
    lines = [json.loads(line) for line in ok(shell("trials", study, "--jsonl")).out.splitlines()]
    assert all(line.keys() >= TRIAL for line in lines)
    outside = [line for line in lines if line["number"] is None]
    assert len(outside) <= 1 and [line["number"] for line in lines if line not in outside] == list(
        range(len(lines) - len(outside))
    )
    assert len({line["config_key"] for line in lines}) == len(lines) == 4
    tuned = [r for r in shell.requests if r["phase"] == "tune"]
    examples = {r["example"] for r in tuned}
    for line in lines:
        assert line["state"] == "complete" and line["stopped_early"] is False
        assert line["n"] == len(examples)
        assert 0 <= line["mean"] <= 1 and line["se"] > 0
        assert line["params"].items() <= {**DEFAULTS, **line["params"]}.items()
    text = ok(shell("trials", study)).out.splitlines()
    means = [float(line.split("±")[0].split()[-1]) for line in text if "±" in line and "mean" not in line]
    assert means == sorted(means, reverse=True) or len(means) == 0


def test_report_says_verdict_cost_and_trials_in_words(shell: Shell, study: Path) -> None:
    text = ok(shell("report", study)).out
    assert text.startswith("Study toy\n")
    verdict = ok(shell("best", study)).out
    assert verdict.strip() in text
    assert f"{len(shell.requests)} generations" in text
    assert "random" in text and "* baseline" not in text.splitlines()[0]
    assert ok(shell("report", url(shell))).out == text


def test_optimize_again_spends_nothing(shell: Shell, study: Path) -> None:
    spent = len(shell.requests)
    first = ok(shell("best", study, "--json")).json
    assert ok(shell("optimize", study, "--json", "-q")).json == first
    assert len(shell.requests) == spent


# --- evaluate


def test_evaluate_measures_the_baseline_on_all_rows_and_stores_nothing(shell: Shell) -> None:
    output = shell.folder / "answers.jsonl"
    ran = ok(shell("evaluate", shell.write(shell.table()), "--json", "-o", output))
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {line["id"] for line in lines} == {row["id"] for row in rows(SMALL)}
    assert ran.json["examples"] == len(lines) == len(shell.requests) == SMALL
    assert ran.json["params"] == DEFAULTS
    metric = ran.json["metrics"]["right"]
    assert metric["mean"] == pytest.approx(sum(line["outputs"] == ["yes"] for line in lines) / SMALL)
    assert metric["low"] < metric["mean"] < metric["high"]
    assert not (shell.folder / "toy.db").exists()
    assert all(request["params"] == DEFAULTS for request in shell.requests)


def test_evaluate_appends_its_rows(shell: Shell) -> None:
    path, output = shell.write(shell.table()), shell.folder / "answers.jsonl"
    output.write_text('{"id": "mine"}\n')
    for _ in range(2):
        ok(shell("evaluate", path, "-o", output))
    lines = output.read_text().splitlines()
    assert len(lines) == 1 + 2 * SMALL and lines[0] == '{"id": "mine"}'


@pytest.mark.parametrize(
    ("given", "expected"),
    [('{"temperature": 0.25}', {"temperature": 0.25}), ('{"top_k": 5, "top_p": 0.7}', {"top_k": 5, "top_p": 0.7})],
)
def test_evaluate_sets_the_given_parameters_over_the_baseline(shell: Shell, given: str, expected: Any) -> None:
    ok(shell("evaluate", shell.write(shell.table()), "--params", given))
    assert {json.dumps(request["params"], sort_keys=True) for request in shell.requests} == {
        json.dumps({**DEFAULTS, **expected}, sort_keys=True)
    }


def test_evaluate_best_and_a_trial_by_its_number(shell: Shell, study: Path) -> None:
    verdict = ok(shell("best", study, "--json")).json
    best = verdict["params" if verdict["verdict"] == "improved" else "baseline_params"]
    trials = [json.loads(line) for line in ok(shell("trials", study, "--jsonl")).out.splitlines()]
    for name, params in (("best", best), ("1", next(t["params"] for t in trials if t["number"] == 1))):
        before = len(shell.requests)
        assert ok(shell("evaluate", study, "--params", name, "--json")).json["params"] == {**DEFAULTS, **params}
        sent = [request["params"] for request in shell.requests[before:]]
        assert sent == [{**DEFAULTS, **params}] * SMALL


def test_evaluate_of_a_trial_sends_what_the_trial_sent_even_from_another_branch(shell: Shell) -> None:
    space = {"cut": {"nucleus": {"top_p": {"low": 0.5, "high": 0.9}}, "few": {"top_k": {"low": 2, "high": 40}}}}
    path = shell.write(shell.table(space=space, baseline={"cut": "nucleus", "top_p": 0.7}, budget={"trials": 6}))
    ok(shell("optimize", path, "-q"))
    searched = {json.dumps(r["params"], sort_keys=True) for r in shell.requests}
    trials = [json.loads(line) for line in ok(shell("trials", path, "--jsonl")).out.splitlines()]
    number = next(t["number"] for t in trials if t["params"]["cut"] == "few")
    before = len(shell.requests)
    ok(shell("evaluate", path, "--params", number))
    sent = {json.dumps(r["params"], sort_keys=True) for r in shell.requests[before:]}
    assert len(sent) == 1 and sent <= searched and json.loads(sent.pop())["top_p"] == 1.0


def test_evaluate_of_a_branch_takes_its_constants(shell: Shell) -> None:
    """Naming the branch alone must not measure the baseline under another name."""
    decoding = {"greedy": {"temperature": 0.0}, "sampling": {"temperature": {"low": 0.1, "high": 1.5}}}
    path = shell.write(shell.table(space={"decoding": decoding}))
    bad(shell("evaluate", path, "--params", '{"decoding": "gredy"}'), "'gredy' is no branch", "Did you mean 'greedy'?")
    bad(shell("evaluate", path, "--params", '{"decoding": "sampling"}'), "leaves temperature open")
    assert shell.requests == []
    ok(shell("evaluate", path, "--params", '{"decoding": "greedy"}'))
    assert {request["params"]["temperature"] for request in shell.requests} == {0.0}


def test_evaluate_needs_no_more_than_one_row_of_other_data(shell: Shell) -> None:
    """Other data are answered, not split."""
    write_rows(
        shell.folder / "new.jsonl", [{"id": f"n{i}", "question": f"new {i}?", "answer": "yes"} for i in range(3)]
    )
    ran = ok(shell("evaluate", shell.write(shell.table()), "--data", "new.jsonl", "--json"))
    assert ran.json["examples"] == 3 and len(shell.requests) == 3


def test_evaluate_on_other_data(shell: Shell) -> None:
    write_rows(shell.folder / "new.jsonl", [{**row, "id": f"n{i}"} for i, row in enumerate(rows(20))])
    ran = ok(shell("evaluate", shell.write(shell.table()), "--data", "new.jsonl", "--json"))
    assert ran.json["examples"] == 20
    assert {request["example"] for request in shell.requests} == {f"n{i}" for i in range(20)}


@pytest.mark.parametrize(
    ("arguments", "needles"),
    [
        (["--params", '{"temprature": 0.2}'], ("temprature", "Did you mean 'temperature'?")),
        (["--params", '{"temperature": 9}'], ("temperature", "outside [0, 2]")),
        (["--params", '{"temperature": '], ("--params", "not valid JSON")),
        (["--params", "bset"], ("--params", "'bset'", "neither baseline, best")),
        (["--params", "best"], ("does not exist",)),
        (["--data", "none.jsonl"], ("none.jsonl: no such file",)),
        (["-o", "none/answers.jsonl"], ("-o none/answers.jsonl", "Name another file")),
        (["-o", "rows.jsonl"], ("-o rows.jsonl: is read for its rows", "Name another file")),
    ],
)
def test_evaluate_refuses_what_it_cannot_do_before_it_generates(shell: Shell, arguments: Any, needles: Any) -> None:
    bad(shell("evaluate", shell.write(shell.table()), *arguments), *needles)
    assert shell.requests == []


def test_data_that_is_not_there_is_looked_for_where_one_is_and_told_so(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shell.write(shell.table())
    (shell.folder / "elsewhere").mkdir()
    monkeypatch.chdir(shell.folder / "elsewhere")
    ran = shell("evaluate", path, "--data", "none.jsonl")
    bad(ran, f"--data none.jsonl: no such file in {shell.folder / 'elsewhere'}")
    ran = shell("init", "--data", "none.jsonl", "--model", "toy", "--scorer", "bleu")
    bad(ran, "none.jsonl: no such file", f"Paths start at {shell.folder / 'elsewhere'}")
    assert shell.requests == []


# --- check, init, params, schema


def test_check_prints_the_bill_spends_two_answers_and_stores_nothing(shell: Shell) -> None:
    path = shell.write(shell.table())
    found = ok(shell("check", path, "--json")).json
    assert len(shell.requests) == 2
    assert found["examples"] == {"tune": 14, "holdout": 10}
    bill = found["generations"]
    assert bill == {"search": 4 * 14, "finalists": 5 * 14, "confirm": 20, "total": 146}
    assert found["tokens"] == 11 * bill["total"]
    assert found["baseline"] == DEFAULTS and len(found["rows"]) == 2
    text = ok(shell("check", path)).out
    assert "at most 146 generations" in text and "14 examples to tune on, 10 held out" in text
    space = [line for line in text.splitlines() if line.startswith("Space ")]
    assert space == ["Space      temperature, top_p"]
    assert "temperature, top_p; always max_tokens=9\n" in ok(shell("check", path, "--set", "space.max_tokens=9")).out
    assert "-> yes" in text or "-> no" in text
    asked = found["rows"][0]["prompt"][-1]
    assert asked["role"] == "user" and asked["content"] and f"  user\n    {asked['content']}\n" in text
    assert not (shell.folder / "toy.db").exists()
    assert ok(shell("check", path, "--json", "--set", "budget.trials=10")).json["generations"]["search"] == 140


def test_a_prompt_that_asks_the_same_of_every_row_is_warned_of(shell: Shell) -> None:
    def warnings(user: str, **more: Any) -> list[str]:
        path = shell.write(shell.table(prompt={"user": user, **more}))
        return list(ok(shell("check", path, "--json")).json["warnings"])

    same = "prompt: uses no field of the rows, so that all ask the same. A field is written {{ question }}"
    single = "prompt: the user template has {question} in single braces, which is sent as it is. Write {{ question }}"
    assert warnings("Is it right?") == [same]
    assert warnings("Is this right: { question }") == [same, single]
    assert warnings("{{ id }}: {question}") == [single]
    assert warnings("{{ question }} Reply as {verdict} or as {{ '{' }}question}") == []
    assert warnings("Is it right?", system="{{ question }}") == []
    table = shell.table(prompt={}, space={"user": {"choices": ["Is it right?", "Is it?"]}})
    answer_first = [{"answer": row["answer"], **row} for row in rows(SMALL)]  # which must not be asked with
    write_rows(shell.folder / "rows.jsonl", answer_first)
    assert ok(shell("check", shell.write(table), "--json")).json["warnings"] == [same]


def test_a_budget_or_a_space_that_leaves_nothing_to_try_is_told(shell: Shell) -> None:
    """A text takes 11 tokens; baseline, a trial and the verdict are 14 + 14 + 20 of them, and what choosing keeps."""
    path = shell.write(shell.table(budget={"tokens": 200}))
    (warning,) = ok(shell("check", path, "--json")).json["warnings"]
    least = re.search(r"take (\d+), about (\d+) tokens", warning)
    assert warning.startswith("budget.tokens: 200 pay for some 18 generations") and least is not None
    assert int(least[1]) > 48 and int(least[2]) == 11 * int(least[1])
    assert "20 generations of it are for the verdict, about a third for choosing" in ok(shell("check", path)).out
    assert ok(shell("check", path, "--json", "--set", f"budget.tokens={least[2]}")).json["warnings"] == []
    told = ok(shell("optimize", path)).err
    assert "nothing but the baseline was tried, so nothing can be better: raise the budget" in told
    assert "nothing but the baseline" not in ok(shell("optimize", path, "--set", f"budget.tokens={least[2]}")).err
    assert "the budget of 200 tokens is spent: of the verdict's 20 generations it pays for 4" in told
    one = shell.write(shell.table(name="one", space={"temperature": {"choices": [0.7]}}))
    (warning,) = ok(shell("check", one, "--json")).json["warnings"]
    assert warning == "the space holds one configuration: it is held against the baseline, and nothing is searched"


def test_the_study_never_costs_more_than_its_bill(shell: Shell) -> None:
    path = shell.write(shell.table())
    bill = ok(shell("check", path, "--json")).json["generations"]["total"]
    before = len(shell.requests)
    ok(shell("optimize", path, "-q"))
    assert 0 < len(shell.requests) - before <= bill


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"embedding", "function", "judge"}))
def test_init_writes_a_file_that_check_accepts(shell: Shell, kind: str) -> None:
    write_rows(shell.folder / "rows.jsonl", [row | {"answer": "yes 7"} for row in rows(30)])
    flags = ["--data", "rows.jsonl", "--model", "toy", "--scorer", kind, "--backend", "tests.toy:ToyBackend"]
    ran = ok(shell("init", *flags))
    assert ran.out == "" and "wrote study.toml. Next: genopt check study.toml" in ran.err
    found = ok(shell("check", "study.toml", "--json")).json
    assert found["study"] == "study" and found["space"].keys() == {"temperature", "top_p"}


def test_init_asks_for_what_no_flag_says(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(shell.folder / "rows.jsonl", rows(30))
    monkeypatch.setattr("sys.stdin", io.StringIO("rows.jsonl\ntoy\n\n"))
    ran = ok(shell("init", "--backend", "tests.toy:ToyBackend", "-o", "mine.toml"))
    assert ran.out == "" and "Your data" in ran.err and "[rouge_l]" in ran.err
    assert ok(shell("check", "mine.toml", "--json")).json["study"] == "mine"


def test_init_into_another_folder_writes_paths_that_hold_there(shell: Shell) -> None:
    (shell.folder / "studies").mkdir()
    (shell.folder / "dätä").mkdir()
    write_rows(shell.folder / "dätä" / "rows 🙂.jsonl", rows(30))
    flags = ["--data", "dätä/rows 🙂.jsonl", "--model", "toy", "--scorer", "bleu", "--backend", "tests.toy:ToyBackend"]
    assert (
        "Next: genopt check studies/one.toml --allow-outside" in ok(shell("init", *flags, "-o", "studies/one.toml")).err
    )
    bad(shell("check", "studies/one.toml"), "dataset.path", "is outside", "--allow-outside")
    ok(shell("check", "studies/one.toml", "--allow-outside"))


def test_init_leaves_the_prompt_to_rows_that_bring_their_messages(shell: Shell) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    write_rows(shell.folder / "chats.jsonl", [{"topic": f"t{i}", "messages": turns} for i in range(30)])
    flags = ["--data", "chats.jsonl", "--model", "toy", "--scorer", "rouge_l", "--backend", "tests.toy:ToyBackend"]
    ok(shell("init", *flags))
    ok(shell("check", "study.toml"))


def test_init_overwrites_only_when_told_to(shell: Shell) -> None:
    write_rows(shell.folder / "rows.jsonl", rows(30))
    path = shell.folder / "study.toml"
    path.write_text("precious")
    flags = ["--data", "rows.jsonl", "--model", "toy", "--scorer", "bleu"]
    bad(shell("init", *flags), "study.toml exists", "-o", "--force")
    assert path.read_text() == "precious"
    ok(shell("init", *flags, "--force"))
    assert "precious" not in path.read_text()


@pytest.mark.parametrize(
    ("flags", "needles"),
    [
        (["--scorer", "exact_mach"], ("--scorer", "'exact_mach'", "Did you mean 'exact_match'?")),
        (["--data", "row.jsonl"], ("row.jsonl: no such file",)),
        (["-o", "none/study.toml"], ("none/study.toml", "there is no folder none")),
        (["-o", "/proc/study.toml"], ("-o /proc/study.toml", "cannot be written", "Name another file")),
        (["--backend", "olama"], ("--backend", "'olama'", "Did you mean 'ollama'?")),
    ],
)
def test_init_refuses_what_check_would_refuse(shell: Shell, flags: list[str], needles: tuple[str, ...]) -> None:
    write_rows(shell.folder / "rows.jsonl", rows(30))
    bad(shell("init", "--data", "rows.jsonl", "--model", "toy", "--scorer", "bleu", *flags), *needles)
    assert not (shell.folder / "study.toml").exists()


def test_params_lists_what_an_engine_honours(shell: Shell) -> None:
    from genopt.backends.transformers import PARAMS

    text = ok(shell("params", "transformers")).out
    listed = [line.split()[0] for line in text.splitlines()[1:]]
    assert listed == list(PARAMS)
    found = ok(shell("params", "transformers", "--json")).json
    assert found["top_p"]["legal"] == "(0, 1]" and found["top_p"]["off"] == [1.0]
    assert all(entry["doc"] for entry in found.values())


def test_params_lists_the_presets_an_engine_can_take(shell: Shell) -> None:
    text = ok(shell("params", "transformers", "--presets")).out
    assert "\ngreedy " in text and "temperature=1.5 min_p=0.1" in text and "arXiv" in text
    found = ok(shell("params", "tests.toy:ToyBackend", "--model", "toy", "--presets", "--json")).json
    assert found["greedy"]["params"] == {"temperature": 0.0} and "beams" not in found


def test_params_of_a_model_shows_its_defaults(shell: Shell) -> None:
    found = ok(shell("params", "tests.toy:ToyBackend", "--model", "toy", "--json")).json
    assert {name: entry["default"] for name, entry in found.items()} == DEFAULTS
    assert found.keys() == PARAMETERS.keys()
    bad(shell("params", "transformer"), "'transformer'", "Did you mean 'transformers'?")
    bad(shell("params", "tests.toy:ToyBackend"), "--model")


def test_the_schema_accepts_the_quickstart_and_refuses_unknown_keys(shell: Shell) -> None:
    import tomllib

    schema = ok(shell("schema")).json
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator.check_schema(schema)
    study = tomllib.loads((ROOT / "studies" / "quickstart" / "study.toml").read_text(encoding="utf-8"))
    check = validator(schema)
    assert [error.message for error in check.iter_errors(study)] == []
    assert [error.message for error in check.iter_errors(shell.table())] == []
    for wrong in (
        study | {"budgett": {}},
        study | {"budget": {"trails": 3}},
        study | {"search": study["search"] | {"sampler": "annealing"}},
        study | {"space": {"top_p": {"low": 0.1, "hihg": 0.9}}},
        {name: value for name, value in study.items() if name != "dataset"},
    ):
        assert list(check.iter_errors(wrong))


INTERRUPTED = """
import asyncio, os
sent = []
async def score(example, text):
    if not sent:
        sent.append(os.kill(os.getpid(), {number}))
    await asyncio.sleep(60)
"""


@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        (("check", "study.toml"), signal.SIGINT, 130),
        (("evaluate", "study.toml"), signal.SIGTERM, 75),
        (("rescore", "study.toml", "--scorer", '{kind = "function", function = "mine:score"}'), signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_whatever_generates_or_scores_with_its_exit_code(
    shell: Shell, words: tuple[str, ...], number: int, code: int
) -> None:
    if words[0] == "rescore":
        assert shell("optimize", shell.write(shell.table()), "--quiet").code == 0
    else:
        shell.write(shell.table(scorers={"mine": {"kind": "function", "function": "mine:score"}}))
    (shell.folder / "mine.py").write_text(INTERRUPTED.format(number=int(number)), encoding="utf-8")
    ran = shell(*words)
    assert (ran.code, ran.out) == (code, "")
    assert "stopping: committing what is done" in ran.err and "error" not in ran.err


# --- studies


def test_studies_lists_and_inspects(shell: Shell, study: Path) -> None:
    found = ok(shell("studies", "list", study, "--json")).json
    verdict = ok(shell("best", study, "--json")).json
    trials = shell.count("trials")
    assert found == [{"name": "toy", "trials": trials, "verdict": verdict["verdict"], "genopt": True}]
    assert ok(shell("studies", "list", url(shell).partition("#")[0])).out == f"toy\t{trials} trials\t" + (
        verdict["verdict"] + "\n"
    )
    about = ok(shell("studies", "inspect", url(shell))).json
    assert about["study"]["backend"]["engine"] == "toy" and about["study"]["space"].keys() == {"temperature", "top_p"}
    assert about["search_generations"] + about["confirm_generations"] == len(shell.requests)
    assert len(about["workers"]) == 1 and about["workers"][0]["closed"] is True


def test_who_watches_the_workers_sees_the_calls_that_failed(shell: Shell, study: Path) -> None:
    """Of each worker, for people and as JSON; nothing is said where none failed."""
    archive = load(url(shell))
    for host, failed in (("calm", 0), ("torn", 1200)):
        me = as_worker()
        with closing(Store(archive.url, worker=me.id)) as store:
            store.leases.join(replace(me, host=host), archive.id)
            store.write({FAILED: [{}] * failed})
    rows = ok(shell("studies", "--live", study, "--json")).json
    assert {row["host"]: row["calls_failed"] for row in rows} == {"calm": 0, "torn": 1200}
    calm, torn = sorted(ok(shell("studies", "--live", study)).out.splitlines())
    assert "\t0 generations (0.0/s)\t" in calm
    assert "\t0 generations (0.0/s), 1,200 calls failed\t" in torn


def test_a_clone_has_the_same_trials_and_goes_on_without_generating_anything_again(shell: Shell, study: Path) -> None:
    trials, generations = shell.count("trials"), shell.count("genopt_generations")
    scores, used = shell.count("genopt_scores"), shell.count("genopt_trial_rows")
    ran = ok(shell("studies", "clone", study, "copy"))
    assert f"cloned to copy: {trials} trials, {generations} generations" in ran.err
    assert shell.count("genopt_generations") == 2 * generations
    assert (shell.count("genopt_scores"), shell.count("genopt_trial_rows")) == (2 * scores, 2 * used)
    assert ok(shell("trials", url(shell, "copy"), "--jsonl")).out == ok(shell("trials", study, "--jsonl")).out

    before = shell.requests
    first = ok(shell("best", study, "--json")).json
    again = ok(shell("optimize", study, "--set", "name=copy", "--json", "-q")).json
    assert again == first and shell.requests == before

    more = ok(shell("optimize", study, "--set", "name=copy", "--set", "budget.trials=7", "--json", "-q")).json
    new = shell.requests[len(before) :]
    assert more["trials"] == 7 and new

    def identity(request: dict[str, Any]) -> tuple[Any, ...]:
        return (json.dumps(request["params"]), request["example"], request["sample"], request["phase"])

    assert not {identity(r) for r in new} & {identity(r) for r in before}
    assert ok(shell("best", study, "--json")).json == first


def test_a_study_needs_a_name(shell: Shell, study: Path) -> None:
    bad(shell("studies", "clone", study, " "), "NAME: is empty")
    bad(shell("optimize", study, "--fork", ""), "--fork: is empty")
    assert shell.count("studies") == 1


def test_a_clone_needs_a_free_name(shell: Shell, study: Path) -> None:
    bad(shell("studies", "clone", study, "toy"), "has a study 'toy' already", "choose another name")


def test_delete_leaves_nothing_of_the_study_and_all_of_the_others(shell: Shell, study: Path) -> None:
    tables = ["generations", "scores", "trial_rows", "workers", "examples"]
    ok(shell("studies", "clone", study, "copy"))
    half = {table: shell.count(f"genopt_{table}") // 2 for table in tables if table != "workers"}
    trials = shell.count("trials")
    ok(shell("studies", "delete", study, "--yes"))
    assert {table: shell.count(f"genopt_{table}") for table in half} == half
    assert shell.count("trials") == trials // 2
    bad(shell("best", study), "has no study 'toy'", "it has: copy")
    ok(shell("best", url(shell, "copy")))
    ok(shell("studies", "delete", url(shell, "copy"), "--yes"))
    assert {table: shell.count(f"genopt_{table}") for table in tables} == dict.fromkeys(tables, 0)
    assert shell.count("trials") == shell.count("studies") == 0


def test_delete_asks_first(shell: Shell, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    ran = shell("studies", "delete", study)
    assert ran.code == 1 and f"{len(shell.requests)} generations?" in ran.err and "kept toy" in ran.err
    assert shell.count("genopt_generations") == len(shell.requests)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    ok(shell("studies", "delete", study))
    assert shell.count("genopt_generations") == 0


def test_what_a_users_own_code_prints_does_not_get_among_the_data(shell: Shell) -> None:
    (shell.folder / "chatty.py").write_text("def score(example, text):\n    print('looking')\n    return 1.0\n")
    ran = ok(shell("optimize", shell.write(shell.table(scorers={"right": {"kind": "chatty:score"}})), "--json"))
    assert ran.json["verdict"] == "not shown" and "looking" in ran.err


def test_a_fault_of_a_users_own_code_is_told_in_one_line_with_a_way_to_its_traceback(shell: Shell) -> None:
    (shell.folder / "faulty_scorer.py").write_text("def score(example, text):\n    return 1 / 0\n")
    path = shell.write(shell.table(scorers={"right": {"kind": "faulty_scorer:score"}}))
    ran = shell("check", path)
    assert ran.code == 1 and ran.out == ""
    assert "ZeroDivisionError" in ran.err and "Traceback" not in ran.err
    with pytest.raises(Exception, match="ZeroDivisionError"):
        shell("--debug", "check", path)


@pytest.mark.parametrize("command", ["check", "optimize"])
def test_pull_is_an_option_of_the_engine(shell: Shell, command: str) -> None:
    """The embedded engine has none of that name, and says so before it loads anything."""
    path = shell.write(shell.table() | {"backend": {"kind": "transformers", "model": "nowhere"}})
    ran = shell(command, path, "--pull")
    assert ran.code == 2
    assert "options.pull" in ran.err


@pytest.mark.parametrize(
    ("machine", "said", "found"), [("x86_64", None, "1"), ("x86_64", "4", "4"), ("aarch64", None, None)]
)
def test_numpy_keeps_to_one_thread_where_nothing_else_is_said(
    monkeypatch: pytest.MonkeyPatch, machine: str, said: str | None, found: str | None
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "")  # so that it is put back
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    if said is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", said)
    monkeypatch.setattr("platform.machine", lambda: machine)
    one_blas_thread()
    assert os.environ.get("OPENBLAS_NUM_THREADS") == found
