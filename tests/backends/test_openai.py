"""The openai engine against a strict stand-in: every dialect, keys that stay secret, faults, cancelling."""

from __future__ import annotations

import asyncio
import base64
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from genopt.backends._openai_options import HOSTED, options_of
from genopt.backends._openai_reply import Reply
from genopt.backends.openai import PARAMS, OpenAIBackend
from genopt.errors import BackendError, SpecError
from genopt.spec.read import make_study
from genopt.testing import PROBES, BackendContract, Probe
from genopt.types import Backend, BackendInfo, Generation, Message, Request
from tests.openai_double import CONTEXT, Double, serving
from tests.studies import optimize_async

KEY = "sk-planted0123456789"
EXTRA_PROBES = {
    "repeat_last_n": Probe(1, 64, {"repetition_penalty": 1.5}),
    "top_n_sigma": Probe(-1.0, 1.0),
    "dry_multiplier": Probe(0.0, 2.0),
    "dry_base": Probe(1.0, 3.0, {"dry_multiplier": 1.0}),
    "dry_allowed_length": Probe(1, 5, {"dry_multiplier": 1.0}),
    "dry_penalty_last_n": Probe(4, 64, {"dry_multiplier": 1.0}),
    "xtc_probability": Probe(0.0, 1.0),
    "xtc_threshold": Probe(0.05, 0.4, {"xtc_probability": 1.0}),
    "dynatemp_range": Probe(0.0, 1.0),
    "dynatemp_exponent": Probe(0.5, 2.0, {"dynatemp_range": 1.0}),
    "mirostat": Probe(0, 2),
    "mirostat_tau": Probe(1.0, 8.0, {"mirostat": 2}),
    "mirostat_eta": Probe(0.1, 0.9, {"mirostat": 2}),
}


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as running:
        yield running


def engine(double: Double, model: str = "tiny", **options: Any) -> OpenAIBackend:
    return OpenAIBackend(model=model, options={"base_url": double.url, "patience": 5.0, **options})


def run(double: Double, work: Callable[[OpenAIBackend, BackendInfo], Awaitable[Any]], **options: Any) -> Any:
    async def session() -> Any:
        backend = engine(double, **options)
        try:
            return await work(backend, await backend.open())
        finally:
            await backend.aclose()

    return asyncio.run(session())


def ask(info: BackendInfo, text: str = "Tell me about the dog.", **changes: Any) -> Request:
    fields = {name: changes.pop(name) for name in ("schema", "regex", "choices", "top_logprobs") if name in changes}
    params = {**info.defaults, "max_tokens": 12} | changes
    return Request((Message("system", "Be brief."), Message("user", text)), params, 7, "e", **fields)


class _Contract(BackendContract):
    dialect = "openai"
    options: Mapping[str, Any] = MappingProxyType({})
    probes = MappingProxyType({**PROBES, **EXTRA_PROBES})

    @pytest.fixture(autouse=True)
    def _served(self) -> Iterator[None]:
        with serving(Double(dialect=self.dialect)) as self.double:
            yield

    def backend(self) -> Backend:
        return engine(self.double, **self.options)


class TestOpenAI(_Contract):
    pass


class TestVllm(_Contract):
    dialect = "vllm"


class TestLlamaCpp(_Contract):
    dialect = "llama.cpp"


class TestCompletions(_Contract):
    dialect = "vllm"
    options = MappingProxyType({"completions": True})


class TestWhole(_Contract):
    options = MappingProxyType({"stream": False, "max_tokens_field": "max_completion_tokens"})


def test_a_body_holds_what_the_dialect_calls_it_and_nothing_else() -> None:
    with serving(Double(dialect="llama.cpp")) as double:

        async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
            await backend.generate(ask(info, repetition_penalty=1.3, stop=("x", "y")))

        run(double, work)
        (body,) = double.asked
        assert body["repeat_penalty"] == 1.3 and body["stop"] == ["x", "y"] and body["seed"] == 7
        assert body["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Tell me about the dog."},
        ]
        assert body["stream_options"] == {"include_usage": True}


def test_the_server_tells_its_dialect_version_defaults_slots_and_window() -> None:
    async def info_of(_: OpenAIBackend, info: BackendInfo) -> BackendInfo:
        return info

    with serving(Double(dialect="llama.cpp")) as double:
        info = run(double, info_of)
        assert info.identity["engine"] == "llama.cpp" and info.identity["version"] == "b1234-abc"
        assert (info.defaults["top_p"], info.defaults["top_k"], info.defaults["max_tokens"]) == (0.95, 40, 256)
        assert (info.concurrency, info.context, info.vocabulary) == (3, CONTEXT, 1000)
        assert info.images and info.structured == {"schema", "choices"}
    with serving(Double(dialect="vllm")) as double:
        info = run(double, info_of)
        assert info.identity["engine"] == "vllm" and info.identity["version"] == "0.32.0"
        assert info.context == info.params["max_tokens"].high == CONTEXT
        assert info.structured == {"schema", "regex", "choices"} and info.top_logprobs == 20
        assert run(double, info_of, dialect="openai").params.keys() == {
            "temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens", "stop"
        }  # fmt: skip
    with serving(Double()) as double:
        info = run(double, info_of)
        assert (info.identity["engine"], info.concurrency) == ("openai", 8)
        assert any("best effort" in note for note in info.notes)
        assert info.identity["server"] == f"127.0.0.1:{double.port}"
    with serving(Double(lists_models=False)) as double:
        assert any("lists no models" in note for note in run(double, info_of).notes)


def test_a_model_that_is_not_served_is_named_with_the_nearest() -> None:
    with serving(Double(models=("tiny", "small"))) as double:
        with pytest.raises(SpecError, match=r"no model 'tinny'.*'tiny'"):
            run(double, _nothing, model="tinny")

        async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
            assert info.params["model"].choices == () and info.defaults["model"] == "tiny"
            assert await backend.models(["small"]) == {"small": {"digest": "small"}}
            with pytest.raises(SpecError, match=r"space\.model.*'large'"):
                await backend.models(["small", "large"])
            await backend.generate(ask(info, model="small"))

        run(double, work)
        assert double.asked[-1]["model"] == "small"


def test_a_model_that_is_served_but_not_listed_is_no_mistake() -> None:
    async def work(backend: OpenAIBackend, info: BackendInfo) -> BackendInfo:
        assert info.defaults["model"] == "preview"
        assert await backend.models(["tiny", "preview"]) == {
            "tiny": {"digest": "tiny"},
            "preview": {"digest": "preview"},
        }
        assert (await backend.generate(ask(info))).text
        return info

    with serving(Double(unlisted=("preview",))) as double:
        info = run(double, work, model="preview")
        assert "the server does not list preview, but answers for it" in info.notes
        assert info.identity["model"] == "preview"
        assert [body["model"] for body in double.asked] == ["preview"] * 3
        assert double.asked[0]["max_tokens"] == 16, "asking whether it is there costs next to nothing"
        double.faults = [(400, {}, {"error": {"message": "temperature: not with preview", "param": "temperature"}})]
        assert any("shows with the first answer" in note for note in run(double, _notes, model="preview").notes)
        for fault in (
            (404, {}, {"detail": "Not Found"}),
            (400, {}, {"error": {"message": "preview is not a valid model ID"}}),
            (400, {}, {"error": {"message": "invalid", "param": "model"}}),
        ):
            double.faults = [fault]
            with pytest.raises(SpecError, match=r"backend\.model: the server has no model 'preview'"):
                run(double, _nothing, model="preview")
        double.faults = [(403, {}, {"error": {"message": "no access to preview"}})]
        with pytest.raises(BackendError, match="no access"):
            run(double, _nothing, model="preview")


async def _notes(_: OpenAIBackend, info: BackendInfo) -> BackendInfo:
    return info


def test_constraints_and_log_probabilities_by_dialect() -> None:
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}}

    async def work(backend: OpenAIBackend, info: BackendInfo) -> list[Generation]:
        wanted: list[dict[str, Any]] = [{"schema": schema}]
        wanted += [{"choices": ('say "3"', "4")}] if "choices" in info.structured else []
        wanted += [{"regex": "[0-9]{3}"}] if "regex" in info.structured else []
        return [await backend.generate(ask(info, **each)) for each in [*wanted, {"top_logprobs": 3}]]

    for dialect, texts in {
        "openai": ['{"score": 3}'],
        "vllm": ['{"score": 3}', 'say "3"', "133"],
        "llama.cpp": ['{"score": 3}', 'say "3"'],
    }.items():
        with serving(Double(dialect=dialect)) as double:
            *made, free = run(double, work)
            assert [done.text for done in made] == texts
            assert free.logprobs and "".join(t.token for t in free.logprobs) == free.text
            assert free.logprobs[0].top == pytest.approx({"a": -1.0 + 0.6931471805599453})  # twice, -9999 left out
            strict = double.asked[0]["response_format"]["json_schema"].get("strict")
            assert strict is (False if dialect == "openai" else None)
    with serving(Double(dialect="vllm")) as double:
        raw = run(double, work, completions=True)[-1]
        assert raw.logprobs and raw.logprobs[0].top == {"a": -1.0}
        assert double.asked[-1]["prompt"] == "Be brief.Tell me about the dog."


def test_parameters_of_some_servers_say_which() -> None:
    assert "llama.cpp" not in PARAMS["temperature"].doc
    assert PARAMS["min_p"].doc.endswith("(vllm, llama.cpp)") and PARAMS["min_tokens"].doc.endswith("(vllm)")


def test_images_travel_as_data(double: Double, tmp_path: Path) -> None:
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("no")

    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        def with_image(name: str) -> Request:
            return Request((Message("user", "What is it?", (str(tmp_path / name),)),), ask(info).params, 1, "e")

        await backend.generate(with_image("dot.png"))
        for name, why in (("notes.txt", "is no image"), ("gone.png", "cannot be read")):
            with pytest.raises(BackendError, match=why):
                await backend.generate(with_image(name))

    run(double, work)
    image, text = double.asked[0]["messages"][0]["content"]
    assert image["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    assert text == {"type": "text", "text": "What is it?"}


def test_what_may_pass_is_asked_again_and_what_may_not_is_told(double: Double) -> None:
    spent = (429, {}, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    refuses = (400, {}, {"error": {"message": "Unsupported parameter: 'top_p'", "param": "top_p"}})

    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        double.faults = [(429, {"retry-after": "1"}, {"error": {"message": "slow down"}}), 503, 500]
        assert (await backend.generate(ask(info))).text and not double.faults
        advice = 'without = ["top_p"]'
        for fault, why, hint, final in ((spent, "exceeded your quota", "", False), (refuses, "top_p", advice, True)):
            double.faults = [fault]
            with pytest.raises(BackendError, match=why) as caught:
                await backend.generate(ask(info))
            assert not caught.value.retryable and hint in caught.value.hint
            assert caught.value.final is final

    run(double, work)
    assert len(double.asked) == 6


def test_a_reply_that_breaks_off_may_be_asked_for_again_and_one_without_counts_may_not() -> None:
    async def work(backend: OpenAIBackend, info: BackendInfo) -> BackendError:
        with pytest.raises(BackendError) as caught:
            await backend.generate(ask(info))
        return caught.value

    with serving(Double(ends_well=False)) as double:
        error = run(double, work)
        assert error.retryable and "broke off" in str(error)
    with serving(Double(tells_usage=False)) as double:
        error = run(double, work)
        assert not error.retryable and "stream = false" in error.hint


def test_an_error_that_is_named_and_empty_is_none() -> None:
    reply = Reply()
    reply.add(
        {
            "error": None,
            "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1},
        }
    )
    assert reply.generation(1.0, None, top_logprobs=0).text == "yes"


def test_content_filters_and_repetition_are_told_apart(double: Double) -> None:
    def reply(reason: str) -> tuple[int, dict[str, str], Any]:
        usage = {"prompt_tokens": 3, "completion_tokens": 1}
        return 200, {}, {"choices": [{"message": {"content": "a"}, "finish_reason": reason}], "usage": usage}

    async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
        double.faults = [reply("content_filter"), reply("repetition"), reply("tool_calls"), reply("abort")]
        assert "content filter" in (await backend.generate(ask(info))).why
        assert [(await backend.generate(ask(info))).finish for _ in range(2)] == ["degenerate", "stop"]
        with pytest.raises(BackendError, match="'abort'") as caught:
            await backend.generate(ask(info))
        assert caught.value.retryable
        double.faults = [reply("eos"), reply("max_tokens"), reply("because")]
        assert [(await backend.generate(ask(info))).finish for _ in range(2)] == ["stop", "length"]
        with pytest.raises(BackendError, match="'because'") as caught:
            await backend.generate(ask(info))
        assert not caught.value.retryable

    run(double, work, stream=False)


def test_time_to_the_first_token_and_none_without_a_stream() -> None:
    with serving(Double(pace=0.01)) as double:

        async def work(backend: OpenAIBackend, info: BackendInfo) -> Generation:
            return await backend.generate(ask(info))

        done = run(double, work)
        assert done.first_token_seconds is not None and 0 < done.first_token_seconds < done.seconds
        assert run(double, work, stream=False).first_token_seconds is None


def test_cancelling_ends_the_work_at_the_server() -> None:
    with serving(Double(pace=0.02)) as double:

        async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
            tasks = [asyncio.ensure_future(backend.generate(ask(info, f"{n}", max_tokens=40))) for n in range(6)]
            while double.running < 6:
                await asyncio.sleep(0.005)
            assert backend.stats() == {"running": 6.0}
            for task in tasks[:4]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(each, asyncio.CancelledError) for each in done] == [True] * 4 + [False] * 2
            while double.running:
                await asyncio.sleep(0.005)
            assert backend.stats() == {"running": 0.0}

        run(double, work)
        assert double.dropped >= 1  # those whose next token found the connection closed


def test_fixed_fields_are_sent_and_part_of_the_identity(double: Double) -> None:
    async def work(backend: OpenAIBackend, info: BackendInfo) -> BackendInfo:
        await backend.generate(ask(info))
        return info

    info = run(double, work, extra={"reasoning_effort": "low"}, without=["top_p", "seed"])
    assert info.identity["extra"] == '{"reasoning_effort": "low"}' and "top_p" not in info.params
    assert any("no seed" in note for note in info.notes)
    body = double.asked[0]
    assert body["reasoning_effort"] == "low" and "top_p" not in body and "seed" not in body


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"base_url": "localhost:8000"}, "base_url: must be http"),
        ({"base_url": "http://me:secret@host/v1"}, "base_url: must be http"),
        ({"dialekt": "vllm"}, "no such option. Did you mean 'dialect'"),
        ({"dialect": "tgi"}, "dialect: must be one of openai, vllm, llama.cpp"),
        ({"timeout": 0}, "timeout: must be seconds"),
        ({"without": ["max_tokens"]}, "without: must be a list"),
        ({"extra": {"temperature": 1}}, "extra.temperature: genopt sends this field itself"),
        ({"max_tokens_field": "n_predict"}, "max_tokens_field: must be"),
        ({"stream": 1, "completions": "yes"}, "completions: must be true or false"),
    ],
)
def test_wrong_options_are_told(options: dict[str, Any], why: str) -> None:
    with pytest.raises(SpecError, match=why) as caught:
        OpenAIBackend(model="tiny", options={"base_url": "http://127.0.0.1:1/v1"} | options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"api_key": KEY},
        {"api_key_env": KEY},
        {"api_key_env": KEY.replace("-", "_")},
        {"headers_env": {"x-api-key": KEY}},
        {"headers_env": {"x-api-key": KEY.replace("-", "_")}},
    ],
)
def test_a_key_in_the_study_file_is_refused_without_being_repeated(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as caught:
        OpenAIBackend(model="tiny", options={"base_url": "http://127.0.0.1:1/v1", **options})
    assert "planted" not in f"{caught.value} {caught.value.hint}"
    assert "environment variable" in str(caught.value) or "environment has no variable" in str(caught.value)


def test_a_hosted_model_without_a_key_is_refused_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SpecError, match=r"api_key_env: the environment has no variable OPENAI_API_KEY.*base_url"):
        OpenAIBackend(model="gpt-4.1-mini")


def test_the_hosted_address_may_end_in_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc")
    assert options_of({"base_url": f"{HOSTED}/"}).headers["authorization"] == "Bearer sk-abc"


def test_a_key_is_sent_and_never_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing that is stored, logged, shown or raised holds the key, even when the server quotes it in its refusals."""
    monkeypatch.setenv("PLANTED", KEY)
    monkeypatch.setenv("PLANTED_HEADER", f"{KEY}-other")
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    quotes = (400, {}, {"error": {"message": f"no such user {KEY} {KEY}-other"}})
    with serving(Double(key=KEY)) as double:
        table = {
            "name": "keys",
            "storage": f"sqlite:///{tmp_path / 'keys.db'}",
            "dataset": {"rows": [{"id": str(n), "question": f"dog {n}", "answer": "dog"} for n in range(30)]},
            "prompt": {"user": "{{ question }}"},
            "backend": {
                "kind": "openai",
                "model": "tiny",
                "options": {
                    "base_url": double.url,
                    "api_key_env": "PLANTED",
                    "headers_env": {"x-gateway": "PLANTED_HEADER"},
                },
            },
            "scorers": {"right": {"kind": "contains"}},
            "budget": {"trials": 2},
        }
        table["dataset"]["reference"] = "answer"  # type: ignore[index]
        table["baseline"] = {"max_tokens": 8}
        asyncio.run(optimize_async(make_study(table, folder=tmp_path), on_event=lambda event: told.append(repr(event))))
        assert double.headers[0]["authorization"] == f"Bearer {KEY}"
        assert double.headers[0]["x-gateway"] == f"{KEY}-other"

        async def work(backend: OpenAIBackend, info: BackendInfo) -> None:
            backend.tell = told.append
            told.append(repr(vars(backend)))
            double.faults = [quotes]
            with pytest.raises(BackendError) as caught:
                await backend.generate(ask(info))
            told.append(f"{caught.value} {caught.value.hint}")
            assert "no such user" in told[-1]

        run(double, work, api_key_env="PLANTED", headers_env={"x-gateway": "PLANTED_HEADER"})
        monkeypatch.setenv("PLANTED", "sk-wrong987654321")
        with pytest.raises(BackendError, match="401") as refused:
            run(double, _nothing, api_key_env="PLANTED")
        told.append(f"{refused.value} {refused.value.hint}")
        assert "api_key_env" in refused.value.hint
    with closing(sqlite3.connect(tmp_path / "keys.db")) as connection:
        dump = "\n".join(connection.iterdump())
    assert "PLANTED" in dump  # the name is kept: the study can be gone on with
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    streams = capfd.readouterr()
    for text in (dump, caplog.text, streams.out, streams.err, *told, files.decode("latin-1")):
        assert "planted0123456789" not in text and "sk-wrong" not in text


async def _nothing(backend: OpenAIBackend, info: BackendInfo) -> None:
    return None
