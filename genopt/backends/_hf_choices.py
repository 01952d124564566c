"""Owns how a text is kept to one of several: which tokens may come next, and what happens to the logits of the others.

It knows ids and logits, no tokenizer, model or batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Choices:
    """The tokens that lead on from what was written to one of several texts, each spelt in one way.

    `texts` are their ids, none empty and none twice. A text that begins another one needs an end token to be chosen.
    """

    def __init__(self, texts: Sequence[Sequence[int]], eos: Sequence[int]) -> None:
        following: dict[tuple[int, ...], dict[int, None]] = {}
        for ids in texts:
            for n, token in enumerate(ids):
                following.setdefault(tuple(ids[:n]), {})[token] = None
        for whole in {tuple(ids) for ids in texts} & following.keys():
            following[whole] |= dict.fromkeys(eos)
        self._following = {begun: tuple(tokens) for begun, tokens in following.items()}

    def following(self, ids: Sequence[int]) -> tuple[int, ...]:
        """What may come after `ids`; nothing when the text is complete."""
        return self._following.get(tuple(ids), ())


def keep_only(logits: Tensor, allowed: Mapping[int, Sequence[int]]) -> None:
    """Leave to row r of the logits [B, V] the tokens allowed[r], in place; rows that are not named keep all."""
    rows = torch.tensor(list(allowed), device=logits.device)
    pairs = [(n, token) for n, tokens in enumerate(allowed.values()) for token in tokens]
    row, token = torch.tensor(pairs, device=logits.device).T
    part = logits[rows]
    kept = torch.full_like(part, -math.inf)
    kept[row, token] = part[row, token]
    logits[rows] = kept
