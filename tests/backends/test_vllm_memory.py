"""What an engine of vLLM will hold: sizes from real files against PyTorch's own count, and cards that are made up."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import pytest

from genopt import checks
from genopt.backends._vllm_memory import GIB, WORKING, Size, crowded, room, size_of, told
from genopt.errors import SpecError
from genopt.prepare import prepare
from genopt.spec import StudySpec

# Llama 3.1 8B as its config.json says: 32 layers, 8 of 32 heads of width 128 keep keys and values.
LLAMA_8B = {
    "model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "hidden_size": 4096, "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
}  # fmt: skip
PARAMETERS_8B = 8_030_261_248


def model(folder: Path, config: dict[str, Any], *tensors: tuple[str, list[int]]) -> Path:
    """A model folder whose weights are a header alone: nobody reads further."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    width, at, header = {"F32": 4, "BF16": 2, "U8": 1}, 0, {"__metadata__": {"format": "pt"}}
    for n, (kind, shape) in enumerate(tensors):
        size = width[kind]
        for length in shape:
            size *= length
        header[f"t{n}"] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}  # type: ignore[dict-item]
        at += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def big(folder: Path, **changes: Any) -> Path:
    return model(folder, LLAMA_8B | changes, ("BF16", [PARAMETERS_8B]))


class TestSize:
    def test_a_model_of_eight_billion(self, tmp_path: Path) -> None:
        size = size_of(big(tmp_path / "m"), {"max_model_len": 4096})
        assert size == Size(2 * PARAMETERS_8B, 131_072, 4096), "128 KiB a token: 2 x 32 layers x 8 x 128 x 2 bytes"

    def test_floats_count_as_they_are_loaded_and_quantized_weights_as_they_are_stored(self, tmp_path: Path) -> None:
        config = LLAMA_8B | {"torch_dtype": "float32"}
        stored = [("F32", [1000]), ("U8", [500])]
        plain = size_of(model(tmp_path / "a", config, *stored), {})
        assert plain is not None and plain.weights == 2 * 1000 + 500
        wide = size_of(tmp_path / "a", {"dtype": "float32", "kv_cache_dtype": "fp8"})
        assert wide is not None and wide.weights == 4 * 1000 + 500 and wide.token == 2 * 32 * 8 * 128
        quantized = size_of(model(tmp_path / "b", config | {"quantization_config": {}}, *stored), {})
        assert quantized is not None and quantized.weights == 4 * 1000 + 500

    def test_the_text_s_part_of_a_model_that_sees(self, tmp_path: Path) -> None:
        size = size_of(model(tmp_path / "m", {"text_config": LLAMA_8B}, ("BF16", [10])), {})
        assert size == Size(20, 131_072, 131_072)

    @pytest.mark.parametrize(
        "config", [{}, LLAMA_8B | {"kv_lora_rank": 512}, LLAMA_8B | {"mamba_d_state": 16}, LLAMA_8B | {"dtype": "odd"}]
    )
    def test_what_cannot_be_told_is_not_guessed(self, tmp_path: Path, config: dict[str, Any]) -> None:
        assert size_of(model(tmp_path / "m", config, ("BF16", [10])), {}) is None

    def test_a_file_that_is_no_safetensors(self, tmp_path: Path) -> None:
        folder = big(tmp_path / "m")
        (folder / "model.safetensors").write_bytes(b"no")
        assert size_of(folder, {}) is None
        (folder / "model.safetensors").unlink()
        assert size_of(folder, {}) is None


EIGHT = Size(16 * GIB, 131_072, 4096)


class TestRoom:
    def test_what_a_share_leaves(self) -> None:
        found = room(EIGHT, {"gpu_memory_utilization": 0.5}, 80 * GIB, tokens=1024)
        assert found.cache == 40 * GIB - 16 * GIB - WORKING
        assert found.tokens == found.cache // 131_072 and found.texts == found.tokens // 1024

    def test_a_cache_of_a_fixed_size_and_several_cards(self) -> None:
        assert room(EIGHT, {"kv_cache_memory_bytes": GIB}, 80 * GIB, tokens=1024).texts == 8
        spread = room(EIGHT, {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}, 40 * GIB, tokens=1024)
        assert spread.cache == 20 * GIB - 8 * GIB - WORKING and spread.tokens == 2 * spread.cache // 131_072

    def test_a_share_that_the_weights_alone_exceed_leaves_nothing(self) -> None:
        found = room(EIGHT, {}, 12 * GIB, tokens=1024)
        assert found.cache < 0 and found.tokens == found.texts == 0


class TestWhatFits:
    def test_two_engines_in_halves_of_a_card(self) -> None:
        halves = {name: {"gpu_memory_utilization": 0.47} for name in ("backend", "scorers.good.backend")}
        sizes = dict.fromkeys(halves, EIGHT)
        assert list(crowded(sizes, halves, 80 * GIB)) == []
        lines = list(told(sizes, halves, 80 * GIB))
        assert "backend: 16.0 GiB of weights" in lines[0] and "on a card of 80 GiB" in lines[0] and len(lines) == 3
        assert len(list(crowded(sizes, halves, 24 * GIB))) == 2

    def test_what_is_close_is_left_to_vllm(self) -> None:
        """Room for one whole text without what vLLM works in: refused is only what cannot be."""
        share = {"backend": {"gpu_memory_utilization": 0.5}}
        assert list(crowded({"backend": EIGHT}, share, 33 * GIB)) == []
        (problem,) = crowded({"backend": EIGHT}, share, 32 * GIB)
        assert "16.0 GiB of weights leave 0.0 GiB of gpu_memory_utilization = 0.5 of 32 GiB" in problem
        assert "max_model_len = 4,096 tokens takes 0.5. Lower max_model_len" in problem
        assert list(crowded({"backend": EIGHT}, {"backend": {**share["backend"], "cpu_offload_gb": 8}}, 32 * GIB)) == []

    @pytest.mark.parametrize("card", [24 * GIB, 0])
    def test_a_study_is_told_before_anything_loads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: int
    ) -> None:
        """On a card of 24 GiB the context of 131,072 tokens does not fit; without a card nothing is said."""
        monkeypatch.setattr(checks, "cpu_build", lambda: False)
        monkeypatch.setattr(checks, "card_bytes", lambda: card)
        spec = StudySpec(
            dataset={"rows": [{"text": str(n)} for n in range(40)]},
            prompt={"user": "{{ text }}"},
            backend={"kind": "vllm", "model": str(big(tmp_path / "m"))},
            scorers={"near": {"kind": "rouge_l"}},
        )
        problems = list(checks.memory_problems(spec))
        assert len(problems) == bool(card)
        if card:
            with pytest.raises(SpecError, match=r"backend\.options: 15\.0 GiB of weights leave 7\.1 GiB of gpu_memory"):
                asyncio.run(prepare(spec))

    def test_what_fits_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "cpu_build", lambda: False)
        monkeypatch.setattr(checks, "card_bytes", lambda: 80 * GIB)
        spec = StudySpec(
            dataset={"rows": [{"text": "a"}]},
            prompt={"user": "{{ text }}"},
            backend={"kind": "vllm", "model": str(big(tmp_path / "m"))},
            scorers={"near": {"kind": "rouge_l"}},
        )
        (line,) = checks.memory_told(spec)
        assert line.startswith("backend: 15.0 GiB of weights, and room in the cache for about 464,015 tokens,")
