"""An engine and a browser that real tests share: started when they are needed, ended with the session or the file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import engines
from tests.real.browser import Browser, chromium, chromium_program

QUICKSTART = Path(__file__).resolve().parents[2] / "studies" / "quickstart"


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engines.Ollama]:
    """A real server with the quickstart's model as `walks`, and as `briefed` with a system prompt of its own."""
    program = engines.ollama_program()
    if program is None:
        pytest.skip(f"{engines.OLLAMA} does not name the folder of the ollama program")
    with engines.ollama_server(program, tmp_path_factory.mktemp("ollama")) as server:
        server.create("walks", QUICKSTART / "model")
        server.post("/api/create", {"model": "briefed", "from": "walks", "system": "Describe a walk.", "stream": False})
        yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if chromium_program() is None:
        pytest.skip("Chromium is not installed")
    with chromium(tmp_path_factory.mktemp("browser")) as running:
        yield running
