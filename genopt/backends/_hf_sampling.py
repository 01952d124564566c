"""Owns the arithmetic from logits to tokens: per-row parameters, whole batches at a time, on PyTorch tensors.

It knows no model, tokenizer, cache or thread. The order of operations is that of `transformers` 5
(generation/utils.py, `_get_logits_processor`):

    repetition_penalty > no_repeat_ngram_size > min_tokens (end tokens banned) > the model's own fixed rules
    > presence_penalty and frequency_penalty (the place of custom processors)
    > temperature > top_k > top_p > min_p > typical_p > the draw

The draw is Gumbel-max: token = argmax(log p + g), where g is a pure function of (seed, step, token id). The same seed
so gives the same text whatever the batch, the order and the neighbours. Gumbel-max was preferred to inverting the
cumulative distribution because rounding can change its choice only where two candidates are all but tied, while in a
sorted distribution a rounding difference may swap two tokens anywhere; and because two configurations with the same
seed then draw the same token as often as their distributions allow, which makes paired comparisons sharper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genopt.backends._hf_noise import gumbel, token_salt

GREEDY_BELOW = 1e-5
_TOP_P_CANDIDATES = 512
_NEGATIVE_INFINITY = -math.inf


@dataclass(frozen=True, slots=True)
class Decoding:
    """The generation parameters of one row, all explicit; the defaults are the values that do nothing."""

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    num_beams: int = 1
    length_penalty: float = 1.0
    min_tokens: int = 0
    stop: tuple[str, ...] = ()

    @property
    def sampled(self) -> bool:
        """False for greedy rows, which ignore the seed and every truncation."""
        return self.temperature >= GREEDY_BELOW

    def unbanned(self) -> Decoding:
        """The same without what may forbid a token or end the text: for a text that is kept to choices."""
        return replace(self, no_repeat_ngram_size=0, min_tokens=0, stop=())

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Decoding:
        """The row of a request's coerced parameters; what is absent is off."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in params.items() if name in known and value is not None})


@dataclass(frozen=True, slots=True)
class Rules:
    """What the model itself fixes: its end tokens and the bans of its generation_config.json."""

    eos: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()
    forced_first: int | None = None

    @property
    def fixed(self) -> bool:
        """True when they forbid or force tokens."""
        return bool(self.suppress or self.begin_suppress or self.forced_first is not None)


class Plan:
    """What has to be done to the logits of these rows at every step, with the tensors for it made once.

    A plan holds for one membership of a batch; processors that no row needs are never run.
    """

    def __init__(
        self, rows: Sequence[Decoding], seeds: Sequence[int], rules: Rules, vocabulary: int, device: torch.device
    ) -> None:
        self._rules = rules
        self._device = device
        self._vocabulary = vocabulary
        self._seeds = np.asarray(seeds, dtype=np.uint64)
        self._min_tokens = np.asarray([row.min_tokens for row in rows])
        self._eos = torch.tensor(rules.eos, device=device) if rules.eos else None
        self._repetition = self._column([row.repetition_penalty for row in rows], neutral=1.0)
        self._presence = self._column([row.presence_penalty for row in rows], neutral=0.0)
        self._frequency = self._column([row.frequency_penalty for row in rows], neutral=0.0)
        self._ngrams = {
            size: self._index([row.no_repeat_ngram_size == size for row in rows])
            for size in {row.no_repeat_ngram_size for row in rows} - {0}
        }
        self._temperature = self._column([row.temperature if row.sampled else 1.0 for row in rows], neutral=1.0)
        self._top_k = self._subset(rows, [row.top_k if 0 < row.top_k < vocabulary else 0 for row in rows], 0)
        self._top_k_most = max((row.top_k for row in rows if row.sampled and row.top_k < vocabulary), default=0)
        self._top_p = self._subset(rows, [row.top_p for row in rows], 1.0)
        self._min_p = self._subset(rows, [math.log(row.min_p) if row.min_p else -math.inf for row in rows], -math.inf)
        self._typical_p = self._subset(rows, [row.typical_p for row in rows], 1.0)
        self._drawn = np.flatnonzero([row.sampled for row in rows])
        self._drawn_index = self._index([row.sampled for row in rows])
        self._token_salt = token_salt(vocabulary, device) if len(self._drawn) else None

    def tokens(self, logits: Tensor, history: Tensor, lengths: NDArray[np.int64], made: NDArray[np.int64]) -> Tensor:
        """The next token of every row, [B] int64; -1 where the model gave no usable number.

        logits   [B, V] float32; overwritten
        history  [B, W] ids, right-aligned: row r has `lengths[r]` of them, prompt (or decoder start) included
        made     [B] how many of them were generated; it is the step in the draw
        """
        self._penalise(logits, history, lengths, made)
        if self._temperature is not None:
            logits /= self._temperature
        if self._top_k is not None:
            index, k = self._top_k
            part = _rows(logits, index)
            best = torch.topk(part, self._top_k_most).values
            _put(logits, index, _below(part, best.gather(1, k.long() - 1)))
        for subset, keep in ((self._top_p, keep_top_p), (self._min_p, keep_min_p), (self._typical_p, keep_typical)):
            if subset is not None:
                _put(logits, subset[0], keep(_rows(logits, subset[0]), subset[1]))
        if self._token_salt is not None:
            noise = gumbel(self._seeds[self._drawn], made[self._drawn], self._token_salt)
            if self._drawn_index is None:
                logits += noise
            else:
                logits[self._drawn_index] += noise
        best_value, best_token = logits.max(dim=-1)
        return torch.where(best_value.isfinite(), best_token, -1)

    def _penalise(self, logits: Tensor, history: Tensor, lengths: NDArray[np.int64], made: NDArray[np.int64]) -> None:
        width = history.shape[1]
        if self._repetition is not None or self._ngrams:
            first = torch.from_numpy(width - lengths).to(self._device)[:, None]
            real = torch.arange(width, device=self._device) >= first
            if self._repetition is not None:
                # Padding points at the newest token: writing the same value twice changes nothing.
                penalise_repetition(logits, torch.where(real, history, history[:, -1:]), self._repetition)
            for size, index in self._ngrams.items():
                ban_ngrams(logits, history, real, size, index)
        if self._eos is not None and (early := made < self._min_tokens).any():
            logits[torch.from_numpy(np.flatnonzero(early)).to(self._device)[:, None], self._eos] = _NEGATIVE_INFINITY
        self._fixed_rules(logits, made)
        most = int(made.max(initial=0))
        if most and (self._presence is not None or self._frequency is not None):
            recent = history[:, -most:]
            first = torch.from_numpy(most - made).to(self._device)[:, None]
            real = torch.arange(most, device=self._device) >= first
            penalise_presence_and_frequency(logits, recent, real, self._presence, self._frequency)

    def _fixed_rules(self, logits: Tensor, made: NDArray[np.int64]) -> None:
        rules = self._rules
        at_start = (rules.forced_first is not None or rules.begin_suppress) and (made == 0).any()
        starting = torch.from_numpy(made == 0).to(self._device)[:, None] if at_start else None
        if rules.forced_first is not None and starting is not None:
            forced = torch.full_like(logits, _NEGATIVE_INFINITY)
            forced[:, rules.forced_first] = 0.0
            torch.where(starting, forced, logits, out=logits)
        if rules.suppress:
            logits[:, list(rules.suppress)] = _NEGATIVE_INFINITY
        if rules.begin_suppress and starting is not None:
            banned = torch.zeros(self._vocabulary, dtype=torch.bool, device=self._device)
            banned[list(rules.begin_suppress)] = True
            logits.masked_fill_(starting & banned, _NEGATIVE_INFINITY)

    def _column(self, values: Sequence[float], *, neutral: float) -> Tensor | None:
        if all(value == neutral for value in values):
            return None
        return torch.tensor(values, dtype=torch.float32, device=self._device)[:, None]

    def _index(self, chosen: Sequence[bool]) -> Tensor | None:
        """Row numbers, None for all rows (which saves a copy of the logits)."""
        if all(chosen):
            return None
        return torch.from_numpy(np.flatnonzero(chosen)).to(self._device)

    def _subset(
        self, rows: Sequence[Decoding], values: Sequence[float], neutral: float
    ) -> tuple[Tensor | None, Tensor] | None:
        """The sampled rows whose value is not neutral, and their values as a column."""
        chosen = [row.sampled and value != neutral for row, value in zip(rows, values, strict=True)]
        if not any(chosen):
            return None
        kept = [value for value, take in zip(values, chosen, strict=True) if take]
        return self._index(chosen), torch.tensor(kept, dtype=torch.float32, device=self._device)[:, None]


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> None:
    """Divide positive and multiply negative logits of the seen ids by the penalty, in place; each id once."""
    score = logits.gather(1, seen)
    logits.scatter_(1, seen, torch.where(score < 0, score * penalty, score / penalty))


def penalise_presence_and_frequency(
    logits: Tensor, generated: Tensor, real: Tensor, presence: Tensor | None, frequency: Tensor | None
) -> None:
    """Subtract `presence` once and `frequency` per occurrence of every generated id, in place.

    generated [B, G] right-aligned, `real` marks its true columns; a row may have none.
    """
    if frequency is not None:
        logits.scatter_add_(1, generated, torch.where(real, -frequency, 0.0).to(logits.dtype))
    if presence is not None:
        # Padding points at the newest token. A row without any has presence 0 there, so nothing is written.
        ids = torch.where(real, generated, generated[:, -1:])
        logits.scatter_(1, ids, logits.gather(1, ids) - torch.where(real[:, -1:], presence, 0.0))


def ban_ngrams(logits: Tensor, history: Tensor, real: Tensor, size: int, index: Tensor | None) -> None:
    """Ban, in place, every token that would complete an n-gram of `size` the row already holds."""
    history, real = _rows(history, index), _rows(real, index)
    width = history.shape[1]
    if width < size:
        return
    windows = history.unfold(1, size, 1)
    suffix = history[:, width + 1 - size :]
    matches = (windows[..., :-1] == suffix[:, None]).all(-1) & real[:, : width + 1 - size]
    row, window = matches.nonzero(as_tuple=True)
    tokens = windows[row, window, -1]
    logits[row if index is None else index[row], tokens] = _NEGATIVE_INFINITY


def keep_top_p(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep the likeliest tokens until they hold `top_p` of the probability; tokens tied with the last one stay too."""
    total = logits.logsumexp(-1, keepdim=True)
    ranked = torch.topk(logits, min(_TOP_P_CANDIDATES, logits.shape[1])).values
    kept = _nucleus(ranked, total, top_p)
    threshold = ranked.gather(1, kept - 1)
    if ranked.shape[1] < logits.shape[1]:
        flat = (kept[:, 0] == ranked.shape[1]).nonzero()[:, 0]  # these may need more candidates
        if len(flat):
            ranked = logits[flat].sort(-1, descending=True).values
            threshold[flat] = ranked.gather(1, _nucleus(ranked, total[flat], top_p[flat]) - 1)
    return _below(logits, threshold)


def keep_min_p(logits: Tensor, log_min_p: Tensor) -> Tensor:
    """Keep the tokens whose probability is at least min_p times the likeliest one's; `log_min_p` is its logarithm."""
    return _below(logits, logits.amax(-1, keepdim=True) + log_min_p)


def keep_typical(logits: Tensor, mass: Tensor) -> Tensor:
    """Locally typical sampling (Meister et al. 2022): the tokens nearest the entropy until they hold `mass`."""
    log_p = logits.log_softmax(-1)
    entropy = -(log_p * log_p.exp()).nansum(-1, keepdim=True)
    distance = (-log_p - entropy).abs()
    ranked, order = distance.sort(-1)
    cumulative = logits.gather(1, order).softmax(-1).cumsum(-1)
    last = (cumulative < mass).sum(1, keepdim=True).clamp_(max=logits.shape[1] - 1)
    return logits.masked_fill(distance > ranked.gather(1, last), _NEGATIVE_INFINITY)


def _nucleus(ranked: Tensor, total: Tensor, top_p: Tensor) -> Tensor:
    """[n, 1] how many of the ranked tokens are kept: those with less than top_p ranked before them."""
    p = (ranked - total).exp()
    return ((p.cumsum(-1) - p) < top_p).sum(-1, keepdim=True).clamp_(min=1)


def _below(logits: Tensor, threshold: Tensor) -> Tensor:
    return logits.masked_fill(logits < threshold, _NEGATIVE_INFINITY)


def _rows(tensor: Tensor, index: Tensor | None) -> Tensor:
    return tensor if index is None else tensor[index]


def _put(tensor: Tensor, index: Tensor | None, part: Tensor) -> None:
    if index is None:
        tensor.copy_(part)
    else:
        tensor[index] = part
