"""Owns asking an engine for grades: which way works, requests and replies, trying again, and what it costs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from genopt import handed
from genopt.errors import BackendError, SpecError
from genopt.scorers._judge_modes import (
    SAMPLES,
    Scale,
    Unreadable,
    constraint,
    expected,
    instruction,
    parameters,
    pooled,
    read,
    reason_of,
    ways,
)
from genopt.spec.mistakes import hint
from genopt.types import Backend, BackendInfo, Generation, Judgment, Message, ParamValue, Request


@dataclass
class Usage:
    """What judging has cost in this process; what was remembered cost nothing."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


@dataclass
class Asker:
    """An opened engine that is asked for grades; `find_mode` comes first. `samples` replies are averaged where one says
    too little; a reply that cannot be read is asked for again, `retries` times."""

    name: str
    backend: Backend
    info: BackendInfo
    slots: asyncio.Semaphore
    params: Mapping[str, ParamValue]
    samples: int
    retries: int
    usage: Usage
    mode: str = ""
    sleep: Callable[[float], Awaitable[None]] = field(default=asyncio.sleep)

    @property
    def wanted(self) -> int:
        """Readable replies that one answer takes."""
        return self.samples if self.mode == SAMPLES else 1

    async def find_mode(self, wanted: str, question: Callable[[str], Sequence[Message]], scale: Scale) -> None:
        """Take the first mode whose reply to `question(instruction)` can be read. Raises SpecError when there is none,
        BackendError when the engine is away."""
        tried: list[str] = []
        for mode in ways(self.info, wanted, name=self.name):
            self.mode = mode
            for attempt in range(1 + self.retries):  # as an answer has: one bad reply must not decide for good
                request = self.request(question(instruction(mode, scale)), scale, seed=attempt, again=attempt > 0)
                try:
                    read(mode, scale, await self._send(request))
                    return
                except Unreadable as error:
                    why = str(error)
                except BackendError as error:
                    if error.retryable:
                        raise
                    why = str(error)  # an engine may refuse what it said it has
                    break
            tried.append(f"{mode}: {why}")
        raise SpecError(
            f"scorers.{self.name}: the judge gives no grade that can be read. {'; '.join(tried)}",
            hint="choose a model that follows instructions, or an engine with log probabilities or structured outputs",
        )

    def request(self, messages: Sequence[Message], scale: Scale, *, seed: int = 0, again: bool = False) -> Request:
        """The request for one reply; `again` after one that could not be read."""
        params = parameters(self.mode, self.info, self.params, again=again)
        return Request(tuple(messages), params, seed, "judge", **constraint(self.mode, scale, self.info))

    async def answer(self, messages: Sequence[Message], scale: Scale, key: str) -> Judgment:
        """A judgment; its seeds follow from `key`. Raises BackendError when the engine fails for good."""
        replies: list[Generation] = []
        readable: list[dict[str, float]] = []
        why = reason = ""
        while len(readable) < self.wanted and len(replies) < self.wanted + self.retries:
            seed = int(digest([key, len(replies)])[:8], 16) % 2**31
            again = len(replies) > len(readable)
            replies.append(await self._send(self.request(messages, scale, seed=seed, again=again)))
            try:
                readable.append(read(self.mode, scale, replies[-1]))
                reason = reason or reason_of(self.mode, replies[-1].text)
            except Unreadable as error:
                why = str(error)
        probabilities = pooled(readable) if len(readable) == self.wanted else {}
        return Judgment(
            value=expected(scale, probabilities) if probabilities else None,
            why=_told(probabilities, reason) if probabilities else f"the judge could not be understood: {why}",
            probabilities=probabilities,
            raw="\n".join(reply.text for reply in replies),
            mode=self.mode,
            calls=len(replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
            seconds=math.fsum(reply.seconds for reply in replies),
        )

    async def _send(self, request: Request) -> Generation:
        """One reply. An engine that fails for good says nothing about the text, so that is not a judgment."""

        async def ask() -> Generation:
            async with self.slots:
                with handed.raised(f"scorers.{self.name}: {type(self.backend).__name__}", "generate"):
                    return handed.generation(await self.backend.generate(request), self.backend)

        reply = await handed.patiently(ask, self.sleep)
        self.usage.calls += 1
        self.usage.prompt_tokens += reply.prompt_tokens
        self.usage.completion_tokens += reply.completion_tokens
        return reply


def legal(name: str, chosen: Mapping[str, Any], info: BackendInfo) -> dict[str, ParamValue]:
    """The judge's own parameters in the engine's types. Raises SpecError with everything that is wrong with them."""
    problems: list[str] = []
    found: dict[str, ParamValue] = {}
    for parameter, value in chosen.items():
        key, domain = f"scorers.{name}.params.{parameter}", info.params.get(parameter)
        if domain is None:
            problems.append(f"{key}: is no parameter of the judge's engine.{hint(parameter, info.params)}")
            continue
        try:
            found[parameter] = domain.coerce(value)
        except ValueError as error:
            problems.append(f"{key}: {error}. Correct it")
    if problems:
        raise SpecError(problems)
    return found


def digest(parts: Any) -> str:
    """sha256 of plain values."""
    plain = json.dumps(parts, ensure_ascii=False, sort_keys=True, default=str)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()


def _told(probabilities: Mapping[str, float], reason: str) -> str:
    """The likeliest labels and the reason, e.g. `4: 0.71, 5: 0.22` or `4: It names the order.`"""
    ordered = sorted(probabilities.items(), key=lambda pair: -pair[1])
    labels = ", ".join(f"{label}: {p:.2f}" for label, p in ordered[:3] if p >= 0.005)
    return f"{ordered[0][0] if ordered[0][1] == 1 else labels}: {reason}" if reason else labels
