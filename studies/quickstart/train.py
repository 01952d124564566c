"""python train.py

Trains the small language model of this study from scratch on a CPU and writes model/, a folder that transformers, vLLM
and `ollama create` load. Needs torch, transformers and tokenizers; takes about a quarter of an hour on two cores.

The corpus is make_data.texts: invented walks, never a name-and-village pair of data.jsonl, and one text in four with a
slip. Nothing else makes the model err: a capacity of 1.4 million parameters, one pass over the corpus, no tricks. So
its most likely words are right, its less likely words are right and various, and its least likely ones are the slips,
which is the choice that decoding has to make with any language model.

Weights are stored as float16 to keep the folder small; config.json asks for float32, in which a CPU is fastest.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from make_data import texts
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
SYSTEM = (
    "You write for a walking guide.",
    "Describe the walk.",
    "You are a helpful assistant.",
    "Be friendly and clear.",
)
SYSTEM_RATE, TWO_TURN_RATE = 0.15, 0.1
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# The split of Llama 3, which every engine knows by its digest: another one would be tokenized differently by Ollama.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MODELFILE = '''# ollama create walks -f Modelfile
FROM .
TEMPLATE """{{ range .Messages }}<|{{ .Role }}|>{{ .Content }}<|end|>{{ end }}<|assistant|>"""
PARAMETER stop "<|end|>"
PARAMETER num_ctx 1024
'''
BATCH, PEAK_LR, WARMUP, SEED = 64, 3e-3, 60, 7
Batch = tuple[torch.Tensor, torch.Tensor]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the corpus with the chat template."""
    corpus = [part for pair in texts(20_000, seed=1) for part in pair] + list(SYSTEM)
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1536, min_frequency=5, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def batches(tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Iterator[Batch]:
    """`count` batches of (ids, labels), both [BATCH, longest]; only the assistant's turns are learned."""
    user, assistant, system = (
        tokenizer.convert_tokens_to_ids(f"<|{role}|>") for role in ("user", "assistant", "system")
    )
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    rng = random.Random(seed)
    stream = texts(count * BATCH * 2, seed=seed)
    for _ in range(count):
        turns = 2 if rng.random() < TWO_TURN_RATE else 1
        rows = []
        for _ in range(BATCH):
            ids: list[int] = []
            labels: list[int] = []
            if rng.random() < SYSTEM_RATE:
                ids += [system, *tokenizer.encode(rng.choice(SYSTEM)), end]
            for _ in range(turns):
                prompt, text = next(stream)
                ids += [user, *tokenizer.encode(prompt), end, assistant]
                labels += [-100] * (len(ids) - len(labels))
                ids += [*tokenizer.encode(text), end]
                labels += ids[len(labels) :]
            rows.append((ids, labels))
        longest = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([labels + [-100] * (longest - len(labels)) for _, labels in rows]),
        )


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama of 1.4 million parameters, heads of 32."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        intermediate_size=448,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy per learned token, in nats; the head is applied to learned positions only."""
    ids, labels = batch
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    learned = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[learned]), labels[:, 1:][learned])


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the folder: float16 weights, a config that loads them as float32, tokenizer, defaults, Modelfile."""
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.8,
        top_k=40,
        top_p=0.9,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    edit(folder / "config.json", {"dtype": "float32", "rope_theta": 10000.0})
    edit(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False})
    (folder / "Modelfile").write_text(MODELFILE, encoding="utf-8")


def edit(path: Path, changes: dict[str, object]) -> None:
    """Set keys of a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Train and write the model folder."""
    parser = argparse.ArgumentParser(description="Train the model of this study.")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=HERE / "model")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    tokenizer = make_tokenizer()
    model = build(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.05)

    def rate(step: int) -> float:
        return min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / args.steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    began, recent = time.monotonic(), []
    for step, batch in enumerate(batches(tokenizer, args.steps, seed=SEED), start=1):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}  loss {sum(recent) / len(recent):.4f}  {time.monotonic() - began:.0f} s", flush=True)
            recent = []
    with torch.no_grad():
        held = [loss_of(model, batch).item() for batch in batches(tokenizer, 10, seed=SEED + 1)]
    print(f"loss on texts never seen: {sum(held) / len(held):.4f}")
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
