"""The quickstart's model is one model to every engine: the same greedy text from the same prompt tokens."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path

import pytest

from genopt import dataset
from genopt.backends.transformers import TransformersBackend
from genopt.prompt import Prompt
from genopt.spec.read import read_study
from genopt.types import Message, Request
from tests.real import engines
from tests.real.engines import Answer, Ollama

pytestmark = pytest.mark.real

STUDY = Path(__file__).resolve().parents[2] / "studies" / "quickstart" / "study.toml"
MODEL = STUDY.parent / "model"
CONVERSATIONS, MAX_TOKENS = 12, 64
CLEAR = 0.05
"""Logits that the chosen token must lead by at every step: Ollama keeps the weights in half precision, so a nearer tie
is decided by rounding and not by the model."""

Conversation = tuple[Message, ...]


def _written() -> list[Conversation]:
    """The study's prompts; some of them with a system turn, some after an earlier walk as an example."""
    spec = read_study(STUDY)
    assert isinstance(spec.prompt.user, str)
    prompt = Prompt.from_parts(user=spec.prompt.user)
    table = spec.dataset
    rows = dataset.load(path=table.path, folder=spec.folder, reference=table.reference, id=table.id, limit=21).examples
    system = (Message("system", "Describe the walk."),)
    written: list[Conversation] = []
    for number, row in enumerate(rows[1:]):
        shots = [rows[0]] if number % 4 == 3 else []
        before = system if number % 4 == 1 else ()
        written.append((*before, *prompt.render(row, {}, shots)))
    return written


async def _generate(conversations: list[Conversation]) -> list[Answer]:
    backend = TransformersBackend(model=str(MODEL), options={"device": "cpu", "dtype": "float32"})
    await backend.open()
    try:
        requests = [
            Request(conversation, {"temperature": 0.0, "max_tokens": MAX_TOKENS}, seed=1, example_id=str(number))
            for number, conversation in enumerate(conversations)
        ]
        made = await asyncio.gather(*map(backend.generate, requests))
    finally:
        await backend.aclose()
    assert all(generation.finish == "stop" for generation in made)
    return [Answer(generation.text, generation.prompt_tokens) for generation in made]


def _leads(conversations: list[Conversation]) -> list[float]:
    """For each greedy text the least lead, in logits, of a token over the next best one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    leads: list[float] = []
    for conversation in conversations:
        prompt = tokenizer.apply_chat_template(
            _plain(conversation), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        made = model.generate(
            prompt["input_ids"], attention_mask=prompt["attention_mask"], do_sample=False, temperature=None,
            top_k=None, top_p=None, max_new_tokens=MAX_TOKENS, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        best = torch.stack(made.logits).squeeze(1).topk(2).values
        leads.append(float((best[:, 0] - best[:, 1]).min()))
    return leads


def _plain(conversation: Conversation) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in conversation]


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Prompts whose greedy text is not decided by rounding; most are (a text is some 25 tokens)."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip('needs PyTorch and transformers: pip install "genopt[transformers]"')
    written = _written()
    clear = [conversation for conversation, lead in zip(written, _leads(written), strict=True) if lead > CLEAR]
    chosen = clear[:CONVERSATIONS]
    assert len(chosen) == CONVERSATIONS
    assert {len(conversation) for conversation in chosen} == {1, 2, 3}
    return chosen


@pytest.fixture(scope="module")
def ours(conversations: list[Conversation]) -> list[Answer]:
    """What the embedded engine writes."""
    return asyncio.run(_generate(conversations))


def test_vllm_writes_the_same(conversations: list[Conversation], ours: list[Answer]) -> None:
    python = engines.vllm_python()
    if python is None:
        pytest.skip(f"needs vLLM: let {engines.VLLM_PYTHON} name a Python that has it")
    assert engines.vllm_answers(python, MODEL, list(map(_plain, conversations)), MAX_TOKENS) == ours


def test_ollama_writes_the_same(ollama: Ollama, conversations: list[Conversation], ours: list[Answer]) -> None:
    options = {"temperature": 0, "repeat_penalty": 1.0, "num_predict": MAX_TOKENS, "num_thread": 1, "seed": 1}
    assert [ollama.answer("walks", _plain(conversation), options) for conversation in conversations] == ours
