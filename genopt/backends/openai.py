"""Owns the engine behind OpenAI's protocol: `vllm serve`, llama.cpp's server, LM Studio, hosted models.

The adapter finds out whom it talks to, and joins its parts: options and keys, parameters by dialect, bodies, replies
(the `_openai_*` files beside it). How a server is reached, waited for and asked again is `_http`'s.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from genopt.backends._domains import legal
from genopt.backends._http import Refused, Server, in_words
from genopt.backends._openai_body import Wire
from genopt.backends._openai_options import Options, options_of
from genopt.backends._openai_params import DIALECTS, PARAMS, Dialect, defaults
from genopt.backends._openai_reply import Reply, too_long
from genopt.errors import BackendError, SpecError
from genopt.spec.mistakes import hint
from genopt.types import BackendInfo, Domain, Generation, Message, ParamValue, Request

_OWNERS: Mapping[str, Dialect] = {"vllm": "vllm", "llamacpp": "llama.cpp"}
_SLOTS: Mapping[Dialect, int] = {"openai": 8, "vllm": 64, "llama.cpp": 1}
_STRUCTURED: Mapping[Dialect, frozenset[Literal["schema", "regex", "choices"]]] = {
    "openai": frozenset({"schema"}),
    "vllm": frozenset({"schema", "regex", "choices"}),
    "llama.cpp": frozenset({"schema", "choices"}),
}
_ALTERNATIVES = 20  # top_logprobs; the hosted /completions allows 5
_NOTES: Mapping[Dialect, str] = {
    "openai": "seeds are best effort on servers like this: the same request may give another text",
    "vllm": "vLLM's server does not tell which defaults it takes from the model: the baseline is temperature 1 with"
    " nothing else on, unless [baseline] says what you run today",
    "llama.cpp": "",
}


class OpenAIBackend:
    """A model behind OpenAI's protocol; what it honours depends on the server's dialect, which is found out.

    Options: base_url (https://api.openai.com/v1); api_key_env and headers_env (names of environment variables, never
    the secrets themselves); organization and project; dialect ("openai", "vllm", "llama.cpp"; default: found out);
    completions (a raw prompt to /completions instead of /chat/completions); stream (true); max_tokens_field
    ("max_tokens" or "max_completion_tokens"); extra (further fields of every body, fixed for the study); without
    (parameters, or "seed", that the model refuses: they are neither sent nor searched); patience (seconds a server that
    went away is waited for); timeout (seconds without a byte). Raises SpecError for any that is wrong.
    """

    params = PARAMS

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._options = options_of(options or {})
        self.tell: Callable[[str], None] = lambda text: None
        self._opening = asyncio.Lock()
        self._server: Server | None = None
        self._cards: Mapping[str, Mapping[str, Any]] = {}
        self._info: BackendInfo | None = None
        self._wire: Wire | None = None
        self._running = 0

    async def open(self) -> BackendInfo:
        """Reach the server and find out what it is. Raises SpecError for a model it does not have, or BackendError."""
        async with self._opening:
            if self._info is None:
                self._server = _server(self._options, self.tell)
                try:
                    self._info = await self._find_out(self._server)
                except BaseException:
                    await self._server.aclose()
                    raise
            return self._info

    async def generate(self, request: Request) -> Generation:
        """One text. A prompt that does not fit is finish "error"; cancelling drops the connection, which ends it."""
        server, info, wire = self._server, self._info, self._wire
        if server is None or info is None or wire is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        params = legal(request.params, info.params)
        body = wire.body(str(params.get("model") or self._model), request, params)
        reply = Reply(self._options.hide)
        first: float | None = None
        started = time.perf_counter()
        self._running += 1
        try:
            if wire.stream:
                async with server.stream_json(_path(self._options) + wire.path, body) as events:
                    async for event in events:
                        reply.add(event)
                        if reply.began and first is None:
                            first = time.perf_counter() - started
            else:
                reply.add(await server.send_json(_path(self._options) + wire.path, body))
        except Refused as refused:
            if too_long(refused.status, refused.reply):
                why = self._options.hide(in_words(refused.reply))
                told = "" if info.context is None or str(info.context) in why else f" (the context is {info.context})"
                return Generation("", "error", 0, 0, time.perf_counter() - started, why=why + told)
            raise _advised(refused, info.params) from refused
        finally:
            self._running -= 1
        return reply.generation(time.perf_counter() - started, first, top_logprobs=request.top_logprobs)

    async def models(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """What identifies each of these models. Raises SpecError for one that the server does not have."""
        assert self._server is not None and self._info is not None
        for name in names:
            await self._unlisted(name, "space.model", self._server, self._info.defaults)
        return {name: {"digest": str(self._cards.get(name, {}).get("root") or name)} for name in names}

    def stats(self) -> dict[str, float]:
        """How many requests of ours are with the server."""
        return {"running": float(self._running)}

    async def aclose(self) -> None:
        """Drop the connections; safe to call twice."""
        server, self._server, self._info = self._server, None, None
        if server is not None:
            await server.aclose()

    async def _find_out(self, server: Server) -> BackendInfo:
        options = self._options
        listing = await _asked(server, f"{_path(options)}/models")
        self._cards = {card["id"]: card for card in (listing or {}).get("data") or () if "id" in card}
        card = self._cards.get(self._model, {})
        dialect: Dialect = options.dialect or _OWNERS.get(str(card.get("owned_by")), "openai")
        props = (await _asked(server, "/props") or {}) if dialect == "llama.cpp" else {}
        told = props.get("default_generation_settings") or {}
        version = (await _asked(server, "/version") or {}) if dialect == "vllm" else {}
        context = card.get("max_model_len") or told.get("n_ctx") or card.get("context_length")
        domains = {name: domain for name, domain in DIALECTS[dialect].items() if name not in options.without}
        if dialect == "vllm" and context:  # it refuses more, whatever the prompt
            domains["max_tokens"] = replace(domains["max_tokens"], high=context)
        values = defaults(dialect, domains, told.get("params") or told)
        if len({*self._cards, self._model}) > 1 and "model" not in options.without:
            domains["model"] = Domain("str", "The model that answers.")
            values["model"] = self._model
        self._wire = Wire(
            dialect, options.completions, options.stream, options.max_tokens_field, options.extra, options.without
        )
        meta = card.get("meta") or {}
        identity = {
            "engine": dialect,
            "version": str(version.get("version") or props.get("build_info") or ""),
            "model": self._model,
            "api": "completions" if options.completions else "chat",
            "file": str(card.get("root") or props.get("model_path") or ""),
            "size": str(meta.get("size") or ""),
            "server": urlsplit(options.base_url).netloc if dialect == "openai" else "",
            "extra": json.dumps(options.extra, sort_keys=True) if options.extra else "",
        }
        notes = [_NOTES[dialect], await self._unlisted(self._model, "backend.model", server, values)]
        if not self._cards:
            notes.append("the server lists no models: whether it has this one shows with the first request")
        if "seed" in options.without:
            notes.append("no seed is sent: trials are not compared on equal random numbers")
        return BackendInfo(
            identity={name: value for name, value in identity.items() if value},
            params=domains,
            defaults=values,
            concurrency=int(props.get("total_slots") or _SLOTS[dialect]),
            context=context,
            vocabulary=meta.get("n_vocab"),
            notes=tuple(filter(None, notes)),
            structured=_STRUCTURED[dialect],
            top_logprobs=5 if options.completions and dialect == "openai" else _ALTERNATIVES,
            images=not options.completions
            and (dialect != "llama.cpp" or bool((props.get("modalities") or {}).get("vision"))),
            seeded=dialect != "openai" and "seed" not in options.without,
            hidden=True,  # which models think before they answer is not told
        )

    async def _unlisted(self, model: str, key: str, server: Server, params: Mapping[str, ParamValue]) -> str:
        """What is to be said of a model that the server does not list, though it lists others: many list only some of
        what they serve, so it is asked for a few tokens. Raises SpecError when it says that it has no such model."""
        if not self._cards or model in self._cards or self._wire is None:
            return ""
        request = Request((Message("user", "Hello"),), {}, 0, "model")
        body = replace(self._wire, stream=False).body(model, request, {**params, "max_tokens": 16})
        try:
            await server.send_json(_path(self._options) + self._wire.path, body)
        except Refused as refused:
            if _no_such_model(refused, model):
                said = self._options.hide(in_words(refused.reply))
                raise SpecError(
                    f"{key}: the server has no model {model!r} ({said}).{hint(model, self._cards)}"
                ) from None
            if refused.status in (401, 403):
                raise _advised(refused, {}) from refused
            return f"the server does not list {model}: whether it has this one shows with the first answer"
        return f"the server does not list {model}, but answers for it"


def _server(options: Options, tell: Callable[[str], None]) -> Server:
    path = _path(options)
    return Server(
        name="the server",
        url=options.base_url.removesuffix(path),
        start="check backend.options.base_url, and that the server runs",
        alive=f"{path}/models",
        headers=options.headers,
        patience=options.patience,
        timeout=options.timeout,
        may_pass=_may_pass,
        hide=options.hide,
        tell=lambda text: tell(text),
    )


def _path(options: Options) -> str:
    """What of the base URL is not the server's root, where /version and /props are."""
    return "/v1" if options.base_url.endswith("/v1") else ""


def _may_pass(status: int, reply: Any) -> bool:
    """False for a 429 that says that the money is spent: waiting does not help."""
    error = reply.get("error") if isinstance(reply, Mapping) else None
    spent = isinstance(error, Mapping) and "insufficient_quota" in (error.get("code"), error.get("type"))
    return status in (408, 429, 500, 502, 503, 504, 529) and not spent


async def _asked(server: Server, path: str) -> Any:
    """The reply to a GET; None where the server has no such thing. Raises BackendError."""
    try:
        found = await server.send_json(path)
    except Refused as refused:
        if refused.status in (404, 405, 501):
            return None
        raise _advised(refused, {}) from refused
    return found if isinstance(found, Mapping) else None


def _advised(refused: Refused, domains: Mapping[str, Domain]) -> BackendError:
    """The refusal with what to do about it."""
    error = refused.reply.get("error") if isinstance(refused.reply, Mapping) else None
    parameter = error.get("param") if isinstance(error, Mapping) else None
    advice = refused.hint
    if refused.status in (401, 403):
        advice = "the key is read from the environment variable that backend.options.api_key_env names"
    elif parameter in domains:
        advice = f'if the model refuses {parameter} altogether: backend.options.without = ["{parameter}"]'
    return BackendError(str(refused), retryable=refused.retryable, outside=refused.outside, hint=advice)


def _no_such_model(refused: Refused, model: str) -> bool:
    """Whether a request was refused for its model: with 404, or with a 400 that is about no other parameter."""
    error = refused.reply.get("error") if isinstance(refused.reply, Mapping) else None
    about = error.get("param") if isinstance(error, Mapping) else None
    named = about == "model" or (about is None and model in in_words(refused.reply))
    return refused.status == 404 or (refused.status == 400 and named)
