"""vLLM in this process, as the real tests start it: tiny random models, small caches, adapters written by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt.backends.vllm import PARAMS, VllmBackend
from genopt.types import Generation, Message, Request
from tests import tiny_models

OPTIONS: Mapping[str, Any] = {"dtype": "float32", "kv_cache_memory_bytes": 2**27}


def make_model(folder: Path, **changes: Any) -> Path:
    """A random Llama whose attention vLLM has on a CPU (heads of 32)."""
    return tiny_models.make_llama(folder, **{"hidden": 128, "heads": 4, **changes})


def make_adapter(folder: Path, *, hidden: int = 128, layers: int = 2, rank: int = 4, seed: int = 0) -> Path:
    """A random LoRA adapter for `make_model`'s queries and values, strong enough to change every text."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "base_model_name_or_path": "",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        for module, width in (("q_proj", hidden), ("v_proj", hidden // 2)):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, hidden, generator=draw) / hidden**0.5
            tensors[f"{name}.lora_B.weight"] = torch.randn(width, rank, generator=draw)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def make_backend(model: Path, **options: Any) -> VllmBackend:
    return VllmBackend(model=str(model), options={**OPTIONS, **options})


def make_request(text: str | Sequence[Message], *, seed: int = 1, **params: Any) -> Request:
    messages = (Message("user", text),) if isinstance(text, str) else tuple(text)
    off = {n: d.neutral[0] for n, d in PARAMS.items() if d.neutral and n not in ("lora", "model")}
    return Request(messages, {**off, "max_tokens": 24, **params}, seed, "example")


def outcome(done: Generation) -> tuple[str, str, int, int]:
    return done.text, done.finish, done.prompt_tokens, done.completion_tokens


class Shared:
    """One engine for many tests: opened by the first that needs it, and again by the one after it was closed."""

    def __init__(self, model: Path, **options: Any) -> None:
        self.model, self.backend = model, make_backend(model, **options)
        self.told: list[str] = []
        self.backend.tell = self.told.append

    def run(self, scenario: Callable[[VllmBackend], Coroutine[Any, Any, Any]]) -> Any:
        """What the scenario returns; the engine stays."""

        async def session() -> Any:
            await self.backend.open()
            return await scenario(self.backend)

        return asyncio.run(session())

    def generate(self, requests: Sequence[Request]) -> list[Generation]:
        """All requests at once."""

        async def scenario(backend: VllmBackend) -> list[Generation]:
            return list(await asyncio.gather(*(backend.generate(request) for request in requests)))

        done: list[Generation] = self.run(scenario)
        return done

    def processes(self) -> list[int]:
        """The ids of the engines' own processes."""
        worker: Any = self.backend._worker
        llm = worker._engine._llm
        core = getattr(llm, "_llm", llm).engine_core
        return [int(process.pid) for process in core.resources.engine_manager.processes]

    def close(self) -> None:
        asyncio.run(self.backend.aclose())


class LoggedBackend(VllmBackend):
    """The engine of studies that are killed: every request is a line of log.jsonl in the study's folder."""

    async def generate(self, request: Request) -> Generation:
        line = [json.dumps(dict(request.params), sort_keys=True), request.example_id, request.sample, request.phase]
        with open("log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        return await super().generate(request)
