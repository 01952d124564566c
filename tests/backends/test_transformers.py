"""The embedded engine on tiny random models: the contract, the library's own processors, batching, lifecycle."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.testing import BackendContract
from genopt.types import Backend, Generation, Message, Request
from tests import tiny_models
from tests.backends.embedded import ONE_THREAD, generate, make_request, mixed_requests, outcome, texts

torch = pytest.importorskip("torch", reason="the embedded engine needs PyTorch")
transformers = pytest.importorskip("transformers", reason="the embedded engine needs transformers")

from genopt.backends import _hf_batch, _hf_noise  # noqa: E402
from genopt.backends._hf_sampling import Decoding, Plan, Rules  # noqa: E402
from genopt.backends.transformers import PARAMS, TransformersBackend  # noqa: E402

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


class TestLlama(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, llama: Path) -> None:
        self.model = llama

    def backend(self) -> Backend:
        return TransformersBackend(model=str(self.model), options=ONE_THREAD)


class TestT5(BackendContract):
    @pytest.fixture(autouse=True)
    def _model(self, t5: Path) -> None:
        self.model = t5

    def backend(self) -> Backend:
        return TransformersBackend(model=str(self.model), options=ONE_THREAD)


class TestDraw:
    def test_noise_is_gumbel(self) -> None:
        noise = _hf_noise.gumbel(np.arange(40, dtype=np.uint64), np.zeros(40, np.int64), salt(1000)).numpy()
        assert stats.kstest(noise.ravel(), "gumbel_r").pvalue > 0.01

    def test_neighbouring_seeds_steps_and_tokens_are_unrelated(self) -> None:
        seeds, steps = np.repeat(np.arange(60, dtype=np.uint64), 60), np.tile(np.arange(60), 60)
        noise = _hf_noise.gumbel(seeds, steps, salt(50)).numpy().reshape(60, 60, 50)
        for axis in range(3):
            first, second = (np.take(noise, span, axis).ravel() for span in (range(0, 49), range(1, 50)))
            assert abs(stats.pearsonr(first, second).statistic) < 4 / np.sqrt(first.size)

    def test_rows_are_a_pure_function_of_seed_and_step(self) -> None:
        seeds, steps = np.asarray([7, 9, 7], np.uint64), np.asarray([3, 0, 4])
        noise = _hf_noise.gumbel(seeds, steps, salt(64))
        for row in range(3):
            alone = _hf_noise.gumbel(seeds[row : row + 1], steps[row : row + 1], salt(64))
            assert torch.equal(alone[0], noise[row])

    @pytest.mark.parametrize("decoding", [Decoding(1), Decoding(1, temperature=0.5), Decoding(1, top_k=5)])
    def test_tokens_are_drawn_from_the_distribution(self, decoding: Decoding) -> None:
        count = 20_000
        logits = torch.linspace(-1.0, 2.0, 12).repeat(count, 1)
        plan = Plan([decoding] * count, range(count), Rules(), 12, CPU)
        one = np.ones(count, np.int64)
        tokens = plan.tokens(logits.clone(), torch.zeros((count, 1), dtype=torch.long), one, one).numpy()
        expected = (logits[0].double() / decoding.temperature).softmax(-1).numpy()
        if decoding.top_k:
            expected = np.where(np.arange(12) >= 12 - decoding.top_k, expected, 0.0)
        alive = expected > 0
        seen = np.bincount(tokens, minlength=12)
        assert not seen[~alive].any()
        assert stats.chisquare(seen[alive], count * expected[alive] / expected.sum()).pvalue > 0.001

    def test_configurations_with_one_seed_agree_as_often_as_they_can(self) -> None:
        count = 4000
        one = np.ones(count, np.int64)
        logits = torch.randn((1, 300), generator=torch.Generator().manual_seed(0)).repeat(count, 1) * 2
        drawn = [
            Plan([Decoding(1, temperature=t)] * count, range(count), Rules(), 300, CPU)
            .tokens(logits.clone(), torch.zeros((count, 1), dtype=torch.long), one, one)
            .numpy()
            for t in (0.9, 1.0)
        ]
        p, q = ((logits[0] / t).softmax(-1).numpy() for t in (0.9, 1.0))
        distance = 0.5 * np.abs(p - q).sum()
        assert np.mean(drawn[0] != drawn[1]) <= 2 * distance / (1 + distance) + 0.02


def salt(vocabulary: int) -> Any:
    return _hf_noise.token_salt(vocabulary, CPU)


class TestAgainstTheLibrary:
    """The library's own processors and its own `generate` are the reference."""

    @pytest.mark.parametrize("vocabulary", [60, 1500])
    def test_processed_logits_are_equal(self, vocabulary: int) -> None:
        draw = np.random.default_rng(vocabulary)
        wrong = rows = 0
        for _ in range(40):
            decodings = [random_decoding(draw) for _ in range(5)]
            lengths = draw.integers(3, 31, 5)
            lengths[0] = 30
            made = np.minimum(lengths - 1, draw.integers(0, 14, 5))
            history = torch.from_numpy(draw.integers(0, 9, (5, 30)))
            logits = torch.from_numpy(draw.normal(0, 3, (5, vocabulary)).astype(np.float32))
            plan = Plan(decodings, [1] * 5, Rules(eos=(3, 7)), vocabulary, CPU)
            plan._token_salt = None  # processing only, no draw
            mine = logits.clone()
            plan.tokens(mine, history, lengths, made)
            for row, decoding in enumerate(decodings):
                ids = history[row : row + 1, 30 - lengths[row] :]
                theirs = library_processors(decoding, len(ids[0]) - int(made[row]))(ids, logits[row : row + 1].clone())
                alive = theirs[0].isfinite()
                same = torch.equal(alive, mine[row].isfinite())
                wrong += not same
                rows += 1
                if same:
                    torch.testing.assert_close(mine[row][alive], theirs[0][alive])
        assert wrong <= rows // 100  # a cumulative sum within rounding of top_p or typical_p may fall either way

    def test_presence_and_frequency_count_generated_tokens_only(self) -> None:
        history = torch.tensor([[5, 5, 2, 2, 3], [5, 2, 9, 9, 9]])
        lengths, made = np.asarray([5, 3]), np.asarray([3, 0])
        plan = Plan([Decoding(9, presence_penalty=0.5, frequency_penalty=0.25)] * 2, [1, 1], Rules(), 10, CPU)
        plan._token_salt = None
        logits = torch.zeros((2, 10))
        plan.tokens(logits, history, lengths, made)
        expected = torch.zeros((2, 10))
        expected[0, 2], expected[0, 3] = -1.0, -0.75
        torch.testing.assert_close(logits, expected)

    @pytest.mark.parametrize("kind", ["llama", "t5"])
    @pytest.mark.parametrize(
        "params",
        [{}, {"repetition_penalty": 1.4}, {"no_repeat_ngram_size": 2}, {"min_tokens": 20}],
        ids=["plain", "repetition", "ngram", "min_tokens"],
    )
    def test_greedy_texts_are_those_of_generate(
        self, kind: str, params: Mapping[str, Any], request: pytest.FixtureRequest
    ) -> None:
        model = request.getfixturevalue(kind)
        prompts = tiny_models.prompts(6)
        ours = texts(model, [make_request(p, temperature=0.0, **params) for p in prompts], raw=True)
        assert ours == library_texts(model, prompts, params)

    @pytest.mark.parametrize("architecture", ["sliding", "absolute", "recurrent", "bart"])
    def test_other_architectures_write_what_generate_writes(self, architecture: str, tmp_path: Path) -> None:
        model = other_model(architecture, tmp_path)
        prompts = tiny_models.prompts(9)
        ours = texts(model, [make_request(p, temperature=0.0, max_tokens=9 + n) for n, p in enumerate(prompts)])
        theirs = [library_texts(model, [p], {"max_tokens": 9 + n})[0] for n, p in enumerate(prompts)]
        assert ours == theirs
        assert len(set(ours)) > 1

    def test_beams_are_those_of_generate(self, llama: Path) -> None:
        prompts = tiny_models.prompts(3)
        ours = texts(llama, [make_request(p, temperature=0.0, num_beams=3) for p in prompts], raw=True)
        assert ours == library_texts(llama, prompts, {"num_beams": 3})

    def test_beams_honour_stop_strings_and_penalties(self, llama: Path) -> None:
        beams = {"temperature": 0.0, "num_beams": 3}
        plain, penalised = generate(
            llama, [make_request("the dog", **beams), make_request("the dog", **beams, frequency_penalty=2.0)]
        )
        assert plain.text != penalised.text
        stop = plain.text[6:9]
        (stopped,) = generate(llama, [make_request("the dog", **beams, stop=(stop,))])
        assert stopped.finish == "stop" and stop not in stopped.text
        assert stopped.completion_tokens < plain.completion_tokens


class TestBatching:
    def test_rows_that_join_and_leave_write_what_they_write_alone(self, llama: Path) -> None:
        check_staggered(llama, batch_size=7)

    def test_rows_of_a_relative_decoder_join_too(self, t5: Path) -> None:
        check_staggered(t5, batch_size=7)

    def test_the_prompt_and_the_order_do_not_matter(self, llama: Path) -> None:
        requests = mixed_requests(30)
        order = random.Random(2).sample(range(30), 30)
        straight = generate(llama, requests)
        shuffled = generate(llama, [requests[n] for n in order])
        assert [outcome(shuffled[order.index(n)]) for n in range(30)] == [outcome(done) for done in straight]

    def test_a_shorter_text_is_the_beginning_of_a_longer_one(self, llama: Path) -> None:
        requests = [make_request("the dog", seed=3, min_tokens=30, max_tokens=m) for m in (5, 17, 30)]
        done = generate(llama, requests)
        assert done[2].text.startswith(done[0].text.rstrip("\ufffd"))
        assert done[2].text.startswith(done[1].text.rstrip("\ufffd"))
        assert [d.completion_tokens for d in done] == [5, 17, 30]

    def test_same_prompts_are_prefilled_once(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes: list[int] = []
        prefill = _hf_batch.Batch._prefill

        def counted(self: Any, prompts: list[tuple[int, ...]]) -> Any:
            sizes.append(len(prompts))
            return prefill(self, prompts)

        monkeypatch.setattr(_hf_batch.Batch, "_prefill", counted)
        done = texts(llama, [make_request("the dog", seed=seed) for seed in range(12)])
        assert len(set(done)) == 12
        assert sum(sizes) <= 4  # one while opening, and one for each wave the requests arrived in

    def test_out_of_memory_halves_the_batch_and_loses_nothing(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        requests = mixed_requests(20)
        expected = [outcome(done) for done in generate(llama, requests)]
        forward = _hf_batch.Batch._forward

        def scarce(self: Any) -> Any:
            if len(self.rows) > 4:
                raise torch.OutOfMemoryError("out of memory")
            return forward(self)

        monkeypatch.setattr(_hf_batch.Batch, "_forward", scarce)
        told: list[str] = []
        assert [outcome(done) for done in generate(llama, requests, tell=told.append)] == expected
        assert len(told) == 1
        assert (found := re.fullmatch(r"out of memory with (\d+) texts at once; going on with (\d+)", told[0]))
        assert int(found[2]) == int(found[1]) // 2

    def test_out_of_memory_with_one_text_is_an_error(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(self: Any) -> Any:
            if len(self._loaded.rules.eos):  # not while warming up
                raise torch.OutOfMemoryError("out of memory")
            return torch.zeros((1, 512))

        monkeypatch.setattr(_hf_batch.Batch, "_forward", full)
        with pytest.raises(BackendError, match="single text") as caught:
            generate(llama, [make_request("the dog", min_tokens=9)])
        assert not caught.value.retryable

    def test_numbers_that_overflow_end_their_own_text_only(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        requests = [make_request(f"dog {n}", seed=n, min_tokens=20) for n in range(3)]
        expected = texts(llama, requests)
        forward = _hf_batch.Batch._forward

        def broken(self: Any) -> Any:
            logits = forward(self)
            for n, row in enumerate(self.rows):
                if row.seed == 1 and len(row.ids) == 5:
                    logits[n] = float("nan")
            return logits

        monkeypatch.setattr(_hf_batch.Batch, "_forward", broken)
        done = generate(llama, requests)
        assert [d.text for d in done[::2]] == expected[::2]
        assert done[1].finish == "error" and "overflow" in done[1].why


class TestStopStrings:
    def test_across_tokens_and_cut_from_the_text(self, llama: Path) -> None:
        (full,) = generate(llama, [make_request("the dog", temperature=0.0)])
        spans = [(start, width) for width in (1, 2, 3, 5, 9) for start in range(0, len(full.text) - width, 3)]
        stops = [full.text[start : start + width] for start, width in spans]
        stops = [stop for stop in stops if "\ufffd" not in stop]
        assert len(stops) > 20
        stopped = generate(llama, [make_request("the dog", temperature=0.0, stop=(stop,)) for stop in stops])
        for stop, done in zip(stops, stopped, strict=True):
            assert (done.text, done.finish) == (full.text[: full.text.index(stop)], "stop")
            assert done.completion_tokens <= full.completion_tokens

    def test_the_earliest_of_several_counts(self, llama: Path) -> None:
        (full,) = generate(llama, [make_request("the dog", temperature=0.0)])
        early, late = full.text[4:6], full.text[15:18]
        (done,) = generate(llama, [make_request("the dog", temperature=0.0, stop=(late, early))])
        assert done.text == full.text[: full.text.index(early)]

    def test_those_before_min_tokens_do_not_count(self, llama: Path) -> None:
        params = {"temperature": 0.0, "max_tokens": 24, "min_tokens": 10}
        (full,) = generate(llama, [make_request("the dog", **params)])
        (done,) = generate(llama, [make_request("the dog", **params, stop=(full.text[1:3],))])
        assert done.completion_tokens >= 10
        assert done.text.startswith(full.text[:3])


class TestPrompts:
    def test_the_chat_template_is_applied(self, llama: Path) -> None:
        chat = [Message("system", "be brief"), Message("user", "hello")]
        by_hand = "<|system|>be brief<|end|><|user|>hello<|end|><|assistant|>"
        templated, raw = texts(llama, [make_request(chat)]), texts(llama, [make_request(by_hand)], raw=True)
        assert templated == raw

    def test_a_last_assistant_message_is_continued(self, llama: Path) -> None:
        chat = [Message("user", "hello"), Message("assistant", "the quick")]
        by_hand = "<|user|>hello<|end|><|assistant|>the quick"
        assert texts(llama, [make_request(chat)]) == texts(llama, [make_request(by_hand)], raw=True)

    def test_without_a_template_texts_are_joined_by_a_blank_line(self, folder: Path) -> None:
        model = tiny_models.make_llama(folder / "base", chat=False)
        chat = [Message("system", "be brief"), Message("user", "hello")]
        assert texts(model, [make_request(chat)]) == texts(model, [make_request("be brief\n\nhello")])
        assert texts(model, [make_request(chat)], raw=True) == texts(model, [make_request("be briefhello")])

    def test_template_arguments_reach_the_template(self, folder: Path, llama: Path) -> None:
        model = shutil.copytree(llama, folder / "thinking")
        template = "{% if think %}THINK{% endif %}{{ messages[0]['content'] }}"
        (model / "chat_template.jinja").write_text(template)
        on = texts(model, [make_request("hello")], chat_template_kwargs={"think": True})
        assert on == texts(model, [make_request("THINKhello")], raw=True)
        assert on != texts(model, [make_request("hello")])

    def test_a_template_that_refuses_is_told(self, folder: Path, llama: Path) -> None:
        model = shutil.copytree(llama, folder / "refusing")
        (model / "chat_template.jinja").write_text("{{ raise_exception('no system message, please') }}")
        with pytest.raises(BackendError, match="no system message, please"):
            generate(model, [make_request("hello")])

    def test_max_tokens_is_shortened_to_the_context(self, llama: Path) -> None:
        (done,) = generate(llama, [make_request("dog " * 200, max_tokens=400, min_tokens=400)])
        assert done.finish == "length" and 200 < done.prompt_tokens < 512
        assert done.prompt_tokens + done.completion_tokens == 512


class TestOpening:
    def open(self, model: Path | str, **options: Any) -> Any:
        async def session() -> Any:
            backend = TransformersBackend(model=str(model), options={**ONE_THREAD, **options})
            try:
                return await backend.open()
            finally:
                await backend.aclose()

        return asyncio.run(session())

    def test_defaults_are_those_of_generation_config(self, folder: Path) -> None:
        written = {"do_sample": True, "temperature": 0.6, "top_p": 0.8, "repetition_penalty": 1.05}
        model = tiny_models.make_llama(folder / "defaults", generation={**written, "max_new_tokens": 77})
        defaults = self.open(model).defaults
        assert defaults == {
            **{name: domain.neutral[0] for name, domain in PARAMS.items() if domain.neutral},
            "temperature": 0.6,
            "top_p": 0.8,
            "top_k": 50,  # the library's own when a sampling model does not set it
            "repetition_penalty": 1.05,
            "max_tokens": 77,
        }

    def test_defaults_without_sampling_are_greedy(self, llama: Path) -> None:
        defaults = self.open(llama).defaults
        assert defaults["temperature"] == 0.0 and defaults["max_tokens"] == 256 and defaults["top_p"] == 1.0

    def test_the_digest_follows_the_weights_and_not_the_tuned_parameters(self, folder: Path, llama: Path) -> None:
        model = shutil.copytree(llama, folder / "copied")
        before = self.open(llama).identity["digest"]
        assert self.open(model).identity["digest"] == before
        path = model / "generation_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 0.3, "do_sample": True}))
        assert self.open(model).identity["digest"] == before
        weights = model / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(bytes(content))
        assert self.open(model).identity["digest"] != before

    def test_options_are_checked_all_at_once(self) -> None:
        with pytest.raises(SpecError) as caught:
            TransformersBackend(model="x", options={"bach_size": 4, "dtype": "int8", "threads": 0})
        found = "\n".join(caught.value.problems)
        assert "Did you mean 'batch_size'?" in found and "'int8'" in found and "options.threads" in found

    def test_a_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="does not exist"):
            self.open(tmp_path / "none")

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=r"config\.json") as caught:
            self.open(tmp_path)
        assert caught.value.hint

    def test_unreadable_weights(self, tmp_path: Path, llama: Path) -> None:
        model = shutil.copytree(llama, tmp_path / "broken")
        (model / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(SpecError, match="cannot be loaded") as caught:
            self.open(model)
        assert caught.value.hint

    def test_a_device_that_is_not_there(self, llama: Path) -> None:
        with pytest.raises(SpecError, match="device"):
            self.open(llama, device="cuda:99")

    def test_without_pytorch_the_pip_line_is_told(self, llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingExtra, match=r"genopt\[transformers\]"):
            self.open(llama)

    def test_nothing_is_printed(self, llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
        generate(llama, [make_request("hello"), make_request("hello", num_beams=2)])
        assert capfd.readouterr() == ("", "")

    def test_bfloat16_runs(self, llama: Path) -> None:
        assert self.open(llama, dtype="bfloat16").identity["dtype"] == "bfloat16"
        assert generate(llama, [make_request("hello", max_tokens=5)], dtype="bfloat16")[0].completion_tokens <= 5


class TestLifecycle:
    def test_closing_fails_what_is_unfinished(self, llama: Path) -> None:
        async def session() -> list[Any]:
            backend = TransformersBackend(model=str(llama), options=ONE_THREAD)
            await backend.open()
            slow = [make_request("dog", seed=n, max_tokens=400, min_tokens=400) for n in range(4)]
            tasks = [asyncio.ensure_future(backend.generate(request)) for request in slow]
            await asyncio.sleep(0.05)
            await backend.aclose()
            return await asyncio.gather(*tasks, return_exceptions=True)

        results = asyncio.run(session())
        assert all(isinstance(result, BackendError) and not result.retryable for result in results)

    def test_a_failed_step_fails_its_requests_and_not_the_engine(
        self, llama: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session() -> None:
            backend = TransformersBackend(model=str(llama), options=ONE_THREAD)
            await backend.open()
            request = make_request("dog", min_tokens=9)
            with monkeypatch.context() as patch:
                patch.setattr(_hf_batch.Batch, "_forward", failing)
                with pytest.raises(BackendError, match="the cable was pulled") as caught:
                    await backend.generate(request)
                assert not caught.value.retryable
            assert (await backend.generate(request)).completion_tokens >= 9
            await backend.aclose()

        def failing(self: Any) -> Any:
            raise RuntimeError("the cable was pulled")

        asyncio.run(session())

    def test_a_cancelled_row_leaves_the_batch(self, llama: Path) -> None:
        async def session() -> None:
            backend = TransformersBackend(model=str(llama), options={**ONE_THREAD, "batch_size": 1})
            await backend.open()
            slow = asyncio.ensure_future(backend.generate(make_request("dog", max_tokens=490, min_tokens=490)))
            await asyncio.sleep(0.05)
            slow.cancel()
            done = await asyncio.wait_for(backend.generate(make_request("dog", max_tokens=3)), 5)
            assert done.completion_tokens <= 3
            assert slow.cancelled()
            await backend.aclose()

        asyncio.run(session())

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"temprature": 1.0}, "Did you mean 'temperature'"),
            ({"top_p": 1.5}, r"top_p: 1\.5 is outside"),
        ],
    )
    def test_illegal_parameters_are_refused(self, llama: Path, params: dict[str, Any], message: str) -> None:
        with pytest.raises(BackendError, match=message):
            generate(llama, [make_request("dog", **params)])


def check_staggered(model: Path, *, batch_size: int) -> None:
    """Requests that arrive at random moments give the texts they give one at a time."""
    requests = mixed_requests(28)
    draw = random.Random(1)

    async def session() -> None:
        backend = TransformersBackend(model=str(model), options={**ONE_THREAD, "batch_size": batch_size})
        await backend.open()
        alone = [await backend.generate(request) for request in requests]

        async def later(request: Request, seconds: float) -> Generation:
            await asyncio.sleep(seconds)
            return await backend.generate(request)

        together = await asyncio.gather(*(later(request, 0.3 * draw.random()) for request in requests))
        await backend.aclose()
        assert [outcome(done) for done in together] == [outcome(done) for done in alone]

    asyncio.run(session())


def random_decoding(draw: np.random.Generator) -> Decoding:
    def one(*values: float) -> Any:
        return draw.choice(np.asarray(values)).item()

    return Decoding(
        max_tokens=9,
        temperature=one(0.3, 0.8, 1.0, 1.7),
        top_k=int(one(0, 1, 5, 50, 5000)),
        top_p=one(1.0, 0.95, 0.7, 0.2),
        min_p=one(0.0, 0.02, 0.3, 1.0),
        typical_p=one(1.0, 0.9, 0.4),
        repetition_penalty=one(1.0, 1.3, 0.8),
        no_repeat_ngram_size=int(one(0, 1, 2, 3)),
        min_tokens=int(one(0, 12)),
    )


def library_processors(d: Decoding, prompt_length: int) -> Any:
    """The processors that `generate` would run for these parameters, in its order."""
    lib = transformers.generation.logits_process
    chain = transformers.LogitsProcessorList()
    if d.repetition_penalty != 1:
        chain.append(lib.RepetitionPenaltyLogitsProcessor(d.repetition_penalty))
    if d.no_repeat_ngram_size:
        chain.append(lib.NoRepeatNGramLogitsProcessor(d.no_repeat_ngram_size))
    if d.min_tokens:
        chain.append(lib.MinNewTokensLengthLogitsProcessor(prompt_length, d.min_tokens, [3, 7]))
    if d.temperature != 1:
        chain.append(lib.TemperatureLogitsWarper(d.temperature))
    if d.top_k:
        chain.append(lib.TopKLogitsWarper(d.top_k))
    if d.top_p < 1:
        chain.append(lib.TopPLogitsWarper(d.top_p))
    if d.min_p:
        chain.append(lib.MinPLogitsWarper(d.min_p))
    if d.typical_p < 1:
        chain.append(lib.TypicalLogitsWarper(d.typical_p))
    return chain


def library_texts(folder: Path, prompts: Sequence[str], params: Mapping[str, Any]) -> list[str]:
    """What the library's own greedy or beam `generate` writes, one prompt at a time."""
    from genopt.backends._hf_loading import quiet

    names = {"max_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
    given = {names.get(name, name): value for name, value in ({"max_tokens": 24} | dict(params)).items()}
    with quiet(), torch.inference_mode():
        config = transformers.AutoConfig.from_pretrained(folder)
        auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
        model, tokenizer = auto.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
        found = []
        for prompt in prompts:
            encoded = tokenizer(prompt, return_tensors="pt")
            ids, mask = encoded["input_ids"], encoded["attention_mask"]
            out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, **given)[0]
            new = out[1:] if config.is_encoder_decoder else out[ids.shape[1] :]
            found.append(tokenizer.decode(new, skip_special_tokens=True))
    return found


def other_model(architecture: str, folder: Path) -> Path:
    """A tiny random model whose positions or memory work differently, without a chat template."""
    tokenizer = tiny_models.make_tokenizer(folder, vocabulary=512, chat=False)
    ends = {"vocab_size": len(tokenizer), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    makers = {
        "sliding": lambda: transformers.MistralForCausalLM(
            transformers.MistralConfig(
                **ends,
                hidden_size=48,
                intermediate_size=96,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                sliding_window=8,
            )
        ),
        "absolute": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**ends, n_embd=48, n_layer=2, n_head=4, n_positions=256)
        ),
        "recurrent": lambda: transformers.MambaForCausalLM(
            transformers.MambaConfig(**ends, hidden_size=48, num_hidden_layers=2)
        ),
        "bart": lambda: transformers.BartForConditionalGeneration(
            transformers.BartConfig(
                **ends,
                d_model=48,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=96,
                decoder_ffn_dim=96,
                max_position_embeddings=256,
                decoder_start_token_id=1,
                forced_bos_token_id=5,
                forced_eos_token_id=None,
            )
        ),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = makers[architecture]()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5)
    return tiny_models._save(model, folder, None)
