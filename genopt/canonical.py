"""Owns what makes two configurations the same: explicit parameters, their canonical spelling, the key made of it.

Canonical form makes keys only. A request always carries every parameter explicitly, since what an engine fills in by
itself (a server's top_p of 0.9) is not neutral.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from genopt.space import SearchSpace
from genopt.types import Domain, Params, ParamValue

GREEDY_INERT = ("top_p", "top_k", "min_p", "typical_p")
RANDOM_THOUGH_GREEDY = ("xtc_probability", "dynatemp_range")  # they act before the temperature, or move it
ENDS = ("max_tokens", "stop")  # they decide where a text ends, and nothing before that
PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


def resolve(
    chosen: Params, *, space: SearchSpace, today: Params, domains: Mapping[str, Domain]
) -> dict[str, ParamValue]:
    """Every parameter of a configuration, explicitly: what was chosen, over what the user runs `today`.

    The branches of a switch are alternatives: a parameter that only another branch sets is off here (its neutral
    value), not left at today's value. `today` is in the domains' own types; what is chosen comes to be so here.
    """
    params = dict(today)
    others = (space.names() - chosen.keys()) & domains.keys()
    off = {name: domains[name].neutral[0] for name in others if domains[name].neutral}
    for name, value in {**off, **chosen}.items():
        params[name] = domains[name].coerce(value) if name in domains and value is not None else value
    return params


def canonical(
    params: Params,
    domains: Mapping[str, Domain],
    *,
    switches: frozenset[str] = frozenset(),
    vocabulary: int | None = None,
) -> dict[str, ParamValue]:
    """The one spelling of all configurations that are equal in distribution; for keys, never for requests.

    `params` are complete and explicit (see `resolve`). Equal are: everything greedy (temperature 0, or top_k 1 without
    beams) whatever its truncation; neutral values and absent ones; a length penalty without beams; a penalty window
    without penalties, penalties without a window; stop strings in any order; a switch and the parameters it stands for.
    """
    kept = {name: value for name, value in params.items() if name not in switches and value is not None}
    beams = kept.get("num_beams", 1)
    if kept.get("top_k") == 1 and beams == 1 and "temperature" in kept:
        kept["temperature"] = 0.0
    if deterministic(kept):
        kept["temperature"] = 0.0
        for name in GREEDY_INERT:
            kept.pop(name, None)
    if beams == 1:
        kept.pop("length_penalty", None)
    top_k = kept.get("top_k")
    if vocabulary is not None and isinstance(top_k, int) and top_k >= vocabulary:
        del kept["top_k"]
    for name, domain in domains.items():
        if name in kept and kept[name] in domain.neutral:
            del kept[name]
    if kept.get("repeat_last_n") == 0 or not any(name in kept for name in PENALTIES):
        for name in PENALTIES:
            kept.pop(name, None)
        kept.pop("repeat_last_n", None)
    if kept.get("shots") == 0:
        del kept["shots"]
    stop = kept.get("stop")
    if isinstance(stop, tuple):
        kept["stop"] = tuple(sorted(set(stop)))
    return dict(sorted(kept.items()))


def live(
    params: Params,
    domains: Mapping[str, Domain],
    *,
    switches: frozenset[str] = frozenset(),
    vocabulary: int | None = None,
) -> dict[str, ParamValue]:
    """What acts in a configuration, with its strength; for the distance between two of them, never for requests.

    Equal for what is equal in canonical form. But where that leaves a neutral value out, here it stays: top_p 0.99 is
    next to 1. Only what could have any value is left out (top_p at temperature 0). A top_k that is off keeps infinitely
    many tokens.
    """
    kept = canonical(params, domains, switches=switches, vocabulary=vocabulary)
    inert = set(GREEDY_INERT) if deterministic(kept) else set()
    if params.get("num_beams", 1) in (None, 1):
        inert.add("length_penalty")
    if not any(name in kept for name in PENALTIES):
        inert.add("repeat_last_n")
    for name, domain in domains.items():
        if params.get(name) is not None and name not in inert and domain.neutral:
            kept.setdefault(name, domain.neutral[0])
    if params.get("shots") == 0:
        kept["shots"] = 0
    if "top_k" in kept and kept["top_k"] in (0, -1):
        kept["top_k"] = math.inf
    return kept


def deterministic(params: Params) -> bool:
    """True when the parameters leave no choice to the seed, so that one sample of an example is all there is."""
    temperature = params.get("temperature")
    cold = isinstance(temperature, (int, float)) and temperature < 1e-5
    return cold and not any(params.get(name) for name in RANDOM_THOUGH_GREEDY)


def config_key(identity: Mapping[str, str], texts: Sequence[str], params: Params) -> str:
    """The identity of a configuration: sha256 over the engine, the prompt's texts and the canonical parameters."""
    plain = json.dumps([dict(identity), list(texts), dict(params)], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
