"""What single requests ask of the embedded engine: choices, log probabilities; and rows that share nothing, not even
faults."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import math
import random
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genopt.errors import BackendError
from genopt.testing import BackendContract
from genopt.types import Backend, BackendInfo, Generation, Message, Request
from tests import tiny_models
from tests.backends.embedded import ONE_THREAD, generate, make_request, mixed_requests, outcome

torch = pytest.importorskip("torch", reason="the embedded engine needs PyTorch")
transformers = pytest.importorskip("transformers", reason="the embedded engine needs transformers")

from genopt.backends import _hf_batch, _model_files  # noqa: E402
from genopt.backends._hf_choices import Choices, keep_only  # noqa: E402
from genopt.backends._hf_rows import Row  # noqa: E402
from genopt.backends.transformers import TransformersBackend  # noqa: E402

VERDICTS = ("yes", "no", "not known", "not known at all")


def asking(request: Request, **changes: Any) -> Request:
    return dataclasses.replace(request, **changes)


class TestBeams(BackendContract):
    """The contract with every request searched by beams."""

    @pytest.fixture(autouse=True, params=["llama", "t5"])
    def _model(self, request: pytest.FixtureRequest) -> None:
        self.model = request.getfixturevalue(request.param)

    def backend(self) -> Backend:
        return TransformersBackend(model=str(self.model), options=ONE_THREAD)

    def request(self, info: BackendInfo, params: Mapping[str, Any] | None = None, **given: Any) -> Request:
        return super().request(info, {"num_beams": 3, **(params or {})}, **given)

    def mixed_requests(self, info: BackendInfo, count: int) -> list[Request]:
        return super().mixed_requests(info, count)[::3]  # beams are slow

    def test_stop_string_is_cut_and_ends_the_text(self) -> None:
        """A beam that meets its stop string has ended, and another text may win: only the cut can be promised."""

        async def scenario(backend: Backend, info: BackendInfo) -> None:
            full = await backend.generate(self.request(info, {"temperature": 0.0}))
            stop = full.text[4:6]
            done = await backend.generate(self.request(info, {"temperature": 0.0, "stop": (stop,)}))
            assert stop not in done.text and done.finish == "stop"

        self.run(scenario)


class TestIsolation:
    def test_sixty_four_requests_write_alone_what_they_write_together(self, llama: Path) -> None:
        requests = mixed_requests(64)
        assert len({tuple(sorted(request.params.items())) for request in requests}) == 64
        draw = random.Random(3)

        async def session() -> None:
            alone = TransformersBackend(model=str(llama), options={**ONE_THREAD, "batch_size": 1})
            together = TransformersBackend(model=str(llama), options={**ONE_THREAD, "batch_size": 64})
            await asyncio.gather(alone.open(), together.open())
            expected = [await alone.generate(request) for request in requests]
            at_once = await asyncio.gather(*(together.generate(request) for request in requests))

            async def later(request: Request) -> Generation:
                await asyncio.sleep(0.5 * draw.random())
                return await together.generate(request)

            scattered = await asyncio.gather(*(later(request) for request in requests))
            await asyncio.gather(alone.aclose(), together.aclose())
            assert len({done.text for done in expected}) > 55
            assert [outcome(done) for done in at_once] == [outcome(done) for done in expected]
            assert [outcome(done) for done in scattered] == [outcome(done) for done in expected]

        asyncio.run(session())

    def test_a_row_that_breaks_its_batch_fails_alone(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        requests = mixed_requests(12, most=20)
        guilty = requests[5].seed
        expected = [outcome(done) for done in generate(llama, requests)]
        forward = _hf_batch.Batch._forward

        def poisoned(self: Any) -> Any:
            if any(row.seed == guilty and len(row.ids) >= 2 for row in self.rows):
                raise RuntimeError("an index is out of bounds")
            return forward(self)

        monkeypatch.setattr(_hf_batch.Batch, "_forward", poisoned)

        async def session() -> list[Any]:
            backend = TransformersBackend(model=str(llama), options=ONE_THREAD)
            await backend.open()
            done = await asyncio.gather(*(backend.generate(r) for r in requests), return_exceptions=True)
            await backend.aclose()
            return done

        done = asyncio.run(session())
        assert isinstance(done[5], BackendError) and "out of bounds" in str(done[5])
        others = [n for n in range(12) if n != 5]
        assert [outcome(done[n]) for n in others] == [expected[n] for n in others]

    def test_cancelled_rows_leave_no_memory_behind(self, llama: Path) -> None:
        async def session() -> None:
            backend = TransformersBackend(model=str(llama), options={**ONE_THREAD, "batch_size": 100})
            await backend.open()
            held: list[tuple[int, int, int]] = []
            for number in range(50):
                slow = [
                    asyncio.ensure_future(backend.generate(make_request("dog", seed=n, max_tokens=99, min_tokens=99)))
                    for n in range(100)
                ]
                while backend.stats()["running"] < 100:
                    await asyncio.sleep(0.001)
                for task in slow:
                    task.cancel()
                assert all(isinstance(done, asyncio.CancelledError) for done in await gather(slow))
                while any(backend.stats().values()):
                    await asyncio.sleep(0.001)
                del slow, task
                if number == 4:
                    tracemalloc.start()
                if number in (5, 49):
                    await asyncio.sleep(0.2)  # the thread ends the step in which the rows left
                    gc.collect()
                    held.append((alive(Row), alive(torch.Tensor), slots(), tracemalloc.get_traced_memory()[0]))
            tracemalloc.stop()
            await backend.aclose()
            before, after = held
            assert before[0] == after[0] == 0
            assert after[1] <= before[1]
            assert after[2] <= before[2]
            assert after[3] - before[3] < 44 * 100 * 50  # bytes a row; one that stayed would be 5,000

        asyncio.run(session())


async def gather(tasks: Sequence[asyncio.Future[Any]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


def alive(kind: type) -> int:
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())


def slots() -> int:
    """Bytes of the stores of keys and values that are alive."""
    from genopt.backends._hf_slots import SlotLayer

    layers = [thing for thing in gc.get_objects() if type(thing) is SlotLayer]
    return sum(store.nbytes for layer in layers for store in layer.store or ())


class TestChoices:
    @pytest.mark.parametrize("kind", ["llama", "t5"])
    def test_a_text_is_one_of_them_whatever_its_parameters(self, kind: str, request: pytest.FixtureRequest) -> None:
        requests = [asking(r, choices=VERDICTS) for r in mixed_requests(48) if r.params["max_tokens"] >= 12]
        done = generate(request.getfixturevalue(kind), requests)
        written = {d.text for d in done}
        assert written <= set(VERDICTS) and len(written) > 1
        assert {d.finish for d in done} == {"stop"}

    def test_rows_beside_them_are_free(self, llama: Path) -> None:
        requests = mixed_requests(10)
        free = [outcome(done) for done in generate(llama, requests)]
        judged = [asking(r, choices=VERDICTS) for r in mixed_requests(10)]
        done = generate(llama, [r for pair in zip(requests, judged, strict=True) for r in pair])
        assert [outcome(d) for d in done[::2]] == free

    def test_they_are_drawn_by_the_model_s_own_probabilities(self, llama: Path) -> None:
        ask = make_request("case 9: order dog", temperature=1.0)
        (told,) = generate(llama, [asking(ask, choices=("a", "b", "c"), top_logprobs=5)])
        assert told.logprobs is not None
        chances = {text: math.exp(value) for text, value in told.logprobs[0].top.items()}
        assert set(chances) == {"a", "b", "c"} and sum(chances.values()) == pytest.approx(1, abs=1e-5)
        draws = generate(llama, [asking(ask, choices=("a", "b", "c"), seed=seed) for seed in range(600)])
        for text, chance in chances.items():
            share = sum(done.text == text for done in draws) / 600
            assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / 600) + 1e-3

    @pytest.mark.parametrize("texts", [("yes", ""), ("yes", "yes")])
    def test_those_that_cannot_be_told_apart_are_refused(self, llama: Path, texts: tuple[str, ...]) -> None:
        with pytest.raises(BackendError, match="choices"):
            generate(llama, [asking(make_request("dog"), choices=texts)])

    def test_the_tokens_that_may_follow(self) -> None:
        choices = Choices([(1, 2), (1, 3), (1,)], eos=(9,))
        assert choices.following(()) == (1,)
        assert set(choices.following((1,))) == {2, 3, 9}
        assert choices.following((1, 2)) == choices.following((1, 9)) == ()

    def test_other_rows_keep_their_logits(self) -> None:
        logits = torch.arange(15.0).reshape(3, 5)
        keep_only(logits, {0: (1, 4), 2: (0,)})
        none = -math.inf
        assert logits.tolist() == [[none, 1, none, none, 4], [5, 6, 7, 8, 9], [10, none, none, none, none]]

    @pytest.mark.parametrize(
        ("params", "changes", "message"),
        [
            ({}, {"schema": {"type": "object"}}, "not to a schema"),
            ({}, {"regex": "[0-9]"}, "not to a schema or a regex"),
            ({}, {"top_logprobs": 21}, "top_logprobs: 21"),
            ({"num_beams": 2}, {"choices": ("a", "b")}, "do not go with beams"),
            ({"num_beams": 2}, {"top_logprobs": 2}, "do not go with beams"),
        ],
    )
    def test_what_is_not_done_is_refused(
        self, llama: Path, params: dict[str, Any], changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(BackendError, match=message):
            generate(llama, [asking(make_request("dog", **params), **changes)])


class TestLogprobs:
    def test_they_are_the_model_s_own_before_any_parameter(self, llama: Path) -> None:
        ask = make_request(
            "the dog", temperature=0.3, top_k=2, repetition_penalty=1.3, frequency_penalty=1.0, max_tokens=12, seed=4
        )
        plain, told = generate(llama, [ask, asking(ask, top_logprobs=7)])
        assert plain.logprobs is None and told.logprobs is not None
        assert outcome(plain) == outcome(told)
        assert len(told.logprobs) == told.completion_tokens
        model, tokenizer = library(llama)
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": "the dog"}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        spelt = {tokenizer.decode([n]): n for n in reversed(range(len(tokenizer)))}
        for entry in told.logprobs:
            with torch.inference_mode():
                expected = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            top: dict[str, float] = {}
            for n in expected.topk(7).indices.tolist():
                top.setdefault(tokenizer.decode([n]), expected[n].item())
            assert list(entry.top) == list(top)
            assert entry.top == pytest.approx(top, abs=1e-4)
            if "\ufffd" in entry.token:
                break  # a part of a character: its id cannot be told from its text
            assert entry.logprob == pytest.approx(expected[spelt[entry.token]].item(), abs=1e-4)
            ids.append(spelt[entry.token])
        assert len(ids) > 10

    def test_every_row_gets_as_many_as_it_asked_for(self, llama: Path) -> None:
        asks = [asking(make_request(f"dog {n}", seed=n), top_logprobs=n) for n in (0, 1, 20)]
        none, one, many = generate(llama, asks)
        assert none.logprobs is None
        assert one.logprobs is not None and all(len(entry.top) == 1 for entry in one.logprobs)
        assert many.logprobs is not None and all(9 < len(entry.top) <= 20 for entry in many.logprobs)

    def test_an_end_token_has_an_entry_too(self, llama: Path) -> None:
        (done,) = generate(llama, [asking(make_request("dog"), choices=("not", "not known"), top_logprobs=3)])
        assert done.logprobs is not None and len(done.logprobs) == done.completion_tokens
        text = "".join(entry.token for entry in done.logprobs)
        assert text == done.text + ("<|end|>" if done.text == "not" else "")

    def test_the_first_token_is_timed(self, llama: Path) -> None:
        (done,) = generate(llama, [make_request("dog", min_tokens=20)])
        assert done.first_token_seconds is not None and 0 < done.first_token_seconds < done.seconds


class TestTelling:
    def test_what_runs_and_what_waits(self, llama: Path) -> None:
        async def session() -> None:
            backend = TransformersBackend(model=str(llama), options={**ONE_THREAD, "batch_size": 3})
            assert backend.stats() == {}
            await backend.open()
            assert backend.stats() == {"running": 0, "waiting": 0}
            asks = [make_request("dog", seed=n, max_tokens=300, min_tokens=300) for n in range(8)]
            tasks = [asyncio.ensure_future(backend.generate(ask)) for ask in asks]
            while backend.stats()["running"] < 3:
                await asyncio.sleep(0.001)
            assert backend.stats() == {"running": 3, "waiting": 5}
            await backend.aclose()
            assert all(isinstance(done, BackendError) for done in await gather(tasks))

        asyncio.run(session())

    def test_loading_is_told_where_it_takes_time(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}", encoding="utf-8")
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(1_234_000_000)
        assert _model_files.loading(str(tmp_path)) == f"loading {tmp_path} (1.2 GB)"
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.truncate(1_000)
        assert _model_files.loading(str(tmp_path)) == ""
        assert "owner/name" in _model_files.loading("owner/name")

    def test_a_model_that_is_loaded_is_told(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_model_files, "_WORTH_TELLING", 1)
        told: list[str] = []
        generate(llama, [Request((Message("user", "dog"),), {"max_tokens": 1}, 1, "example")], tell=told.append)
        assert told == [f"loading {llama} (0.0 GB)"]

    def test_models_that_load_at_once_are_whole(self, tmp_path: Path) -> None:
        """The library's own loading is not meant for threads: two at once left the class without `tie_weights`."""
        folder = tiny_models.make_llama(tmp_path / "tied", tied=True)
        tie_weights = transformers.PreTrainedModel.tie_weights

        async def session() -> list[Any]:
            backends = [TransformersBackend(model=str(folder), options=ONE_THREAD) for _ in range(3)]
            try:
                await asyncio.gather(*(backend.open() for backend in backends))
                return [backend._loaded.model for backend in backends if backend._loaded is not None]
            finally:
                await asyncio.gather(*(backend.aclose() for backend in backends))

        for _ in range(8):
            for model in asyncio.run(session()):
                assert model.lm_head.weight is model.model.embed_tokens.weight
        assert transformers.PreTrainedModel.tie_weights is tie_weights


def library(folder: Path) -> tuple[Any, Any]:
    """The model and tokenizer of a folder, as the library loads them."""
    from genopt.backends._hf_loading import quiet

    with quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        return model, transformers.AutoTokenizer.from_pretrained(folder)
