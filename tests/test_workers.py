"""Several workers on one study: what they share, what is left when one dies, what others may see of them."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from genopt.archive import locate
from genopt.cli._fleet import study_arguments
from genopt.cli._title import passwords
from genopt.database import masked, with_driver
from genopt.errors import StudyError
from genopt.leases import Spent, Worker
from genopt.migrations import upgrade
from genopt.store import Store
from genopt.workers import Crew
from tests.dying import Command, command, complete
from tests.processes import finish, log, running, when, write_study
from tests.studies import generations, query
from tests.test_resume import requested


def test_a_worker_that_is_killed_leaves_its_work_to_the_other(tmp_path: Path) -> None:
    """The other is told of nothing but goes on, and the study ends as if undisturbed; nothing committed is asked for
    again."""
    calm, torn = tmp_path / "calm", tmp_path / "torn"
    write_study(calm, rows=20, trials=6, delay=0.0)
    write_study(torn, rows=20, trials=6, delay=0.1)
    assert complete(calm).code == 0
    with command(torn) as one, command(torn) as other:
        assert when(torn, one, lambda lines: len(lines) >= 40)
        one.kill()
        kept = set(query(torn, "SELECT params, example_id, sample, phase FROM genopt_generations"))
        before = len(log(torn))
        ended = other.finish()
    assert ended.code == 0, ended.err
    assert generations(torn) == generations(calm)
    committed = {(json.dumps(json.loads(params), sort_keys=True), *rest) for params, *rest in kept}
    assert not committed & {requested(line) for line in log(torn)[before:]}
    assert query(torn, "SELECT count(*) FROM trials WHERE state IN ('RUNNING', 'WAITING')") == [(0,)]
    assert query(torn, "SELECT count(*) FROM genopt_claims") == [(0,)]
    assert query(torn, "SELECT count(*) FROM genopt_workers WHERE NOT closed") == [(0,)]


def test_two_workers_ask_for_nothing_twice(tmp_path: Path) -> None:
    """Baseline, search, finalists and verdict are shared out, by the engine's own log."""
    write_study(tmp_path, rows=30, trials=6, delay=0.05)
    meet = ("--set", "backend.options.meet=meet.txt")
    with command(tmp_path, *meet) as one, command(tmp_path, *meet) as other:
        ended = [one.finish(), other.finish()]
    assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
    assert ended[0].out == ended[1].out
    asked = Counter(requested(line) for line in log(tmp_path))
    assert max(asked.values()) == 1
    paid = query(tmp_path, "SELECT search_generations + confirm_generations FROM genopt_workers")
    assert min(paid)[0] > 0, "both worked"
    assert sum(count for (count,) in paid) == len(asked)
    ((kept,),) = query(tmp_path, "SELECT value_json FROM study_user_attributes WHERE key = 'genopt:verdict'")
    verdict = json.loads(kept)
    told = {"tune": verdict["search_generations"], "confirm": verdict["confirm_generations"]}
    assert told == Counter(phase for *_, phase in asked), "what both paid for"
    assert verdict["tokens"] == 11 * len(asked)
    assert len({row[0] for row in generations(tmp_path)}) <= 7


def test_a_turn_given_back_at_the_moment_it_is_asked_for_is_asked_for_again() -> None:
    answers: list[dict[str, str]] = [{}, {"turn looks": "other"}, {"turn looks": "me"}]

    class Double:  # the row is gone between the claim that failed and the look at who holds it
        id, renewed, back = 1, 0.0, 0.0

        def share(self, claims: object) -> None: ...
        def workers(self, study_id: int) -> list[Worker]:
            return []

        def claim(self, study_id: int, worker: str, names: list[str]) -> dict[str, str]:
            return answers.pop(0)

        def release(self, study_id: int, worker: str, names: list[str]) -> None:
            given_back.extend(names)

    async def run(action: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return action(*args, **kwargs)

    async def take() -> None:
        double: Any = Double()
        crew = Crew(run, double, double, Worker("me", "host", "1"), double, lambda _: None)
        async with crew.turn("looks"):
            assert not answers and not given_back

    given_back: list[str] = []
    asyncio.run(take())
    assert given_back == ["turn looks"]


class Watched:
    """A crew that sees another worker on another machine through made-up leases, and what it takes for dead."""

    id, renewed, back = 1, 0.0, -math.inf

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = 1000.0  # here; the database's is an hour ahead
        self.heartbeat = {"me": 4599.0, "other": 4599.0}
        self.set = 0.0
        self.buried: list[str] = []
        monkeypatch.setattr("genopt.workers.time", SimpleNamespace(monotonic=lambda: self.clock))
        double: Any = self
        self.crew = Crew(self.run, double, double, Worker("me", "elsewhere", "1", lease=60.0), double, lambda _: None)
        monkeypatch.setattr(self.crew, "bury", self.bury)

    def share(self, claims: object) -> None: ...
    async def run(self, action: Callable[..., Any], *args: Any) -> Any:
        return action(*args)

    async def bury(self, worker: Worker) -> None:
        self.buried.append(worker.id)

    def workers(self, study_id: int) -> list[Worker]:
        database = self.clock + 3600 + self.set
        return [
            Worker(name, "elsewhere", "1", heartbeat=at, age=database - at, lease=60.0)
            for name, at in self.heartbeat.items()
        ]

    def look(self, seconds: float, *beats: str) -> list[str]:
        """Some seconds later, in which these have said that they live: who is taken for dead."""
        self.clock += seconds
        for name in beats:
            self.heartbeat[name] = self.clock + 3600 + self.set
        if "me" in beats:
            self.back = self.clock if self.clock - self.renewed > 30 else self.back
            self.renewed = self.clock
        self.buried.clear()
        asyncio.run(self.crew.look())
        return list(self.buried)


def test_a_worker_that_is_silent_for_longer_than_its_lease_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    for _ in range(4):
        assert watched.look(15, "me", "other") == []
    for _ in range(4):
        assert watched.look(15, "me") == []
    assert watched.look(15, "me") == ["other"]


def test_after_an_outage_the_others_may_say_first_that_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could renew a lease while the database was away: the first one back buries none of the others."""
    watched = Watched(monkeypatch)
    assert watched.look(15, "me", "other") == []
    assert watched.look(300) == []  # back, and the lease here is not renewed yet
    assert watched.look(1, "me") == []
    assert watched.look(20, "me", "other") == []
    assert watched.look(15, "me", "other") == []

    watched = Watched(monkeypatch)
    assert watched.look(15, "me", "other") == []
    assert watched.look(300, "me") == []
    assert watched.look(20, "me") == []
    assert watched.look(20, "me") == ["other"]  # it does not come back


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_set_kills_nobody_and_revives_nobody(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    watched = Watched(monkeypatch)
    assert watched.look(15, "me", "other") == []
    watched.set = hours * 3600.0
    assert watched.look(15, "me") == []
    assert watched.look(10, "me", "other") == []
    for _ in range(3):
        assert watched.look(15, "me", "other") == []
    found = [watched.look(15, "me") for _ in range(5)]  # and now it dies
    assert found == [[], [], [], [], ["other"]]


def test_a_worker_that_died_before_the_clock_was_set_back_does_not_live_for_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watched = Watched(monkeypatch)
    assert watched.look(15, "me", "other") == []
    watched.set = -5 * 3600.0
    assert [bool(watched.look(15, "me")) for _ in range(5)] == [False, False, False, False, True]


def test_a_fleet_tells_its_workers_apart_and_stops_with_them(tmp_path: Path) -> None:
    write_study(tmp_path, rows=60, trials=40, delay=0.5)
    with running(tmp_path, "--workers", "2") as parent:
        assert when(tmp_path, parent, lambda lines: len(lines) > 20)
        live = Command(tmp_path, ["studies", "--live", "study.toml", "--json"]).finish()
        refused = Command(tmp_path, ["studies", "delete", "study.toml", "--yes"]).finish()
        parent.send_signal(signal.SIGTERM)
        ended = finish(parent)
    workers = json.loads(live.out)
    assert len(workers) >= 1
    assert all(worker["alive"] and worker["silent_seconds"] < 30 for worker in workers)
    assert refused.code == 2
    assert "is being worked on" in refused.err
    assert ended.code == 75
    assert "[1] " in ended.err and "[2] " in ended.err
    assert query(tmp_path, "SELECT count(*) FROM genopt_workers WHERE NOT closed") == [(0,)]


def test_tables_of_an_older_version_are_refused_with_the_command_that_brings_them_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    new = Store(url)
    new.create()
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:  # what version 2 had
        connection.execute("DROP TABLE genopt_claims")
        for name in ("lease", "stage", "rate", "search_generations", "confirm_generations", "tokens", "failed"):
            connection.execute(f"ALTER TABLE genopt_workers DROP COLUMN {name}")
        connection.execute("DROP INDEX genopt_generations_kin")
        for name in ("kin", "tokens", "harvested_from"):
            connection.execute(f"ALTER TABLE genopt_generations DROP COLUMN {name}")
        connection.execute("UPDATE genopt_meta SET value = '2' WHERE key = 'schema'")
        connection.execute("CREATE TABLE study_user_attributes (study_id INTEGER, key TEXT, value_json TEXT)")
        connection.execute(
            "INSERT INTO study_user_attributes VALUES (1, 'genopt:taken_over', '{\"search_generations\": 1}')"
        )
        columns = "id, study_id, config_key, example_id, sample, phase, seed, params, text, finish"
        columns += ", prompt_tokens, completion_tokens, seconds, first_token_seconds, why"
        row = "'k', 'e', {n}, '{phase}', 0, '', '', 'stop', 10, 1, 0.0, NULL, ''"
        for n, phase in ((0, "tune"), (1, "tune"), (2, "confirm")):
            connection.execute(
                f"INSERT INTO genopt_generations ({columns}) VALUES ({n}, 1, {row.format(n=n, phase=phase)})"
            )
        beaten = time.time()
        connection.execute("INSERT INTO genopt_workers VALUES ('w', 1, 'h', '1', 1.0, ?, 0)", (beaten,))
    with pytest.raises(StudyError, match="older genopt") as refused:
        new.create()
    assert refused.value.hint.endswith(f"genopt studies upgrade {url}")
    with pytest.raises(StudyError, match="is at work"):
        upgrade(url)
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE genopt_workers SET closed = 1")
    assert upgrade(url)[0] == 2
    assert upgrade(url)[0] == upgrade(url)[1]
    new.create()
    (worker,) = new.leases.workers(1)
    assert worker.paid == Spent(1, 1, 33, 0)
    assert new.leases.claim(1, "w", ["x"]) == {"x": "w"}
    new.close()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:geheim@h/d", "postgresql://me:***@h/d"),
        ("postgresql://h/d?user=me&password=geheim", "postgresql://h/d?password=***&user=me"),
        ("mysql://me:geheim@h/d?ssl_key_password=geheim", "mysql://me:***@h/d?ssl_key_password=***"),
    ],
)
def test_no_secret_of_a_url_is_shown(url: str, shown: str) -> None:
    assert masked(url) == shown
    assert set(passwords(f"storage={url}")) == {"geheim"}


def test_a_password_on_the_command_line_is_blotted_out(tmp_path: Path) -> None:
    write_study(tmp_path, rows=20, trials=20, delay=0.2)
    with running(tmp_path, "--set", "backend.options.note=x://me:geheim@h") as process:
        assert when(tmp_path, process, lambda lines: len(lines) > 2)
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
    assert b"geheim" not in shown
    assert b"x://me:******@h" in shown


def test_no_worker_of_a_fleet_has_the_storage_on_its_command_line() -> None:
    given = ["storage=postgresql://me:geheim@h/d", "budget.trials=3", "storage_proxy=h:13000"]
    told = study_arguments(Path("s.toml"), given, fork=None, quiet=False, lease=60.0, allow_outside=False)
    assert told == ["s.toml", "--lease", "60.0", "--set", "budget.trials=3", "--set", "storage_proxy=h:13000"]


def test_every_command_means_the_storage_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(tmp_path)
    assert locate(str(tmp_path / "study.toml"))[0] == f"sqlite:///{tmp_path}/toy.db"
    monkeypatch.setenv("GENOPT_STORAGE", "postgresql://me@h/d")
    assert locate(str(tmp_path / "study.toml")) == ("postgresql://me@h/d", "toy")
    assert locate("sqlite:///other.db#x") == ("sqlite:///other.db", "x"), "what is said outright counts"


def test_a_url_without_a_driver_means_the_one_that_is_installed_with_genopt() -> None:
    assert with_driver("mysql://h/d") == "mysql+pymysql://h/d"
    assert with_driver("postgres://h/d") == "postgresql+psycopg://h/d"
    assert with_driver("sqlite:///a.db") == "sqlite:///a.db"
