"""Owns the vllm engine: vLLM inside the process, many trials in one batch, whatever their parameters.

The adapter checks requests and joins its parts; options, parameters, the engine and its thread are the `_vllm_*` files
beside it. vLLM is imported when a model is opened, not before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genopt.backends._vllm_loading import load, named
from genopt.backends._vllm_options import beside, options_of, shown
from genopt.backends._vllm_params import PARAMS, coerced
from genopt.backends._vllm_queue import Job
from genopt.backends._vllm_worker import Running, Worker
from genopt.errors import BackendError, SpecError
from genopt.types import BackendInfo, Generation, Request

__all__ = ["PARAMS", "VllmBackend"]

_log = logging.getLogger(__name__)


class VllmBackend:
    """A model folder or hub id in vLLM: requests of all trials share its batch, and each prompt's prefix is computed
    once for all of them; a cancelled one leaves within a step.

    Texts are those that a request gets alone as far as vLLM promises it: in bfloat16 and float16 the sums of another
    batch round differently, and a sampled text may then differ in some token (benchmarks/README.md).

    Options: in_process (default: on a CPU in this process, on a GPU in one of its own); lora (a table, name = folder,
    the choices of the parameter `lora`); chat_template_kwargs; raw (no chat template: the messages' texts are
    concatenated); and those of vLLM's EngineArgs: dtype, quantization, max_model_len, gpu_memory_utilization,
    kv_cache_memory_bytes, max_num_seqs, tensor_parallel_size, pipeline_parallel_size, data_parallel_size (engines that
    share the requests, with a copy of the model each), speculative_config, ...
    Raises SpecError for an option that does not exist.
    """

    params = PARAMS
    tell: Callable[[str], None] = staticmethod(_log.info)

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._model, self._name = model, shown(model)
        self._options = options_of(options or {})
        self._worker: Worker | None = None
        self._info: BackendInfo | None = None
        self._places = {self._name: model}
        self._opening = asyncio.Lock()

    async def open(self) -> BackendInfo:
        """Start the engine. Raises MissingExtra without vLLM, SpecError for a wrong model or option, BackendError when
        it does not fit."""
        async with self._opening:
            if self._info is None:
                found: list[BackendInfo] = []

                def start(name: str) -> Running:
                    engine, info = load(self._places[name], self._options, self.tell)
                    found.append(info)
                    return engine

                worker = Worker(start, self._name, lambda text: self.tell(text))
                try:
                    await asyncio.wrap_future(worker.ready)
                except BaseException:
                    await asyncio.shield(asyncio.to_thread(worker.close))
                    raise
                self._worker, self._info = worker, found[0]
            return self._info

    async def models(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """What identifies each of these models. Raises SpecError for a folder that is none."""
        places = {name: self._place(name) for name in names}
        return {name: named(place) for name, place in places.items()}

    async def generate(self, request: Request) -> Generation:
        """One text. A prompt longer than max_model_len is finish "error"; cancelling aborts it in the engine."""
        if self._worker is None or self._info is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        asked = coerced(request, self._info.params, self._info.top_logprobs)
        if not self._info.images and any(message.images for message in asked.messages):
            raise BackendError(f"the model {self._name} does not see images", hint="take one that does")
        model = str(asked.params.get("model", self._name))
        try:
            self._place(model)
        except SpecError as error:
            raise BackendError(str(error), hint=error.hint) from error
        job = Job(asked, model)
        self._worker.submit(job)
        return await asyncio.wrap_future(job.future)

    def stats(self) -> dict[str, float]:
        """Sequences that run and wait, the share of prompt tokens that were cached, how full the KV cache is."""
        return {} if self._worker is None else self._worker.stats()

    async def aclose(self) -> None:
        """End the engine and free its memory; what is unfinished gets a BackendError. Safe to call twice."""
        worker, self._worker, self._info = self._worker, None, None
        if worker is not None:
            await asyncio.to_thread(worker.close)

    def _place(self, name: str) -> str:
        """Where a model that a request names is. Raises SpecError for a path that holds none."""
        if name not in self._places:
            place = beside(self._model, name)
            named(place)
            self._places[name] = place
        return self._places[name]
