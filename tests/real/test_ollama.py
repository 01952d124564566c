"""The ollama engine against a real server."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from genopt.backends.ollama import OllamaBackend
from genopt.testing import PROBES, BackendContract, Probe
from genopt.types import Backend
from tests.real.engines import Ollama

pytestmark = pytest.mark.real


class TestContract(BackendContract):
    prompt = "Walk: Shepherd Round\nLength: 7 km\nLevel: easy\nStart: Pellworth\nSight: the stone circle."
    probes: Mapping[str, Probe] = {
        **PROBES,
        "model": Probe("walks", "briefed", {"temperature": 2.0}),
        "repeat_last_n": Probe(1, 64, {"temperature": 0.0, "repetition_penalty": 2.0}),
    }
    why_inexact = "llama.cpp adds in another order when requests share a batch"

    @pytest.fixture(autouse=True)
    def _server(self, ollama: Ollama) -> None:
        self.address = ollama.address

    def backend(self) -> Backend:
        return OllamaBackend(model="walks", options={"host": self.address, "num_ctx": 256, "num_thread": 1})
