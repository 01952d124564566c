"""The ollama engine against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import sqlite3
import threading
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from genopt import optimize
from genopt.archive import load
from genopt.backends.ollama import OllamaBackend
from genopt.errors import SpecError
from genopt.events import Event, Note, Progress
from genopt.spec import StudySpec
from genopt.spec.read import make_study
from genopt.testing import PROBES, BackendContract, Probe
from genopt.types import Backend, BackendInfo, Message, Request
from tests.real import engines
from tests.real.conftest import QUICKSTART
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


def _options(server: Ollama, **more: Any) -> dict[str, Any]:
    return {"host": server.address, "num_ctx": 512, "num_thread": 1, **more}


def _run(server: Ollama, scenario: Callable[[OllamaBackend, BackendInfo], Awaitable[None]], **more: Any) -> None:
    async def session() -> None:
        backend = OllamaBackend(model="walks", options=_options(server, **more))
        try:
            await scenario(backend, await backend.open())
        finally:
            await backend.aclose()

    asyncio.run(session())


def _request(info: BackendInfo, text: str, schema: dict[str, Any] | None = None, **params: Any) -> Request:
    return Request((Message("user", text),), {**info.defaults, **params}, 3, "e", schema=schema)


def test_what_the_server_is_comes_with_the_study(ollama: Ollama) -> None:
    async def scenario(backend: OllamaBackend, info: BackendInfo) -> None:
        expected = {"version": "0.9.3", "quantization": "F16", "runner": "llama.cpp", "context": "512"}
        assert expected.items() <= info.identity.items() and len(info.identity["digest"]) == 64
        assert info.slots == info.concurrency >= 1, "read from the runner's command line"
        assert info.defaults["stop"] == ("<|end|>",) and info.defaults["repetition_penalty"] == 1.1
        assert "typical_p" in info.dead and "typical_p" in " ".join(info.notes)

    _run(ollama, scenario)


def test_a_model_that_is_not_there_is_named(ollama: Ollama) -> None:
    async def session() -> None:
        backend = OllamaBackend(model="wlaks", options=_options(ollama))
        try:
            await backend.open()
        finally:
            await backend.aclose()

    with pytest.raises(
        SpecError, match=r"has no model 'wlaks'\. Get it with: ollama pull wlaks .* Did you mean 'walks'"
    ):
        asyncio.run(session())


def test_a_schema_is_kept_to(ollama: Ollama) -> None:
    schema = {"type": "object", "properties": {"kilometres": {"type": "integer"}}, "required": ["kilometres"]}

    async def scenario(backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(_request(info, "Length: 7 km", schema, max_tokens=60, repetition_penalty=1.0))
        assert isinstance(json.loads(done.text)["kilometres"], int) and done.finish == "stop"

    _run(ollama, scenario)


def test_an_endless_repetition_is_degenerate(ollama: Ollama) -> None:
    async def scenario(backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(_request(info, "Walk", temperature=0.0, repetition_penalty=1.0, max_tokens=200))
        assert done.finish == "degenerate" and "endless repetition of 'Shepherd'" in done.why

    _run(ollama, scenario, raw=True)


def test_cancelling_stops_the_text_in_the_server(tmp_path: Path) -> None:
    program = engines.ollama_program()
    if program is None:
        pytest.skip(f"{engines.OLLAMA} does not name the folder of the ollama program")
    schema = {"type": "array", "items": {"enum": [1, 2, 3]}, "minItems": 150}

    async def scenario(backend: OllamaBackend, info: BackendInfo) -> None:
        assert info.slots == 1
        request = _request(info, "Count.", schema, max_tokens=450)
        long = await backend.generate(request)
        task = asyncio.ensure_future(backend.generate(request))
        await asyncio.sleep(long.seconds / 10)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        short = await backend.generate(_request(info, "Go north.", max_tokens=2))
        assert short.seconds < long.seconds / 2, "the only place was free"

    with engines.ollama_server(program, tmp_path, OLLAMA_NUM_PARALLEL="1") as server:
        server.create("walks", QUICKSTART / "model")
        _run(server, scenario)


def _study(folder: Path, server: Ollama, trials: int, rows: int) -> StudySpec:
    """The quickstart's task with four parameters, two of them under Ollama's own names."""
    table = tomllib.loads((QUICKSTART / "study.toml").read_text(encoding="utf-8"))
    table["storage"] = f"sqlite:///{folder / 'study.db'}"
    table["dataset"]["limit"] = rows
    table["backend"] = {"kind": "ollama", "model": "walks", "options": _options(server)}
    table["space"] = {
        "temperature": {"low": 0.0, "high": 1.5},
        "top_p": {"low": 0.5, "high": 1.0},
        "repeat_penalty": {"low": 1.0, "high": 1.3},
        "num_predict": {"low": 24, "high": 64, "step": 8},
    }
    table["baseline"] = {"temperature": 1.5, "top_p": 1.0, "repeat_penalty": 1.0, "num_predict": 64}
    table["search"] = {"sampler": "tpe"}
    table["objectives"] = [{"maximize": "facts"}]
    del table["scorers"]["diversity"]
    table["budget"] = {"trials": trials}
    return make_study(table, folder=QUICKSTART, source="study.toml")


def test_a_study_of_thirty_trials_reaches_its_verdict(ollama: Ollama, tmp_path: Path) -> None:
    result = optimize(_study(tmp_path, ollama, trials=30, rows=25))
    found = result.verdict.to_json()
    assert found["trials"] == 30 and found["verdict"] in ("improved", "not shown", "worse")
    assert found["holdout_examples"] == 10 and math.isfinite(found["difference"])
    assert {"temperature", "top_p", "repetition_penalty", "max_tokens"} <= found["params"].keys()
    assert found["baseline_params"]["top_k"] == 40, "what the server does when nothing is said"


@pytest.mark.parametrize("victim", ["server", "runner"])
def test_kill_9_in_the_middle_of_a_study_loses_nothing(victim: str, tmp_path: Path) -> None:
    program = engines.ollama_program()
    if program is None:
        pytest.skip(f"{engines.OLLAMA} does not name the folder of the ollama program")
    told: list[str] = []
    killed = 0

    with engines.ollama_server(program, tmp_path) as server:
        server.create("walks", QUICKSTART / "model")

        def listen(event: Event) -> None:
            nonlocal killed
            if isinstance(event, Note):
                told.append(event.text)
            if isinstance(event, Progress) and event.generations >= 60 and not killed:
                killed = event.generations
                if victim == "runner":
                    server.kill_runners()
                else:
                    server.kill()
                    threading.Timer(2.0, server.start).start()

        study = _study(tmp_path, server, trials=6, rows=25)
        result = optimize(study, on_event=listen)
    assert killed and result.verdict.to_json()["trials"] == 6
    archive = load(f"{study.url}#{study.name}")
    assert {trial.state for trial in archive.trials} == {"complete"}
    with closing(sqlite3.connect(tmp_path / "study.db")) as database:
        finishes = dict(database.execute("select finish, count(*) from genopt_generations group by finish"))
    assert set(finishes) <= {"stop", "length", "degenerate"} and sum(finishes.values()) > killed
    waited = [line for line in told if line.endswith("...") and "does not answer; waiting" in line]
    assert bool(waited) == (victim == "server") == bool([line for line in told if "answers again; going on" in line])
