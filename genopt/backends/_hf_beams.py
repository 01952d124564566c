"""Owns beam search: one request alone through the library's own `generate`, with every other parameter honoured.

It knows no batch, queue or thread.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers as _transformers
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from genopt.backends._hf_loading import LoadedModel, quiet
from genopt.backends._hf_rows import Finished, Row
from genopt.backends._hf_sampling import Decoding, penalise_presence_and_frequency
from genopt.backends._hf_stop import StopWatch

transformers: Any = _transformers  # partly typed


def beam_search(loaded: LoadedModel, row: Row) -> Finished:
    """The row's text by beam search; with a temperature above 0, beam sampling from the row's seed."""
    d, device, rules = row.decoding, loaded.device, loaded.rules
    ids = torch.tensor([row.prompt], device=device)
    prompt_width = 1 if loaded.seq2seq else len(row.prompt)
    config = transformers.GenerationConfig(
        num_beams=d.num_beams,
        length_penalty=d.length_penalty,
        max_new_tokens=row.limit,
        min_new_tokens=d.min_tokens or None,
        repetition_penalty=d.repetition_penalty,
        no_repeat_ngram_size=d.no_repeat_ngram_size,
        do_sample=d.sampled,
        eos_token_id=list(rules.eos) or None,
        pad_token_id=loaded.pad,
        decoder_start_token_id=loaded.decoder_start if loaded.seq2seq else None,
        suppress_tokens=list(rules.suppress) or None,
        begin_suppress_tokens=list(rules.begin_suppress) or None,
        forced_bos_token_id=rules.forced_first,
        **_truncation(d),
    )
    watch = StopWatch(loaded.decode, d.stop, d.min_tokens) if d.stop else None
    processors = [_Penalties(d, prompt_width)] if d.presence_penalty or d.frequency_penalty else []
    criteria = [_Stop(watch, prompt_width)] if watch is not None else []
    devices = [device] if device.type == "cuda" else []
    with quiet(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(row.seed)
        out = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList(criteria),
        )
    made = out[0, prompt_width:].tolist()
    ended = next((n for n, token in enumerate(made) if token in rules.eos), None)
    if ended is not None:
        made = made[: ended + 1]
    elif loaded.pad not in rules.eos:
        while made and made[-1] == loaded.pad and len(made) < row.limit:  # a beam that a stop string ended is padded
            made.pop()
    if watch is not None:
        for count in range(1, len(made) + 1):
            if (text := watch.cut(made[:count])) is not None:
                return Finished(row, text, "stop", count)
    if ended is not None:
        return Finished(row, loaded.decode(made[:-1]), "stop", len(made))
    return Finished(row, loaded.decode(made), "length", len(made))


def _truncation(d: Decoding) -> dict[str, Any]:
    """The sampling parameters that are on; the library warns of any it is given without sampling."""
    if not d.sampled:
        return {}
    given: dict[str, Any] = {"temperature": d.temperature, "top_k": d.top_k}
    given |= {"top_p": d.top_p} if d.top_p < 1 else {}
    given |= {"min_p": d.min_p} if d.min_p > 0 else {}
    given |= {"typical_p": d.typical_p} if d.typical_p < 1 else {}
    return given


class _Penalties(LogitsProcessor):
    """Presence and frequency penalties over the generated tokens of every beam."""

    def __init__(self, decoding: Decoding, prompt_width: int) -> None:
        self._presence = decoding.presence_penalty
        self._frequency = decoding.frequency_penalty
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        generated = input_ids[:, self._prompt_width :]
        if generated.shape[1]:
            real = torch.ones_like(generated, dtype=torch.bool)
            presence, frequency = (scores.new_full((len(scores), 1), v) for v in (self._presence, self._frequency))
            scores = scores.clone()
            penalise_presence_and_frequency(scores, generated, real, presence, frequency)
        return scores


class _Stop(StoppingCriteria):
    """Ends a beam whose text holds a stop string."""

    def __init__(self, watch: StopWatch, prompt_width: int) -> None:
        self._watch = watch
        self._prompt_width = prompt_width

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        ended = [self._watch.cut(ids[self._prompt_width :]) is not None for ids in input_ids.tolist()]
        return torch.tensor(ended, device=input_ids.device)
