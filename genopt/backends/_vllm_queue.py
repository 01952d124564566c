"""Owns the order in which requests to vLLM wait: together by model and prompt. Knows nothing of engines or threads."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from genopt.types import Generation, Message, Request


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way."""

    request: Request
    model: str
    future: Future[Generation] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)
    added: float = 0.0
    name: str = ""


class Queue:
    """What waits, by model and prompt: requests with the same prompt leave together, the oldest prompt first, so that
    its prefix is computed once even where the cache cannot hold the prefixes of all that waits."""

    def __init__(self) -> None:
        self._models: dict[str, dict[tuple[Message, ...], deque[Job]]] = {}

    def put(self, job: Job) -> None:
        prompts = self._models.setdefault(job.model, {})
        prompts.setdefault(job.request.messages, deque()).append(job)

    def take(self, model: str) -> Job | None:
        """The next one for a model that is still wanted."""
        prompts = self._models.get(model, {})
        while prompts:
            prompt = next(iter(prompts))
            job = prompts[prompt].popleft()
            if not prompts[prompt]:
                del prompts[prompt]
            if not prompts:
                del self._models[model]
            if not job.future.cancelled():
                return job
        return None

    def models(self) -> list[str]:
        """The models that something waits for."""
        return list(self._models)

    def __len__(self) -> int:
        return sum(len(jobs) for prompts in list(self._models.values()) for jobs in list(prompts.values()))
