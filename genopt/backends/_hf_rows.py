"""Owns what a text is while it is being written and when it is finished, and what is told of its tokens.

It knows no model, cache, plan or thread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genopt.backends._hf_choices import Choices
from genopt.backends._hf_sampling import Decoding
from genopt.backends._hf_stop import StopWatch
from genopt.types import Finish, TokenLogprob


@dataclass(slots=True, eq=False)
class Row:
    """One text being written.

    `limit` is max_tokens cut to the context; `choices` are the only texts it may become; of every token it tells
    `top_logprobs` alternatives in `told`. `began` is when its first token was there. `owner` is the caller's own.
    """

    prompt: tuple[int, ...]
    decoding: Decoding
    seed: int
    limit: int
    owner: Any = None
    choices: Choices | None = None
    top_logprobs: int = 0
    ids: list[int] = field(default_factory=list)
    told: list[TokenLogprob] = field(default_factory=list)
    stops: StopWatch | None = None
    began: float | None = None

    def afresh(self) -> Row:
        """The same row with nothing written yet."""
        return dataclasses.replace(self, ids=[], told=[], stops=None, began=None)


@dataclass(frozen=True, slots=True)
class Finished:
    """A row that has left the batch; `tokens` counts the end token and the tokens of the stop string too."""

    row: Row
    text: str
    finish: Finish
    tokens: int
    why: str = ""


def watch(row: Row, decode: Callable[[Sequence[int]], str]) -> None:
    """Look out for the row's stop strings, if it has any."""
    if row.decoding.stop:
        row.stops = StopWatch(decode, row.decoding.stop, row.decoding.min_tokens)


def ended(row: Row, eos: Sequence[int], decode: Callable[[Sequence[int]], str]) -> Finished | None:
    """The row as finished by its newest token, None when it goes on."""
    ids = row.ids
    if ids[-1] in eos:
        return Finished(row, decode(ids[:-1]), "stop", len(ids))
    if row.stops is not None and (text := row.stops.cut(ids)) is not None:
        return Finished(row, text, "stop", len(ids))
    if row.choices is not None and not row.choices.following(ids):
        return Finished(row, decode(ids), "stop", len(ids))
    if len(ids) >= row.limit:
        return Finished(row, decode(ids), "length", len(ids))
    return None


def replayed(
    row: Row, tokens: Sequence[int], eos: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> Finished | None:
    """The row as it ends when these are its tokens, None when they are all written before it does."""
    watch(row, decode)
    for token in tokens:
        row.ids.append(token)
        if (done := ended(row, eos, decode)) is not None:
            return done
    return None


def tell_logprobs(drawn: Sequence[tuple[Row, int]], log_p: Tensor, token_text: Callable[[int], str]) -> None:
    """Note to every row the log probability of the token it drew (below 0: none) and of the likeliest ones.

    log_p [B, V], one line a row; of several tokens that read the same the likeliest is told.
    """
    best = log_p.topk(min(max(row.top_logprobs for row, _ in drawn), log_p.shape[1]))
    own = log_p.gather(1, torch.tensor([[max(0, token)] for _, token in drawn], device=log_p.device))
    lines = zip(drawn, own[:, 0].tolist(), best.indices.tolist(), best.values.tolist(), strict=True)
    for (row, token), value, ids, values in lines:
        if token < 0:
            continue
        top: dict[str, float] = {}
        for other, its in zip(ids[: row.top_logprobs], values, strict=False):
            if math.isfinite(its):
                top.setdefault(token_text(other), its)
        row.told.append(TokenLogprob(token_text(token), value, top))
