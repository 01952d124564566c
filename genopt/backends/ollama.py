"""Owns the engine behind an Ollama server, through its native API: the one that takes every option.

The adapter finds out what the server, its version and the model honour, and joins its parts: options, parameters,
bodies and replies, models (the `_ollama_*` files beside it). How a server is reached and waited for is `_http`'s.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genopt.backends._domains import legal
from genopt.backends._http import Refused, Server
from genopt.backends._ollama_options import Options, options_of
from genopt.backends._ollama_params import (
    ALIASES,
    DEAD,
    LOGPROBS,
    NO_PENALTY_BY_DEFAULT,
    NO_TRUNCATION,
    PARAMS,
    TOP_LOGPROBS,
    declared,
    defaults,
    ignored,
    version_of,
)
from genopt.backends._ollama_server import Loaded, Model, loaded, models_of, server_version
from genopt.backends._ollama_wire import Reply, Wire, advice, is_empty, may_pass, too_long
from genopt.errors import BackendError, SpecError
from genopt.types import BackendInfo, Generation, Message, Params, ParamValue, Request

__all__ = ["PARAMS", "OllamaBackend"]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ready:
    """A model that is loaded and warm."""

    model: Model
    wire: Wire
    loaded: Loaded


class OllamaBackend:
    """A model in an Ollama server; every request carries every parameter, and the same loading options.

    A prompt that does not fit the context is finish "error", an endless repetition that the server stopped is
    "degenerate". A server that goes away is waited for. Thinking is not part of the text, but of its tokens.

    Options: host (default OLLAMA_HOST, else 127.0.0.1:11434); num_ctx, num_batch, num_gpu, main_gpu, use_mmap,
    num_thread and draft_num_predict (what the model is loaded with); num_keep, shift and keep_alive as Ollama has
    them; think (default: as Ollama does it, on where the model can); raw (no chat template: the messages' texts are
    concatenated); template (a Go template over a system and a user turn); pull (models that are missing); patience
    (seconds a server is waited for) and timeout (seconds without a byte). Raises SpecError for an option that is wrong.
    """

    known = BackendInfo({"engine": "ollama"}, PARAMS, {}, aliases=ALIASES, dead=DEAD)
    tell: Callable[[str], None] = staticmethod(_log.info)

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._options: Options = options_of(options or {})
        self._from = "backend.options.host" if (options or {}).get("host") else "OLLAMA_HOST"
        self._server: Server | None = None
        self._info: BackendInfo | None = None
        self._version = ""
        self._models: dict[str, Model] = {}
        self._ready: _Ready | None = None
        self._changing = asyncio.Lock()

    async def open(self) -> BackendInfo:
        """Reach the server, load the model and warm it up. Raises SpecError for a model that the server does not have
        or that cannot do what the options say, BackendError when the server does not answer."""
        if self._info is None:
            if self._server is None:
                self._server = self._connect()
            self._version = await server_version(self._server)
            await self.models([self._model])
            ready = await self._prepared(self._server, self._model)
            self._info = self._described(ready)
        return self._info

    async def models(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """What identifies each of these models. Raises SpecError for all that the server lacks, pulls them with
        `pull`."""
        server = self._opened()
        keys = {name: "backend.model" if name == self._model else "space.model" for name in names}
        found = await models_of(server, keys, version_of(self._version), pull=self._options.pull)
        problems = [problem for name, model in found.items() for problem in self._unfit(keys[name], model)]
        if problems:
            raise SpecError(problems)
        self._models |= found
        return {name: model.identity for name, model in found.items()}

    async def generate(self, request: Request) -> Generation:
        """One text. Cancelling closes the connection, whereby the server stops writing. Raises BackendError."""
        server = self._opened()
        params = self._legal(request)
        if is_empty(request.messages):
            return Generation("", "error", 0, 0, 0.0, None, "the prompt is empty")
        ready = await self._prepared(server, str(params["model"]))
        if any(message.images for message in request.messages) and not ready.model.can("vision"):
            raise BackendError(f"the model {ready.model.name} does not see images", hint="take one with vision")
        body = ready.wire.body(request, params)
        reply, began, first = Reply(), time.perf_counter(), 0.0
        try:
            async with server.stream_json(ready.wire.path, body) as lines:
                async for line in lines:
                    first = first or time.perf_counter()
                    reply.add(line)
        except Refused as refused:
            if why := too_long(refused, ready.loaded.context):
                return Generation("", "error", 0, 0, 0.0, None, why)
            refused.hint = advice(refused, ready.model.name)
            raise
        seconds = time.perf_counter() - began
        return reply.generation(
            seconds, (first or began) - began, ready.loaded.context, top_logprobs=request.top_logprobs
        )

    async def aclose(self) -> None:
        """Close the connections; the model stays loaded as long as the server keeps it. Safe to call twice."""
        server, self._server, self._info, self._ready = self._server, None, None, None
        if server is not None:
            await server.aclose()

    def _connect(self) -> Server:
        chosen = self._from if self._from != "OLLAMA_HOST" or os.environ.get("OLLAMA_HOST") else "the default"
        return Server(
            "Ollama",
            self._options.url,
            start=f"start it with: ollama serve. The address is {chosen}; another one goes into OLLAMA_HOST or"
            " backend.options.host",
            alive="/api/version",
            patience=self._options.patience,
            timeout=self._options.timeout,
            may_pass=may_pass,
            tell=lambda text: self.tell(text),
        )

    def _opened(self) -> Server:
        if self._server is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        return self._server

    async def _prepared(self, server: Server, name: str) -> _Ready:
        """The model, loaded and warm, so that the first text that is timed is like all others."""
        if self._ready is None or self._ready.model.name != name:
            async with self._changing:
                if self._ready is None or self._ready.model.name != name:
                    if name not in self._models:
                        await self.models([name])
                    self._ready = await self._warmed_up(server, self._models[name])
        return self._ready

    async def _warmed_up(self, server: Server, model: Model) -> _Ready:
        think = self._options.think if self._options.think is not None else True
        stops = (self._models[self._model].own.stops, model.own.stops)
        wire = Wire(model.name, self._options, think if model.can("thinking") else None, stops)
        params = defaults(model.own, version_of(self._version), model.name, None) | {
            "temperature": 0.0,
            "max_tokens": 1,
        }
        body = wire.body(Request((Message("user", "Hello"),), params, 0, "warm-up"), params)
        self.tell(f"loading {model.name} in {server.where}")
        reply = Reply()
        try:
            async with server.stream_json(wire.path, body) as lines:
                async for line in lines:
                    reply.add(line)
        except Refused as refused:
            why = f"{model.name} cannot be used: {refused}"
            raise BackendError(why, outside=True, hint=advice(refused, model.name)) from None
        state = await loaded(server, model)
        context = state.context or self._options.runner.get("num_ctx") or model.own.num_ctx
        if context and model.trained_context:
            context = min(context, model.trained_context)
        return _Ready(model, wire, Loaded(context, state.slots, state.runner or model.runner))

    def _described(self, ready: _Ready) -> BackendInfo:
        model, version = ready.model, version_of(self._version)
        context, runner = ready.loaded.context, ready.loaded.runner or model.runner
        dead = ignored(version, runner, model.architecture)
        params = declared(dead, model.own, model.name)
        own = defaults(model.own, version, model.name, context)
        return BackendInfo(
            identity=self._identity(ready),
            params=params,
            defaults={name: own[name] for name in params},
            recommended={name: own[name] for name in params if name in model.own.params and name != "max_tokens"},
            concurrency=ready.loaded.slots or 1,
            context=context,
            vocabulary=model.vocabulary,
            notes=tuple(self._notes(ready, dead, own)),
            structured=frozenset({"schema"}),
            top_logprobs=TOP_LOGPROBS if version >= LOGPROBS else 0,
            images=model.can("vision"),
            aliases=ALIASES,
            dead={**DEAD, **dead},
            slots=ready.loaded.slots,
            seeded=True,
            hidden=ready.wire.think not in (None, False),
        )

    def _identity(self, ready: _Ready) -> dict[str, str]:
        options, told = self._options, {"engine": "ollama", "version": self._version, "model": ready.model.name}
        told |= ready.model.identity
        template = options.template and hashlib.sha256(options.template.encode()).hexdigest()[:16]
        more = {
            "runner": ready.loaded.runner,
            "context": ready.loaded.context,
            "think": ready.wire.think,
            "num_keep": options.num_keep,
            "shift": options.shift,
            "raw": options.raw or None,
            "template": template,
        }
        return told | {name: str(value) for name, value in more.items() if value is not None}

    def _notes(self, ready: _Ready, dead: Mapping[str, str], own: Mapping[str, ParamValue]) -> Iterator[str]:
        """What is worth knowing of this version and model."""
        model, version = ready.model, version_of(self._version)
        if dead:
            yield f"Ollama {self._version} ignores {', '.join(dead)} for {model.name}: they cannot be searched here"
        if ready.loaded.runner == "ollama-engine":
            yield (
                f"Ollama {self._version} applies the temperature before top_p and min_p for {model.name}, other"
                " versions after them: best values do not carry over"
            )
        if "repetition_penalty" not in (*model.own.params, *dead) and version < NO_PENALTY_BY_DEFAULT:
            yield f"Ollama {self._version} has repetition_penalty 1.1 unless told otherwise (1.0 from 0.32.10)"
        if model.own.endless:
            yield (
                f"{model.name} sets no limit on a text's length; here it is {own['max_tokens']} tokens"
                " (baseline.max_tokens sets another)"
            )
        if version < NO_TRUNCATION:
            yield (
                f"Ollama {self._version} drops the oldest turns of a conversation that does not fit the context without"
                " saying so (0.12.6 and later refuse it)"
            )
        if version < LOGPROBS:
            yield f"Ollama {self._version} tells no log probabilities (0.12.11 and later do)"

    def _unfit(self, key: str, model: Model) -> Iterator[str]:
        """Why a model cannot be used with these options."""
        if not model.can("completion"):
            yield f"{key}: {model.name} does not write texts ({', '.join(sorted(model.capabilities))}). Take another"
        elif self._options.think not in (None, False) and not model.can("thinking"):
            yield f"backend.options.think: {model.name} does not think. Drop it, or take a model that does"

    def _legal(self, request: Request) -> Params:
        """The request's parameters in their own types. Raises BackendError for what is not legal or not done here."""
        info = self._info
        if info is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        if request.regex is not None or request.choices:
            raise BackendError("this engine keeps a text to a schema, not to choices or a regex")
        if not 0 <= request.top_logprobs <= info.top_logprobs:
            raise BackendError(f"top_logprobs: {request.top_logprobs} is outside [0, {info.top_logprobs}]")
        params = {"model": self._model} | dict(request.params)
        if absent := sorted(info.params.keys() - params.keys()):
            raise BackendError(f"the request does not say {', '.join(absent)}")
        if dead := next((name for name in params if name in info.dead), None):
            raise BackendError(f"{dead}: {info.dead[dead]}")
        return legal(params, info.params)
