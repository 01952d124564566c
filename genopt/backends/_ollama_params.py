"""Owns what Ollama can be told per request: names, legal ranges, what a version ignores, a model's own settings.

What versions do was read in Ollama's source, release by release.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from genopt.backends._domains import COMMON
from genopt.types import Domain, ParamValue

Version = tuple[int, ...]
Runner = Literal["llama.cpp", "ollama-engine", "llama-server", "mlx"]

PARAMS: Mapping[str, Domain] = {
    "model": Domain("str", "The model that answers; every one of them must be in the server."),
    "temperature": replace(COMMON["temperature"], high=math.inf),
    **{name: COMMON[name] for name in ("top_k", "top_p", "min_p", "typical_p")},
    "repetition_penalty": replace(
        COMMON["repetition_penalty"],
        doc="Makes tokens of the last repeat_last_n, the prompt's included, less likely above 1, likelier below.",
    ),
    "repeat_last_n": Domain(
        "int", "Tokens that the three penalties look back on; 0 turns them off, -1 is the whole context.", low=-1
    ),
    "presence_penalty": replace(
        COMMON["presence_penalty"], doc="Subtracted from the logit of every token among the last repeat_last_n."
    ),
    "frequency_penalty": replace(
        COMMON["frequency_penalty"], doc="Subtracted once for each time the token is among the last repeat_last_n."
    ),
    "max_tokens": COMMON["max_tokens"],
    "stop": Domain("strings", "The text ends before the first of these; the list replaces the model's own."),
}

WIRE: Mapping[str, str] = {"max_tokens": "num_predict", "repetition_penalty": "repeat_penalty"}
ALIASES: Mapping[str, str] = {theirs: ours for ours, theirs in WIRE.items()}

_PENALTIES = ("repetition_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty")
_GONE = "Ollama 0.7 and later ignore it without saying so. Drop it"
_FIXED = "reloads the model, so it is fixed for a study. Write it into [backend.options]"
DEAD: Mapping[str, str] = {
    **dict.fromkeys(("mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline"), _GONE),
    **dict.fromkeys(("tfs_z", "low_vram", "f16_kv", "logits_all", "vocab_only", "use_mlock", "numa", "num_gqa"), _GONE),
    **dict.fromkeys(("rope_frequency_base", "rope_frequency_scale"), _GONE),
    **dict.fromkeys(("num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread"), _FIXED),
    "draft_num_predict": _FIXED,
    "num_keep": "acts only on texts that outgrow the context. Write it into [backend.options]",
    "seed": "genopt sends a seed of its own for every example, the same to every trial. Drop it",
}

# Model families of Ollama's own engine and the version they moved to it; from 0.30 llama-server runs all of them. That
# engine reads temperature, top_k, top_p, min_p and the seed, and from 0.17.5 until 0.18 three penalties.
_OWN_ENGINE: Mapping[Version, tuple[str, ...]] = {
    (0, 6, 0): ("gemma3",),
    (0, 6, 5): ("mistral3",),
    (0, 6, 7): ("llama4",),
    (0, 7, 0): ("mllama", "qwen25vl"),
    (0, 9, 3): ("gemma3n",),
    (0, 11, 0): ("gptoss", "gpt-oss"),
    (0, 12, 0): ("qwen3",),
    (0, 12, 2): ("qwen3moe",),
    (0, 12, 7): ("qwen3vl", "qwen3vlmoe"),
    (0, 13, 0): ("deepseek2", "deepseekocr"),
    (0, 13, 4): ("olmo3",),
    (0, 14, 3): ("glm4moelite", "lfm2"),
    (0, 15, 5): ("glmocr", "qwen3next"),
    (0, 17, 1): ("lfm2moe", "nemotron_h", "nemotron_h_moe", "qwen35", "qwen35moe"),
    (0, 20, 0): ("gemma4",),
    (0, 22, 0): ("laguna", "nemotron_h_omni"),
}
LLAMA_SERVER, LOGPROBS, NO_TRUNCATION = (0, 30, 0), (0, 12, 11), (0, 12, 6)
NO_PENALTY_BY_DEFAULT, TYPICAL_WORKS = (0, 32, 10), (0, 11, 5)
TOP_LOGPROBS = 20
LONGEST = 4096  # tokens of a text where a model sets no num_predict, if its context holds more


def version_of(text: str) -> Version:
    """A version to compare by; what somebody built from source (0.0.0) counts as newer than any release."""
    numbers = tuple(int(number) for number in re.findall(r"\d+", text)[:3])
    return numbers if any(numbers) else (10**6,)


def runner_of(version: Version, architecture: str, format: str) -> Runner:
    """The engine inside Ollama that runs a model."""
    if format == "safetensors":
        return "mlx"
    if version >= LLAMA_SERVER:
        return "llama-server"
    moved = any(version >= since and architecture in names for since, names in _OWN_ENGINE.items())
    return "ollama-engine" if moved else "llama.cpp"


def ignored(version: Version, runner: Runner, architecture: str) -> dict[str, str]:
    """The parameters that this version's engine for the model takes and ignores, each with the reason."""
    names: tuple[str, ...]
    if runner == "ollama-engine":
        three_live = (0, 17, 5) <= version < (0, 18)
        names = ("typical_p", "repeat_last_n") if three_live else ("typical_p", *_PENALTIES)
        why = f"Ollama runs {architecture} models in an engine of its own until 0.30, which ignores it"
    elif runner == "mlx":
        names, why = ("typical_p",), "Ollama runs this model with MLX, which ignores it"
    elif runner == "llama.cpp" and (0, 5, 2) <= version < TYPICAL_WORKS:
        names, why = ("typical_p",), "the llama.cpp in Ollama 0.5.2 to 0.11.4 keeps every token whatever its value"
    else:
        return {}
    return dict.fromkeys(names, f"{why}. Drop it, or take another version or model")


@dataclass(frozen=True, slots=True)
class Own:
    """The parameters that a model brings along (its Modelfile), under genopt's names, and its context.
    `endless` says that it sets no limit on a text's tokens."""

    params: Mapping[str, ParamValue]
    stops: tuple[str, ...]
    num_ctx: int | None
    endless: bool


def own_parameters(text: str) -> Own:
    """The `parameters` of /api/show: a key and a value per line, texts quoted as Go does, large integers written as
    1e+06. Values beyond the end of a range that mean "off" become the end."""
    params: dict[str, Any] = {}
    num_ctx: int | None = None
    stops: list[str] = []
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        name = ALIASES.get(name, name)
        if name == "stop":
            stops.append(_unquoted(value))
        elif name == "num_ctx":
            num_ctx = int(float(value))
        elif name in PARAMS and name != "model":
            params[name] = int(float(value)) if PARAMS[name].kind == "int" else float(value)
    for name, low in (("top_k", 0), ("temperature", 0.0), ("min_p", 0.0), ("repeat_last_n", -1)):
        if name in params:
            params[name] = max(params[name], low)
    for name in ("top_p", "typical_p"):
        if name in params:
            params[name] = min(params[name], 1.0)
    endless = params.get("max_tokens", -1) < 1
    if endless:
        params.pop("max_tokens", None)
    return Own(params, tuple(sorted(set(stops))), num_ctx, endless)


def defaults(own: Own, version: Version, model: str, context: int | None) -> dict[str, ParamValue]:
    """Every parameter as it is when a request names none: the model's own over what this version ships with."""
    shipped: dict[str, ParamValue] = {
        "model": model,
        "temperature": 0.8,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.0,
        "typical_p": 1.0,
        "repetition_penalty": 1.0 if version >= NO_PENALTY_BY_DEFAULT else 1.1,
        "repeat_last_n": 64,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": min(LONGEST, context or LONGEST),
        "stop": own.stops,
    }
    return shipped | dict(own.params)


def declared(dead: Mapping[str, str], own: Own, model: str) -> dict[str, Domain]:
    """The parameters of an opened model: what is not ignored, where "off" for stop strings is the model's own list."""
    found = {name: domain for name, domain in PARAMS.items() if name not in dead}
    found["stop"] = replace(found["stop"], neutral=(own.stops,))
    found["model"] = replace(found["model"], neutral=(model,))
    return found


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(ast.literal_eval(value))  # Go's escapes are Python's
    except (SyntaxError, ValueError):
        return value.strip('"')
