"""Whatever ends a process, the same command goes on: nothing committed is asked again, nothing is lost."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from genopt import connections, session
from genopt.archive import load
from genopt.space import SearchSpace
from genopt.spec.dimensions import build_space
from genopt.spec.read import make_study
from genopt.study import open_study
from tests.dying import Command, command, complete
from tests.processes import Ended, finish, log, running, when, write_study
from tests.studies import generations, query
from tests.toy import study

Line = dict[str, Any]
Moment = Callable[[list[Line]], bool]
TPE = 'sampler = "tpe"\npruner = "paired"'


def requested(line: Line) -> tuple[str, str, int, str]:
    """What was asked: the parameters as sent, the example, the sample, the phase."""
    return json.dumps(line["params"], sort_keys=True), line["example"], line["sample"], line["phase"]


def committed(folder: Path) -> set[tuple[str, str, int, str, str]]:
    """(params, example, sample, phase, config_key) of every committed generation."""
    found = query(folder, "SELECT params, example_id, sample, phase, config_key FROM genopt_generations")
    return {(json.dumps(json.loads(params), sort_keys=True), *rest) for params, *rest in found}


def states(folder: Path) -> Counter[str]:
    return Counter(state for (state,) in query(folder, "SELECT state FROM trials"))


def measured(folder: Path) -> set[tuple[int, str]]:
    """(proposal, params) of every completed trial."""
    trials = load(f"sqlite:///{folder / 'toy.db'}#toy").trials
    return {(t.proposal, json.dumps(t.config["params"], sort_keys=True)) for t in trials if t.state == "complete"}


def moments(rng: random.Random) -> list[Moment]:
    """Five random moments: in the baseline, twice in the search, among the finalists, in the verdict."""
    baseline, early, late = rng.randrange(3, 30), rng.randrange(45, 110), rng.randrange(150, 230)
    again, confirm = rng.randrange(5, 60), rng.randrange(3, 14)

    def distinct(lines: list[Line], phase: str, least: int) -> int:
        return len({requested(line) for line in lines if line["phase"] == phase and line["sample"] >= least})

    return [
        lambda lines: distinct(lines, "tune", 0) >= baseline,
        lambda lines: distinct(lines, "tune", 0) >= early,
        lambda lines: distinct(lines, "tune", 0) >= late,
        lambda lines: distinct(lines, "tune", 1) >= again,
        lambda lines: distinct(lines, "confirm", 0) >= confirm,
    ]


def killed_and_resumed(folder: Path, when_to_kill: list[Moment]) -> tuple[int, Ended]:
    """Kill the command at each moment, start it again, and check after each that nothing committed is asked again."""
    kills = 0
    kept: set[tuple[str, str, int, str, str]] = set()
    for moment in when_to_kill:
        before = len(log(folder))
        with command(folder) as process:
            if not when(folder, process, moment):
                break
            process.kill()
        kills += 1
        nothing_committed_is_asked_again(folder, kept, before)
        kept = committed(folder)
    before = len(log(folder))
    ended = complete(folder)
    nothing_committed_is_asked_again(folder, kept, before)
    return kills, ended


def nothing_committed_is_asked_again(folder: Path, kept: set[tuple[str, str, int, str, str]], before: int) -> None:
    """`kept` were committed when the log had `before` lines."""
    asked = [requested(line) for line in log(folder)[before:]]
    assert not {row[:4] for row in kept} & set(asked)
    keys: dict[str, str] = {row[0]: row[4] for row in committed(folder)}
    by_key = {(row[4], *row[1:4]) for row in kept}
    assert not by_key & {(keys[line[0]], *line[1:]) for line in asked if line[0] in keys}


def test_killed_five_times_a_study_ends_as_if_undisturbed(tmp_path: Path) -> None:
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    write_study(calm, delay=0.0)
    write_study(torn, late=0.4)  # the last phases are short: long enough for a busy machine to hit them
    expected = complete(calm).verdict
    kills, ended = killed_and_resumed(torn, moments(random.Random(11)))
    assert kills == 5
    verdict = ended.verdict
    assert generations(torn) == generations(calm)
    assert measured(torn) == measured(calm)
    for name in ("verdict", "difference", "p_value", "interval", "winner_score", "baseline_score", "params", "trials"):
        assert verdict[name] == expected[name], name
    assert expected["confirm_generations"] == 48
    found = states(torn)
    assert found.keys() == {"COMPLETE", "FAIL"}
    assert found["FAIL"] >= 2, "the trials in flight at two kills"
    assert states(calm).keys() == {"COMPLETE"}
    repeated = Counter(requested(line) for line in log(torn))
    assert max(repeated.values()) <= 6
    assert sum(repeated.values()) - len(repeated) < 5 * 60, "only what was in flight or not committed yet is paid twice"


def test_killed_while_a_sampler_learns_and_trials_race(tmp_path: Path) -> None:
    write_study(tmp_path, search=TPE, trials=10, late=0.4)
    at = moments(random.Random(12))
    kills, ended = killed_and_resumed(tmp_path, [at[1], at[3]])
    assert kills >= 1
    assert ended.verdict["verdict"] in ("improved", "not shown", "worse")
    assert states(tmp_path).keys() <= {"COMPLETE", "FAIL"}
    rows = generations(tmp_path)
    assert len({row[:4] for row in rows}) == len(rows)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(tmp_path: Path, number: int, code: int) -> None:
    write_study(tmp_path, trials=6, delay=0.02)
    with running(tmp_path) as process:
        assert when(tmp_path, process, lambda lines: len(lines) > 80)
        process.send_signal(number)
        ended = finish(process)
    assert ended.code == code
    assert "Go on with: genopt optimize study.toml" in ended.err
    assert ended.out == ""
    assert "RUNNING" not in states(tmp_path)
    assert states(tmp_path)["WAITING"] >= 1
    assert query(tmp_path, "SELECT closed FROM genopt_workers") == [(1,)]
    kept, before = committed(tmp_path), len(log(tmp_path))
    in_flight = 16 + 1
    assert len(kept) >= before - in_flight, "what was answered is committed"
    again = complete(tmp_path)
    assert again.verdict["trials"] == 6
    nothing_committed_is_asked_again(tmp_path, kept, before)
    assert states(tmp_path).keys() == {"COMPLETE", "FAIL"}


def test_a_second_interrupt_quits_at_once(tmp_path: Path) -> None:
    """The first is held up by a database that another program has locked; the second does not wait for it."""
    write_study(tmp_path, trials=6, delay=0.02)
    with running(tmp_path) as process, closing(sqlite3.connect(tmp_path / "toy.db", timeout=60)) as connection:
        connection.isolation_level = None
        assert when(tmp_path, process, lambda lines: len(lines) > 60)
        connection.execute("BEGIN IMMEDIATE")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "\n"
        assert process.stderr.readline() == "stopping: committing what is done (once more quits at once)\n"
        time.sleep(0.3)
        assert process.poll() is None, "it waits for the database"
        process.send_signal(signal.SIGINT)
        ended = finish(process, timeout=30)
        connection.execute("ROLLBACK")
    assert ended.code == 130
    assert complete(tmp_path).verdict["trials"] == 6
    assert states(tmp_path).keys() == {"COMPLETE", "FAIL"}


def impatient(busy: float, grace: float = session.GRACE) -> None:
    connections.BUSY, connections.HICCUP, session.GRACE = busy, 0.1, grace


def says(waiting: Command, words: str) -> None:
    """Wait until it has said so, and waits itself."""
    end = time.monotonic() + 60
    while words not in waiting.said() and time.monotonic() < end:
        time.sleep(0.05)
    assert waiting.poll() is None


@pytest.mark.parametrize(
    ("words", "journal"),
    [
        (["best", "study.toml"], "DELETE"),
        (["optimize", "study.toml", "--set", "budget.trials=2"], "DELETE"),
        (["optimize", "study.toml", "--set", "budget.trials=2"], "WAL"),
    ],
)
def test_a_database_that_another_program_has_locked_is_named_once_and_waited_for(
    tmp_path: Path, words: list[str], journal: str
) -> None:
    write_study(tmp_path, trials=1, rows=24)
    assert complete(tmp_path).code == 0
    told = f"storage: {tmp_path / 'toy.db'} is locked: another process is writing to it"
    with closing(sqlite3.connect(tmp_path / "toy.db", isolation_level=None)) as connection:
        assert connection.execute(f"PRAGMA journal_mode={journal}").fetchone() == (journal.lower(),)
        connection.execute("BEGIN EXCLUSIVE")
        waiting = Command(tmp_path, words, prepare=partial(impatient, 60.0))
        once = [*words, "--wait", "0"] if "optimize" in words else words
        ended = Command(tmp_path, once, prepare=partial(impatient, 0.3)).finish()
        assert ended.code == 2, ended.err
        assert ended.err.splitlines()[0] == f"{told}; waiting for it to be done"
        assert f"error: {told}" in ended.err and "close the file there" in ended.err.splitlines()[-1]
        says(waiting, told)
        connection.execute("ROLLBACK")
    ended = waiting.finish()
    assert ended.code == 0 and ended.err.count(told) == 1, ended.err


def test_who_only_reads_a_database_does_not_wait_for_who_writes_to_it(tmp_path: Path) -> None:
    write_study(tmp_path, trials=2, rows=24)
    assert complete(tmp_path).code == 0
    file = "study.toml"
    reading = [
        *(["best", file], ["trials", file], ["report", file], ["report", file, "-o", "report.html"], ["compare", file]),
        *(["export", file, "--to", "vllm"], ["export", file, "--data", "rows.jsonl"]),
        *(["studies", "list", file], ["studies", "inspect", file], ["studies", "--live", file]),
    ]
    with closing(sqlite3.connect(tmp_path / "toy.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("DELETE FROM trials")
        started = [Command(tmp_path, words, prepare=partial(impatient, 0.3)) for words in reading]
        ended = [each.finish() for each in started]
    assert [each.code for each in ended] == [0] * len(reading), [each.err for each in ended]
    assert not any("locked" in each.err for each in ended)


@pytest.mark.parametrize("journal", ["WAL", "DELETE"])
def test_who_holds_nothing_stops_at_once_though_the_database_is_locked(tmp_path: Path, journal: str) -> None:
    write_study(tmp_path, trials=1, rows=24)
    assert complete(tmp_path).code == 0
    with closing(sqlite3.connect(tmp_path / "toy.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA journal_mode={journal}")
        connection.execute("BEGIN EXCLUSIVE")
        with command(tmp_path, "--set", "budget.trials=2", prepare=partial(impatient, 60.0)) as waiting:
            says(waiting, "is locked")
            waiting.send(signal.SIGTERM)
            ended = waiting.finish(20)
    assert ended.code == 75 and "Traceback" not in ended.err, ended.err


@pytest.mark.parametrize("requests", [20, 60], ids=["the baseline", "the search"])
def test_who_holds_work_stops_within_seconds_though_the_database_is_locked(tmp_path: Path, requests: int) -> None:
    write_study(tmp_path, trials=6, delay=0.1)
    with command(tmp_path, prepare=partial(impatient, 60.0, grace=1.0)) as worker:
        assert when(tmp_path, worker, lambda lines: len(lines) > requests)
        with closing(sqlite3.connect(tmp_path / "toy.db", timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            says(worker, "is locked")
            began = time.monotonic()
            worker.send(signal.SIGTERM)
            ended = worker.finish(40)
    assert 1.0 <= time.monotonic() - began < 1.0 + 5, "it waits no longer than GRACE, all that it does then together"
    assert ended.code == 75 and "Traceback" not in ended.err, ended.err
    assert "Go on with" in ended.err and ended.err.count("is locked") == 1
    assert complete(tmp_path).verdict["trials"] == 6


def test_two_processes_work_on_one_study_at_once(tmp_path: Path) -> None:
    write_study(tmp_path, trials=10, rows=40)
    meet = ("--set", "backend.options.meet=meet.txt")
    with command(tmp_path, *meet) as one, command(tmp_path, *meet) as other:
        ended = [one.finish(), other.finish()]
    assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
    assert not any("locked" in each.err for each in ended)
    assert states(tmp_path).keys() == {"COMPLETE"}
    rows = generations(tmp_path)
    assert len({row[:4] for row in rows}) == len(rows)
    tried = {row[0] for row in rows}
    assert 10 <= len(tried) <= 10 + 2, "the budget is one for both, but for trials that were asked at the same moment"
    numbers = query(tmp_path, "SELECT number FROM trials ORDER BY number")
    assert numbers == [(i,) for i in range(len(numbers))]
    assert query(tmp_path, "SELECT count(*), sum(closed) FROM genopt_workers") == [(2, 2)]


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("queued", [False, True])
def test_a_trial_that_was_being_drawn_is_drawn_again_as_it_would_have_been(
    tmp_path: Path, after: int, queued: bool
) -> None:
    """Killed after so many of its three parameters: a new one was not there yet, one from the queue is begun anew."""

    class Killed(BaseException):
        pass

    def drawn(name: str, kill: bool) -> Any:
        table = study(tmp_path, name=name)
        space = build_space(make_study(table, folder=tmp_path).space, tmp_path)
        made = open_study(table["storage"], name, space, seed=1, sampler="random", worker=name)
        if queued:
            made.enqueue({"top_p": 0.75})
        sample = SearchSpace.sample

        def dies(space: SearchSpace, suggest: Any) -> Any:
            left = iter(range(after))

            def limited(path: str, dimension: Any) -> Any:
                if next(left, None) is None:
                    raise Killed
                return suggest(path, dimension)

            return sample(space, limited)

        if kill:
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
                patch.setattr(SearchSpace, "sample", dies)
                made.ask(str)
            assert len(made.trials()) == queued
            made.release_all("killed")
        asked = made.ask(str)
        made.close()
        assert asked is not None
        return asked

    undisturbed, again = drawn("calm", False), drawn("torn", True)
    assert (undisturbed.number, again.number) == (0, int(queued))
    assert again.proposal == undisturbed.proposal == 0
    assert again.params == undisturbed.params
    assert set(again.params) == {"top_p", "decoding", "temperature"}
