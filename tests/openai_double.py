"""A strict stand-in for servers of the OpenAI protocol: real HTTP on a free port, a made-up model behind it.

It refuses every field its dialect does not know, as a server should and most do not. Its texts depend on the
parameters that matter and on the seed, so that a parameter that never arrives changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = [
    "the",
    "dog",
    "ran",
    "past",
    "a",
    "red",
    "gate",
    "and",
    "slept",
    "under",
    "old",
    "trees",
    "while",
    "rain",
    "fell",
]
COMMON = {
    "model", "messages", "prompt", "stream", "stream_options", "seed", "stop", "logprobs", "top_logprobs",
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "max_completion_tokens",
    "response_format",
}  # fmt: skip
FIELDS = {
    "openai": COMMON | {"reasoning_effort"},
    "vllm": COMMON | {"top_k", "min_p", "repetition_penalty", "min_tokens", "structured_outputs"},
    "llama.cpp": COMMON | {
        "top_k", "min_p", "repeat_penalty", "repeat_last_n", "typical_p", "top_n_sigma", "dry_multiplier", "dry_base",
        "dry_allowed_length", "dry_penalty_last_n", "xtc_probability", "xtc_threshold", "dynatemp_range",
        "dynatemp_exponent", "mirostat", "mirostat_tau", "mirostat_eta", "grammar",
    },
}  # fmt: skip
OWNER = {"openai": "someone", "vllm": "vllm", "llama.cpp": "llamacpp"}
NOT_SAMPLING = {"model", "stream", "stream_options", "logprobs", "top_logprobs", "stop", "min_tokens"}
GREEDY_INERT = {"seed", "top_p", "top_k", "min_p", "typical_p"}
CONTEXT = 512
PROPS = {
    "default_generation_settings": {
        "n_ctx": CONTEXT,
        "params": {"temperature": 0.800000011920929, "top_k": 40, "top_p": 0.949999988079071, "max_tokens": -1},
    },
    "total_slots": 3,
    "model_path": "/models/tiny.gguf",
    "build_info": "b1234-abc",
    "modalities": {"vision": True},
}


@dataclass
class Double:
    """What the server does and what it was asked.

    key        the Authorization that is required; refusals quote it, as careless servers do
    unlisted   models that it serves and /models does not list
    faults     answered to the next generations, in order: a status, or (status, headers, body)
    filtered   a text that no prompt may hold
    pace       seconds between two streamed tokens
    tells_usage, ends_well   False: as a broken server does
    """

    dialect: str = "openai"
    models: tuple[str, ...] = ("tiny",)
    unlisted: tuple[str, ...] = ()
    key: str | None = None
    faults: list[Any] = field(default_factory=list)
    filtered: str = ""
    pace: float = 0.0
    tells_usage: bool = True
    ends_well: bool = True
    lists_models: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    running: int = 0
    dropped: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@contextmanager
def serving(double: Double) -> Iterator[Double]:
    """The double on a free port; it has ended when the block has."""

    class Handler(_Handler):
        state = double

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    double.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Double

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        double = self.state
        path = self.path.removeprefix("/v1")
        if not self._authorized():
            return
        if path == "/models" and double.lists_models:
            cards = [
                {"id": m, "object": "model", "owned_by": OWNER[double.dialect], **_card(double, m)}
                for m in double.models
            ]
            self._json(200, {"object": "list", "data": cards})
        elif path == "/version" and double.dialect == "vllm":
            self._json(200, {"version": "0.32.0"})
        elif path == "/props" and double.dialect == "llama.cpp":
            self._json(200, PROPS)
        else:
            self._json(404, {"error": {"message": "Not Found", "code": 404}})

    def do_POST(self) -> None:
        double = self.state
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self._authorized():
            return
        double.headers.append({name.lower(): value for name, value in self.headers.items()})
        double.asked.append(body)
        if double.faults:
            fault = double.faults.pop(0)
            status, headers, reply = fault if isinstance(fault, tuple) else (fault, {}, {"error": {"message": "busy"}})
            return self._json(status, reply, headers)
        problem = _problem(double, body, self.path)
        if problem is not None:
            return self._json(problem[0], {"error": problem[1]})
        chat = self.path.endswith("/chat/completions")
        tokens, finish = write(body)
        prompt = _prompt_tokens(body)
        usage = {"prompt_tokens": prompt, "completion_tokens": len(tokens), "total_tokens": prompt + len(tokens)}
        shown = _cut(tokens, body)
        if body.get("stream"):
            return self._stream(body, chat, shown, finish, usage)
        text = "".join(shown)
        choice = {"index": 0, "finish_reason": finish, "logprobs": _logprobs(body, shown, chat)}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        self._json(200, {"choices": [choice], **({"usage": usage} if double.tells_usage else {})})

    def _stream(self, body: dict[str, Any], chat: bool, tokens: list[str], finish: str, usage: dict[str, int]) -> None:
        double = self.state
        with double.lock:
            double.running += 1
        try:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            self._event(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]} if chat else {"choices": []}
            )
            for token in tokens:
                time.sleep(double.pace)
                choice: dict[str, Any] = {"index": 0, "finish_reason": None, "logprobs": _logprobs(body, [token], chat)}
                self._event({"choices": [choice | ({"delta": {"content": token}} if chat else {"text": token})]})
            if not double.ends_well:
                return
            end: dict[str, Any] = {"index": 0, "finish_reason": finish, **({"delta": {}} if chat else {"text": ""})}
            self._event({"choices": [end]})
            if double.tells_usage and (body.get("stream_options") or {}).get("include_usage"):
                self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            double.dropped += 1
        finally:
            self.close_connection = True
            with double.lock:
                double.running -= 1

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _json(self, status: int, reply: Any, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(reply).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _authorized(self) -> bool:
        key = self.state.key
        if key is None or self.headers.get("authorization") == f"Bearer {key}":
            return True
        given = self.headers.get("authorization")
        self._json(401, {"error": {"message": f"Incorrect key: {given}", "code": "invalid_api_key"}})
        return False


def _card(double: Double, model: str) -> dict[str, Any]:
    if double.dialect == "vllm":
        return {"root": f"/models/{model}", "max_model_len": CONTEXT}
    if double.dialect == "llama.cpp":
        return {"meta": {"n_vocab": 1000, "n_params": 15, "size": 60, "n_ctx_train": 4096}}
    return {}


def _problem(double: Double, body: dict[str, Any], path: str) -> tuple[int, dict[str, Any]] | None:
    unknown = sorted(body.keys() - FIELDS[double.dialect])
    if unknown:
        return 400, {"message": f"Unrecognized request argument supplied: {', '.join(unknown)}"}
    if ("messages" in body) != path.endswith("/chat/completions"):
        return 400, {"message": "messages or prompt, as the endpoint has it"}
    if double.filtered and double.filtered in json.dumps(body):
        return 400, {"message": "the prompt was filtered", "code": "content_filter"}
    if body["model"] not in double.models + double.unlisted:
        return 404, {"message": f"The model `{body['model']}` does not exist", "param": "model"}
    if not 0 <= body["temperature"] <= 2:
        return 400, {"message": "temperature must be in [0, 2]", "param": "temperature"}
    if body.get("min_tokens", 0) > body.get("max_tokens", 0):
        return 400, {"message": "min_tokens must be less than or equal to max_tokens"}
    if body.get("stop") == []:
        return 400, {"message": "stop: empty"}
    if _prompt_tokens(body) > CONTEXT:
        error = {
            "openai": {"message": f"maximum is {CONTEXT}", "code": "context_length_exceeded"},
            "vllm": {"message": f"This model's maximum context length is {CONTEXT} tokens.", "param": "input_tokens"},
            "llama.cpp": {"message": f"n_ctx = {CONTEXT}", "type": "exceed_context_size_error"},
        }
        return 400, error[double.dialect]
    return None


def _prompt_tokens(body: dict[str, Any]) -> int:
    if "prompt" in body:
        return len(body["prompt"].split()) + 1
    return 1 + sum(len(json.dumps(message["content"]).split()) for message in body["messages"])


def write(body: dict[str, Any]) -> tuple[list[str], str]:
    """The tokens of the text, stop string included, and why it ended."""
    limit = body.get("max_tokens") or body["max_completion_tokens"]
    constraint = _constrained(body)
    if constraint is not None:
        return [constraint], "stop"
    inert = NOT_SAMPLING | (GREEDY_INERT if body["temperature"] == 0 else set())
    if not (body.get("repeat_penalty", 1.0) != 1.0 or body["presence_penalty"] or body["frequency_penalty"]):
        inert = inert | {"repeat_last_n"}
    matters = {k: v for k, v in body.items() if k not in inert and k not in ("max_tokens", "max_completion_tokens")}
    told = hashlib.sha256(json.dumps(matters, sort_keys=True).encode()).digest()
    ends = min(limit, max(told[0] % 40 + 6, body.get("min_tokens", 0)))
    tokens = [f" {WORDS[told[(n * 7) % 31] % len(WORDS)]}{told[n % 32] % 7}" for n in range(ends)]
    text, stops = "", body.get("stop") or []
    for n, token in enumerate(tokens):
        text += token
        if n + 1 > body.get("min_tokens", 0) and any(stop in text for stop in stops):
            return tokens[: n + 1], "stop"
    return tokens, "length" if ends == limit else "stop"


def _constrained(body: dict[str, Any]) -> str | None:
    if "structured_outputs" in body:
        kind, value = next(iter(body["structured_outputs"].items()))
        return value[0] if kind == "choice" else {"[0-9]{3}": "133"}[value]
    if "grammar" in body:
        return json.loads(body["grammar"].removeprefix("root ::= ").split(" | ")[0])
    if "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        return json.dumps({name: 3 for name in schema["properties"]})
    return None


def _cut(tokens: list[str], body: dict[str, Any]) -> list[str]:
    """What is shown: the text before the first stop string."""
    text = "".join(tokens)
    found = [text.index(stop) for stop in body.get("stop") or [] if stop in text]
    if not found or len(tokens) <= body.get("min_tokens", 0):
        return tokens
    return [text[: min(found)]]


def _logprobs(body: dict[str, Any], tokens: list[str], chat: bool) -> Any:
    wanted = body.get("top_logprobs", 0) if chat else body.get("logprobs")
    if not wanted or not body.get("logprobs"):
        return None
    if chat:
        others = [{"token": "a", "logprob": -1.0}, {"token": "a", "logprob": -1.0}, {"token": "x", "logprob": -9999.0}]
        return {"content": [{"token": t, "logprob": -0.5, "top_logprobs": others[:wanted]} for t in tokens]}
    return {"tokens": tokens, "token_logprobs": [-0.5] * len(tokens), "top_logprobs": [{"a": -1.0}] * len(tokens)}
