"""Runs `genopt optimize` on the toy engine in processes of its own, to be killed, interrupted and doubled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--quiet", "--json"]


def write_study(
    folder: Path, *, rows: int = 60, trials: int = 8, delay: float = 0.03, late: float | None = None, search: str = ""
) -> None:
    """A study file with its data; every request is logged to log.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    slow = f"delay = {delay}, late_delay = {delay if late is None else late}"
    lines = [json.dumps({"id": f"r{i}", "question": f"Is {i} right?", "answer": "yes"}) for i in range(rows)]
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "study.toml").write_text(
        f"""
name = "toy"
storage = "sqlite:///toy.db"
seed = 5
[dataset]
path = "data.jsonl"
holdout = 0.4
[prompt]
user = "{{{{ question }}}}"
[backend]
kind = "tests.toy:ToyBackend"
model = "toy"
options = {{ {slow}, log = "log.jsonl" }}
[space]
top_p = {{ low = 0.5, high = 1.0 }}
[space.decoding.greedy]
temperature = 0.0
[space.decoding.sampling]
temperature = {{ low = 0.1, high = 1.5 }}
[baseline]
decoding = "sampling"
temperature = 1.4
top_p = 1.0
[scorers.right]
kind = "exact_match"
[search]
{search or 'sampler = "random"' + chr(10) + 'pruner = "none"'}
[budget]
trials = {trials}
""",
        encoding="utf-8",
    )


@contextmanager
def running(folder: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The command, running; it is killed if it still runs in the end."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*COMMAND, *more], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    code: int
    out: str
    err: str

    @property
    def verdict(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        return dict(json.loads(self.out))


def finish(process: subprocess.Popen[str], timeout: float = 120) -> Ended:
    """Wait for the process."""
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


def log(folder: Path) -> list[dict[str, Any]]:
    """Every request so far; a line that is being written is left out."""
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


class Process(Protocol):
    """What runs or has ended."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""


def when(folder: Path, process: Process, ready: Callable[[list[dict[str, Any]]], bool]) -> bool:
    """Wait until the requests so far satisfy `ready`; False when the process ended before."""
    deadline = time.monotonic() + 120
    size = -1
    while process.poll() is None and time.monotonic() < deadline:
        path = folder / "log.jsonl"
        now = path.stat().st_size if path.exists() else 0
        if now != size:
            size = now
            if ready(log(folder)):
                return True
        time.sleep(0.002)
    return False
