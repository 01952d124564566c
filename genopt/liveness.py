"""Owns telling whether a worker is still there: by its lease, and by its process where that is on this machine."""

from __future__ import annotations

import os
import socket
import uuid

from genopt.leases import LEASE, Worker


def as_worker(lease: float = LEASE) -> Worker:
    """This process as a worker."""
    return Worker(uuid.uuid4().hex, socket.gethostname(), process_name(), lease=lease)


def shown(worker: Worker) -> str:
    """A worker, for people."""
    return f"{worker.host}:{worker.process.partition(':')[0]}"


def process_name() -> str:
    """This process, told apart from a later one with the same number where the system says when it began, and from one
    of another machine, or container, of the same name."""
    return f"{os.getpid()}:{_began(os.getpid())}:{_machine()}"


def _machine() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read(8)
        return boot + "-" + os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _began(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state, *fields = file.read().rpartition(")")[2].split()
            return "" if state in "ZX" else fields[18]  # one that ended and is not waited for is no process
    except OSError:
        return ""


def gone(worker: Worker) -> bool:
    """Whether a worker is known to be no more: it was a process of this machine. Of another only its lease is known."""
    pid, _, rest = worker.process.partition(":")
    began, _, machine = rest.partition(":")
    if worker.host != socket.gethostname() or machine != _machine() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return bool(began) and _began(int(pid)) != began


def alive(worker: Worker) -> bool:
    """False when a worker said goodbye, let its lease run out, or is a process of this machine that is gone."""
    return not worker.closed and worker.age <= worker.lease and not gone(worker)
