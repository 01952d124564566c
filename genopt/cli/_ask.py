"""Owns asking a person at a terminal: texts are shown so that they cannot do anything to it, and one key is read, or
one line where the answers are piped in. All of it goes to stderr: stdout is data."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click

from genopt.words import safe


def show(title: str, text: str) -> None:
    """Show a block of text under a title. Control characters in either become visible escapes."""
    click.secho(safe(title), bold=True, err=True)
    click.echo("".join(f"  {line}\n" for line in safe(text).split("\n")), err=True)


def key(question: str, keys: Mapping[str, str]) -> str | None:
    """The key that was pressed, one of `keys` (key -> what it means); any other is asked for again.

    None when the input has ended (Ctrl-D, or the end of a pipe). Ctrl-C raises KeyboardInterrupt.
    """
    offered = "  ".join(f"{name} {meaning}".rstrip() for name, meaning in keys.items())
    while True:
        click.echo(f"{safe(question)}  [{safe(offered)}] ", nl=False, err=True)
        pressed = _key()
        click.echo("" if pressed is None else safe(pressed), err=True)
        if pressed is None or pressed in keys:
            return pressed
        click.echo(f"{pressed!r} is none of these: {', '.join(keys)}", err=True)


def line(question: str) -> str | None:
    """The line that was typed, without its end; None when the input has ended."""
    click.echo(f"{safe(question)} ", nl=False, err=True)
    typed = sys.stdin.readline()
    return typed.rstrip("\r\n") if typed else None


def _key() -> str | None:
    if not sys.stdin.isatty():
        typed = sys.stdin.readline()
        return typed.strip().lower() if typed else None
    try:
        return click.getchar().lower()
    except EOFError:
        return None
