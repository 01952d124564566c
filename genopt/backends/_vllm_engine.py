"""Owns one started engine of vLLM as its thread sees it: requests in, finished texts out, aborting, its own counters.

It is used by one thread at a time and knows nothing of futures, queues or restarts.
"""

from __future__ import annotations

import contextlib
import gc
import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from genopt.backends._vllm_options import Options
from genopt.backends._vllm_params import NO_LORA, sampling_params
from genopt.errors import BackendError
from genopt.types import Finish, Generation, Message, Request, TokenLogprob

_FINISH: Mapping[str, Finish] = {"stop": "stop", "length": "length", "repetition": "degenerate"}
_REMEMBERED = 4096  # prompts
_GUESS = 512  # tokens of a prompt and its answer, as long as no text is finished
_RECENT = 64  # finished texts that are remembered
_WATCHED_EVERY = 0.5  # seconds


class Counters:
    """What the engine says of itself at every step, or several that share the requests; takes the place of vLLM's own
    loggers."""

    def __init__(self) -> None:
        self._now: dict[int, tuple[int, int, float]] = {}
        self.prompt_tokens = self.cached_tokens = 0

    @property
    def running(self) -> int:
        return sum(running for running, _, _ in list(self._now.values()))

    @property
    def waiting(self) -> int:
        return sum(waiting for _, waiting, _ in list(self._now.values()))

    @property
    def kv_cache(self) -> float:
        used = [used for _, _, used in list(self._now.values())]
        return sum(used) / len(used) if used else 0.0

    def record(self, scheduler_stats: Any, *_: Any, engine_idx: int = 0, **__: Any) -> None:
        """Called by vLLM after every step of an engine."""
        if scheduler_stats is None:
            return
        waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
        self._now[engine_idx] = scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage
        prefixes = scheduler_stats.prefix_cache_stats
        self.prompt_tokens += prefixes.queries + prefixes.preempted_queries
        self.cached_tokens += prefixes.hits + prefixes.preempted_hits

    def log(self) -> None:
        """Called by vLLM now and then."""


class Engine:
    """A started engine; `context` is its window in tokens."""

    def __init__(self, llm: Any, options: Options, adapters: Mapping[str, str]) -> None:
        self._llm = llm
        self._options = options
        self.adapters = adapters
        self.config = llm.vllm_config
        self.counters = Counters()
        llm.logger_manager = self.counters
        self._tokenizer = llm.renderer.get_tokenizer()
        cache = self.config.cache_config
        self.cache_tokens = (cache.num_gpu_blocks or 0) * (cache.block_size or 1)
        self.context: int = self.config.model_config.max_model_len
        model = self.config.model_config
        self.sees = bool(
            getattr(model, "supports_multimodal_inputs", model.is_multimodal_model)
        )  # the former is of 0.32
        self._lengths = deque([min(self.context, _GUESS)] * _RECENT, maxlen=_RECENT)
        plain = options.raw or getattr(self._tokenizer, "chat_template", "") is None
        self.prompt_kind = "raw" if plain else "template"
        self._ids = lru_cache(maxsize=_REMEMBERED)(self._encoded)
        self._unread: dict[str, Any] = {}  # the parameters of requests whose tokens vLLM hands over without a text
        self._closing = threading.Event()
        if hasattr(llm.engine_core, "outputs_queue"):
            threading.Thread(target=self._watch, name="genopt-vllm-watch", daemon=True).start()

    @property
    def slots(self) -> int:
        """How many texts it writes at once: those that it may, as far as its cache holds so many as long as the last
        ones were with their prompts. More of them would push each other out, and be computed again."""
        fitting = self.cache_tokens * _RECENT // sum(self._lengths)
        most = self.config.scheduler_config.max_num_seqs * self.config.parallel_config.data_parallel_size
        return int(max(1, min(most, fitting)))

    @property
    def concurrency(self) -> int:
        """How many requests it is worth having in flight: a slot that gets free is then filled at once."""
        return self.slots + self.slots // 4

    def add(self, name: str, request: Request) -> Generation | None:
        """Take a request, or give its result at once when the prompt does not fit.

        Raises BackendError when it is the request that is wrong; anything else means that the engine is broken.
        """
        from vllm.inputs import tokens_input
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.exceptions import EngineDeadError

        if any(message.images for message in request.messages):
            prompt = self._rendered(request.messages)
        else:
            prompt = tokens_input(list(self._ids(request.messages)))
        size = len(prompt["prompt_token_ids"])
        if size >= self.context:
            why = f"prompt has {size} tokens, the model's context is {self.context}"
            return Generation("", "error", size, 0, 0.0, why=why)
        adapter = request.params.get("lora", NO_LORA)
        lora = None
        if adapter != NO_LORA:
            place = list(self.adapters).index(str(adapter)) + 1
            lora = LoRARequest(str(adapter), place, self.adapters[str(adapter)])
        params = sampling_params(request)
        try:
            self._llm.add_request(name, prompt, params, lora_request=lora)
        except EngineDeadError:
            raise
        except Exception as error:
            self._llm.abort_request([name])  # else it stays on the engine's books for ever
            raise BackendError(f"vLLM refuses the request: {error}") from error
        if not params.detokenize:
            self._unread[name] = params
        return None

    def step(self) -> list[tuple[str, Generation | BackendError]]:
        """One step for everything that runs; the texts that it finished, and requests that vLLM gave up. An exception
        means that the engine is broken."""
        done = [
            (output.request_id, _generation(output, self._text(output)))
            for output in self._llm.step()
            if output.finished
        ]
        made = [generation for _, generation in done if isinstance(generation, Generation)]
        self._lengths.extend(each.prompt_tokens + each.completion_tokens for each in made)
        return done

    def abort(self, names: Sequence[str]) -> None:
        """Stop requests; their slots and memory are free at the next step."""
        self._llm.abort_request(list(names))
        for name in names:
            self._unread.pop(name, None)

    def close(self) -> None:
        """End the engine and free its memory."""
        import torch

        self._closing.set()
        llm, self._llm = self._llm, None
        self._ids.cache_clear()
        if llm is not None:
            core = llm.engine_core
            with contextlib.suppress(Exception):  # what is broken may not be able to say goodbye
                core.shutdown()
            with contextlib.suppress(Exception):
                llm.renderer.shutdown()
            if hasattr(core, "output_queue_thread"):  # vLLM leaves these to the garbage collector, which complains
                core.output_queue_thread.join(timeout=_WATCHED_EVERY)
                core.ctx.destroy(linger=0)
            del llm, core
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _watch(self) -> None:
        """Wake a thread that waits for a process that is gone: vLLM itself would let it wait for ever."""
        core = self._llm.engine_core
        while not self._closing.wait(_WATCHED_EVERY):
            if core.resources.engine_dead:
                core.outputs_queue.put_nowait(RuntimeError("its process ended"))
                return

    def _text(self, output: Any) -> str:
        """A finished request's text; where vLLM did not read its tokens one by one, by vLLM's own reader at once."""
        (made,) = output.outputs
        params = self._unread.pop(output.request_id, None)
        if params is None:
            return str(made.text)
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        asked = SimpleNamespace(
            request_id=output.request_id,
            sampling_params=params,
            prompt_token_ids=output.prompt_token_ids,
            prompt_embeds=None,
        )
        reader: Any = IncrementalDetokenizer.from_new_request(self._tokenizer, asked)
        reader.update(list(made.token_ids), made.finish_reason == "stop")
        return str(reader.get_next_output_text(finished=True, delta=False))

    def _encoded(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The prompt's ids, at least one. Raises BackendError when the chat template refuses the messages."""
        tokenizer = self._tokenizer
        if self.prompt_kind == "raw":
            text = ("" if self._options.raw else "\n\n").join(message.content for message in messages)
            ids = tokenizer.encode(text)
        elif not hasattr(tokenizer, "chat_template"):  # of Mistral's own kind
            ids = self._rendered(messages)["prompt_token_ids"]
        else:
            with _template_errors():
                text = tokenizer.apply_chat_template(
                    [{"role": message.role, "content": message.content} for message in messages],
                    tokenize=False,
                    **self._template_flags(messages),
                    **self._options.chat_template_kwargs,
                )
            ids = tokenizer.encode(text, add_special_tokens=False)
        start = getattr(tokenizer, "bos_token_id", None)
        return tuple(int(i) for i in ids) or (start if start is not None else 0,)

    def _rendered(self, messages: Sequence[Message]) -> Any:
        """The prompt by vLLM's own renderer, images and all. Raises BackendError when it cannot be made."""
        from vllm.renderers.params import ChatParams

        flags = {**self._template_flags(messages), **self._options.chat_template_kwargs}
        with _template_errors():
            conversation = [{"role": message.role, "content": _content(message)} for message in messages]
            _, (prompt,) = self._llm.renderer.render_chat([conversation], ChatParams(chat_template_kwargs=flags))
        return prompt

    @staticmethod
    def _template_flags(messages: Sequence[Message]) -> dict[str, bool]:
        prefill = bool(messages) and messages[-1].role == "assistant"
        return {"add_generation_prompt": not prefill, "continue_final_message": prefill}


@contextlib.contextmanager
def _template_errors() -> Any:
    try:
        yield
    except Exception as error:  # jinja's errors, those of the library's own checks, unreadable images
        raise BackendError(
            f"the model's chat template refuses these messages: {error}",
            hint="Some models take no system message; options.raw = true sends the texts without a template",
        ) from error


def _content(message: Message) -> Any:
    """A message's content as vLLM's chat takes it: the images before the text."""
    from PIL import Image

    if not message.images:
        return message.content
    parts: list[dict[str, Any]] = []
    for path in message.images:
        with Image.open(path) as image:
            parts.append({"type": "image_pil", "image_pil": image.convert("RGB")})
    return [*parts, {"type": "text", "text": message.content}]


def _generation(output: Any, text: str) -> Generation | BackendError:
    """A finished request that wrote `text`."""
    (made,) = output.outputs
    if made.finish_reason not in _FINISH:  # e.g. a grammar that cannot be compiled
        return BackendError(f"vLLM gave the request up: it ended with {made.finish_reason!r}")
    ids = list(made.token_ids)
    metrics = output.metrics
    first = metrics.first_token_latency if metrics is not None and metrics.first_token_latency > 0 else None
    logprobs = None
    if made.logprobs is not None:
        logprobs = tuple(_told(place, token) for place, token in zip(made.logprobs, ids, strict=False))
    return Generation(
        text=text,
        finish=_FINISH[made.finish_reason],
        prompt_tokens=len(output.prompt_token_ids),
        completion_tokens=len(ids),
        seconds=0.0,
        logprobs=logprobs,
        first_token_seconds=first,
    )


def _told(place: Mapping[int, Any], token: int) -> TokenLogprob:
    """One token's entry. The token itself is in `place` even when it is none of the likeliest; what a constraint rules
    out is not told."""
    own = place[token]
    most = len(place) - (1 if own.rank is not None and own.rank >= len(place) else 0)
    ranked = sorted(place.values(), key=lambda entry: -entry.logprob)
    top: dict[str, float] = {}
    for entry in ranked[: max(1, most)]:
        if math.isfinite(entry.logprob):
            top.setdefault(entry.decoded_token or "", entry.logprob)
    return TokenLogprob(own.decoded_token or "", own.logprob, top)
