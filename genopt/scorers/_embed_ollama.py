"""Owns sentence embeddings from an Ollama server (/api/embed): similarity without a torch here."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from genopt.backends._http import Refused, Server, in_words
from genopt.backends._ollama_options import options_of
from genopt.backends._ollama_params import version_of
from genopt.backends._ollama_server import models_of, server_version
from genopt.backends._ollama_wire import may_pass, too_long
from genopt.errors import ScorerError, SpecError
from genopt.scorers._embedded import Embedded

_NOTHING_READ = re.compile(r"no input|input is empty", re.IGNORECASE)


class OllamaSource:
    """A model of an Ollama server. A text that is longer than the model's context is cut by the server, and said so."""

    limit = "the model's context"

    def __init__(
        self,
        model: str,
        host: str | None,
        options: Mapping[str, Any],
        batch_size: int,
        *,
        where: str,
        tell: Callable[[str], None],
    ) -> None:
        self._model, self._batch_size, self._where, self._tell = model, batch_size, where, tell
        try:
            self._options = options_of({**options, "host": host})
        except SpecError as error:
            raise SpecError([p.replace("backend", where, 1) for p in error.problems], hint=error.hint) from None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> Mapping[str, str]:
        """The server's digest of the model, and how it is loaded. Raises SpecError when the server does not have it."""
        server = self._reached()
        version = version_of(await server_version(server))
        key = f"{self._where}.model"
        found = (await models_of(server, {self._model: key}, version, pull=self._options.pull))[self._model]
        context = self._options.runner.get("num_ctx")
        return {"engine": "ollama", **found.identity, **({"num_ctx": str(context)} if context else {})}

    async def load(self) -> None:
        """Have the server load the model. Raises ScorerError when it makes no embeddings."""
        await self._ask(["-"], truncate=True)

    async def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """One vector per text."""
        size = self._batch_size
        found = [await self._batch(texts[start : start + size]) for start in range(0, len(texts), size)]
        return [embedded for batch in found for embedded in batch]

    async def aclose(self) -> None:
        """Close the connections."""
        server, self._server = self._server, None
        if server is not None and self._loop is asyncio.get_running_loop():
            await server.aclose()

    async def _batch(self, texts: Sequence[str]) -> list[Embedded]:
        """The server refuses a whole batch for one text: halves are asked for until that one is alone."""
        try:
            return await self._ask(texts, truncate=False)
        except Refused as refused:
            long = bool(too_long(refused, None))
            if not long and not _NOTHING_READ.search(in_words(refused.reply)):
                raise ScorerError(f"{self._where}: {refused}") from None
        if len(texts) > 1:
            half = len(texts) // 2
            return [*await self._batch(texts[:half]), *await self._batch(texts[half:])]
        if long:
            return await self._ask(texts, truncate=True, cut=True)
        [other] = await self._ask(["-"], truncate=True)
        return [Embedded(np.zeros_like(other.vector), False)]

    async def _ask(self, texts: Sequence[str], *, truncate: bool, cut: bool = False) -> list[Embedded]:
        body: dict[str, Any] = {"model": self._model, "input": list(texts), "truncate": truncate}
        body["options"] = dict(self._options.runner)
        if self._options.keep_alive is not None:
            body["keep_alive"] = self._options.keep_alive
        told = await self._reached().send_json("/api/embed", body)
        vectors = np.asarray(told.get("embeddings") or [], dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise ScorerError(f"{self._where}: {self._model} gave no usable embeddings of {len(texts)} texts")
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return [Embedded(v, cut) for v in np.divide(vectors, norms, out=vectors, where=norms > 0)]

    def _reached(self) -> Server:
        """The server, with connections of the event loop that runs now."""
        loop = asyncio.get_running_loop()
        if self._server is None or self._loop is not loop:
            self._server = Server(
                "Ollama",
                self._options.url,
                "start it with: ollama serve",
                "/api/version",
                patience=self._options.patience,
                timeout=self._options.timeout,
                may_pass=lambda status, reply: may_pass(status, reply) and not _NOTHING_READ.search(in_words(reply)),
                tell=self._tell,
            )
            self._loop = loop
        return self._server
