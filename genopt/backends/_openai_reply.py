"""Owns how the replies of an OpenAI-like server are read: events into a generation, refusals into reasons."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genopt.backends._http import in_words
from genopt.errors import BackendError
from genopt.types import Finish, Generation, TokenLogprob

_FINISH: Mapping[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "function_call": "stop",
    "eos": "stop",  # words of servers that speak the protocol in their own way
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "repetition": "degenerate",  # vLLM's repetition_detection
    "content_filter": "error",
}
_TOO_LONG = re.compile(r"context (length|size|window)|maximum context|too long", re.IGNORECASE)
_IMPOSSIBLE = -9000.0  # vLLM writes -9999 for what a constraint rules out


@dataclass
class Reply:
    """One reply, taken up event by event; a reply that is not streamed is one event. `hide` takes secrets out."""

    hide: Callable[[str], str] = str
    pieces: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    usage: Mapping[str, Any] | None = None
    began: bool = False

    def add(self, event: Mapping[str, Any]) -> None:
        """Take up one event. Raises BackendError for one that tells of an error."""
        if event.get("error"):  # some servers name it in every reply, and leave it empty
            raise BackendError(self.hide(f"the server gave up: {in_words(event)}"), retryable=True)
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            part = choice.get("delta") or choice.get("message") or {}
            piece = choice.get("text") or part.get("content") or part.get("refusal") or ""
            self.pieces.append(piece)
            self.began = self.began or bool(piece or part.get("reasoning_content") or part.get("reasoning"))
            self.logprobs += _tokens(choice.get("logprobs") or {})
            self.finish = choice.get("finish_reason") or self.finish

    def generation(self, seconds: float, first: float | None, *, top_logprobs: int) -> Generation:
        """The finished generation. Raises BackendError when the reply broke off, or does not tell its tokens."""
        if self.finish is None or self.finish not in _FINISH:
            broken = "broke off" if self.finish is None else f"ended with {self.finish!r}"
            # A word that is not known here comes again however often it is paid for.
            raise BackendError(f"the server's reply {broken}", retryable=self.finish in (None, "abort"))
        if self.usage is None:
            raise BackendError(
                "the server's reply does not tell how many tokens it took",
                hint="if it leaves them out of streams only, set backend.options.stream = false",
            )
        text, finish = "".join(self.pieces), _FINISH[self.finish]
        if top_logprobs and text and not self.logprobs:
            raise BackendError("the server leaves out the log probabilities that were asked for")
        return Generation(
            text=text,
            finish=finish,
            prompt_tokens=int(self.usage.get("prompt_tokens") or 0),
            completion_tokens=int(self.usage.get("completion_tokens") or 0),
            seconds=seconds,
            logprobs=tuple(self.logprobs) if top_logprobs else None,
            why="withheld by the server's content filter" if finish == "error" else "",
            first_token_seconds=first,
        )


def _tokens(logprobs: Mapping[str, Any]) -> Iterator[TokenLogprob]:
    """The tokens of a choice's `logprobs`: a list of objects under /chat/completions, parallel lists under
    /completions."""
    for token in logprobs.get("content") or logprobs.get("refusal") or ():
        pairs = [(other["token"], other["logprob"]) for other in token.get("top_logprobs") or ()]
        yield TokenLogprob(token["token"], token["logprob"], _merged(pairs))
    parallel = (logprobs.get(name) or () for name in ("tokens", "token_logprobs", "top_logprobs"))
    for text, logprob, top in zip(*parallel, strict=False):
        yield TokenLogprob(text, logprob, _merged(list((top or {}).items())))


def _merged(pairs: list[tuple[str, float]]) -> dict[str, float]:
    """Log probability by text: tokens that are written alike (parts of a character) add up."""
    found: dict[str, float] = {}
    for text, logprob in pairs:
        if logprob > _IMPOSSIBLE:
            known = found.get(text)
            found[text] = logprob if known is None else _add(known, logprob)
    return found


def _add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high + math.log1p(math.exp(low - high))


def too_long(status: int, reply: Any) -> bool:
    """True when a refusal says that the prompt does not fit the model's context."""
    error = reply.get("error") if isinstance(reply, Mapping) else None
    if status not in (400, 413, 422) or not isinstance(error, Mapping):
        return False
    return (
        error.get("code") == "context_length_exceeded"
        or error.get("type") == "exceed_context_size_error"
        or error.get("param") in ("input_tokens", "input_text")
        or (error.get("param") in (None, "messages", "prompt") and bool(_TOO_LONG.search(in_words(reply))))
    )
