"""Owns the ways a grade is asked for and read. Pure: sends nothing, knows no prompt beyond its last line.

A scale is label -> value in [0, 1]: {"1": 0.0, ..., "5": 1.0}, {"no": 0.0, "yes": 1.0}. Every way of asking ends in
probabilities over its labels, whose mean value is the score: over the tokens' own probabilities where an engine tells
them (the mean of that distribution beats its mode, and a rationale before it makes it narrow: Wang et al. 2025, arXiv
2503.03064), over the replies where it does not.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from genopt.errors import SpecError
from genopt.extract import extract_json
from genopt.types import BackendInfo, Generation, Params, ParamValue

Scale = Mapping[str, float]
CHOICES, LOGPROBS, JSON, REGEX, SAMPLES = "logprobs of choices", "logprobs", "json", "regex", "samples"
LEAST_MASS = 0.5  # of the probability at the grade's place that has to lie on the labels
ALTERNATIVES = 20  # of a token: what engines tell at most
REASON = 120  # characters of a reason; a reply that has to be cut is a reply that cannot be read
HOT = 0.7  # the temperature of replies that are averaged
WARM = 0.3  # that of a reply that is asked for again


class Unreadable(Exception):
    """A reply that gives no grade; the message says why."""


def ways(info: BackendInfo, wanted: str, *, name: str) -> tuple[str, ...]:
    """The modes worth trying with an engine, best first. Raises SpecError when it cannot do what is wanted."""
    found = [CHOICES] if info.top_logprobs and "choices" in info.structured else []
    found += [LOGPROBS] if info.top_logprobs else []
    found += [JSON] if "schema" in info.structured else []
    found += [REGEX, SAMPLES]
    if wanted == "auto":
        return tuple(found)
    chosen = tuple(mode for mode in found if mode.partition(" ")[0] == wanted)
    if not chosen:
        lacks = "tells no log probabilities" if wanted == "logprobs" else "keeps to no JSON schema"
        engine = f"{info.identity.get('engine', 'the engine')} {info.identity.get('version', '')}".strip()
        raise SpecError(f'scorers.{name}.mode: "{wanted}" cannot be had: {engine} {lacks}. Use mode = "auto"')
    return chosen


def instruction(mode: str, scale: Scale) -> str:
    """The prompt's last line: how to answer."""
    labels = ", ".join(scale)
    if mode in (CHOICES, LOGPROBS):
        return f"Answer with one of {labels} and nothing else."
    if mode == JSON:
        return f'Answer with a JSON object: {{"reason": "one short sentence", "score": s}} where s is one of {labels}.'
    return f"Give the reason in one short sentence. Then write a last line SCORE: s where s is one of {labels}."


def constraint(mode: str, scale: Scale, info: BackendInfo) -> dict[str, Any]:
    """What a request of this mode asks for beyond its text, as keywords of Request."""
    top = min(ALTERNATIVES, info.top_logprobs)
    if mode == CHOICES:
        return {"choices": tuple(scale), "top_logprobs": top}
    if mode == LOGPROBS:
        return {"top_logprobs": top}
    return {"schema": schema(scale)} if mode == JSON else {}


def schema(scale: Scale) -> dict[str, Any]:
    """The JSON Schema of a reply: the reason comes first, so that the grade can follow from it."""
    numbers = all(label.isdigit() for label in scale)
    return {
        "type": "object",
        "properties": {
            "reason": {"type": "string", "maxLength": REASON},
            "score": {"enum": [int(label) if numbers else label for label in scale]},
        },
        "required": ["reason", "score"],
        "additionalProperties": False,
    }


def parameters(mode: str, info: BackendInfo, own: Mapping[str, ParamValue], *, again: bool) -> Params:
    """Every parameter of a request: neutral, greedy, as long as the mode needs, and over that the judge's own.

    A reply that is asked for `again` is warmer, or it would be the same once more.
    """
    params = {n: domain.neutral[0] if domain.neutral else info.defaults.get(n) for n, domain in info.params.items()}
    lengths = {CHOICES: 1, LOGPROBS: 8}
    chosen: dict[str, ParamValue] = {
        "temperature": HOT if mode == SAMPLES else WARM if again and mode != CHOICES else 0.0,
        "max_tokens": lengths.get(mode, 3 * REASON),
    }
    params |= {name: value for name, value in chosen.items() if name in params} | dict(own)
    return {name: value for name, value in params.items() if value is not None}


def read(mode: str, scale: Scale, generation: Generation) -> dict[str, float]:
    """Label -> probability of one reply, summing to 1. Raises Unreadable."""
    if generation.failed:
        raise Unreadable(generation.why or generation.finish)
    if mode in (CHOICES, LOGPROBS):
        return _told(scale, generation)
    label = _from_json(scale, generation) if mode == JSON else _from_text(scale, generation.text)
    return {each: float(each == label) for each in scale}


def reason_of(mode: str, text: str) -> str:
    """The reason that a readable reply gives; "" where none is asked for."""
    if mode == JSON:
        return str(extract_json(text).get("reason", "")).strip()
    return text[: text.casefold().rfind("score")].strip() if mode in (REGEX, SAMPLES) else ""


def pooled(replies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of several replies' probabilities."""
    total: Counter[str] = Counter()
    for reply in replies:
        total.update(reply)
    return {label: total[label] / len(replies) for label in replies[0]}


def expected(scale: Scale, probabilities: Mapping[str, float]) -> float:
    """The mean value of the scale under these probabilities, in [0, 1]."""
    return min(1.0, max(0.0, math.fsum(scale[label] * p for label, p in probabilities.items())))


def _told(scale: Scale, generation: Generation) -> dict[str, float]:
    """The labels' probabilities at the first token that begins one, renormalised over the labels."""
    for token in generation.logprobs or ():
        if _label_of(token.token, scale) is None:
            continue
        p = dict.fromkeys(scale, 0.0)
        for other, logprob in {token.token: token.logprob, **token.top}.items():
            label = _label_of(other, scale)
            if label is not None:
                p[label] += math.exp(logprob)
        mass = math.fsum(p.values())
        if mass < LEAST_MASS:
            raise Unreadable(f"only {mass:.0%} of the probability lies on {', '.join(scale)}")
        return {label: value / mass for label, value in p.items()}
    what = "no log probabilities came with" if not generation.logprobs else "none of the labels is in"
    raise Unreadable(f"{what} the reply {_short(generation.text)}")


def _label_of(token: str, scale: Scale) -> str | None:
    """The label that a token is, or alone begins: " 4", "\u01204" and "4" are one, "ye" is yes."""
    text = token.strip(" \t\n\u2581\u0120\u010a\"'*").casefold()
    found = [label for label in scale if label.casefold() == text] or [
        label for label in scale if text and not text.isdigit() and label.casefold().startswith(text)
    ]
    return found[0] if len(found) == 1 else None


def _from_json(scale: Scale, generation: Generation) -> str:
    try:
        found = extract_json(generation.text)
    except ValueError:
        cut = " was cut off" if generation.finish == "length" else " is no JSON"
        raise Unreadable(f"the reply{cut}: {_short(generation.text)}") from None
    label = str(found.get("score")) if isinstance(found, dict) else ""
    if label not in scale:
        raise Unreadable(f"the reply has no score of {', '.join(scale)}: {_short(generation.text)}")
    return label


def _from_text(scale: Scale, text: str) -> str:
    """The label behind the last SCORE, or the reply itself when it is nothing but a label. What the reply quotes comes
    before what it says."""
    known = {label.casefold(): label for label in scale}
    labels = "|".join(regex.escape(label) for label in scale)
    marked = regex.findall(rf"(?i)\bscore\W{{0,6}}\b({labels})\b(?!\s*\.\s*\d)", text)
    label = known.get((marked[-1] if marked else text.strip(" \t\n.*\"'")).casefold())
    if label is None:
        raise Unreadable(f"the reply names no score of {', '.join(scale)}: {_short(text)}")
    return label


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 120 else text[:117] + "...", ensure_ascii=False)
