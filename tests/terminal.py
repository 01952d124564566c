"""A person at a terminal: `genopt ARGS` in a process of its own behind a pseudo-terminal, read and typed at."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE = 120.0  # seconds; a loaded machine starts Python slowly


class Terminal:
    """What the screen got so far is `screen`; `press` waits until a key is being read, as a person would."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master, self.screen = process, master, ""

    def expect(self, text: str, times: int = 1) -> str:
        """The screen, once `text` has been shown so many times. Fails when the program ends or hangs before."""
        self._until(lambda: self.screen.count(text) >= times, f"{text!r} to be shown {times} times")
        return self.screen

    def press(self, key: str) -> None:
        """Press a key once the program reads single keys; expect what follows before the next one."""
        self._until(lambda: not termios.tcgetattr(self._master)[3] & termios.ICANON, "a key to be read")
        os.write(self._master, key.encode())

    def type(self, line: str) -> None:
        """Type a line and Enter."""
        os.write(self._master, f"{line}\n".encode())

    def ended(self) -> int:
        """The exit code, once the program has ended."""
        self._until(lambda: self.process.poll() is not None, "the program to end")
        return int(self.process.returncode)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            over = self.process.poll() is not None
            if self._read() or condition():
                continue
            assert not over, f"the program ended while waiting for {what}:\n{self.screen}"
            assert time.monotonic() < limit, f"waited in vain for {what}:\n{self.screen}"

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 0.02)
        data = b""
        with suppress(OSError):  # nobody holds the other end any more
            data = os.read(self._master, 65536) if ready else b""
        self.screen += data.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(data)


@contextmanager
def terminal(folder: Path, *arguments: object) -> Iterator[Terminal]:
    """`genopt ARGUMENTS`, run in a folder; killed at the end if it has not ended."""
    master, slave = os.openpty()
    command = [sys.executable, "-m", "genopt", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(master)
