"""Requests to the embedded engine for its tests, and the engine run over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from genopt.backends.transformers import PARAMS, TransformersBackend
from genopt.types import Generation, Message, Request
from tests import tiny_models

ONE_THREAD = {"threads": 1, "device": "cpu"}


def make_request(text: str | Sequence[Message], *, seed: int = 1, **params: Any) -> Request:
    messages = (Message("user", text),) if isinstance(text, str) else tuple(text)
    neutral = {name: domain.neutral[0] for name, domain in PARAMS.items() if domain.neutral}
    return Request(messages, {**neutral, "max_tokens": 24, **params}, seed, "example")


def generate(
    model: Path, requests: Sequence[Request], *, tell: Callable[[str], None] | None = None, **options: Any
) -> list[Generation]:
    """All requests at once through a fresh backend."""

    async def session() -> list[Generation]:
        backend = TransformersBackend(model=str(model), options={**ONE_THREAD, **options})
        if tell is not None:
            backend.tell = tell
        await backend.open()
        try:
            return await asyncio.gather(*(backend.generate(request) for request in requests))
        finally:
            await backend.aclose()

    return asyncio.run(session())


def texts(model: Path, requests: Sequence[Request], **options: Any) -> list[str]:
    return [done.text for done in generate(model, requests, **options)]


def mixed_requests(count: int, *, most: int = 40) -> list[Request]:
    """Requests with parameters, prompts and lengths drawn at random, from a fixed seed."""
    draw = random.Random(5)
    return [
        make_request(
            prompt,
            seed=draw.randrange(2**31),
            max_tokens=draw.randrange(1, most),
            temperature=draw.choice([0.0, 0.6, 1.0, 1.5]),
            top_k=draw.choice([0, 5, 40]),
            top_p=draw.choice([1.0, 0.9, 0.5]),
            min_p=draw.choice([0.0, 0.05]),
            typical_p=draw.choice([1.0, 0.8]),
            repetition_penalty=draw.choice([1.0, 1.3]),
            no_repeat_ngram_size=draw.choice([0, 2, 3]),
            presence_penalty=draw.choice([0.0, 0.7]),
            frequency_penalty=draw.choice([0.0, 0.4]),
            min_tokens=draw.choice([0, 9]),
            stop=draw.choice([(), ("e",), (" do", "th")]),
        )
        for prompt in tiny_models.prompts(count)
    ]


def outcome(done: Generation) -> tuple[str, str, int, int]:
    return done.text, done.finish, done.prompt_tokens, done.completion_tokens
