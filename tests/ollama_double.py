"""A strict double of Ollama's wire: what a real server would ignore in silence is an error here.

It follows one version: `Double(version="0.33.0")`. Texts are words that follow from the prompt and the seed; a word is
a token. `faults` are taken one by one by the next generations: a Reply of the test's own, or BREAK (hang up at once).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

MS = 1_000_000  # nanoseconds
WORDS = ("north", "south", "east", "west", "the", "old", "mill", "bridge", "river", "path", "over", "past", "hill")
INTEGER, FLOAT, BOOLEAN, ARRAY = "integer", "float32", "boolean", "array"
OPTIONS = {
    **dict.fromkeys(("temperature", "top_p", "min_p", "typical_p"), FLOAT),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), FLOAT),
    **dict.fromkeys(("top_k", "repeat_last_n", "seed", "num_predict", "num_keep"), INTEGER),
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"), INTEGER),
    "use_mmap": BOOLEAN,
    "stop": ARRAY,
}
RUNNER = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict")
SAMPLING = {"seed", *OPTIONS} - {"num_keep", *RUNNER}
COMMON = {
    "model",
    "stream",
    "format",
    "options",
    "keep_alive",
    "think",
    "truncate",
    "shift",
    "logprobs",
    "top_logprobs",
}
FIELDS = {
    "/api/chat": COMMON | {"messages"},
    "/api/generate": COMMON | {"prompt", "system", "template", "raw", "images"},
    "/api/show": {"model", "verbose"},
    "/api/pull": {"model", "stream"},
}
PYTHON = {INTEGER: (int,), FLOAT: (float,), BOOLEAN: (bool,), ARRAY: (list,)}
BREAK = object()


@dataclass
class Reply:
    """A reply of the test's own. `lines` are streamed with status 200; `end` is how the stream ends: "clean", "broken"
    (hung up without the last chunk) or "hang" (nothing more is sent)."""

    status: int = 200
    error: Any = None
    lines: tuple[Mapping[str, Any], ...] = ()
    end: str = "clean"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Entry:
    """A model of the double."""

    capabilities: tuple[str, ...] | None = ("completion",)
    parameters: str = ""
    architecture: str = "llama"
    format: str = "gguf"
    context: int = 8192
    quantization: str = "Q4_K_M"

    def digest(self, name: str) -> str:
        return hashlib.sha256(f"{name} {self}".encode()).hexdigest()


class Refusal(Exception):
    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status


class Double:
    """The server. `requests` are all (path, body); `loads` the runner settings of every load; `gone` counts clients
    that hung up in the middle of a text. `ignores` are options that may be left out, since nothing reads them."""

    def __init__(self, version: str = "0.33.0", models: Mapping[str, Entry] | None = None) -> None:
        self.version = version
        self.number = tuple(int(part) for part in version.split("."))
        self.models = {"tiny:latest": Entry()} if models is None else dict(models)
        self.registry: dict[str, Entry] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.loads: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[Any] = []
        self.gone = 0
        self.port = 0
        self.ignores: frozenset[str] = frozenset()
        self._loaded: tuple[str, dict[str, Any]] | None = None
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def generations(self) -> list[dict[str, Any]]:
        """The bodies of all generations, warm-ups left out."""
        bodies = [body for path, body in self.requests if path in ("/api/chat", "/api/generate")]
        return [body for body in bodies if body["options"]["num_predict"] != 1]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**24)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """As kill -9 does it: all connections break, and no new one is taken."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        self._server, self._loaded = None, None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := (await reader.readline()).decode():
                length = 0
                while header := (await reader.readline()).decode().strip():
                    name, _, value = header.partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                body = json.loads(await reader.readexactly(length)) if length else {}
                if not await self._answer(line.split()[1], body, reader, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.gone += 1
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, path: str, body: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.requests.append((path, body))
        try:
            reply = self._reply(path, body)
        except Refusal as refusal:
            reply = Reply(refusal.status, str(refusal))
        if reply is BREAK:
            return False
        assert isinstance(reply, Reply)
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        if reply.error is not None or not reply.lines:
            text = json.dumps({"error": reply.error}).encode() if reply.error is not None else b""
            writer.write(f"HTTP/1.1 {reply.status} X\r\n{extra}Content-Length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            return True
        if path in ("/api/version", "/api/tags", "/api/show", "/api/ps"):
            text = json.dumps(reply.lines[0]).encode()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for line in reply.lines:
            text = json.dumps(line).encode() + b"\n"
            writer.write(f"{len(text):x}\r\n".encode() + text + b"\r\n")
            await writer.drain()
        if reply.end == "clean":
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        if reply.end == "hang":
            await reader.read()  # returns when the client hangs up
            self.gone += 1
        return reply.end == "clean"

    def _reply(self, path: str, body: Any) -> Any:
        if path == "/api/version":
            return Reply(lines=({"version": self.version},))
        if path == "/api/tags":
            listed = [{"name": n, "digest": e.digest(n), "details": self._details(e)} for n, e in self.models.items()]
            return Reply(lines=({"models": listed},))
        if path == "/api/ps":
            return Reply(lines=({"models": self._running()},))
        if path not in FIELDS:
            raise Refusal(404, "404 page not found")
        if unknown := body.keys() - FIELDS[path]:
            raise Refusal(400, f"double: no such field: {sorted(unknown)}")
        if path == "/api/pull":
            return self._pull(body["model"])
        name = body["model"] if ":" in body["model"] else body["model"] + ":latest"
        if name not in self.models:
            shown = name if path == "/api/show" else body["model"]
            raise Refusal(404, f"model '{shown}' not found")
        if path == "/api/show":
            return Reply(lines=(self._shown(name),))
        return self._generate(path, name, self.models[name], body)

    def _details(self, entry: Entry) -> dict[str, Any]:
        return {
            "format": entry.format,
            "family": entry.architecture,
            "parameter_size": "1.5B",
            "quantization_level": entry.quantization,
        }

    def _shown(self, name: str) -> dict[str, Any]:
        entry = self.models[name]
        told: dict[str, Any] = {
            "modelfile": f"# Modelfile\nFROM /models/blobs/sha256-{entry.digest(name)}\n",
            "details": self._details(entry),
            "model_info": {
                "general.architecture": entry.architecture,
                f"{entry.architecture}.context_length": entry.context,
            },
        }
        told |= {"parameters": entry.parameters} if entry.parameters else {}
        return told | ({"capabilities": list(entry.capabilities)} if entry.capabilities is not None else {})

    def _running(self) -> list[dict[str, Any]]:
        if self._loaded is None:
            return []
        name, settings = self._loaded
        told = {"name": name, "digest": self.models[name].digest(name)}
        return [told | ({"context_length": self._window(name, settings)} if self.number >= (0, 10) else {})]

    def _window(self, name: str, settings: Mapping[str, Any]) -> int:
        return min(int(settings.get("num_ctx", 4096)), self.models[name].context)

    def _pull(self, name: str) -> Reply:
        full = name if ":" in name else name + ":latest"
        if full not in self.registry:
            return Reply(lines=({"status": "pulling manifest"}, {"error": "pull model manifest: file does not exist"}))
        self.models[full] = self.registry[full]
        parts = [{"status": "pulling aa", "digest": "sha256:aa", "total": 1000, "completed": n} for n in (0, 400, 1000)]
        del parts[0]["completed"]
        return Reply(lines=({"status": "pulling manifest"}, *parts, {"status": "success"}))

    def _check(self, path: str, entry: Entry, body: Mapping[str, Any]) -> None:
        options = body.get("options") or {}
        for option, value in options.items():
            kind = OPTIONS.get(option)
            if kind is None:
                raise Refusal(400, f"double: no such option: {option}")
            if type(value) not in PYTHON[kind]:
                raise Refusal(500, f'option "{option}" must be of type {kind}')
        if options["num_predict"] < 1 or options.get("typical_p", 1.0) <= 0:
            raise Refusal(400, "double: num_predict and typical_p must be positive")
        if absent := SAMPLING - options.keys() - self.ignores:
            raise Refusal(400, f"double: left to a default: {sorted(absent)}")
        if body.get("stream") is not True:
            raise Refusal(400, "double: not streamed")
        thinks = "thinking" in (entry.capabilities or ())
        if body.get("think") not in (None, False) and not thinks:
            raise Refusal(400, f'"{body["model"]}" does not support thinking')
        if thinks and "think" not in body:
            raise Refusal(400, "double: think left to the server")
        if body.get("raw") and (body.get("template") or body.get("system")):
            raise Refusal(400, "raw mode does not support template, system, or context")
        images = body.get("images") or [image for m in body.get("messages", ()) for image in m.get("images", ())]
        if images and "vision" not in (entry.capabilities or ()):
            raise Refusal(500, "this model is missing data required for image input")
        if "logprobs" in body and self.number < (0, 12, 11):
            raise Refusal(400, "double: no log probabilities before 0.12.11")
        if not isinstance(body.get("format", {}), dict):
            raise Refusal(500, f'invalid format: {body["format"]!r}; expected "json" or a valid JSON Schema object')

    def _generate(self, path: str, name: str, entry: Entry, body: dict[str, Any]) -> Any:
        self._check(path, entry, body)
        options = body["options"]
        settings = {option: options[option] for option in RUNNER if option in options}
        if self._loaded != (name, settings):
            self._loaded = (name, settings)
            self.loads.append((name, settings))
        if self.faults and options["num_predict"] != 1:
            return self.faults.pop(0)
        prompt = body.get("prompt") or " ".join(message["content"] for message in body.get("messages", ()))
        if not prompt:
            return Reply(lines=({"done": True, "done_reason": "load"},))
        read, window = len(prompt.split()), self._window(name, settings)
        if read > window and self.number >= (0, 30):
            words = f"request ({read} tokens) exceeds the available context size ({window} tokens), try increasing it"
            inner = {"code": 400, "message": words, "type": "exceed_context_size_error", "n_ctx": window}
            raise Refusal(400, json.dumps({"error": inner}))
        if read > window and self.number >= (0, 12, 6):
            raise Refusal(400, "the input length exceeds the context length")
        return self._text(path, body, prompt, min(read, window))

    def _text(self, path: str, body: Mapping[str, Any], prompt: str, read: int) -> Reply:
        options = body["options"]
        seed = 0 if options["temperature"] == 0 else options["seed"]
        digest = hashlib.sha256(json.dumps([prompt, seed, body["model"]]).encode()).digest()
        words = [WORDS[byte % len(WORDS)] for byte in digest][: options["num_predict"]]
        lines: list[dict[str, Any]] = []
        thinking = body.get("think") not in (None, False)
        for n, word in enumerate(words):
            text = word if n == 0 else f" {word}"
            line: dict[str, Any] = {"model": body["model"], "done": False}
            hidden = {"thinking": text} if thinking and n < 2 else {}
            shown = "" if hidden else text
            line |= (
                {"message": {"role": "assistant", "content": shown, **hidden}}
                if path == "/api/chat"
                else {"response": shown, **hidden}
            )
            if body.get("logprobs"):
                top = [{"token": text, "logprob": -0.1}, {"token": "\ufffd", "logprob": -3.0}]
                top.append({"token": "\ufffd", "logprob": -3.0})
                line["logprobs"] = [{"token": text, "logprob": -0.1, "top_logprobs": top[: body["top_logprobs"]]}]
            lines.append(line)
        last = {"model": body["model"], "done": True, "message": {"role": "assistant", "content": ""}, "response": ""}
        last |= {"done_reason": "length" if len(words) == options["num_predict"] else "stop"}
        last |= {"total_duration": 100 * MS, "load_duration": 40 * MS, "prompt_eval_count": read}
        last |= {"prompt_eval_duration": 20 * MS, "eval_count": len(words), "eval_duration": 35 * MS}
        return Reply(lines=(*lines, last))


@asynccontextmanager
async def running(double: Double) -> AsyncIterator[Double]:
    """The double, listening inside the block."""
    await double.start()
    try:
        yield double
    finally:
        if double._server is not None:
            await double.kill()
