"""Owns what runs inside an actor: one engine, reached by plain calls. Imports no Ray: the driver makes it an actor.

What goes wrong is a value here, not an exception: it crosses as words, and the driver raises its own kind of error.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import socket
import tempfile
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt.errors import BackendError, GenoptError, MissingExtra, SpecError
from genopt.types import Backend, BackendInfo, Generation, Request

Outcome = tuple[str, Any]  # ("done", what it gave) or (kind of error, what it says)
POINTS = 1_000  # lines of news that are kept until somebody asks


class EngineActor:
    """One engine in a process of its own; `code` are the Python files of the study's folder, by their path in it."""

    def __init__(
        self, kind: str, model: str, options: Mapping[str, Any], folder: str, code: Mapping[str, bytes]
    ) -> None:
        self._told = (kind, model, options, folder, code)
        self._news: list[str] = []
        self._backend: Backend | None = None
        self._files: tempfile.TemporaryDirectory[str] | None = None

    async def where(self) -> str:
        """The machine, for people."""
        return socket.gethostname()

    async def open(self) -> Outcome:
        """Load or reach the engine."""
        return await _outcome(self._open)

    async def news(self) -> list[str]:
        """What the engine said since it was asked last."""
        news, self._news = self._news, []
        return news

    async def models(self, names: Sequence[str]) -> Outcome:
        """As Backend.models."""
        return await _outcome(lambda: self._engine().models(names))

    async def generate(self, request: Request, images: Mapping[str, bytes]) -> Outcome:
        """As Backend.generate; `images` are the contents of the files that the request names."""
        return await _outcome(lambda: self._engine().generate(self._with_images(request, images)))

    async def stats(self) -> dict[str, float]:
        """As Backend.stats; also the sign that the process lives."""
        stats = getattr(self._backend, "stats", None)
        return {} if stats is None else dict(stats())

    async def aclose(self) -> None:
        """Free the engine."""
        if self._backend is not None:
            with contextlib.suppress(Exception):
                await self._backend.aclose()
        if self._files is not None:
            self._files.cleanup()
            self._files = None

    def _kept(self, *names: str) -> Path:
        """The path of a file that is gone when the engine is closed."""
        if self._files is None:
            self._files = tempfile.TemporaryDirectory(prefix="genopt-actor-", ignore_cleanup_errors=True)
        return Path(self._files.name, *names)

    def _engine(self) -> Any:
        if self._backend is None:
            raise BackendError("the engine is not open")
        return self._backend

    async def _open(self) -> BackendInfo:
        from genopt.backends import make_backend
        from genopt.spec import BackendSpec

        kind, model, options, folder, code = self._told
        spec = BackendSpec(kind=kind, model=model, options=dict(options))
        self._backend = backend = make_backend(spec, self._place(folder, code))
        if hasattr(backend, "tell"):
            loop = asyncio.get_running_loop()
            backend.tell = lambda text: loop.call_soon_threadsafe(self._note, text)
        return await backend.open()

    def _note(self, text: str) -> None:
        self._news = [*self._news[-POINTS:], text]

    def _place(self, folder: str, code: Mapping[str, bytes]) -> Path:
        """Where the user's modules are found: in the study's own folder where this machine has the same one."""
        with contextlib.suppress(OSError):
            if all(Path(folder, name).read_bytes() == content for name, content in code.items()):
                return Path(folder)
        for name, content in code.items():
            file = self._kept("code", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        return self._kept("code")

    def _with_images(self, request: Request, images: Mapping[str, bytes]) -> Request:
        """The request with the paths of its images as they are here."""
        if not images:
            return request
        here = {}
        for path, content in images.items():
            file = self._kept(hashlib.sha256(content).hexdigest() + os.path.splitext(path)[1])
            if not file.exists():
                file.write_bytes(content)
            here[path] = str(file)
        messages = tuple(
            dataclasses.replace(message, images=tuple(here[path] for path in message.images))
            for message in request.messages
        )
        return dataclasses.replace(request, messages=messages)


async def _outcome(work: Callable[[], Awaitable[Any]]) -> Outcome:
    try:
        return "done", await work()
    except SpecError as error:
        return "spec", (error.problems, error.hint)
    except MissingExtra as error:
        return "extra", (str(error), error.extra)
    except GenoptError as error:
        return "backend", (str(error), getattr(error, "retryable", False), error.hint, getattr(error, "outside", False))
    except Exception as error:
        return "fault", (f"{type(error).__name__}: {error}", traceback.format_exc())


def result(outcome: Outcome, where: str) -> Any:
    """What an actor's call gave. Raises what went wrong there: SpecError, MissingExtra, BackendError, or RuntimeError
    with the actor's own traceback as a note."""
    kind, said = outcome
    if kind == "done":
        return said
    if kind == "spec":
        raise SpecError(said[0], hint=said[1])
    if kind == "extra":
        raise MissingExtra(f"on {where}: {said[0].partition(' is not installed')[0]}", said[1])
    if kind == "backend":
        raise BackendError(said[0], retryable=said[1], hint=said[2], outside=said[3])
    error = RuntimeError(f"on {where}: {said[0]}")
    error.add_note(said[1])
    raise error


def answered(outcome: Outcome, where: str) -> Generation:
    """The generation that an actor's call gave; raises as `result` does, and for anything that is no generation."""
    found = result(outcome, where)
    if not isinstance(found, Generation):
        raise BackendError(f"on {where}: generate returned {type(found).__name__}, no Generation")
    return found
