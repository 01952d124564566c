"""Owns the generation parameters that engines have in common: an adapter declares one from here as it is, or with what
its engine does otherwise; and how a request's are held against what was declared."""

from __future__ import annotations

from collections.abc import Mapping

from genopt.errors import BackendError
from genopt.spec.mistakes import hint
from genopt.types import Domain, ParamValue, Range

COMMON: Mapping[str, Domain] = {
    "temperature": Domain(
        "float", "Divides the logits; 0 is greedy.", low=0.0, high=2.0, neutral=(1.0,), search=Range(0.0, 1.2)
    ),
    "top_k": Domain("int", "Keep the k likeliest tokens; 0 is off.", low=0, neutral=(0,)),
    "top_p": Domain(
        "float",
        "Keep the likeliest tokens that together hold this probability.",
        low=0.0,
        high=1.0,
        low_open=True,
        neutral=(1.0,),
        search=Range(0.5, 1.0),
    ),
    "min_p": Domain(
        "float",
        "Keep tokens at least this share as likely as the likeliest one.",
        low=0.0,
        high=1.0,
        neutral=(0.0,),
        search=Range(0.0, 0.2),
    ),
    "typical_p": Domain(
        "float",
        "Keep the tokens nearest the expected surprise that together hold this probability.",
        low=0.0,
        high=1.0,
        low_open=True,
        neutral=(1.0,),
    ),
    "repetition_penalty": Domain(
        "float",
        "Makes tokens of the prompt and the text less likely above 1, likelier below.",
        low=0.0,
        low_open=True,
        neutral=(1.0,),
        search=Range(1.0, 1.2),
    ),
    "presence_penalty": Domain(
        "float", "Subtracted from the logit of every token already generated.", low=-2.0, high=2.0, neutral=(0.0,)
    ),
    "frequency_penalty": Domain(
        "float", "Subtracted once for each time the token was generated.", low=-2.0, high=2.0, neutral=(0.0,)
    ),
    "max_tokens": Domain("int", "The text ends after this many tokens.", low=1),
    "min_tokens": Domain("int", "No end token and no stop string before this many tokens.", low=0, neutral=(0,)),
    "stop": Domain("strings", "The text ends before the first of these.", neutral=((),)),
}


def legal(params: Mapping[str, ParamValue], domains: Mapping[str, Domain]) -> dict[str, ParamValue]:
    """A request's parameters in their own types. Raises BackendError for a name or value that is not legal, and where
    max_tokens is not among them."""
    found: dict[str, ParamValue] = {}
    for name, value in params.items():
        if name not in domains:
            raise BackendError(f"this engine has no generation parameter {name!r}.{hint(name, domains)}")
        try:
            found[name] = domains[name].coerce(value)
        except ValueError as error:
            raise BackendError(f"{name}: {error}") from None
    if "max_tokens" not in found:
        raise BackendError("the request does not say max_tokens")
    return found
