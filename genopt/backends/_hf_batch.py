"""Owns the running batch: prefill, one decoding step for all rows, who has finished and with what text.

It knows the model's forward pass, the slots and the plan; no queue, thread, future or request.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from genopt.backends._hf_choices import keep_only
from genopt.backends._hf_loading import LoadedModel
from genopt.backends._hf_rows import Finished, Row, ended, tell_logprobs, watch
from genopt.backends._hf_sampling import Decoding, Plan
from genopt.backends._hf_slots import Slots, Solo

_PREFILL_TOKENS = {"cpu": 8192}
_PREFILL_TOKENS_GPU = 32768


class Batch:
    """Rows that are decoded together; each gets the text it would get alone.

    Not thread-safe. After an exception the batch is unusable: make a new one and start its rows again.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.rows: list[Row] = []
        self._slots: Any = Slots() if loaded.batchable else Solo()
        self._cross = Slots(right_aligned=False) if loaded.seq2seq else None
        self._cache: Any = None
        self._history = torch.empty((0, 0), dtype=torch.long, device=loaded.device)
        self._lengths = np.empty(0, dtype=np.int64)
        self._made = np.empty(0, dtype=np.int64)
        self._sources = np.empty(0, dtype=np.int64)
        self._plan: Plan | None = None

    def admit(self, rows: Sequence[Row]) -> list[Finished]:
        """Prefill the rows, draw their first token and let them join; those that end at once are returned."""
        for row in rows:
            watch(row, self._loaded.decode)
        done: list[Finished] = []
        for group in self._groups(rows):
            done += self._admit(group)
        return done

    def step(self) -> list[Finished]:
        """One more token for every row; those that end with it are returned."""
        if not self.rows:
            return []
        logits = self._forward()
        if self._plan is None:
            self._plan = self._make_plan(self.rows)
        tokens, chosen = self._draw(self.rows, self._plan, logits, self._history, self._lengths, self._made)
        self._history = torch.cat([self._history, tokens[:, None]], dim=1)
        self._lengths += 1
        self._made += 1
        if broken := [n for n, token in enumerate(chosen) if token < 0]:
            self._slots.erase(broken)
        done, kept = self._settle(self.rows, chosen)
        if done:
            self._keep(kept)
        return done

    def drop(self, rows: Sequence[Row]) -> None:
        """Rows leave without a result."""
        leaving = set(map(id, rows))
        kept = [n for n, row in enumerate(self.rows) if id(row) not in leaving]
        if len(kept) < len(self.rows):
            self._keep(kept)

    def _groups(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Rows that are prefilled together: similar lengths, and no more tokens at once than memory bears."""
        if not self._loaded.batchable:
            return [[row] for row in rows]
        budget = _PREFILL_TOKENS.get(self._loaded.device.type, _PREFILL_TOKENS_GPU)
        groups: list[list[Row]] = []
        prompts: set[tuple[int, ...]] = set()
        shortest = 0
        for row in sorted(rows, key=lambda row: (len(row.prompt), row.prompt)):
            size = len(row.prompt)
            fits = (len(prompts | {row.prompt})) * size <= budget and size <= 1.5 * shortest + 16
            # A decoder with absolute positions can only start all of its rows together.
            if groups and (fits or not self._loaded.joinable):
                groups[-1].append(row)
            else:
                groups.append([row])
                prompts, shortest = set(), size
            prompts.add(row.prompt)
        return groups

    def _admit(self, rows: list[Row]) -> list[Finished]:
        unique = {prompt: n for n, prompt in enumerate(dict.fromkeys(row.prompt for row in rows))}
        source, cross, logits, starts = self._prefill(list(unique))
        pick = torch.tensor([unique[row.prompt] for row in rows], device=self._loaded.device)
        lengths = np.asarray([len(starts[unique[row.prompt]]) for row in rows], dtype=np.int64)
        history = _right_aligned(starts, self._loaded.pad, self._loaded.device)[pick]
        made = np.zeros(len(rows), dtype=np.int64)
        tokens, chosen = self._draw(rows, self._make_plan(rows), logits[pick], history, lengths, made)
        done, kept = self._settle(rows, chosen)
        if kept:
            take = torch.tensor(kept, device=self._loaded.device)
            self._slots.join(source, pick[take])
            if self._cross is not None:
                self._cross.join(cross, pick[take])
            self._cache = None
            history = torch.cat([history, tokens[:, None]], dim=1)[take]
            width = max(history.shape[1], self._history.shape[1])
            self._history = torch.cat([_widen(self._history, width), _widen(history, width)])
            self._lengths = np.concatenate([self._lengths, lengths[kept] + 1])
            self._made = np.concatenate([self._made, made[kept] + 1])
            encoded = np.asarray([len(rows[n].prompt) for n in kept], dtype=np.int64)
            self._sources = np.concatenate([self._sources, encoded])
            self.rows += [rows[n] for n in kept]
            self._plan = None
            self._trim()
        return done

    def _prefill(self, prompts: list[tuple[int, ...]]) -> tuple[Any, Any, Tensor, list[tuple[int, ...]]]:
        """Caches (self, cross), last logits [n, V] and the ids a row's history starts with."""
        loaded, device = self._loaded, self._loaded.device
        if loaded.seq2seq:
            width = max(map(len, prompts))
            ids = torch.tensor([[*p, *[loaded.pad] * (width - len(p))] for p in prompts], device=device)
            mask = (
                torch.arange(width, device=device) < torch.tensor([[len(p)] for p in prompts], device=device)
            ).long()
            encoded = loaded.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            both = EncoderDecoderCache(DynamicCache(), DynamicCache())
            out = loaded.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
                attention_mask=mask,
                decoder_input_ids=torch.full((len(prompts), 1), loaded.decoder_start, device=device),
                use_cache=True,
                **{loaded.cache_argument: both},
            )
            starts: list[tuple[int, ...]] = [(loaded.decoder_start,)] * len(prompts)
            return both.self_attention_cache, both.cross_attention_cache, out.logits[:, -1].float(), starts
        ids = _right_aligned(prompts, loaded.pad, device)
        lengths = torch.tensor([[len(p)] for p in prompts], device=device)
        mask = (torch.arange(ids.shape[1], device=device) >= ids.shape[1] - lengths).long()
        arguments: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        if loaded.batchable:  # a single row has no padding, and recurrent models take no mask while decoding
            arguments["attention_mask"] = mask
        if loaded.positions:
            arguments["position_ids"] = (mask.cumsum(-1) - 1).clamp_(min=0)
        if loaded.logits_to_keep:
            arguments["logits_to_keep"] = 1
        cache = DynamicCache() if loaded.batchable else DynamicCache(config=loaded.model.config)
        arguments[loaded.cache_argument] = cache
        return cache, None, loaded.model(**arguments).logits[:, -1].float(), prompts

    def _forward(self) -> Tensor:
        """Feed the newest token of every row; the logits after it, [B, V] float32."""
        loaded, device = self._loaded, self._loaded.device
        self._slots.reserve()
        if self._cache is None:
            self._cache = self._slots.cache
            if self._cross is not None:
                self._cache = EncoderDecoderCache(self._slots.cache, self._cross.cache)
        newest = self._history[:, -1:]
        width = self._history.shape[1]
        lengths = torch.from_numpy(self._lengths).to(device)[:, None]
        mask = (torch.arange(width, device=device) >= width - lengths).long()
        if self._cross is not None:
            size = self._cross.frame.width
            sources = torch.from_numpy(self._sources).to(device)[:, None]
            hidden = torch.zeros((1, 1, 1), dtype=loaded.dtype, device=device)
            out = loaded.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden.expand(len(self.rows), size, 1)),
                attention_mask=(torch.arange(size, device=device) < sources).long(),
                decoder_input_ids=newest,
                decoder_attention_mask=mask,
                use_cache=True,
                **{loaded.cache_argument: self._cache},
            )
        else:
            arguments: dict[str, Any] = {"position_ids": lengths - 1} if loaded.positions else {}
            arguments[loaded.cache_argument] = self._cache
            if loaded.batchable:
                arguments["attention_mask"] = mask
            out = loaded.model(input_ids=newest, use_cache=True, **arguments)
        self._slots.advance()
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def _draw(
        self,
        rows: Sequence[Row],
        plan: Plan,
        logits: Tensor,
        history: Tensor,
        lengths: NDArray[np.int64],
        made: NDArray[np.int64],
    ) -> tuple[Tensor, list[int]]:
        """The next token of every row, as a tensor and as numbers; rows that want it are told its log probability: the
        model's own before any parameter, over the tokens that its choices allow."""
        if allowed := {n: row.choices.following(row.ids) for n, row in enumerate(rows) if row.choices is not None}:
            keep_only(logits, allowed)
        curious = [n for n, row in enumerate(rows) if row.top_logprobs]
        log_p = logits[curious].log_softmax(-1) if curious else None
        tokens = plan.tokens(logits, history, lengths, made)
        chosen: list[int] = tokens.tolist()  # the only wait for the device in a step
        if log_p is not None:
            tell_logprobs([(rows[n], chosen[n]) for n in curious], log_p, self._loaded.token_text)
        return tokens, chosen

    def _settle(self, rows: Sequence[Row], chosen: Sequence[int]) -> tuple[list[Finished], list[int]]:
        """Note the new tokens; who has finished, and the numbers of those who have not."""
        done: list[Finished] = []
        kept: list[int] = []
        eos, loaded = self._loaded.rules.eos, self._loaded
        for n, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            ids = row.ids
            if token < 0:
                why = "the model's numbers overflowed (not a number); another dtype may help"
                done.append(Finished(row, loaded.decode(ids), "error", len(ids), why))
                continue
            if not ids:
                row.began = time.perf_counter()
            ids.append(token)
            if (finished := ended(row, eos, loaded.decode)) is not None:
                done.append(finished)
            else:
                kept.append(n)
        return done, kept

    def _keep(self, kept: list[int]) -> None:
        """Only these rows stay; holes are filled with the last rows, so that few rows are copied."""
        order = list(range(len(kept)))
        staying = set(kept)
        spare = [n for n in kept if n >= len(kept)]
        for place in range(len(kept)):
            if place not in staying:
                order[place] = spare.pop()
        self.rows = [self.rows[n] for n in order]
        self._lengths, self._made = self._lengths[order], self._made[order]
        self._sources = self._sources[order]
        self._history = self._history[torch.tensor(order, dtype=torch.long, device=self._loaded.device)]
        self._plan = None
        self._slots.keep(order)
        if self._cross is not None:
            self._cross.keep(order)
        self._trim()

    def _trim(self) -> None:
        """Drop the leading columns that no row uses any more."""
        width = int(self._lengths.max(initial=0))
        self._history = self._history[:, self._history.shape[1] - width :]
        self._slots.narrow(max(0, width - 1))  # the newest token has not been fed yet
        if self._cross is not None:
            self._cross.narrow(int(self._sources.max(initial=0)))

    def _make_plan(self, rows: Sequence[Row]) -> Plan:
        loaded = self._loaded
        return Plan(
            [row.decoding for row in rows], [row.seed for row in rows], loaded.rules, loaded.vocabulary, loaded.device
        )


def warm_up(loaded: LoadedModel) -> None:
    """Decode two tokens once, so that what a model has to say or cannot do comes out while it is being opened."""
    rules = dataclasses.replace(loaded.rules, eos=())
    with torch.inference_mode():
        batch = Batch(dataclasses.replace(loaded, rules=rules))
        batch.admit([Row((loaded.pad,), Decoding(max_tokens=2), seed=0, limit=2)])
        batch.step()


def _right_aligned(prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> Tensor:
    width = max(map(len, prompts))
    return torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts], device=device)


def _widen(history: Tensor, width: int) -> Tensor:
    if history.shape[1] == width:
        return history
    return torch.nn.functional.pad(history, (width - history.shape[1], 0))
