"""Owns several workers on this machine: starts them, tells their output apart, passes signals on, tells who died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORAGE, MEMBER = "GENOPT_STORAGE", "GENOPT_MEMBER"
DEATHS = 3  # times that a worker which is killed is started again
PAUSE = 0.1  # seconds between two looks at who has ended


@dataclass
class Member:
    """One worker: its number from 1, its process, the GPU that it sees, how often it was killed before, what it
    wrote to stdout, its exit code."""

    number: int
    process: subprocess.Popen[str]
    gpu: str | None
    deaths: int = 0
    out: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    code: int | None = None

    def ended(self) -> bool:
        """Whether it has ended, and all that it said is passed on."""
        if self.process.poll() is None:
            return False
        for thread in self.threads:
            thread.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.code = self.process.returncode
        return True


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name here, one by one."""
    if (shown := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in shown.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(at) for at, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]


def run_fleet(
    arguments: Sequence[str], count: int, *, storage: str | None, say: Callable[[str], None]
) -> tuple[int, dict[str, Any] | None]:
    """Run `genopt optimize ARGUMENTS` in `count` processes, on one GPU each where there are some; gives the exit code,
    and the verdict as `optimize --json` prints it.

    Ctrl-C and SIGTERM reach every worker, which stops cleanly; a second one ends them at once. One that is killed is
    told of at once and started again, a few times; what it had in hand is taken over meanwhile. The storage travels in
    the environment, since everybody sees command lines.
    """
    devices = gpus()
    members = [_start(arguments, number, devices, storage) for number in range(1, count + 1)]
    stopped: list[int] = []

    def stop(number: int, _: Any) -> None:
        stopped.append(number)
        for member in members:
            if member.process.poll() is None:
                member.process.send_signal(number if len(stopped) == 1 else signal.SIGKILL)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for member in members:
            _listen(member, say)
        while working := [member for member in members if member.code is None]:
            time.sleep(PAUSE)
            for member in working:
                if not member.ended():
                    continue
                done = stopped or any(each.code == 0 for each in members)
                again = not done and member.process.returncode < 0 and member.deaths < DEATHS
                others = sum(each.process.poll() is None for each in members)
                _told(member, say, again=again, others=others)
                if again:
                    members[member.number - 1] = _start(arguments, member.number, devices, storage, member.deaths + 1)
                    _listen(members[member.number - 1], say)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for member in members:
            if member.process.poll() is None:
                member.process.kill()
    codes = [member.process.returncode for member in members]
    verdict = next((member.out for member, code in zip(members, codes, strict=True) if code == 0), None)
    if verdict is not None:
        return 0, json.loads("".join(verdict))
    if stopped:
        return (130 if stopped[0] == signal.SIGINT else 75), None
    return max(code if code > 0 else 128 - code for code in codes), None


def _start(
    arguments: Sequence[str], number: int, devices: Sequence[str], storage: str | None, deaths: int = 0
) -> Member:
    environment = dict(os.environ) | {MEMBER: str(number)}
    gpu = devices[(number - 1) % len(devices)] if devices else None
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    if storage is not None:
        environment[STORAGE] = storage
    process = subprocess.Popen(
        [sys.executable, "-m", "genopt", "optimize", *arguments, "--json"],
        env=environment,
        stdin=subprocess.PIPE,  # it ends when this process does: see `end_with_parent`
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # else a terminal's Ctrl-C would reach it twice
    )
    return Member(number, process, gpu, deaths)


def _listen(member: Member, say: Callable[[str], None]) -> None:
    """Pass on what a worker says, line by line, under its number, and keep its result."""

    def pass_on() -> None:
        assert member.process.stderr is not None
        for line in member.process.stderr:
            if line.strip():
                say(f"[{member.number}] {line.rstrip()}")

    def keep() -> None:
        assert member.process.stdout is not None
        member.out.extend(member.process.stdout)

    member.threads = [threading.Thread(target=target, daemon=True) for target in (pass_on, keep)]
    for thread in member.threads:
        thread.start()


def _told(member: Member, say: Callable[[str], None], *, again: bool, others: int) -> None:
    """Say how a worker died, if it did, and what follows."""
    code = member.process.returncode
    if code in (0, 75, 130):
        return
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    if code == -signal.SIGKILL:
        how = "was killed by the system, most likely because memory ran out"
    follows = "it is started again" if again else "the others take its work over" if others else "none is left"
    say(f"worker {member.number} {how}; {follows}")
    if code == -signal.SIGKILL and not again:
        say("fewer --workers, a smaller model or a lower concurrency need less memory; the same command goes on")


def end_with_parent() -> None:
    """Have this worker stop cleanly when the process that started it is gone."""

    def watch() -> None:
        try:
            while os.read(0, 1024):
                pass
        except OSError:
            return
        os.kill(os.getpid(), signal.SIGTERM)

    if MEMBER in os.environ:
        threading.Thread(target=watch, name="genopt-parent", daemon=True).start()


def study_arguments(
    study: Path, overrides: Sequence[str], *, fork: str | None, quiet: bool, allow_outside: bool, **seconds: float
) -> list[str]:
    """What a worker is told of the same command; `seconds` are its options of time. The storage is not told, see
    `run_fleet`."""
    arguments = [str(study), *(word for name, value in seconds.items() for word in (f"--{name}", str(value)))]
    for override in overrides:
        if override.partition("=")[0].strip() == "storage":
            continue
        arguments += ["--set", override]
    flags = {"--quiet": quiet, "--allow-outside": allow_outside}
    return [*arguments, *(["--fork", fork] if fork else []), *(flag for flag, given in flags.items() if given)]
