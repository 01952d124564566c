"""Kills workers of one study every few seconds and restarts its database, and looks at what is left.

    python benchmarks/chaos.py --seeds 10            4 workers on PostgreSQL, two restarts of it in each run
    python benchmarks/chaos.py --seeds 10 --sqlite   2 workers on one SQLite file

Each run is held against an undisturbed one: the study has to end, with no trial left running, no row without its trial,
no text twice, no text asked for again that was committed (by the engine's own log), nothing about a locked database in
what the workers said, and, as the sampler is random and nothing is stopped early, exactly the rows of the other run.
Needs PostgreSQL's programs. Exits with 1 when anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from genopt.study import at_work  # noqa: E402
from tests.databases import Postgres  # noqa: E402
from tests.processes import complete, log, running, write_study  # noqa: E402

ROWS, TRIALS, DELAY = 20, 60, 0.1
PAUSE = (4.0, 9.0)  # seconds between two kills
LIMIT = 300.0  # seconds after which a run has failed


def requested(line: dict[str, Any]) -> tuple[str, str, int, str]:
    return json.dumps(line["params"], sort_keys=True), line["example"], line["sample"], line["phase"]


def stored(url: str, what: str = "config_key") -> list[tuple[Any, ...]]:
    """(what, example, sample, phase, seed, text) of every row, sorted. By `config_key`, since of equal configurations
    (greedy decoding does not care for top_p) any may be the first."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        query = f"SELECT {what}, example_id, sample, phase, seed, text FROM genopt_generations"
        rows = sorted(tuple(row) for row in connection.exec_driver_sql(query))
    engine.dispose()
    return rows


def committed(url: str) -> set[tuple[str, str, int, str]]:
    return {(json.dumps(json.loads(params), sort_keys=True), *rest[:3]) for params, *rest in stored(url, "params")}


CHECKS = {
    "trials left running or waiting": "SELECT count(*) FROM trials WHERE state IN ('RUNNING', 'WAITING')",
    "claims left": "SELECT count(*) FROM genopt_claims",
    "rows that are there twice": "SELECT count(*) FROM (SELECT 1 FROM genopt_generations"
    " GROUP BY config_key, example_id, sample, phase HAVING count(*) > 1) AS twice",
    "scores without a text": "SELECT count(*) FROM genopt_scores WHERE generation_id NOT IN"
    " (SELECT id FROM genopt_generations)",
    "texts without a score": "SELECT count(*) FROM genopt_generations WHERE id NOT IN"
    " (SELECT generation_id FROM genopt_scores)",
    "uses of a text that is not there": "SELECT count(*) FROM genopt_trial_rows WHERE generation_id NOT IN"
    " (SELECT id FROM genopt_generations)",
    "uses by a trial that is not there": "SELECT count(*) FROM genopt_trial_rows WHERE trial_id NOT IN"
    " (SELECT trial_id FROM trials)",
}


def left_behind(url: str) -> list[str]:
    """What is wrong in the database."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        found = {what: connection.exec_driver_sql(query).scalar() for what, query in CHECKS.items()}
    engine.dispose()
    found["workers left at work"] = sum(each.alive for each in at_work(url))  # one that was killed at the end is not
    return [f"{count} {what}" for what, count in found.items() if count]


class Run:
    """One study under fire; `problems` is what went wrong."""

    def __init__(self, folder: Path, url: str, seed: int, workers: int, server: Postgres | None) -> None:
        self.folder, self.url, self.server = folder, url, server
        self.rng = random.Random(seed)
        self.count = workers
        self.kills = self.restarts = 0
        self.marks: list[tuple[int, set[tuple[str, str, int, str]]]] = []
        self.problems: list[str] = []
        self.said = ""

    def start(self, stack: ExitStack) -> subprocess.Popen[str]:
        return stack.enter_context(running(self.folder, "--set", f"storage={json.dumps(self.url)}"))

    def go(self) -> float:
        """Run it; the seconds it took."""
        began = time.monotonic()
        with ExitStack() as stack:
            workers = [self.start(stack) for _ in range(self.count)]
            restart_at = sorted(self.rng.uniform(4, 20) for _ in range(2)) if self.server else []
            next_kill = time.monotonic() + self.rng.uniform(*PAUSE)
            while time.monotonic() - began < LIMIT:
                ended = [worker for worker in workers if worker.poll() is not None]
                for worker in ended:
                    _, err = worker.communicate()
                    self.said += err
                    if worker.returncode == 0:
                        return self._finish([each for each in workers if each is not worker], began)
                    if worker.returncode != -signal.SIGKILL:
                        self.problems.append(f"a worker ended with {worker.returncode}: {err[-300:]}")
                    workers.remove(worker)
                    workers.append(self.start(stack))
                if restart_at and time.monotonic() - began > restart_at[0]:
                    restart_at.pop(0)
                    self.restart()
                if time.monotonic() > next_kill:
                    next_kill = time.monotonic() + self.rng.uniform(*PAUSE)
                    self.kill(self.rng.choice(workers))
                time.sleep(0.05)
        self.problems.append(f"it did not end in {LIMIT:.0f} s")
        return time.monotonic() - began

    def kill(self, worker: subprocess.Popen[str]) -> None:
        """Kill a worker, and hold what was committed by then against what is asked for afterwards (see `check`)."""
        kept = None
        with suppress(sa.exc.SQLAlchemyError):  # not made yet, or busy
            kept = committed(self.url)
        before = len(log(self.folder))
        if worker.poll() is None:
            worker.kill()
            self.kills += 1
        if kept is not None:
            self.marks.append((before, kept))

    def restart(self) -> None:
        assert self.server is not None
        self.server.stop(signal.SIGINT)
        time.sleep(self.rng.uniform(1, 4))
        self.server.start()
        self.restarts += 1

    def _finish(self, rest: list[subprocess.Popen[str]], began: float) -> float:
        """The others end by themselves, too."""
        for worker in rest:
            try:
                _, err = worker.communicate(timeout=60)
                self.said += err
                if worker.returncode not in (0, -signal.SIGKILL):
                    self.problems.append(f"a worker ended with {worker.returncode}: {err[-300:]}")
            except subprocess.TimeoutExpired:
                self.problems.append("a worker went on after the verdict")
        return time.monotonic() - began

    def check(self, calm: list[tuple[Any, ...]]) -> Counter[str]:
        """Look at what is left; how often each thing was asked for."""
        self.problems += left_behind(self.url)
        lines = [requested(line) for line in log(self.folder)]
        for before, kept in self.marks:
            again = kept & set(lines[before:])
            if again:
                self.problems.append(f"{len(again)} texts were asked for again that were committed")
        rows = stored(self.url)
        if rows != calm:
            more, less = (sorted(set(a) - set(b)) for a, b in ((rows, calm), (calm, rows)))
            self.problems.append(
                f"the rows differ from those of the undisturbed run: {len(more)} more, such as {more[:1]},"
                f" {len(less)} less, such as {less[:1]}"
            )
        if "locked" in self.said:
            self.problems.append("somebody was told of a locked database")
        repeated = Counter(Counter(lines).values())
        return Counter({f"asked {times} times": count for times, count in repeated.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--sqlite", action="store_true")
    arguments = parser.parse_args()
    wrong = 0
    with ExitStack() as stack:
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genopt-chaos-")))
        server = None if arguments.sqlite else stack.enter_context(Postgres())
        calm = top / "calm"
        write_study(calm, rows=ROWS, trials=TRIALS, delay=0.0)
        assert complete(calm).code == 0
        expected = stored(f"sqlite:///{calm / 'toy.db'}")
        print(f"undisturbed: {len(expected)} rows")
        for seed in range(arguments.first, arguments.first + arguments.seeds):
            folder = top / f"run{seed}"
            write_study(folder, rows=ROWS, trials=TRIALS, delay=DELAY)
            url = f"sqlite:///{folder / 'toy.db'}" if server is None else server.database(f"run{seed}")
            run = Run(folder, url, seed, 2 if server is None else 4, server)
            seconds = run.go()
            asked = run.check(expected)
            print(
                f"seed {seed}: {run.kills} kills, {run.restarts} restarts, {seconds:.0f} s,"
                f" {len(stored(url))} rows, {dict(sorted(asked.items()))}: {'; '.join(run.problems) or 'all holds'}",
                flush=True,
            )
            wrong += bool(run.problems)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
