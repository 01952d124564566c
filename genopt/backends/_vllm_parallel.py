"""Owns engines of vLLM that share the requests (data parallelism), each with a copy of the model and a process.

vLLM spreads requests over several engines only in its asynchronous client. Here that client, in a loop of its own, has
the methods of vLLM's `LLMEngine` that `_vllm_engine.Engine` calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_TURN = 0.01  # seconds that a step waits for a text at most: requests that come meanwhile wait as long


class ParallelEngines:
    """`LLMEngine` for several engines, made of a configuration with a `data_parallel_size` above 1."""

    def __init__(self, arguments: Any, usage_context: Any) -> None:
        from vllm.v1.engine.async_llm import AsyncLLM

        # Outside of a loop, so that nobody but `logger_manager` is told what the engines do.
        self._llm = AsyncLLM.from_engine_args(arguments, usage_context=usage_context)
        self.vllm_config = self._llm.vllm_config
        self.renderer = self._llm.renderer
        self.engine_core = self
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="genopt-vllm-parallel", daemon=True)
        self._thread.start()

    @property
    def logger_manager(self) -> Any:
        """Whose `record` is called after every step of an engine."""
        return self._llm.logger_manager

    @logger_manager.setter
    def logger_manager(self, counters: Any) -> None:
        self._llm.logger_manager = counters

    def add_request(self, name: str, prompt: Any, params: Any, *, lora_request: Any = None) -> None:
        """Hand a request to the engine with the fewest. Raises what vLLM raises for one that it refuses."""

        async def add() -> None:
            collector = await self._llm.add_request(name, prompt, params, lora_request=lora_request)
            self._followed[name] = task = asyncio.create_task(self._follow(collector))
            task.add_done_callback(lambda _: self._followed.pop(name, None))

        self._run(add())

    def step(self) -> list[Any]:
        """What has been finished, after a moment at most. Raises what broke an engine."""
        found = []
        with contextlib.suppress(queue.Empty):
            found.append(self._done.get(timeout=_TURN))
            while True:
                found.append(self._done.get_nowait())
        for each in found:
            if isinstance(each, Exception):
                raise each
        return found

    def abort_request(self, names: Sequence[str]) -> None:
        """Stop requests, of which nothing more is heard."""

        async def abort() -> None:
            for name in names:
                if name in self._followed:
                    self._followed[name].cancel()
            await self._llm.abort(list(names))

        self._run(abort())

    def shutdown(self) -> None:
        """End the engines' processes and the loop."""

        async def end() -> None:
            self._llm.shutdown()
            left = list(self._followed.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        try:
            self._run(end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._llm.engine_core.resources.ctx.destroy(linger=0)  # vLLM leaves it to the garbage collector

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _follow(self, collector: Any) -> None:
        try:
            output = await collector.get()  # the whole text: no part of it is told
        except Exception as error:
            output = error
        else:
            if any(made.finish_reason == "abort" for made in output.outputs):
                output = RuntimeError("one of its processes ended")  # then the others give up what they have
        self._done.put(output)
