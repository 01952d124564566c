"""Owns the embedded engine: a model of `transformers` in this process, all requests batched whatever their parameters.

The adapter checks options and parameters and turns requests into rows; loading, batching, sampling and the thread are
the `_hf_*` files beside it, which import PyTorch and are themselves imported only when a model is opened.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genopt.backends._domains import COMMON, legal
from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.spec.mistakes import hint
from genopt.types import BackendInfo, Domain, Generation, Message, ParamValue, Request

if TYPE_CHECKING:
    from genopt.backends._hf_loading import LoadedModel
    from genopt.backends._hf_rows import Finished, Row
    from genopt.backends._hf_worker import Worker

_log = logging.getLogger(__name__)

PARAMS: Mapping[str, Domain] = {
    "temperature": replace(COMMON["temperature"], doc="Divides the logits before truncation; 0 is greedy.", high=5.0),
    **{name: COMMON[name] for name in ("top_k", "top_p", "min_p", "typical_p")},
    "repetition_penalty": replace(
        COMMON["repetition_penalty"],
        doc="Makes tokens of the prompt and the text less likely above 1, likelier below (not an encoder's prompt).",
    ),
    "no_repeat_ngram_size": Domain(
        "int", "No n-gram of this size occurs twice in prompt and text; 0 is off.", low=0, neutral=(0,)
    ),
    **{name: COMMON[name] for name in ("presence_penalty", "frequency_penalty")},
    "num_beams": Domain("int", "Beams of the beam search; 1 is none. Beams run alone: slow.", 1, 16, neutral=(1,)),
    "length_penalty": Domain(
        "float", "With beams: above 0 favours long texts, below 0 short ones.", low=-10.0, high=10.0, neutral=(1.0,)
    ),
    **{name: COMMON[name] for name in ("max_tokens", "min_tokens", "stop")},
}

_OPTIONS: Mapping[str, Any] = {
    "device": "auto",
    "dtype": "auto",
    "batch_size": None,
    "revision": None,
    "trust_remote_code": False,
    "chat_template_kwargs": {},
    "raw": False,
    "threads": None,
}
_TOP_LOGPROBS = 20
_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


class TransformersBackend:
    """A model folder or hub id, run in this process; each text depends on its own request and nothing else.

    That holds to the letter in float32. In bfloat16 and float16 the sums of a larger batch round differently, and most
    sampled texts differ in some token between a row alone and the same row among others (benchmarks/README.md).

    A text may be kept to `choices` (by the tokens that spell them) and tells up to 20 log probabilities a token: the
    model's own before any parameter, with choices over the tokens they allow.

    Options: device ("auto", "cuda", "cuda:1", "mps", "cpu"); dtype ("auto": float32 on a CPU, else the model's own);
    batch_size (texts decoded at once, 64 on a CPU and 256 on a GPU); revision and trust_remote_code of the hub;
    chat_template_kwargs; raw (no chat template: the messages' texts are concatenated); threads (of PyTorch, CPU).
    Raises SpecError for an option that does not exist or has the wrong type.
    """

    params = PARAMS
    tell: Callable[[str], None] = staticmethod(_log.info)

    def __init__(self, *, model: str, options: Mapping[str, Any] | None = None) -> None:
        self._model = model
        self._options = _checked(options or {})
        self._worker: Worker | None = None
        self._loaded: LoadedModel | None = None
        self._info: BackendInfo | None = None
        self._encode: Callable[[tuple[Message, ...]], tuple[int, ...]] | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> BackendInfo:
        """Load the model in a thread. Raises MissingExtra without PyTorch, SpecError when the model cannot be read."""
        async with self._opening:
            if self._info is None:
                self._info = await asyncio.to_thread(self._load)
            return self._info

    async def generate(self, request: Request) -> Generation:
        """One text. A prompt longer than the model's context is finish "error"; cancelling leaves the batch."""
        from genopt.backends._hf_worker import Job

        if self._worker is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        params = self._coerced(request)
        started = time.perf_counter()
        prompt_tokens = 0

        def prepare() -> Row | Finished:
            nonlocal prompt_tokens
            row, prompt_tokens = self._row(request, params)
            return row

        job = Job(prepare)
        self._worker.submit(job)
        done = await asyncio.wrap_future(job.future)
        seconds, began = time.perf_counter() - started, done.row.began
        return Generation(
            done.text,
            done.finish,
            prompt_tokens,
            done.tokens,
            seconds,
            tuple(done.row.told) if request.top_logprobs else None,
            done.why,
            None if began is None else began - started,
            tuple(done.row.ids) if done.finish != "error" and len(done.row.ids) == done.tokens else None,
        )

    def replay(self, request: Request, donor: Generation) -> Generation | None:
        """The text of this request, whose tokens begin as the donor's; None where those end before it does. The batch's
        own rule for an end is applied token by token."""
        from genopt.backends._hf_rows import Row, replayed
        from genopt.backends._hf_sampling import Decoding

        loaded, decoding = self._loaded, Decoding.of(self._coerced(request))
        if loaded is None or donor.tokens is None or decoding.num_beams != 1 or request.choices:
            return None
        row = Row((), decoding, request.seed, self._limit(decoding.max_tokens, donor.prompt_tokens))
        done = replayed(row, donor.tokens, loaded.rules.eos, loaded.decode)
        if done is None:
            return None
        return replace(donor, text=done.text, finish=done.finish, completion_tokens=done.tokens, tokens=tuple(row.ids))

    def _limit(self, max_tokens: int, prompt_tokens: int) -> int:
        """max_tokens cut to the room in the context."""
        loaded = self._loaded
        if loaded is None or loaded.context is None:
            return max_tokens
        return min(max_tokens, loaded.context - (1 if loaded.seq2seq else prompt_tokens))

    def stats(self) -> dict[str, float]:
        """The texts that are being written, and those that wait."""
        return {} if self._worker is None else self._worker.stats()

    async def aclose(self) -> None:
        """End the thread and free the model; what is unfinished gets a BackendError. Safe to call twice."""
        worker, self._worker, self._loaded, self._info = self._worker, None, None, None
        self._encode = None
        if worker is not None:
            await asyncio.to_thread(worker.close)
            del worker
            await asyncio.to_thread(_free)

    def _load(self) -> BackendInfo:
        try:
            import torch  # noqa: F401
            import transformers  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("PyTorch or transformers", "transformers") from error
        from genopt.backends._hf_batch import warm_up
        from genopt.backends._hf_loading import load, quiet
        from genopt.backends._hf_worker import Worker
        from genopt.backends._model_files import loading

        if words := loading(self._model):
            self.tell(words)
        loaded = load(self._model, self._options)
        with quiet():
            warm_up(loaded)
        size = self._options["batch_size"] or (64 if loaded.device.type == "cpu" else 256)
        self._encode = functools.lru_cache(maxsize=4096)(loaded.encode)
        self._loaded, self._worker = loaded, Worker(loaded, size, self.tell)
        return BackendInfo(
            identity=loaded.identity,
            params=PARAMS,
            defaults={name: PARAMS[name].coerce(value) for name, value in loaded.defaults.items()},
            recommended={name: PARAMS[name].coerce(value) for name, value in loaded.recommended.items()},
            concurrency=size if loaded.batchable else 1,
            context=loaded.context,
            vocabulary=loaded.vocabulary,
            notes=loaded.notes,
            structured=frozenset() if loaded.rules.fixed else frozenset({"choices"}),
            top_logprobs=_TOP_LOGPROBS,
            seeded=True,
            idle_is_free=loaded.device.type != "cpu",
        )

    @staticmethod
    def _coerced(request: Request) -> dict[str, ParamValue]:
        """The request's parameters in their own types. Raises BackendError for what is not legal or not done here."""
        params = request.params
        if request.schema is not None or request.regex is not None:
            raise BackendError(
                "this engine keeps a text to choices, not to a schema or a regex",
                hint="The engines vllm and ollama do",
            )
        if not 0 <= request.top_logprobs <= _TOP_LOGPROBS:
            raise BackendError(f"top_logprobs: {request.top_logprobs} is outside [0, {_TOP_LOGPROBS}]")
        if params.get("num_beams", 1) != 1 and (request.choices or request.top_logprobs):
            raise BackendError("choices and top_logprobs do not go with beams", hint="Set num_beams = 1")
        return legal(params, PARAMS)

    def _row(self, request: Request, params: Mapping[str, ParamValue]) -> tuple[Row | Finished, int]:
        """The request as a row of the batch, or its result when the prompt does not fit; and the prompt's tokens."""
        from genopt.backends._hf_rows import Finished, Row
        from genopt.backends._hf_sampling import Decoding

        loaded = self._loaded
        if loaded is None or self._encode is None:
            raise BackendError("the engine was closed")
        prompt, decoding = self._encode(tuple(request.messages)), Decoding.of(params)
        size = len(prompt)
        limit = self._limit(decoding.max_tokens, size)
        row = Row(prompt, decoding, request.seed, limit, top_logprobs=request.top_logprobs)
        if request.choices:
            if loaded.rules.fixed:
                raise BackendError("this model fixes tokens in its generation_config.json: it takes no choices")
            row.choices = loaded.choices(request.choices)
            row.decoding = decoding.unbanned()
        if loaded.context is not None and size > loaded.context - (0 if loaded.seq2seq else 1):
            why = f"prompt has {size} tokens, the model's context is {loaded.context}"
            return Finished(row, "", "error", 0, why), size
        return row, size


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """All options with their defaults. Raises SpecError with every mistake."""
    problems = [
        f"backend.options.{name}: there is no such option.{hint(name, _OPTIONS)}"
        for name in options
        if name not in _OPTIONS
    ]
    full = dict(_OPTIONS) | dict(options)
    checks = {
        "device": (isinstance(full["device"], str), "a text such as cpu or cuda:0"),
        "dtype": (full["dtype"] in _DTYPES, "one of " + ", ".join(_DTYPES)),
        "batch_size": (full["batch_size"] is None or _positive(full["batch_size"]), "a whole number >= 1"),
        "revision": (full["revision"] is None or isinstance(full["revision"], str), "a text"),
        "trust_remote_code": (isinstance(full["trust_remote_code"], bool), "true or false"),
        "chat_template_kwargs": (isinstance(full["chat_template_kwargs"], Mapping), "a table"),
        "raw": (isinstance(full["raw"], bool), "true or false"),
        "threads": (full["threads"] is None or _positive(full["threads"]), "a whole number >= 1"),
    }
    problems += [f"backend.options.{n}: {full[n]!r} is not {what}" for n, (legal, what) in checks.items() if not legal]
    if problems:
        raise SpecError(problems)
    return full


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _free() -> None:
    """Give the memory of a model that is no longer referred to back."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
