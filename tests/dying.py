"""Runs genopt's command line in processes that die where they are told. They are forked from one that has loaded
everything, so that one more costs a tenth of a second.

A place is a function, before or after it has done its work, at its n-th call: "genopt.study.study:Study.tell after 2".
"""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.processes import Ended

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests._loaded"])
PLACE = re.compile(r"(?P<module>[\w.]+):(?P<name>[\w.]+) (?P<when>before|after) (?P<nth>\d+)")


def kill_at(place: str) -> None:
    """Have this process kill itself there."""
    found = PLACE.fullmatch(place)
    assert found is not None, place
    *owners, name = found["name"].split(".")
    owner: Any = importlib.import_module(found["module"])
    for part in owners:
        owner = getattr(owner, part)
    real, calls, lock = getattr(owner, name), [0], threading.Lock()

    def due() -> bool:
        with lock:
            calls[0] += 1
            return calls[0] == int(found["nth"])

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def plain(*args: Any, **keywords: Any) -> Any:
        dies = due()
        if dies and found["when"] == "before":
            die()
        given = real(*args, **keywords)
        if dies:
            die()
        return given

    async def awaited(*args: Any, **keywords: Any) -> Any:
        dies = due()
        if dies and found["when"] == "before":
            die()
        given = await real(*args, **keywords)
        if dies:
            die()
        return given

    setattr(owner, name, awaited if inspect.iscoroutinefunction(real) else plain)


class Command:
    """`genopt WORDS` in `folder`, running; `place` is where it dies, `prepare` what it does first."""

    def __init__(
        self,
        folder: Path,
        words: Sequence[str],
        *,
        place: str = "",
        prepare: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        count = len(list(folder.glob("out.*")))
        self.out, self.err = folder / f"out.{count}", folder / f"err.{count}"
        self.out.touch()
        arguments = (folder, list(words), self.out, self.err, place, prepare, dict(environment or {}))
        self.process = _context.Process(target=_run, args=arguments)
        self.process.start()

    def said(self) -> str:
        """What it wrote to stderr so far."""
        return self.err.read_text(encoding="utf-8") if self.err.exists() else ""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self.process.exitcode

    def kill(self) -> None:
        """kill -9, of which nothing is left when this returns."""
        self.process.kill()
        self.process.join()

    def send(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def finish(self, timeout: float = 120) -> Ended:
        """Wait until it has ended."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"it has not ended: {self.said()}"
        return Ended(self.process.exitcode, self.out.read_text(encoding="utf-8"), self.said())


@contextmanager
def command(folder: Path, *words: str, **options: Any) -> Iterator[Command]:
    """The command `genopt optimize study.toml --json WORDS`, running; killed if it still runs in the end."""
    made = Command(folder, ["optimize", "study.toml", "--json", *words], **options)
    try:
        yield made
    finally:
        made.kill()


def complete(folder: Path, *words: str, **options: Any) -> Ended:
    """The command, run to its end."""
    with command(folder, *words, **options) as running:
        return running.finish()


def _run(
    folder: Path,
    words: list[str],
    out: Path,
    err: Path,
    place: str,
    prepare: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ |= environment
    sys.argv = ["genopt", *words]
    try:
        from genopt.cli import main

        if prepare is not None:
            prepare()
        if place:
            kill_at(place)
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
        code = 70
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
