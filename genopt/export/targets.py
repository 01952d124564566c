"""Owns what each target of an export can say: its names for parameters, what it does by itself, in which order it
applies temperature and truncation. Tables and how they are applied; writes no text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genopt.export.settings import Settings

OFF: Mapping[str, Any] = {
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "min_tokens": 0,
    "stop": [],
    "num_keep": 4,
    "top_n_sigma": -1.0,
    "dry_multiplier": 0.0,
    "xtc_probability": 0.0,
    "dynatemp_range": 0.0,
    "mirostat": 0,
}
"""Values at which a parameter changes no text: leaving it out then needs no word."""

PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
TRUNCATIONS = ("top_k", "top_p", "min_p", "typical_p")
ONLY_WITH: Mapping[str, tuple[str, ...]] = {
    "repeat_last_n": PENALTIES,
    "length_penalty": ("num_beams",),
    "dry_base": ("dry_multiplier",),
    "dry_allowed_length": ("dry_multiplier",),
    "dry_penalty_last_n": ("dry_multiplier",),
    "xtc_threshold": ("xtc_probability",),
    "dynatemp_exponent": ("dynatemp_range",),
    "mirostat_tau": ("mirostat",),
    "mirostat_eta": ("mirostat",),
}
"""Parameters that do nothing while all of these are off."""

_LLAMA = ("top_k", "typical_p", "top_p", "min_p", "temperature")
ORDERS: Mapping[str, tuple[str, ...]] = {
    "ollama": _LLAMA,
    "llama.cpp": _LLAMA,
    "vllm": ("temperature", "min_p", "top_k", "top_p"),
    "transformers": ("temperature", "top_k", "top_p", "min_p", "typical_p"),
}
"""In which order engines apply them, read in their sources; what another engine does is its own affair."""
COUNT_THE_PROMPT = ("ollama", "llama.cpp")  # their presence and frequency penalties do, those of the others do not


def _same(*names: str, **others: str) -> dict[str, str]:
    return {name: name for name in names} | others


@dataclass(frozen=True)
class Target:
    """What one target can say: genopt's name -> its own, what it would do by itself where the study's engine has no
    such parameter, and the ranges it takes where they are narrower than most."""

    title: str
    names: Mapping[str, str]
    shipped: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)


_USUAL = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
_PENALTY_LIMITS = {"temperature": (0.0, 2.0), "presence_penalty": (-2.0, 2.0), "frequency_penalty": (-2.0, 2.0)}
TARGETS: Mapping[str, Target] = {
    "ollama": Target(
        "Ollama",
        _same(
            *_USUAL, "top_k", "min_p", "typical_p", "repeat_last_n", "num_keep", "stop",
            repetition_penalty="repeat_penalty", max_tokens="num_predict",
        ),
        shipped={"top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "repeat_last_n": -1},
    ),
    "vllm": Target(
        "vLLM",
        _same(
            *_USUAL, "top_k", "min_p", "repetition_penalty", "max_tokens", "min_tokens", "stop", "bad_words",
            "ignore_eos",
        ),
        limits=_PENALTY_LIMITS,
    ),
    "transformers": Target(
        "transformers",
        _same(
            "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size",
            "num_beams", "length_penalty",
            max_tokens="max_new_tokens", min_tokens="min_new_tokens", stop="stop_strings",
        ),
        shipped={"top_k": 0},
    ),
    "openai": Target(
        "OpenAI's protocol", _same(*_USUAL, "max_tokens", "stop"), limits={"top_p": (0.0, 1.0), **_PENALTY_LIMITS}
    ),
    "llama.cpp": Target(
        "llama.cpp",
        {
            "temperature": "--temp",
            "max_tokens": "--predict",
            "repetition_penalty": "--repeat-penalty",
            "typical_p": "--typical",
            "top_n_sigma": "--top-nsigma",
            "dynatemp_exponent": "--dynatemp-exp",
            "mirostat_tau": "--mirostat-ent",
            "mirostat_eta": "--mirostat-lr",
            **{
                name: "--" + name.replace("_", "-")
                for name in (
                    "top_k", "top_p", "min_p", "repeat_last_n", "presence_penalty", "frequency_penalty",
                    "dry_multiplier", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "xtc_probability",
                    "xtc_threshold", "dynatemp_range", "mirostat",
                )
            },
        },
        shipped={"top_k": 0, "top_p": 1.0, "min_p": 0.0, "repeat_last_n": -1},
    ),
}  # fmt: skip


def complete(settings: Settings, target: str) -> dict[str, Any]:
    """Every parameter that the target has to be told: those of the study, and off for what it would do by itself."""
    shipped = {} if settings.engine == target else TARGETS[target].shipped
    return {name: value for name, value in shipped.items() if name not in settings.params} | dict(settings.params)


def translated(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that the target knows, under its names."""
    return {names[name]: value for name, value in params.items() if name in names}


def active(name: str, params: Mapping[str, Any]) -> bool:
    """True when a parameter may change a text."""
    if name in ONLY_WITH:
        return any(active(other, params) for other in ONLY_WITH[name])
    return name in params and (name not in OFF or params[name] != OFF[name])


def warnings(settings: Settings, params: Mapping[str, Any], target: str, *, ordered: bool = False) -> Iterator[str]:
    """What the target cannot say, and where the same numbers mean something else to it; `ordered`: it is told the
    order of temperature and truncation."""
    to = TARGETS[target]
    for name, value in params.items():
        if name not in to.names and active(name, params):
            yield f"{to.title} has no {name}: {value!r} is left out"
        elif name in to.limits and not to.limits[name][0] <= value <= to.limits[name][1]:
            low, high = to.limits[name]
            yield f"{to.title} takes {name} from {low:g} to {high:g}: it will refuse {value!r}"
    if settings.engine == target:
        return
    cut = [name for name in TRUNCATIONS if active(name, params)]
    if cut and params.get("temperature", 1.0) not in (0, 1) and not ordered:
        yield _order(settings.engine, target, to.title)
    counted = [name for name in PENALTIES[1:] if active(name, params)]
    if counted and (settings.engine in COUNT_THE_PROMPT) != (target in COUNT_THE_PROMPT):
        here, there = ("counts", "does not") if settings.engine in COUNT_THE_PROMPT else ("does not count", "does")
        yield f"{' and '.join(counted)}: {settings.engine} {here} the prompt's tokens, {to.title} {there}"


def _order(engine: str, target: str, title: str) -> str:
    if engine not in ORDERS or target not in ORDERS:
        unknown = engine if engine not in ORDERS else title
        return f"{unknown} may apply temperature and truncation in another order: the same numbers may choose otherwise"
    if ORDERS[engine] == ORDERS[target]:
        return f"{title} is another engine than the study's {engine}: measure these settings there"
    told = f"{engine} applies {', '.join(ORDERS[engine])}; {title} {', '.join(ORDERS[target])}"
    return f"temperature and truncation are applied in another order there ({told}): the same numbers choose otherwise"
