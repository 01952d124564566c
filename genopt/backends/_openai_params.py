"""Owns what the dialects of the OpenAI protocol can be told per request: names, legal ranges, the fields on the wire.

Fields beyond OpenAI's own are those of vLLM's `ChatCompletionRequest` (0.32) and of llama.cpp's `/completion`, which
its OpenAI endpoints take too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from genopt.backends._domains import COMMON
from genopt.types import Domain, ParamValue

Dialect = Literal["openai", "vllm", "llama.cpp"]

_OPENAI: Mapping[str, Domain] = {
    **{n: COMMON[n] for n in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens")},
    "stop": replace(COMMON["stop"], doc="The text ends before the first of these; hosted models take at most 4."),
}
_LOCAL: Mapping[str, Domain] = {name: COMMON[name] for name in ("top_k", "min_p", "repetition_penalty")}
_VLLM: Mapping[str, Domain] = {"min_tokens": COMMON["min_tokens"]}
_LLAMA_CPP: Mapping[str, Domain] = {
    "typical_p": COMMON["typical_p"],
    "top_n_sigma": Domain(
        "float", "Keep tokens whose logit is within so many deviations of the highest; -1 is off.", low=-1.0,
        neutral=(-1.0,),
    ),
    "repeat_last_n": Domain(
        "int", "How many tokens back the penalties look; 0 is none, -1 the whole context.", low=-1
    ),
    "dry_multiplier": Domain(
        "float", "Strength of the penalty on repeating whole sequences (DRY); 0 is off.", low=0.0, neutral=(0.0,)
    ),
    "dry_base": Domain("float", "How fast DRY's penalty grows with the length of the repetition.", low=1.0),
    "dry_allowed_length": Domain("int", "Repetitions up to this length cost nothing under DRY.", low=0),
    "dry_penalty_last_n": Domain("int", "How many tokens back DRY looks; 0 is none, -1 the context.", low=-1),
    "xtc_probability": Domain(
        "float", "The chance that the likeliest tokens are removed (XTC); 0 is off.", low=0.0, high=1.0, neutral=(0.0,)
    ),
    "xtc_threshold": Domain("float", "XTC removes tokens above this, all but the last.", low=0.0, high=1.0),
    "dynatemp_range": Domain(
        "float", "The temperature moves by so much with the entropy; 0 is off.", low=0.0, high=2.0, neutral=(0.0,)
    ),
    "dynatemp_exponent": Domain("float", "The shape of that movement.", low=0.0, low_open=True),
    "mirostat": Domain("int", "Mirostat instead of every truncation: 1 or 2; 0 is off.", low=0, high=2, neutral=(0,)),
    "mirostat_tau": Domain("float", "The surprise Mirostat aims at, in bits.", low=0.0),
    "mirostat_eta": Domain("float", "Mirostat's learning rate.", low=0.0, high=1.0),
}  # fmt: skip

DIALECTS: Mapping[Dialect, Mapping[str, Domain]] = {
    "openai": _OPENAI,
    "vllm": {**_OPENAI, **_LOCAL, **_VLLM},
    "llama.cpp": {**_OPENAI, **_LOCAL, **_LLAMA_CPP},
}
PARAMS: Mapping[str, Domain] = {
    **_OPENAI,
    **{
        name: replace(domain, doc=f"{domain.doc} ({', '.join(d for d, known in DIALECTS.items() if name in known)})")
        for name, domain in {**_LOCAL, **_VLLM, **_LLAMA_CPP}.items()
    },
}

MAX_TOKENS = 256  # where nothing else is said: no server of this protocol tells a default
_AS_SHIPPED: Mapping[Dialect, Mapping[str, float | int]] = {
    "openai": {},
    "vllm": {},
    "llama.cpp": {  # what is not off in a server without flags; /props tells better
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_last_n": 64,
        "dry_base": 1.75,
        "dry_allowed_length": 2,
        "dry_penalty_last_n": -1,
        "xtc_threshold": 0.1,
        "dynatemp_exponent": 1.0,
        "mirostat_tau": 5.0,
        "mirostat_eta": 0.1,
    },
}
_FIELDS: Mapping[Dialect, Mapping[str, str]] = {
    "openai": {},
    "vllm": {},
    "llama.cpp": {"repetition_penalty": "repeat_penalty"},
}


def field(dialect: Dialect, name: str) -> str:
    """A parameter's name on the wire."""
    return _FIELDS[dialect].get(name, name)


def defaults(dialect: Dialect, domains: Mapping[str, Domain], told: Mapping[str, Any]) -> dict[str, ParamValue]:
    """The value of every parameter when a request names none: what the server `told` (by wire name), else what it is
    shipped with, else off. Told values are rounded to the six digits a float32 holds; illegal ones (-1 tokens) skipped.
    """
    found: dict[str, ParamValue] = {}
    for name, domain in domains.items():
        off = domain.neutral[0] if domain.neutral else MAX_TOKENS
        found[name] = _AS_SHIPPED[dialect].get(name, off)
        value = told.get(field(dialect, name))
        if value is not None:
            try:
                found[name] = domain.coerce(float(f"{value:.6g}") if isinstance(value, float) else value)
            except ValueError:
                continue
    return found
