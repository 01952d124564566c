"""The openai engine on vLLM's own server, with the quickstart's model on the CPU."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from genopt.backends.openai import OpenAIBackend
from genopt.testing import HOT, PROBES, BackendContract, Probe
from genopt.types import Backend, BackendInfo, Message, Request
from tests.real.engines import VLLM_PYTHON, vllm_python
from tests.real.vllm_server import vllm_server

pytestmark = pytest.mark.real
MODEL = Path(__file__).parents[2] / "studies" / "quickstart" / "model"
PYTHON = vllm_python()
NEEDED = pytest.mark.skipif(PYTHON is None, reason=f"{VLLM_PYTHON} names no Python with vLLM")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    assert PYTHON is not None
    with vllm_server(PYTHON, MODEL, tmp_path_factory.mktemp("vllm") / "serve.log", name="quick") as served:
        yield served


class _Served(BackendContract):
    prompt = "Write a sentence or two about this walk: the Badger Path, 4 km, a moderate climb."
    probes = MappingProxyType(
        {  # its greedy texts repeat next to nothing
            **PROBES,
            "presence_penalty": Probe(0.0, 2.0, HOT),
            "frequency_penalty": Probe(0.0, 2.0, HOT),
        }
    )
    options: Any = MappingProxyType({})

    @pytest.fixture(autouse=True)
    def _served(self, url: str) -> None:
        self.url = url

    def backend(self) -> Backend:
        return OpenAIBackend(model="quick", options={"base_url": self.url, **self.options})


@NEEDED
class TestVllmServe(_Served):
    pass


@NEEDED
class TestVllmServeRaw(_Served):
    options = MappingProxyType({"completions": True})


def with_engine(url: str, work: Callable[[OpenAIBackend, BackendInfo], Awaitable[Any]]) -> Any:
    async def session() -> Any:
        backend = OpenAIBackend(model="quick", options={"base_url": url})
        try:
            return await work(backend, await backend.open())
        finally:
            await backend.aclose()

    return asyncio.run(session())


def ask(info: BackendInfo, **changes: Any) -> Request:
    params = {**info.defaults, "temperature": 0.0, "max_tokens": changes.pop("max_tokens", 48)}
    return Request((Message("user", "How good is this walk, from 1 to 5?"),), params, 1, "e", **changes)


@NEEDED
def test_the_server_is_found_to_be_vllm(url: str) -> None:
    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        assert info.identity["engine"] == "vllm" and info.identity["version"] and info.context == 1024
        assert await backend.models(["quick"]) == {"quick": {"digest": str(MODEL)}}

    with_engine(url, work)


@NEEDED
def test_cancelling_ends_the_work_at_the_server(url: str) -> None:
    def told(client: httpx.Client, name: str) -> int:
        text = client.get(url.removesuffix("/v1") + "/metrics").text
        counts = re.findall(rf"^vllm:{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
        return sum(round(float(n)) for n in counts)

    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        async def until(reached: Callable[[int], bool]) -> None:
            async with asyncio.timeout(120):
                while not reached(await asyncio.to_thread(told, client, "num_requests_running")):
                    await asyncio.sleep(0.02)

        params = {**info.defaults, "max_tokens": 900, "min_tokens": 900}
        requests = [Request((Message("user", f"Walk {n}"),), params, n, "e") for n in range(60)]
        with httpx.Client(trust_env=False, timeout=60) as client:  # one connection: the server is busy with the texts
            before = told(client, "generation_tokens_total")
            tasks = [asyncio.ensure_future(backend.generate(request)) for request in requests]
            await until(lambda count: count > 20)
            for task in tasks[5:]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda count: count == 0)
            written = told(client, "generation_tokens_total") - before
        assert [type(each).__name__ for each in done] == ["Generation"] * 5 + ["CancelledError"] * 55
        assert 5 * 900 <= written < 60 * 900 / 2, "the server wrote on what nobody waited for"

    with_engine(url, work)


@NEEDED
def test_choices_patterns_and_schemas_hold_and_probabilities_lie_on_the_choices(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"score": {"type": "integer", "enum": [1, 2, 3]}},
        "required": ["score"],
        "additionalProperties": False,
    }

    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        done = await backend.generate(ask(info, choices=tuple("12345"), top_logprobs=20))
        assert done.text in tuple("12345") and done.logprobs is not None
        top = done.logprobs[0].top
        assert set(top) == set("12345") and done.logprobs[0].token == done.text
        assert top[done.text] == max(top.values()) == pytest.approx(done.logprobs[0].logprob)
        done = await backend.generate(ask(info, regex="[0-9]{3}"))
        assert len(done.text) == 3 and done.text.isdigit()
        done = await backend.generate(ask(info, schema=schema, max_tokens=900))
        if done.finish == "stop":  # a model this small may write blanks until the end
            assert json.loads(done.text)["score"] in (1, 2, 3)
        assert done.text.lstrip().startswith("{")
        free = await backend.generate(ask(info, top_logprobs=2))
        assert free.logprobs is not None and len(free.logprobs) == free.completion_tokens  # the end token is one
        assert "".join(token.token for token in free.logprobs).startswith(free.text)
        assert all(len(token.top) >= 1 for token in free.logprobs)
        assert free.first_token_seconds is not None and 0 < free.first_token_seconds < free.seconds

    with_engine(url, work)
