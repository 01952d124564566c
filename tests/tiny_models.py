"""Owns the tiny random models the tests run on: made on the spot in a given folder, nothing is downloaded.

Random weights of a large scale make the logits peaky, so that a model of a few kilobytes writes texts that differ from
prompt to prompt and react to every generation parameter.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPECIAL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
TEXTS = (
    "the quick brown fox jumps over the lazy dog",
    "a reset link was sent to the customer, who asked for a refund of the order",
    "invoice number, shipping address, delivery date and payment method",
    "what is the capital of france? paris is the capital of france.",
    "please answer in one short sentence: yes, no, or not known.",
)


def make_tokenizer(folder: Path, *, vocabulary: int, chat: bool) -> Any:
    """A byte-level BPE tokenizer of `vocabulary` ids (any text can be written with it), saved in `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = [f"{a}{b}" for a in " abcdefghijklmnopqrstuvwxyz" for b in "etaoinshrdlu"]
    core.train_from_iterator([*TEXTS, *(" ".join([w] * 3) for w in words)], trainer)
    core.add_tokens([f" w{n}" for n in range(vocabulary - core.get_vocab_size())])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<|pad|>", eos_token="<|end|>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_llama(
    folder: Path,
    *,
    hidden: int = 48,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int | None = None,
    intermediate: int | None = None,
    vocabulary: int = 512,
    context: int = 512,
    peak: float = 2.5,
    seed: int = 0,
    chat: bool = True,
    tied: bool = False,
    generation: dict[str, Any] | None = None,
    weights: bool = True,
) -> Path:
    """A random Llama with a chat template in `folder`; `peak` is about the standard deviation of its logits. On the
    device and in the dtype that are PyTorch's default; without `weights` only what describes it and its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder, vocabulary=vocabulary, chat=chat)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=intermediate or 2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads // 2,
        max_position_embeddings=context,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=tied,
        architectures=["LlamaForCausalLM"],
    )
    if not weights:
        config.save_pretrained(folder)
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _shake(model, torch)
        model.lm_head.weight.data.normal_(0.0, peak / hidden**0.5)
        model.lm_head.weight.data[tokenizer.eos_token_id] *= 1.7  # texts end by themselves now and then
    return _save(model, folder, generation)


def make_t5(
    folder: Path,
    *,
    hidden: int = 48,
    layers: int = 2,
    vocabulary: int = 512,
    peak: float = 2.5,
    seed: int = 0,
    generation: dict[str, Any] | None = None,
) -> Path:
    """A random T5 without a chat template in `folder`; `peak` is about the standard deviation of its logits."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder, vocabulary=vocabulary, chat=False)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=hidden,
        d_kv=hidden // 4,
        d_ff=2 * hidden,
        num_layers=layers,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(config)
        _shake(model, torch)
        model.shared.weight.data.normal_(0.0, 1.0)
        model.decoder.embed_tokens.weight.data.normal_(0.0, 1.0)
        model.lm_head.weight.data.normal_(0.0, peak / hidden**0.5)
        model.lm_head.weight.data[tokenizer.eos_token_id] *= 1.7  # texts end by themselves now and then
    return _save(model, folder, generation)


def prompts(count: int, *, words: Sequence[str] = ("order", "refund", "dog", "invoice", "paris", "link")) -> list[str]:
    """`count` different prompts of different lengths."""
    return [
        f"case {n}: " + " ".join(words[(n * 7 + k * (n % 5 + 1)) % len(words)] for k in range(2 + n * 5 % 17))
        for n in range(count)
    ]


def _shake(model: Any, torch: Any) -> None:
    """Weights large enough that every layer changes what comes out."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0.0, 1.6 / parameter.shape[-1] ** 0.5)
    model.get_input_embeddings().weight.data.normal_(0.0, 1.0)
    torch.nn.Module.eval(model)


def _save(model: Any, folder: Path, generation: dict[str, Any] | None) -> Path:
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    model.save_pretrained(folder)
    if bars:
        logging.enable_progress_bar()
    if generation is not None:
        path = folder / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | generation))
    return folder
