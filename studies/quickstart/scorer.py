"""Owns this study's own metric, fidelity to the card; knows the tables of walks.py and nothing of the model."""

from __future__ import annotations

import re

from walks import DOGS, FIRST, LEVELS, SECOND, SIGHTS, STARTS

from genopt.types import Example

RIVALS = {
    "level": [word for words in LEVELS.values() for word in words],
    "start": list(STARTS),
    "sight": list(SIGHTS),
    "dogs": [phrase for phrases in DOGS.values() for phrase in phrases],
}


def facts(example: Example, text: str) -> float:
    """How much of the card `text` gets right, in [0, 1].

    A fact stated counts 1, a fact missing 0, and everything said against the card -1: another length, level, village,
    sight, rule for dogs or walk, and anything about dogs when the card is silent. The mean over the facts, not below 0.
    """
    stated = [fact.split("|") for fact in example.fields["facts"]]
    right = {phrase for phrases in stated for phrase in phrases}
    hits = sum(any(says(text, phrase) for phrase in phrases) for phrases in stated)
    wrong = sum(any(says(text, phrase) for phrase in phrases if phrase not in right) for phrases in RIVALS.values())
    lengths = re.findall(r"\b\d+\b", text)
    wrong += any(f"{length} km" != example.fields["length"] for length in lengths)
    names = re.findall(rf"\b(?:{'|'.join(FIRST)}) (?:{'|'.join(SECOND)})\b", text)
    wrong += any(name != example.fields["name"] for name in names)
    return max(0.0, (hits - wrong) / len(stated))


def says(text: str, phrase: str) -> bool:
    """True when `text` holds `phrase` as whole words, in whatever case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None
