"""The vllm engine on the real vLLM (its build for CPUs): the contract, isolation, cancelling, adapters, structure."""

from __future__ import annotations

from pathlib import Path

import pytest

from genopt.testing import GREEDY, HOT, PROBES, BackendContract, Probe
from genopt.types import Backend
from tests.real.vllm_engines import backend, make_adapter, make_model, require_vllm

require_vllm()
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    return make_model(folder / "llama")


@pytest.fixture(scope="module")
def other(folder: Path, llama: Path) -> Path:
    return make_model(folder / "other", seed=1)


@pytest.fixture(scope="module")
def adapters(folder: Path, llama: Path) -> dict[str, str]:
    return {name: str(make_adapter(folder / name, seed=n)) for n, name in enumerate(("a", "b"))}


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _made(self, llama: Path, other: Path, adapters: dict[str, str]) -> None:
        self.model, self.options = llama, {"lora": adapters}
        self.probes = {
            **PROBES,
            "min_tokens": Probe(0, 150, {**HOT, "max_tokens": 160}),  # this model seldom ends by itself
            "bad_words": Probe((), words, GREEDY),
            "lora": Probe("none", "b", GREEDY),
            "model": Probe("llama", lambda _: "other", GREEDY),
        }

    def backend(self) -> Backend:
        return backend(self.model, **self.options)
