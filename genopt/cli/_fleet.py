"""Owns several workers on this machine: starts them, tells their output apart, passes signals on, tells who died."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORAGE, MEMBER = "GENOPT_STORAGE", "GENOPT_MEMBER"


@dataclass
class Member:
    """One worker: its number from 1, its process, the GPU that it sees, what it wrote to stdout."""

    number: int
    process: subprocess.Popen[str]
    gpu: str | None
    out: list[str] = field(default_factory=list)


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

    Ctrl-C and SIGTERM reach every worker, which stops cleanly; a second one ends them at once. One that dies is told,
    and the others take its work over. The storage travels in the environment, since everybody sees command lines.
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
        readers = [_reader(member, say) for member in members]
        for member in members:
            _told(member, member.process.wait(), say, last=all(m.process.poll() is not None for m in members))
        for reader in readers:
            reader.join()
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
    return max((code for code in codes if code > 0), default=1), None


def _start(arguments: Sequence[str], number: int, devices: Sequence[str], storage: str | None) -> Member:
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
    return Member(number, process, gpu)


def _reader(member: Member, say: Callable[[str], None]) -> threading.Thread:
    """A thread that passes on what a worker says, line by line, under its number, and keeps its result."""

    def pass_on() -> None:
        assert member.process.stderr is not None
        for line in member.process.stderr:
            if line.strip():
                say(f"[{member.number}] {line.rstrip()}")
        keeper.join()

    def keep() -> None:
        assert member.process.stdout is not None
        member.out.extend(member.process.stdout)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    teller = threading.Thread(target=pass_on, daemon=True)
    teller.start()
    return teller


def _told(member: Member, code: int, say: Callable[[str], None], *, last: bool) -> None:
    """Say how a worker died, if it did."""
    if code in (0, 75, 130):
        return
    how = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    say(f"worker {member.number} {how}" + ("" if last else "; the others take its work over"))


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
    study: Path, overrides: Sequence[str], *, fork: str | None, quiet: bool, lease: float, allow_outside: bool
) -> list[str]:
    """What a worker is told of the same command; the storage is not, see `run_fleet`."""
    arguments = [str(study), "--lease", str(lease)]
    for override in overrides:
        if override.partition("=")[0].strip() == "storage":
            continue
        arguments += ["--set", override]
    flags = {"--quiet": quiet, "--allow-outside": allow_outside}
    return [*arguments, *(["--fork", fork] if fork else []), *(flag for flag, given in flags.items() if given)]
