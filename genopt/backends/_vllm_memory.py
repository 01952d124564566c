"""Owns what can be said of an engine's memory before it is loaded: weights from their files, a token's cache from the
configuration, and whether both fit into a share of a card. Arithmetic, but for reading those files; imports no vLLM."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genopt.backends._model_files import weight_files
from genopt.backends._vllm_options import UTILIZATION

GIB = 2**30
TYPICAL = 1024  # tokens of a prompt and its answer, for telling how many of them fit
WORKING = 2 * GIB  # thought to go to activations, CUDA graphs and CUDA itself: only vLLM's own profile can tell
_BYTES = {"float32": 4, "float": 4, "float16": 2, "half": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Size:
    """What an engine holds, in bytes: its weights, and a token in its cache. `longest` is its context in tokens."""

    weights: int
    token: int
    longest: int


@dataclass(frozen=True, slots=True)
class Room:
    """What a share of a card leaves an engine: bytes for its cache (below 0: the weights alone do not fit), and how
    many tokens and texts of so many tokens that is."""

    cache: int
    tokens: int
    texts: int


def size_of(folder: Path, options: Mapping[str, Any]) -> Size | None:
    """The size of a model in a folder; None where it cannot be told (no safetensors, a cache of another kind than
    keys and values of every layer)."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        told = config.get("text_config", config)
        stored = str(told.get("dtype") or told.get("torch_dtype") or config.get("torch_dtype") or "float32")
        layers, heads, hidden = (int(told[n]) for n in ("num_hidden_layers", "num_attention_heads", "hidden_size"))
        width = int(told.get("head_dim") or hidden // heads) * int(told.get("num_key_value_heads") or heads)
        longest = int(options.get("max_model_len") or told["max_position_embeddings"])
        wanted = str(options.get("dtype", "auto"))
        if wanted == "auto":  # vLLM loads float32 as bfloat16
            wanted = "bfloat16" if stored == "float32" else stored
        each = _BYTES[wanted]
        quantized = "quantization_config" in config or options.get("quantization")
        weights = sum(_weights(path, None if quantized else each) for path in weight_files(folder))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    if not weights or "kv_lora_rank" in told or any("mamba" in name for name in told):
        return None
    cached = 1 if str(options.get("kv_cache_dtype", "auto")).startswith("fp8") else each
    return Size(weights, 2 * layers * width * cached, longest)


def _weights(path: Path, each: int | None) -> int:
    """Bytes of the tensors that a safetensors file's header names; floats as they are loaded, with `each` bytes."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            start, end = tensor["data_offsets"]
            float_ = each is not None and tensor["dtype"] in ("F32", "F16", "BF16")
            total += math.prod(tensor["shape"]) * (each or 0) if float_ else end - start
    return total


def room(size: Size, options: Mapping[str, Any], card: int, *, tokens: int) -> Room:
    """What an engine with these options has left on a card of so many bytes, for texts of `tokens` tokens."""
    parts = _parts(options)
    fixed = options.get("kv_cache_memory_bytes")
    share = float(options.get("gpu_memory_utilization", UTILIZATION))
    cache = int(fixed) if fixed is not None else int(share * card) - size.weights // parts - WORKING
    held = max(0, cache) * parts // size.token
    return Room(cache, held, held // max(1, min(tokens, size.longest)))


def crowded(sizes: Mapping[str, Size], options: Mapping[str, Mapping[str, Any]], card: int) -> Iterator[str]:
    """What cannot fit, whatever else vLLM needs: an engine (name in the study file -> its size) whose share of the card
    holds its weights and one text of its whole context not even without what it works in."""
    for name, size in sizes.items():
        given = options[name]
        if given.get("cpu_offload_gb"):
            continue
        left = room(size, given, card, tokens=size.longest)
        cache = left.cache + (WORKING if given.get("kv_cache_memory_bytes") is None else 0)
        parts = _parts(given)
        if cache * parts >= size.longest * size.token:
            continue
        share, text = float(given.get("gpu_memory_utilization", UTILIZATION)), size.longest * size.token / parts
        yield (
            f"{name}.options: {size.weights / parts / GIB:.1f} GiB of weights leave {max(0, cache) / GIB:.1f} GiB of"
            f" gpu_memory_utilization = {share:g} of {card / GIB:.0f} GiB for the cache, and one text of"
            f" max_model_len = {size.longest:,} tokens takes {text / GIB:.1f}. Lower max_model_len, raise the share, or"
            " take a smaller or a quantized model"
        )


def told(sizes: Mapping[str, Size], options: Mapping[str, Mapping[str, Any]], card: int) -> Iterator[str]:
    """A line for people per engine: what it will hold, and how engines share the card."""
    for name, size in sizes.items():
        left = room(size, options[name], card, tokens=TYPICAL)
        yield (
            f"{name}: {size.weights / GIB:.1f} GiB of weights, and room in the cache for about {left.tokens:,} tokens,"
            f" {left.texts:,} texts of {min(TYPICAL, size.longest):,}, on a card of {card / GIB:.0f} GiB"
        )
    if len(sizes) > 1:
        yield "each engine takes its share of the card all the time; a judge without a backend shares the study's"


def _parts(options: Mapping[str, Any]) -> int:
    """The cards that an engine is spread over."""
    return int(options.get("tensor_parallel_size", 1)) * int(options.get("pipeline_parallel_size", 1))


def card_bytes() -> int:
    """The memory of the smallest NVIDIA card here, in bytes; 0 where there is none, or none that can be asked."""
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    if shutil.which(asked[0]) is None:
        return 0
    try:
        lines = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()
        return min((int(line) for line in lines), default=0) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return 0
