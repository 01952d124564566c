"""Owns how a request becomes a body of /api/chat or /api/generate, and how the lines of a reply become a generation.
Sends nothing."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genopt.backends._http import Refused, in_words
from genopt.backends._ollama_options import Options
from genopt.backends._ollama_params import WIRE
from genopt.errors import BackendError
from genopt.types import Finish, Generation, Message, Params, Request, TokenLogprob

_FINISH: Mapping[str, Finish] = {"stop": "stop", "length": "length"}
_TOO_LONG = re.compile(r"exceed\w* .*context|longer than the context|context length|too long", re.IGNORECASE)
_NEVER = re.compile(r"must be of|invalid (format|JSON schema|option)|unsupported|does not support|template", re.I)
_REPEATED = 20  # equal pieces in a row, after which an end without a last word is the server's guard against repetition


@dataclass(frozen=True, slots=True)
class Wire:
    """What is the same for every request to one model.

    `think` is sent as it is; None is not sent (the model does not think). `stops` replaces the study's model's own
    stop strings by this model's.
    """

    model: str
    options: Options
    think: bool | str | None
    stops: tuple[Sequence[str], Sequence[str]] = ((), ())

    @property
    def path(self) -> str:
        """Where requests go."""
        return "/api/generate" if self.options.raw or self.options.template is not None else "/api/chat"

    def body(self, request: Request, params: Params) -> dict[str, Any]:
        """The body of one request; `params` are legal values. Raises BackendError for what cannot be sent."""
        fixed = dict(self.options.runner)
        if self.options.num_keep is not None:
            fixed["num_keep"] = self.options.num_keep
        settings = fixed | {
            WIRE.get(name, name): list(value) if isinstance(value, tuple) else value
            for name, value in params.items()
            if name != "model"
        }
        general, own = self.stops
        if settings.get("stop") == list(general):
            settings["stop"] = list(own)
        body = self.common() | {"options": settings | {"seed": request.seed}} | self._prompt(request.messages)
        if request.schema is not None:
            body["format"] = dict(request.schema)
        if request.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        return body

    def common(self) -> dict[str, Any]:
        """The fields of every request to this model. A prompt is never cut to fit: it is refused then."""
        body: dict[str, Any] = {"model": self.model, "stream": True, "truncate": False}
        optional = {"think": self.think, "shift": self.options.shift, "keep_alive": self.options.keep_alive}
        return body | {name: value for name, value in optional.items() if value is not None}

    def _prompt(self, messages: Sequence[Message]) -> dict[str, Any]:
        if not (self.options.raw or self.options.template is not None):
            return {"messages": [_turn(message) for message in messages]}
        if self.options.raw:
            body = {"raw": True, "prompt": "".join(message.content for message in messages)}
        else:
            roles = [message.role for message in messages]
            if roles not in (["user"], ["system", "user"]):
                raise BackendError(
                    f"backend.options.template takes a system and a user turn, not {', '.join(roles)}",
                    hint="put the template into a variant of the model (ollama create) and drop the option",
                )
            system = {"system": messages[0].content} if len(messages) > 1 else {}
            body = {"template": self.options.template, "prompt": messages[-1].content, **system}
        images = [encoded(path) for message in messages for path in message.images]
        return body | ({"images": images} if images else {})


def is_empty(messages: Sequence[Message]) -> bool:
    """True for a prompt that Ollama would take for an order to load the model."""
    return not any(message.content.strip() or message.images for message in messages)


def _turn(message: Message) -> dict[str, Any]:
    images = {"images": [encoded(path) for path in message.images]} if message.images else {}
    return {"role": message.role, "content": message.content, **images}


def encoded(path: str) -> str:
    """A file in base64. Raises BackendError when it cannot be read."""
    try:
        return base64.b64encode(Path(path).read_bytes()).decode()
    except OSError as error:
        raise BackendError(f"the image {path} cannot be read ({error.strerror})") from None


@dataclass
class Reply:
    """One streamed reply, taken up line by line."""

    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    last: Mapping[str, Any] | None = None
    lines: int = 0
    _piece: str = ""
    _equal: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Take up one line. Raises BackendError for one that tells of an error."""
        if "error" in line:
            raise BackendError(f"Ollama gave up in the middle of a text: {in_words(line)}", retryable=True)
        turn = line.get("message")
        text = (line.get("response") if turn is None else turn.get("content")) or ""
        if text:
            self.pieces.append(text)
        self.lines += 1
        if told := line.get("logprobs"):
            self.logprobs += [_token(token) for token in told]
        if line.get("done"):
            self.last = line
            return
        piece = (text or line.get("thinking") or (turn or {}).get("thinking") or "").strip()
        self._equal = self._equal + 1 if piece == self._piece else 0
        self._piece = piece

    def generation(self, seconds: float, first: float, context: int | None, *, top_logprobs: int = 0) -> Generation:
        """The finished generation; `seconds` and `first` (token) are the caller's clock, for what the server does not
        tell. Raises BackendError when the reply ended before its end."""
        text = "".join(self.pieces)
        if self.last is None:
            if self._equal < _REPEATED:
                raise BackendError("Ollama ended its reply before the end of the text", retryable=True)
            why = f"Ollama stopped an endless repetition of {self._piece[:40]!r}"
            return Generation(text, "degenerate", 0, self.lines, seconds, None, why, first)
        reason = self.last.get("done_reason")
        read, written = int(self.last.get("prompt_eval_count", 0)), int(self.last.get("eval_count", 0))
        if reason in ("load", "unload"):
            return Generation("", "error", 0, 0, 0.0, None, "the prompt is empty")
        if context is not None and read >= context:
            why = f"the prompt does not fit the context of {context} tokens, and Ollama cut it"
            return Generation("", "error", read, 0, 0.0, None, why)
        if reason is not None and reason not in _FINISH:
            raise BackendError(f"Ollama ended a text for an unknown reason: {reason!r}")
        if top_logprobs and text and not self.logprobs:
            raise BackendError("Ollama left out the log probabilities that were asked for")
        if total := self.last.get("total_duration"):
            seconds = (total - self.last.get("load_duration", 0)) / 1e9
            first = seconds - self.last.get("eval_duration", 0) / 1e9
        return Generation(
            text,
            _FINISH[reason or "stop"],
            read,
            written,
            seconds,
            tuple(self.logprobs) if top_logprobs else None,
            "",
            min(max(first, 0.0), seconds),
        )


def too_long(refused: Refused, context: int | None) -> str:
    """Why a prompt does not fit, when that is what a refusal says; else ""."""
    words = in_words(refused.reply)
    if refused.status not in (400, 500) or not _TOO_LONG.search(words):
        return ""
    return f"the prompt does not fit the context of {context} tokens: {words}"


def may_pass(status: int, reply: Any) -> bool:
    """True when the same request may succeed later: the server is busy or starts its engine again. A wrong option or
    format is an internal error to Ollama too, but stays one."""
    return status in (429, 502, 503, 504) or (status == 500 and not _NEVER.search(in_words(reply)))


def advice(refused: Refused, model: str) -> str:
    """What a person can do about a refusal."""
    words = in_words(refused.reply)
    if refused.status == 404:
        return f"get it with: ollama pull {model}"
    if refused.status == 503:
        return "lower backend.concurrency, or give the server a longer queue (OLLAMA_MAX_QUEUE)"
    if refused.status == 500 and not _NEVER.search(words):
        return "the server's log says why; with a smaller backend.options.num_ctx a model needs less memory"
    return ""


def _token(told: Mapping[str, Any]) -> TokenLogprob:
    top: dict[str, float] = {}
    for other in told.get("top_logprobs") or ():  # tokens that are written alike (parts of a character) add up
        text, logprob = other["token"], other["logprob"]
        top[text] = math.log(math.exp(top[text]) + math.exp(logprob)) if text in top else logprob
    return TokenLogprob(told["token"], told["logprob"], top)
