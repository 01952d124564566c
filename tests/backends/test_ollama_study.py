"""Studies on a double of Ollama: what is refused before the first request, and what a study is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from genopt.backends import _ollama_server
from genopt.backends.ollama import PARAMS
from genopt.errors import SpecError
from genopt.meter import Meter
from genopt.plan import Plan
from genopt.prepare import prepare
from genopt.spec.read import make_study
from tests import toy
from tests.ollama_double import Double, Entry, running

RANGE = {"low": 0.1, "high": 1.0}


def play(double: Double, scenario: Callable[[Plan], Awaitable[None]] | None = None, **changes: Any) -> Any:
    """Prepare a study on the double; gives the plan, closed again, or raises what preparing raises."""

    async def session() -> Plan:
        async with running(double) as server:
            engine = {"kind": "ollama", "model": "tiny", "options": {"host": server.url, "num_ctx": 512}}
            engine |= changes.pop("backend", {})
            plan = await prepare(make_study(toy.study(Path("."), count=40, backend=engine, **changes)))
            try:
                if scenario is not None:
                    await scenario(plan)
            finally:
                await plan.aclose()
            return plan

    return asyncio.run(session())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"space": {"temprature": RANGE}}, "space.temprature: is neither a parameter of ollama nor"),
        ({"space": {"temperature": RANGE}, "baseline": {"top_q": 0.9}}, "baseline.top_q: is neither a parameter"),
        (
            {"space": {"mirostat": {"low": 0, "high": 2}}},
            "space.mirostat: Ollama 0.7 and later ignore it without saying",
        ),
        (
            {"space": {"temperature": RANGE}, "baseline": {"tfs_z": 1.0}},
            "baseline.tfs_z: Ollama 0.7 and later ignore it",
        ),
        ({"space": {"num_ctx": {"low": 512, "high": 1024}}}, "space.num_ctx: reloads the model, so it is fixed"),
        ({"space": {"num_predict": {"low": 0, "high": 9}}}, "space.max_tokens: 0 is outside >= 1"),
        ({"space": {"max_tokens": {"low": 1, "high": 9}, "num_predict": {"low": 1, "high": 9}}}, "is another name of"),
    ],
)
def test_a_slip_is_refused_before_the_first_request(changes: dict[str, Any], problem: str) -> None:
    double = Double()
    with pytest.raises(SpecError) as caught:
        play(double, **changes)
    assert problem in str(caught.value)
    assert double.requests == []


def test_what_this_version_ignores_is_refused_with_the_reason() -> None:
    with pytest.raises(SpecError) as caught:
        play(Double("0.22.0", {"tiny:latest": Entry(architecture="gemma3")}), space={"repeat_penalty": RANGE})
    assert str(caught.value).endswith(
        "space.repetition_penalty: Ollama runs gemma3 models in an engine of its own until 0.30, which ignores it. Drop"
        " it, or take another version or model"
    )


def test_a_study_uses_either_spelling_and_sends_ollamas() -> None:
    double = Double()

    async def scenario(plan: Plan) -> None:
        assert plan.space.names() == {"repetition_penalty", "max_tokens"}
        config = plan.configure({"repetition_penalty": 1.5, "max_tokens": 5})
        assert "model" not in config.params, "one model need not be named"
        assert config.request.keys() == PARAMS.keys() - {"model"}
        observer = plan.observer(1, _Nowhere(), Meter())
        await observer.observe(config, {}, plan.tune[0], 0, "tune", None)
        options = double.generations[0]["options"]
        assert (options["repeat_penalty"], options["num_predict"], options["temperature"]) == (1.5, 5, 0.8)

    space = {"repeat_penalty": {"low": 1.0, "high": 2.0}, "max_tokens": {"low": 2, "high": 9}}
    play(double, scenario, space=space, baseline={"num_predict": 7})


def test_models_are_searched_and_the_missing_ones_named() -> None:
    models = {"tiny:latest": Entry(), "tiny:q8": Entry(quantization="Q8_0")}
    space = {"temperature": RANGE, "model": {"choices": ["tiny", "tiny:q8"]}}

    async def scenario(plan: Plan) -> None:
        keys = {plan.configure({"temperature": 0.5, "model": model}).key for model in ("tiny", "tiny:q8")}
        assert len(keys) == 2 and plan.models["tiny:q8"]["quantization"] == "Q8_0"

    play(Double(models=models), scenario, space=space)
    with pytest.raises(SpecError) as caught:
        play(Double(models=models), space=space | {"model": {"choices": ["tiny", "tiny:q4", "far"]}})
    assert [problem.split(": ", 1)[1].split(": ")[0] for problem in caught.value.problems] == ["space.model"] * 2
    assert "ollama pull tiny:q4" in str(caught.value) and "ollama pull far" in str(caught.value)


def test_more_requests_than_places_are_warned_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    double = Double()
    told = double._shown("tiny:latest")["modelfile"].split("FROM ")[1].strip()
    process = tmp_path / "4711"
    process.mkdir()
    words = ["/lib/llama-server", "--model", told, "-c", "2048", "-np", "4", ""]
    (process / "cmdline").write_bytes("\0".join(words).encode())
    found = _ollama_server._on_this_machine(told, tmp_path)
    assert (found.context, found.slots, found.runner) == (512, 4, "llama-server")
    assert _ollama_server._on_this_machine("/another", tmp_path) == _ollama_server.Loaded()
    monkeypatch.setattr(_ollama_server, "_on_this_machine", lambda file: found)
    space = {"temperature": RANGE}
    assert play(double, space=space).concurrency == 4
    plan = play(double, space=space, backend={"concurrency": 8})
    assert plan.concurrency == 8
    assert plan.warnings[-1] == (
        "backend.concurrency: 8 requests are in flight, but the engine works on 4 at once: the others wait"
    )
    timed = play(double, space=space, objectives=[{"minimize": "first_token_seconds"}])
    assert timed.concurrency == 1


class _Nowhere:
    def add(self, table: str, row: Any) -> None:
        pass
