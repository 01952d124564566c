"""Owns what a request to vLLM can carry: names and legal ranges, and how they become its `SamplingParams`.

Every value reaches the engine in Python's own types and inside its range: vLLM does not check the types of all of them,
and a wrong one kills its engine or leaves it waiting for ever.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from genopt.backends._domains import COMMON, legal
from genopt.errors import BackendError
from genopt.types import Domain, ParamValue, Request

NO_LORA = "none"
LONGEST = 2**31 - 1  # what the engine keeps a count in
PARAMS: Mapping[str, Domain] = {
    "temperature": replace(
        COMMON["temperature"],
        doc="Divides the logits before truncation; 0 is greedy, and nothing between 0 and 0.01 is possible.",
    ),
    "top_k": replace(COMMON["top_k"], high=LONGEST),
    **{
        name: COMMON[name] for name in ("top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
    },
    "max_tokens": replace(COMMON["max_tokens"], high=LONGEST),
    "min_tokens": replace(COMMON["min_tokens"], high=LONGEST),
    "stop": COMMON["stop"],
    "bad_words": Domain("strings", "The tokens that spell one of these are not written in a row.", neutral=((),)),
    "lora": Domain("str", "The adapter of backend.options.lora that answers, or none.", neutral=(NO_LORA,)),
    "model": Domain("str", "The model that answers; another one takes the place of the one that is loaded."),
}
_SAMPLING = tuple(name for name in PARAMS if name not in ("stop", "bad_words", "lora", "model"))
MAX_TOKENS = 256  # where generation_config.json names no length: vLLM's own 16 is for tests, and its server sets none


def declared(model: str, adapters: Mapping[str, Any], *, speculative: bool) -> dict[str, Domain]:
    """The parameters of one engine: adapters by their names, and no min_p where tokens are guessed ahead."""
    found = dict(PARAMS)
    found["model"] = replace(found["model"], neutral=(model,))
    found["lora"] = replace(found["lora"], choices=(NO_LORA, *adapters))
    if not adapters:
        del found["lora"]
    if speculative:
        del found["min_p"]
    return found


def defaults(domains: Mapping[str, Domain], told: Mapping[str, Any]) -> dict[str, ParamValue]:
    """What `LLM.generate` uses when it is told nothing: `told` by generation_config.json, else off."""
    found: dict[str, ParamValue] = {}
    for name, domain in domains.items():
        value = told.get("max_new_tokens" if name == "max_tokens" else name)
        try:
            found[name] = domain.coerce(value) if value is not None else _off(domain)
        except ValueError:  # e.g. a top_k of -1, which is off
            found[name] = _off(domain)
    return found


def _off(domain: Domain) -> ParamValue:
    return domain.neutral[0] if domain.neutral else MAX_TOKENS


def coerced(request: Request, domains: Mapping[str, Domain], top_logprobs: int) -> Request:
    """The request with every parameter in its own type. Raises BackendError for what is not legal."""
    if not 0 <= request.top_logprobs <= top_logprobs:
        raise BackendError(f"top_logprobs: {request.top_logprobs} is outside [0, {top_logprobs}]")
    if (request.schema is not None) + (request.regex is not None) + bool(request.choices) > 1:
        raise BackendError("a text is kept to one of schema, regex and choices, not to several")
    if not all(request.choices):
        raise BackendError(f"choices: {', '.join(map(repr, request.choices))} are not non-empty texts")
    return replace(request, params=legal(request.params, domains), seed=int(request.seed) % 2**31)


def sampling_params(request: Request) -> Any:
    """vLLM's parameters of a request that `coerced` gave out. Raises what vLLM raises for those it refuses."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    params: dict[str, Any] = {name: request.params[name] for name in _SAMPLING if name in request.params}
    params["min_tokens"] = min(params.get("min_tokens", 0), params["max_tokens"])
    structure = None
    if request.schema is not None:
        structure = StructuredOutputsParams(json=json.dumps(request.schema))
    elif request.regex is not None:
        structure = StructuredOutputsParams(regex=request.regex)
    elif request.choices:
        structure = StructuredOutputsParams(choice=list(request.choices))
    stop = list(_texts(request.params.get("stop")))
    return SamplingParams(
        **params,
        stop=stop,
        # To read every token as it comes takes time of each step; only stop strings and told tokens need it.
        detokenize=bool(stop) or request.top_logprobs > 0,
        bad_words=list(_texts(request.params.get("bad_words"))),
        seed=request.seed,
        logprobs=request.top_logprobs or None,
        structured_outputs=structure,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _texts(value: ParamValue) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else ()
