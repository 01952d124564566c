"""The ollama engine against a strict double of the wire: every version's ways, every fault."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from genopt.backends import _http
from genopt.backends._ollama_params import WIRE
from genopt.backends.ollama import OllamaBackend
from genopt.errors import BackendError, SpecError
from genopt.types import BackendInfo, Message, ParamValue, Request
from tests.ollama_double import BREAK, Double, Entry, Reply, running

Scenario = Callable[[Double, OllamaBackend, BackendInfo], Awaitable[None]]
RUNNER = {"num_ctx": 512, "num_thread": 1}


def run(scenario: Scenario, double: Double | None = None, *, model: str = "tiny", **options: Any) -> list[str]:
    """Play a scenario against an opened engine; gives what people were told."""
    told: list[str] = []

    async def session() -> None:
        async with running(double or Double()) as server:
            backend = OllamaBackend(model=model, options={"host": server.url, **RUNNER, **options})
            backend.tell = told.append
            try:
                await scenario(server, backend, await backend.open())
            finally:
                await backend.aclose()

    asyncio.run(asyncio.wait_for(session(), 30))
    return told


def refused(error: type[SpecError] | type[BackendError], double: Double | None = None, **how: Any) -> Any:
    """The error that opening raises."""

    async def never(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        pytest.fail("it opened")

    with pytest.raises(error) as caught:
        run(never, double, **how)
    return caught.value


def ask(info: BackendInfo, *texts: str, **more: Any) -> Request:
    params: dict[str, ParamValue] = {**info.defaults, "max_tokens": 8}
    params |= more.pop("params", {})
    roles = ("system", "user") if len(texts) == 2 else ("user",)
    messages = tuple(Message(role, text) for role, text in zip(roles, texts or ("where to?",), strict=True))
    parts: dict[str, Any] = {"messages": messages, "params": params, "seed": 7, "example_id": "e"}
    return Request(**(parts | more))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "FIRST_PAUSE", 0.001)


def test_every_parameter_is_on_the_wire_in_its_own_type() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        changed = {"temperature": 1, "top_k": 5.0, "repetition_penalty": 1.25, "stop": ["a", "b"], "max_tokens": 4}
        done = await backend.generate(ask(info, "Be brief.", "where to?", params=changed))
        assert server.generations == [
            {
                "model": "tiny",
                "stream": True,
                "truncate": False,
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "where to?"}],
                "options": {
                    "num_ctx": 512, "num_thread": 1, "seed": 7, "temperature": 1.0, "top_k": 5, "top_p": 0.9,
                    "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.25, "repeat_last_n": 64,
                    "presence_penalty": 0.0, "frequency_penalty": 0.0, "num_predict": 4, "stop": ["a", "b"],
                },
            }
        ]  # fmt: skip
        assert len(done.text.split()) == done.completion_tokens == 4
        assert (done.finish, done.prompt_tokens) == ("length", 4)
        assert done.seconds == pytest.approx(0.06), "loading is left out"
        assert done.first_token_seconds == pytest.approx(0.025)

    run(scenario)


def test_what_loads_a_model_is_the_same_in_every_request() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        for n in range(3):
            await backend.generate(ask(info, params={"temperature": n / 2}))
        await backend.generate(ask(info, schema={"type": "object"}))
        assert server.loads == [("tiny:latest", RUNNER | {"num_gpu": 0, "use_mmap": False})]

    run(scenario, num_gpu=0, use_mmap=False)


def test_what_an_opened_engine_tells() -> None:
    parameters = (
        'stop                           "<|eot_id|>"\nstop                           "a \\"b\\"\\n"\n'
        "temperature                    0.6\nnum_predict                    1e+06\ntop_k                          -1\n"
        "repeat_penalty                 1.05\nnum_ctx                        4096\nmirostat                       1"
    )
    server = Double(models={"tiny:latest": Entry(parameters=parameters, context=4096)})

    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        assert info.identity == {
            "engine": "ollama", "version": "0.33.0", "model": "tiny", "quantization": "Q4_K_M", "parameters": "1.5B",
            "digest": server.models["tiny:latest"].digest("tiny:latest"), "runner": "llama-server", "context": "512",
        }  # fmt: skip
        assert info.defaults == {
            "model": "tiny", "temperature": 0.6, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0,
            "repetition_penalty": 1.05, "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "max_tokens": 1_000_000, "stop": ('<|eot_id|>', 'a "b"\n'),
        }  # fmt: skip
        assert info.params.keys() == info.defaults.keys()
        assert info.params["stop"].neutral == (info.defaults["stop"],)
        assert (info.context, info.concurrency, info.slots, info.top_logprobs) == (512, 1, None, 20)
        assert info.structured == {"schema"} and not info.images and info.notes == ()

    run(scenario, server)


@pytest.mark.parametrize(
    ("version", "penalty", "logprobs"),
    [("0.32.10", 1.0, 20), ("0.32.9", 1.1, 20), ("0.12.10", 1.1, 0), ("0.9.3", 1.1, 0)],
)
def test_a_version_has_its_own_defaults(version: str, penalty: float, logprobs: int) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        assert info.defaults["repetition_penalty"] == penalty and info.top_logprobs == logprobs
        notes = " ".join(info.notes)
        assert ("1.1 unless told otherwise" in notes) == (penalty == 1.1)
        assert ("no log probabilities" in notes) == (logprobs == 0)
        assert "here it is 512 tokens" in notes

    run(scenario, Double(version))


PENALTIES = {"repetition_penalty", "repeat_last_n", "presence_penalty", "frequency_penalty"}


@pytest.mark.parametrize(
    ("version", "architecture", "format", "runner", "dead"),
    [
        ("0.33.0", "gemma3", "gguf", "llama-server", set()),
        ("0.22.0", "gemma3", "gguf", "ollama-engine", {"typical_p", *PENALTIES}),
        ("0.22.0", "llama", "gguf", "llama.cpp", set()),
        ("0.17.5", "gemma3", "gguf", "ollama-engine", {"typical_p", "repeat_last_n"}),
        ("0.12.1", "qwen3moe", "gguf", "llama.cpp", set()),
        ("0.12.2", "qwen3moe", "gguf", "ollama-engine", {"typical_p", *PENALTIES}),
        ("0.9.3", "llama", "gguf", "llama.cpp", {"typical_p"}),
        ("0.33.0", "gemma3", "safetensors", "mlx", {"typical_p"}),
    ],
)
def test_what_a_version_ignores_is_not_declared_and_said(
    version: str, architecture: str, format: str, runner: str, dead: set[str]
) -> None:
    entry = Entry(architecture=architecture, format=format)

    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        assert info.identity["runner"] == runner
        assert backend.known.params.keys() - info.params.keys() == dead
        assert dead <= info.dead.keys()
        told = [note for note in info.notes if "cannot be searched here" in note]
        assert len(told) == bool(dead) and all(name in told[0] for name in dead)
        if dead:
            with pytest.raises(BackendError, match=r"typical_p: .*Drop it"):
                await backend.generate(ask(info, params={"typical_p": 0.5}))
        await backend.generate(ask(info))

    server = Double(version, {"tiny:latest": entry})
    server.ignores = frozenset(WIRE.get(name, name) for name in dead)
    run(scenario, server)


def test_parameters_that_do_not_exist_or_are_not_legal_are_refused_before_anything_is_sent() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        before = len(server.requests)
        for params, words in (
            ({"temprature": 0.1}, "Did you mean 'temperature'"),
            ({"mirostat": 1}, "mirostat: .*ignore it"),
            ({"num_ctx": 99}, "num_ctx: reloads the model"),
            ({"top_p": 0.0}, "top_p: 0.0 is outside"),
            ({"typical_p": 0}, "typical_p: 0 is outside"),
            ({"max_tokens": 0}, "max_tokens: 0 is outside"),
            ({"top_k": 1.5}, "not a whole number"),
        ):
            with pytest.raises(BackendError, match=words):
                await backend.generate(ask(info, params=params))
        with pytest.raises(BackendError, match=r"does not say .*top_k"):
            await backend.generate(Request((Message("user", "x"),), {"temperature": 0.0}, 1, "e"))
        for constraint in ({"regex": "a"}, {"choices": ("a",)}, {"top_logprobs": 21}):
            with pytest.raises(BackendError):
                await backend.generate(ask(info, **constraint))
        assert len(server.requests) == before

    run(scenario)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_cxt": 4}, "backend.options.num_cxt: there is no such option. Did you mean 'num_ctx'?"),
        ({"num_ctx": "4k"}, "backend.options.num_ctx: '4k' is not a whole number >= 4"),
        ({"think": "deep"}, "backend.options.think: 'deep' is not true, false, low, medium, high or max"),
        ({"keep_alive": "soon"}, "backend.options.keep_alive: 'soon' is not seconds"),
        ({"host": "http://me:pw@host"}, "backend.options.host: "),
        ({"host": "ftp://host"}, "backend.options.host: is no address of a server"),
        ({"raw": True, "template": "{{ .Prompt }}"}, "backend.options.template: raw prompts have none"),
        ({"patience": 0}, "backend.options.patience: 0 is not seconds, above 0"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        OllamaBackend(model="tiny", options=options)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("node7", "http://node7:11434"),
        ("node7:1", "http://node7:1"),
        ("http://node7", "http://node7:80"),
        ("https://node7/ollama/", "https://node7:443/ollama"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]:5", "http://[::1]:5"),
        ("::1", "http://[::1]:11434"),
        ('"10.0.0.5:99999"', "http://10.0.0.5:11434"),
        ("https://me:pw@node7:5", "https://me:pw@node7:5"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(value: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", value)
    assert OllamaBackend(model="tiny", options={})._options.url == url


def test_no_server_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    with pytest.raises(BackendError) as caught:
        asyncio.run(OllamaBackend(model="tiny", options={}).open())
    assert str(caught.value) == "Ollama at http://127.0.0.1:9 does not answer (connection refused)"
    assert "ollama serve" in caught.value.hint and "The address is OLLAMA_HOST" in caught.value.hint
    with pytest.raises(BackendError) as caught:
        asyncio.run(OllamaBackend(model="tiny", options={"host": "ollama.invalid"}).open())
    assert "HTTP_PROXY is set" in caught.value.hint and "NO_PROXY" in caught.value.hint


def test_another_server_is_not_taken_for_ollama() -> None:
    server = Double()
    server._reply = lambda path, body: Reply(404, "not found")  # type: ignore[method-assign]
    error = refused(BackendError, server)
    assert "is not Ollama: /api/version tells no version" in str(error) and "openai" in error.hint


def test_a_model_that_is_not_there_is_named_with_its_pull() -> None:
    error = refused(SpecError, model="tinny")
    assert re.fullmatch(
        r"backend.model: Ollama at http://127.0.0.1:\d+ has no model 'tinny'. Get it with: ollama pull tinny"
        r" \(or let genopt: --pull\). Did you mean 'tiny'\?",
        str(error),
    )


def test_searched_models_are_told_apart_and_the_missing_ones_named() -> None:
    server = Double(
        models={"a:q4": Entry(parameters='stop "A"'), "a:q8": Entry(parameters='stop "B"', quantization="Q8_0")}
    )

    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        found = await backend.models(["a:q4", "a:q8"])
        assert found["a:q4"]["digest"] != found["a:q8"]["digest"] and found["a:q8"]["quantization"] == "Q8_0"
        with pytest.raises(SpecError) as caught:
            await backend.models(["a:q4", "a:q5", "b"])
        assert [problem.split(". Get")[0].split("has ")[1] for problem in caught.value.problems] == [
            "no model 'a:q5'", "no model 'b'",
        ]  # fmt: skip
        for model, stop in (("a:q4", "A"), ("a:q8", "B"), ("a:q8", "B"), ("a:q4", "A")):
            await backend.generate(ask(info, params={"model": model}))
            assert (server.generations[-1]["model"], server.generations[-1]["options"]["stop"]) == (model, [stop])
        assert [name for name, _ in server.loads] == ["a:q4", "a:q8", "a:q4"]
        warm = [body for _, body in server.requests if body.get("options", {}).get("num_predict") == 1]
        assert len(warm) == 3, "every change is warmed up before it is timed"

    run(scenario, server, model="a:q4")


def test_missing_models_are_pulled_when_asked_for() -> None:
    server = Double()
    server.registry["far:latest"] = Entry()

    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        await backend.generate(ask(info))
        with pytest.raises(SpecError, match="nowhere cannot be pulled: pull model manifest: file does not exist"):
            await backend.models(["nowhere"])

    told = run(scenario, server, model="far", pull=True)
    assert told[:4] == [
        "pulling far", "pulling far: 0 % of 0.0 GB", "pulling far: 40 % of 0.0 GB", "pulling far: 100 % of 0.0 GB",
    ]  # fmt: skip
    assert told[4] == "pulled far"


def test_a_model_for_embeddings_is_refused() -> None:
    error = refused(SpecError, Double(models={"tiny:latest": Entry(capabilities=("embedding",))}))
    assert str(error) == "backend.model: tiny does not write texts (embedding). Take another"


def test_thinking_is_always_decided_by_the_request() -> None:
    server = Double(models={"tiny:latest": Entry(capabilities=("completion", "thinking"))})

    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(ask(info))
        think = server.generations[-1]["think"]
        assert think == {"True": True, "False": False, "low": "low"}[info.identity["think"]]
        assert done.completion_tokens == 8 and len(done.text.split()) == (8 if think is False else 6)

    run(scenario, server)
    run(scenario, server, think=False)
    run(scenario, server, think="low")
    error = refused(SpecError, think=True)
    assert str(error) == "backend.options.think: tiny does not think. Drop it, or take a model that does"


def test_raw_prompts_and_templates_go_to_generate() -> None:
    async def raw(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(ask(info, "Once ", "upon a time"))
        assert server.requests[-1][0] == "/api/generate" and info.identity["raw"] == "True" and done.text
        body = server.generations[-1]
        assert (body["prompt"], body["raw"]) == ("Once upon a time", True)

    async def template(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        await backend.generate(ask(info, "Be brief.", "where to?"))
        body = server.generations[-1]
        assert (body["system"], body["prompt"], body["template"]) == ("Be brief.", "where to?", "{{ .Prompt }}")
        shots = tuple(Message(role, "x") for role in ("user", "assistant", "user"))
        with pytest.raises(BackendError, match="takes a system and a user turn, not user, assistant, user"):
            await backend.generate(ask(info, messages=shots))

    run(raw, raw=True)
    run(template, template="{{ .Prompt }}")


def test_a_schema_goes_along_and_log_probabilities_come_back() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        schema = {"type": "object", "properties": {"score": {"type": "integer"}}}
        done = await backend.generate(ask(info, schema=schema, top_logprobs=3))
        assert server.generations[-1]["format"] == schema
        assert done.logprobs is not None and len(done.logprobs) == 8
        first = done.logprobs[0]
        assert first.token == done.text.split()[0] and first.logprob == -0.1
        assert first.top["\ufffd"] == pytest.approx(-3.0 + 0.6931, abs=1e-3), "written alike, they add up"
        assert (await backend.generate(ask(info))).logprobs is None

    run(scenario)


def test_images_go_along_in_base64(tmp_path: Path) -> None:
    image = tmp_path / "dog.png"
    image.write_bytes(b"\x89PNG dog")
    messages = (Message("user", "what is it?", (str(image),)),)

    async def sees(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        assert info.images
        await backend.generate(ask(info, messages=messages))
        (turn,) = server.generations[-1]["messages"]
        assert base64.b64decode(turn["images"][0]) == b"\x89PNG dog"
        with pytest.raises(BackendError, match=r"none\.png cannot be read"):
            await backend.generate(ask(info, messages=(Message("user", "?", (str(tmp_path / "none.png"),)),)))

    async def blind(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        assert not info.images
        with pytest.raises(BackendError, match="the model tiny does not see images"):
            await backend.generate(ask(info, messages=messages))

    run(sees, Double(models={"tiny:latest": Entry(capabilities=("completion", "vision"))}))
    run(blind)


@pytest.mark.parametrize("version", ["0.33.0", "0.12.6", "0.9.3"])
def test_a_prompt_that_does_not_fit_is_to_blame(version: str) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(ask(info, "word " * 600))
        assert done.finish == "error" and "does not fit the context of 512 tokens" in done.why
        assert len(server.generations) == 1, "it is not asked again"

    server = Double(version)
    server.ignores = frozenset({"typical_p"})
    run(scenario, server)


def test_an_empty_prompt_is_not_sent() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        done = await backend.generate(ask(info, " \n"))
        assert (done.finish, done.why) == ("error", "the prompt is empty") and not server.generations

    run(scenario)


def piece(text: str) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": text}, "done": False}


def test_an_endless_repetition_is_degenerate() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        server.faults = [Reply(lines=(piece("So"), *(piece("\n") for _ in range(30))))]
        done = await backend.generate(ask(info))
        assert done.finish == "degenerate" and done.text.startswith("So\n\n")
        assert done.why == "Ollama stopped an endless repetition of ''" and done.completion_tokens == 31

    run(scenario)


BUSY = "server busy, please try again.  maximum pending requests exceeded"
GAVE_UP = "Ollama gave up in the middle of a text: "


@pytest.mark.parametrize(
    ("fault", "message", "retryable", "asked"),
    [
        (Reply(404, "model 'tiny' not found"), "answered 404 X: model 'tiny' not found", False, 1),
        (Reply(400, '{"error": {"code": 400, "message": "failed to parse grammar"}}'), "parse grammar", False, 1),
        (Reply(500, 'option "top_k" must be of type integer'), 'option "top_k" must be of type integer', False, 1),
        (Reply(500, "invalid JSON schema in format"), "invalid JSON schema", False, 1),
        (Reply(403), "answered 403 X", False, 1),
        (Reply(500, "model runner has unexpectedly stopped"), "unexpectedly stopped", False, 4),
        (BREAK, "the connection broke", False, 4),
        (Reply(lines=(piece("a"), {"error": "unexpected EOF"})), GAVE_UP + "unexpected EOF", True, 1),
        (Reply(lines=(piece("a"), piece("b"))), "Ollama ended its reply before the end of the text", True, 1),
        (Reply(lines=(piece("a"),), end="broken"), "the reply broke off", True, 1),
        (Reply(lines=({"done": True, "done_reason": "odd"},)), "unknown reason: 'odd'", False, 1),
    ],
)
def test_a_fault_is_told_and_asked_again_only_where_that_may_help(
    fault: Any, message: str, retryable: bool, asked: int
) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        server.faults = [fault] * 9
        with pytest.raises(BackendError) as caught:
            await backend.generate(ask(info))
        assert message in str(caught.value) and caught.value.retryable is retryable
        assert len(server.generations) == asked
        server.faults = []
        assert (await backend.generate(ask(info))).finish == "length"

    run(scenario)


@pytest.mark.parametrize(
    "fault",
    [Reply(503, BUSY), BREAK, Reply(500, "llama runner process has terminated: signal: killed"), Reply(502, "x")],
)
def test_what_passes_is_waited_for(fault: Any) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        server.faults = [fault, fault]
        assert (await backend.generate(ask(info))).finish == "length"
        assert len(server.generations) == 3

    run(scenario)


def test_a_server_that_is_restarted_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        await backend.generate(ask(info))
        await server.kill()

        async def pause(seconds: float) -> None:
            if seconds >= 1:  # not the one after a broken connection
                await server.start()

        assert backend._server is not None
        monkeypatch.setattr(backend._server, "sleep", pause)
        assert (await backend.generate(ask(info))).finish == "length"

    told = run(scenario)
    assert re.fullmatch(r"Ollama at http://127.0.0.1:\d+ does not answer; waiting \(\d+ s\) ...", told[-2])
    assert told[-1].endswith("answers again; going on")


@pytest.mark.parametrize(
    ("status", "error", "hint"),
    [
        (404, "model 'tiny' not found", "get it with: ollama pull tiny"),
        (503, BUSY, "lower backend.concurrency, or give the server a longer queue (OLLAMA_MAX_QUEUE)"),
        (500, "out of memory", "the server's log says why; with a smaller backend.options.num_ctx"),
        (500, 'option "top_k" must be of type integer', ""),
    ],
)
def test_a_refusal_says_what_to_do(status: int, error: str, hint: str) -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        server.faults = [Reply(status, error)] * 40
        with pytest.raises(BackendError) as caught:
            await backend.generate(ask(info))
        assert caught.value.hint.startswith(hint) and bool(caught.value.hint) == bool(hint)

    run(scenario, patience=0.01)


def test_cancelling_stops_the_text() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        server.faults = [Reply(lines=(piece("a"),), end="hang")]
        task = asyncio.ensure_future(backend.generate(ask(info)))
        while not server.generations:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while not server.gone:
            await asyncio.sleep(0.001)
        assert (await backend.generate(ask(info))).finish == "length"

    run(scenario)


def test_a_closed_engine_refuses() -> None:
    async def scenario(server: Double, backend: OllamaBackend, info: BackendInfo) -> None:
        await backend.aclose()
        await backend.aclose()
        with pytest.raises(BackendError, match="not open"):
            await backend.generate(ask(info))
        assert await backend.open() == info

    run(scenario)
