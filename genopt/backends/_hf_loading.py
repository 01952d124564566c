"""Owns how a model of `transformers` is loaded and described: weights, tokenizer, identity, defaults, prompts to ids.

It knows nothing of batches, sampling arithmetic or requests in flight.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as _transformers
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask

from genopt._loading import ONE_AT_A_TIME
from genopt.backends._hf_choices import Choices
from genopt.backends._hf_sampling import Rules
from genopt.backends._model_files import digest, model_folder
from genopt.errors import BackendError, SpecError
from genopt.types import Message, ParamValue

transformers: Any = _transformers  # partly typed: its own annotations refuse its documented calls

_RELATIVE_DECODERS = ("t5", "mt5", "umt5", "longt5", "switch_transformers", "pix2struct")
_CACHES = ("cache", "past_key_values", "cache_params")  # from 5.24 on, before, before in recurrent models
_NOT_APPLIED = {
    "sequence_bias": None,
    "bad_words_ids": None,
    "guidance_scale": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "watermarking_config": None,
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what the engine has to know of it.

    positions/logits_to_keep  whether its forward pass takes these arguments; cache_argument: its word for the cache
    batchable    rows of different lengths may share a batch (plain attention); otherwise one row at a time
    joinable     rows may join a running batch (decoder positions are explicit or relative)
    """

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    seq2seq: bool
    rules: Rules
    pad: int
    decoder_start: int
    context: int | None
    vocabulary: int
    positions: bool
    logits_to_keep: bool
    cache_argument: str
    batchable: bool
    joinable: bool
    raw: bool
    template_kwargs: Mapping[str, Any]
    identity: Mapping[str, str]
    defaults: Mapping[str, ParamValue]
    recommended: Mapping[str, ParamValue]
    notes: tuple[str, ...]

    def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt's ids, at least one. Raises BackendError when the chat template refuses the messages."""
        if self.raw or self.tokenizer.chat_template is None:
            text = ("" if self.raw else "\n\n").join(message.content for message in messages)
            ids = self.tokenizer(text, verbose=False)["input_ids"]
        else:
            prefill = bool(messages) and messages[-1].role == "assistant"
            try:
                text = self.tokenizer.apply_chat_template(
                    [{"role": message.role, "content": message.content} for message in messages],
                    tokenize=False,
                    add_generation_prompt=not prefill,
                    continue_final_message=prefill,
                    **self.template_kwargs,
                )
            except Exception as error:  # jinja errors, and ValueError of the library's own checks
                raise BackendError(
                    f"the model's chat template refuses these messages: {error}",
                    hint="Some models take no system message; options.raw = true sends the texts without a template",
                ) from error
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        start = self.tokenizer.bos_token_id
        return tuple(ids) or (start if start is not None else self.pad,)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids; end tokens and other special tokens leave no trace."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def token_text(self, token: int) -> str:
        """One token as it reads alone, special ones too."""
        text: str = self.tokenizer.decode([token])
        return text

    def choices(self, texts: Sequence[str]) -> Choices:
        """What keeps a text to one of these. Raises BackendError for an empty one, and for two that are spelt alike."""
        spelt = [tuple(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts]
        if not all(spelt) or len(set(spelt)) < len(spelt):
            raise BackendError(f"choices: {', '.join(map(repr, texts))} are not different texts, none of them empty")
        return Choices(spelt, self.rules.eos)


def load(name: str, options: Mapping[str, Any]) -> LoadedModel:
    """The model in a folder or on the hub. Raises SpecError when there is none or it cannot be read."""
    folder = model_folder(name)
    shared = {"trust_remote_code": options["trust_remote_code"]}
    if options["revision"] is not None:
        shared["revision"] = options["revision"]
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    device = _device(options["device"])
    with ONE_AT_A_TIME, quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(name, **shared)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **shared)
            seq2seq = bool(config.is_encoder_decoder)
            auto = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
            shared["dtype"] = _dtype(options["dtype"], device)
            model = auto.from_pretrained(name, **shared).to(device).eval()
        except torch.OutOfMemoryError as error:
            raise BackendError(f"the model {name} does not fit into the memory of {device}") from error
        except Exception as error:  # the library raises anything from OSError to KeyError for a bad model
            raise SpecError(
                f"backend.model: {name} cannot be loaded: {_first_line(error)}", hint=_hint(folder)
            ) from error
    if device.type == "cpu" and model.config._attn_implementation == "sdpa":
        _mask_once(model)
    return _describe(name, folder, config, tokenizer, model, device, options)


def _mask_once(model: Any) -> None:
    """Have the mask made of numbers once for all layers: on a CPU each layer's attention would turn one of truth values
    into numbers anew, which is two fifths of its time while decoding."""
    name = "genopt_sdpa"
    transformers.AttentionInterface.register(name, sdpa_attention_forward)
    transformers.AttentionMaskInterface.register(name, eager_mask)
    model.set_attn_implementation(name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, `transformers` writes no progress bars and no warnings; its settings are restored afterwards."""
    talk = transformers.utils.logging
    verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(verbosity)
        if bars:
            talk.enable_progress_bar()


def _describe(
    name: str,
    folder: Path | None,
    config: Any,
    tokenizer: Any,
    model: Any,
    device: torch.device,
    options: Mapping[str, Any],
) -> LoadedModel:
    text_config = config.get_text_config()
    given = model.generation_config
    accepted = inspect.signature(model.forward).parameters
    seq2seq = bool(config.is_encoder_decoder)
    eos = _ids(given.eos_token_id) or _ids(text_config.eos_token_id) or _ids(tokenizer.eos_token_id)
    pad = next((i for i in (given.pad_token_id, tokenizer.pad_token_id, *eos) if i is not None), 0)
    start = next((i for i in (given.decoder_start_token_id, given.bos_token_id) if i is not None), pad)
    begin = tuple(given.begin_suppress_tokens or ())
    rules = Rules(eos, tuple(given.suppress_tokens or ()), begin, given.forced_bos_token_id if seq2seq else None)
    plain = seq2seq or _plain_attention(config)
    head = model.get_output_embeddings()
    chat = "raw" if options["raw"] or tokenizer.chat_template is None else "template"
    extra = json.dumps(options["chat_template_kwargs"], sort_keys=True) if options["chat_template_kwargs"] else ""
    content = digest(folder, eos) if folder is not None else getattr(config, "_commit_hash", None) or ""
    notes = [f"{k} of generation_config.json is not applied" for k, off in _NOT_APPLIED.items() if _set(given, k, off)]
    if model.dtype in (torch.bfloat16, torch.float16):
        notes.append(f"in {str(model.dtype)[6:]} a text may depend on what shares its batch: float32 makes it exact")
    if not plain:
        notes.append("this architecture keeps more than keys and values: requests run one at a time")
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        device=device,
        dtype=model.dtype,
        seq2seq=seq2seq,
        rules=rules,
        pad=pad,
        decoder_start=start,
        context=getattr(text_config, "max_position_embeddings", None),
        vocabulary=head.weight.shape[0] if head is not None else text_config.vocab_size,
        positions="position_ids" in accepted and not seq2seq,
        logits_to_keep="logits_to_keep" in accepted,
        cache_argument=next((name for name in _CACHES if name in accepted), _CACHES[0]),
        batchable=plain,
        joinable=plain and (not seq2seq or config.model_type in _RELATIVE_DECODERS),
        raw=options["raw"],
        template_kwargs=dict(options["chat_template_kwargs"]),
        identity={
            "engine": "transformers",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "model": folder.resolve().name if folder is not None else name,
            "digest": content,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": device.type,
            "prompt": chat + extra,
        },
        defaults=_defaults(given),
        recommended={n: v for n in _SAMPLING if (v := getattr(given, n, None)) is not None},
        notes=tuple(notes),
    )


# What a model recommends, although `generate()` samples by it only where do_sample is set, too.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty")


def _defaults(given: Any) -> dict[str, ParamValue]:
    """What `generate()` does today by generation_config.json: unset values are the library's own, or off."""
    sampled = bool(given.do_sample)

    def value(name: str, unset: Any) -> Any:
        found = getattr(given, name, None)
        return unset if found is None else found

    stop = given.stop_strings or ()
    return {
        "temperature": float(value("temperature", 1.0)) if sampled else 0.0,
        "top_k": int(value("top_k", 50 if sampled else 0)),
        "top_p": float(value("top_p", 1.0)),
        "min_p": float(value("min_p", 0.0)),
        "typical_p": float(value("typical_p", 1.0)),
        "repetition_penalty": float(value("repetition_penalty", 1.0)),
        "no_repeat_ngram_size": int(value("no_repeat_ngram_size", 0)),
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "num_beams": int(value("num_beams", 1)),
        "length_penalty": float(value("length_penalty", 1.0)),
        "max_tokens": int(value("max_new_tokens", 256)),
        "min_tokens": int(value("min_new_tokens", 0)),
        "stop": (stop,) if isinstance(stop, str) else tuple(stop),
    }


def _hint(folder: Path | None) -> str:
    if folder is not None:
        return "Check that config.json, the weights and the tokenizer's files in it are complete"
    return "Neither a folder of that name nor a model that the hub gives out: check the name and the connection"


def _device(wanted: str) -> torch.device:
    if wanted != "auto":
        try:
            return torch.empty(0, device=wanted).device
        except (RuntimeError, AssertionError) as error:
            raise SpecError(f"backend.options.device: {wanted!r} is not usable here: {_first_line(error)}") from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _dtype(wanted: str, device: torch.device) -> Any:
    if wanted == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return getattr(torch, wanted)


def _plain_attention(config: Any) -> bool:
    """True when the cache is nothing but keys and values of every layer, so that left padding is harmless."""
    try:
        layers = DynamicCache(config=config).layers
    except Exception:  # an architecture whose cache the library does not build from its configuration
        return False
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(int(i) for i in value)


def _set(given: Any, name: str, off: Any) -> bool:
    value = getattr(given, name, None)
    return value is not None and value != off


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
