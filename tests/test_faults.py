"""Faults planted in real processes: whatever dies, and wherever, the study goes on, and loses and repeats nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from genopt.cli._fleet import DEATHS, run_fleet
from tests.dying import command, complete
from tests.processes import finish, log, running, when, write_study
from tests.studies import generations, query
from tests.test_resume import requested

KILLED = -9
MEASURED = 'sampler = "random"\npruner = "none"\nfinalists = 2\nreplicates = 1'
PLACES = {  # where a worker is killed -> how many there are of the like: it dies at the n-th, in the order of a study
    "the study is made": "genopt.study.study:Study.__init__ before 1",
    "its rows are entered": "genopt.store:Store.remember_examples after 1",
    "it is described": "genopt.runner:check_unchanged after 1",
    "the baseline is measured": "genopt.search:_enter_baseline before 1",
    "the baseline is entered": "genopt.study.study:Study.enter after 1",
    "ask: a trial is begun": "genopt.study.queue:Queue._begin after 1",
    "ask: half of it is drawn": "genopt.study.draft:Draft.answer after 2",
    "ask: it is drawn": "genopt.study.study:Study.ask after 1",
    "a dead worker's trial is put back": "genopt.study.study:Study._enqueue after 1",
    "generate: requests are sent": "tests.toy:ToyBackend._answer after 3",
    "generate: they are answered": "tests.toy:ToyBackend.generate after 3",
    "score": "genopt.trial:score_rows after 6",
    "commit: not yet": "genopt.store:renew before 1",
    "commit: just now": "genopt.store:Store.write after 1",
    "report": "genopt.study.study:Study.report after 1",
    "tell: not yet": "genopt.study.study:Study.tell before 1",
    "tell: the outcome is there": "optuna.storages._cached_storage:_CachedStorage.set_trial_state_values before 1",
    "tell: just now": "genopt.study.study:Study.tell after 1",
    "finals: they are chosen": "genopt.finals:Further._one before 1",
    "finals: they are measured": "genopt.finals:Further._one after 1",
    "verdict: its rows are looked at": "genopt.heldout:by_model before 1",
    "verdict: they are measured": "genopt.heldout:by_model after 1",
    "verdict: it is reached": "genopt.runner:with_opinions after 1",
    "verdict: it is stored": "genopt.study.study:Study.set_attribute after 1",
    "the end": "genopt.writer:Writer.close before 1",
}
BESIDE = ("ask: it is drawn", "generate: they are answered", "score", "commit: just now", "report", "tell: not yet")


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The study undisturbed."""
    folder = tmp_path_factory.mktemp("calm")
    small(folder)
    assert complete(folder).code == 0
    yield folder


def small(folder: Path, **changes: object) -> None:
    write_study(folder, **{"rows": 20, "trials": 4, "delay": 0.002, "search": MEASURED, **changes})  # type: ignore[arg-type]


def committed(folder: Path) -> set[tuple[str, str, int, str]]:
    if not query(folder, "SELECT 1 FROM sqlite_master WHERE name = 'genopt_generations'"):
        return set()
    found = query(folder, "SELECT params, example_id, sample, phase FROM genopt_generations")
    return {(json.dumps(json.loads(params), sort_keys=True), *rest) for params, *rest in found}


def nothing_is_left(folder: Path) -> None:
    """No trial, no claim and no lease of anybody."""
    assert query(folder, "SELECT count(*) FROM trials WHERE state IN ('RUNNING', 'WAITING')") == [(0,)]
    assert query(folder, "SELECT name FROM genopt_claims") == []
    assert query(folder, "SELECT count(*) FROM genopt_workers WHERE NOT closed") == [(0,)]
    unscored = "SELECT count(*) FROM genopt_generations WHERE id NOT IN (SELECT generation_id FROM genopt_scores)"
    assert query(folder, unscored) == [(0,)]


def test_a_worker_killed_anywhere_is_resumed(calm: Path, tmp_path: Path) -> None:
    """One study, killed in every place, one after the other."""
    small(tmp_path)
    for what, place in PLACES.items():
        kept, before = committed(tmp_path), len(log(tmp_path))
        died = complete(tmp_path, place=place)
        assert died.code == KILLED, (what, died)
        assert not kept & {requested(line) for line in log(tmp_path)[before:]}, what
    ended = complete(tmp_path)
    assert ended.verdict["verdict"]
    assert generations(tmp_path) == generations(calm)
    nothing_is_left(tmp_path)


def test_a_worker_killed_anywhere_leaves_its_work_to_the_one_beside_it(calm: Path, tmp_path: Path) -> None:
    small(tmp_path, delay=0.4)  # on busy cores, too, most find something to do
    with ExitStack() as stack:
        others = [stack.enter_context(command(tmp_path, place=PLACES[what])) for what in BESIDE]
        survivor = stack.enter_context(command(tmp_path))
        codes = [other.finish().code for other in others]
        kept, before = committed(tmp_path), len(log(tmp_path))
        ended = survivor.finish()
    assert set(codes) <= {KILLED, 0} and codes.count(KILLED) >= 3, codes  # whoever comes to its place
    assert ended.verdict["verdict"]
    assert not kept & {requested(line) for line in log(tmp_path)[before:]}
    assert generations(tmp_path) == generations(calm)
    nothing_is_left(tmp_path)


def children(pid: int) -> list[int]:
    """The processes that a process has started, and that are there."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def test_a_worker_that_the_system_kills_is_started_again(tmp_path: Path) -> None:
    """As it does where memory runs out; the study ends as if nothing had happened."""
    write_study(tmp_path, rows=20, trials=6, delay=0.5)
    with running(tmp_path, "--workers", "2") as parent:
        assert when(tmp_path, parent, lambda lines: len(lines) >= 8)
        os.kill(children(parent.pid)[0], signal.SIGKILL)
        ended = finish(parent)
    assert ended.verdict["trials"] == 6
    assert ended.err.count("was killed by the system, most likely because memory ran out; it is started again") == 1
    nothing_is_left(tmp_path)


def test_workers_that_are_killed_again_and_again_are_given_up(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(script(tmp_path / "dies", code)))
        assert run_fleet([], 2, storage=None, say=said.append) == (137, None)
    assert sum("it is started again" in line for line in said) == 2 * DEATHS
    assert any("none is left" in line for line in said) and any("fewer --workers" in line for line in said)


def script(path: Path, code: str) -> Path:
    """A program that does this, whatever it is told."""
    path.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    path.chmod(0o700)
    return path


def limited(size: int) -> None:
    """As on a full disk: no file may grow beyond so many bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_full_disk_is_one_clear_error_and_the_study_goes_on_when_there_is_room(calm: Path, tmp_path: Path) -> None:
    small(tmp_path)
    full = complete(tmp_path, "--quiet", prepare=partial(limited, 400_000))
    assert full.code == 2
    (error,) = [line for line in full.err.splitlines() if line.strip() and not line.startswith("  ")]
    assert "cannot be written any longer" in error and "make room on its disk" in full.err
    kept, before = committed(tmp_path), len(log(tmp_path))
    assert kept
    assert complete(tmp_path).verdict["verdict"]
    assert not kept & {requested(line) for line in log(tmp_path)[before:]}
    assert generations(tmp_path) == generations(calm)
    nothing_is_left(tmp_path)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder in which nobody may write, not even root")
def test_a_folder_in_which_nothing_can_be_written_is_one_error_before_anything_is_spent(tmp_path: Path) -> None:
    small(tmp_path)
    ended = complete(tmp_path, "--storage", "sqlite:////proc/study.db")
    assert ended.code == 2
    said, *hint = ended.err.splitlines()
    if os.access("/proc", os.W_OK):  # as root is told
        assert said == "error: storage: sqlite:////proc/study.db cannot be opened (unable to open database file)"
        assert "folder's permissions" in hint[0] and len(hint) == 1
    else:
        told = ": storage: sqlite:////proc/study.db: no file can be made in /proc. Change its permissions, or name"
        assert said.endswith(f"{told} another storage") and not hint
    assert log(tmp_path) == []
