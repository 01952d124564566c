"""Owns what other users of the machine see of this process: a password on the command line is blotted out there."""

from __future__ import annotations

import contextlib
import ctypes
import sys


def blot_passwords() -> None:
    """Overwrite the passwords of URLs in this process's command line as the system shows it (Linux; elsewhere nothing
    happens). Until then, milliseconds after the start, they can be seen: the environment (GENOPT_STORAGE) is never
    shown."""
    for secret in {found for each in sys.argv for found in passwords(each)}:
        with contextlib.suppress(OSError, ValueError, IndexError):
            _blot(secret.encode())


def passwords(argument: str) -> list[str]:
    """The passwords of a URL inside an argument, as they are written there."""
    _, mark, rest = argument.partition("://")
    found: list[str] = []
    if mark and "@" in rest:
        _, colon, password = rest.rpartition("@")[0].partition(":")
        found += [password] if colon and password else []
    for option in rest.partition("?")[2].split("&"):
        name, _, value = option.partition("=")
        if value and any(part in name.lower() for part in ("pass", "secret", "token", "key")):
            found.append(value.strip("\"'"))
    return found


def _blot(secret: bytes) -> None:
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    first, last = int(fields[45]), int(fields[46])  # arg_start and arg_end, see proc(5)
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        memory.seek(first)
        shown = memory.read(last - first)
    at = shown.find(secret)
    while at >= 0:
        ctypes.memset(first + at, ord("*"), len(secret))
        at = shown.find(secret, at + len(secret))
