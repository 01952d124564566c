"""The vllm engine on the real vLLM (its build for CPUs): the contract, isolation, cancelling, adapters, structure."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import math
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import genopt
from genopt.backends.vllm import VllmBackend
from genopt.errors import BackendError, SpecError
from genopt.spec import StudySpec
from genopt.testing import GREEDY, HOT, PROBES, BackendContract, Probe, Scenario
from genopt.types import Backend, BackendInfo, Example, Message, Request
from tests.real.vllm_engines import OPTIONS, Shared, make_adapter, make_backend, make_model, make_request, outcome

pytest.importorskip("vllm", reason="needs vLLM in this Python's environment", exc_type=ImportError)
pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:max_rollback_tokens:DeprecationWarning"),  # what vLLM asks of xgrammar
]

SLOTS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Path:
    return make_model(folder / "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, llama: Path) -> dict[str, str]:
    return {name: str(make_adapter(folder / name, seed=n)) for n, name in enumerate(("a", "b"))}


@pytest.fixture(scope="module")
def shared(folder: Path, llama: Path, adapters: dict[str, str]) -> Iterator[Shared]:
    make_model(folder / "other", seed=1)
    engine = Shared(llama, lora=adapters, max_num_seqs=SLOTS)
    yield engine
    engine.close()


class TestContract(BackendContract):
    probes = {  # noqa: RUF012
        **PROBES,
        "min_tokens": Probe(0, 150, {**HOT, "max_tokens": 160}),  # this model seldom ends by itself
        "bad_words": Probe((), lambda text: tuple(text.split()), GREEDY),
        "lora": Probe("none", "b", GREEDY),
        "model": Probe("llama", lambda text: "other", GREEDY),
    }

    @pytest.fixture(autouse=True)
    def _engine(self, shared: Shared) -> None:
        self.shared = shared

    def backend(self) -> Backend:
        return self.shared.backend

    def run(self, scenario: Scenario) -> None:
        """On the engine that all tests share: starting one takes most of a test's time."""

        async def on_it(backend: VllmBackend) -> None:
            await scenario(backend, await backend.open())

        self.shared.run(on_it)

    async def _reopened(self) -> BackendInfo:
        await self.shared.backend.aclose()
        return await self.shared.backend.open()


def mixed(count: int) -> list[Request]:
    """Requests with parameters, prompts and lengths drawn at random, no two alike."""
    draw = random.Random(5)
    found = [
        make_request(
            f"{draw.choice(['Tell me about', 'What is', 'Answer:'])} the order {n % 9} and the dog. "
            * draw.randint(1, 3),
            seed=draw.randrange(2**31),
            max_tokens=draw.randrange(8, 40),
            temperature=draw.choice([0.0, 0.6, 1.0, 1.5]),
            top_k=draw.choice([0, 5, 40]),
            top_p=draw.choice([1.0, 0.9, 0.5]),
            min_p=draw.choice([0.0, 0.05]),
            repetition_penalty=draw.choice([1.0, 1.3]),
            presence_penalty=draw.choice([0.0, 0.7]),
            frequency_penalty=draw.choice([0.0, 0.4]),
            min_tokens=draw.choice([0, 9]),
            stop=draw.choice([(), ("e",), (" do", "th")]),
            lora=draw.choice(["none", "a", "b"]),
        )
        for n in range(count)
    ]
    assert len({tuple(sorted(request.params.items())) for request in found}) == count
    return found


def asking(request: Request, **changes: Any) -> Request:
    return dataclasses.replace(request, **changes)


async def until_idle(backend: VllmBackend) -> None:
    while backend.stats()["running"] or backend.stats()["waiting"]:
        await asyncio.sleep(0.001)


def alive(process: int) -> bool:
    """Whether a process runs; one that has ended may still be in the table."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestIsolation:
    def test_sixty_four_requests_write_together_what_they_write_alone(self, shared: Shared) -> None:
        requests = mixed(64)

        async def alone(backend: VllmBackend) -> list[Any]:
            return [outcome(await backend.generate(request)) for request in requests]

        expected = shared.run(alone)
        assert len({text for text, *_ in expected}) > 55
        assert [outcome(done) for done in shared.generate(requests)] == expected
        shuffled = random.Random(1).sample(range(64), 64)
        again = dict(zip(shuffled, shared.generate([requests[n] for n in shuffled]), strict=True))
        assert [outcome(again[n]) for n in range(64)] == expected

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"temperature": "0.5"}, "temperature: '0.5' is not a finite number"),
            ({"top_k": 1.5}, "top_k"),
            ({"top_p": 0.0}, "top_p"),
            ({"lora": "c"}, "not one of none, a, b"),
            ({"top_b": 0.9}, "no generation parameter 'top_b'. Did you mean 'top_p'"),
            ({"model": "nowhere/to/be/found"}, "does not exist"),
        ],
    )
    def test_what_is_not_legal_never_reaches_the_engine(
        self, shared: Shared, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(BackendError, match=re.escape(message)):
            shared.generate([make_request("dog", **changes)])
        assert shared.generate([make_request("dog")])[0].finish == "length"

    def test_a_text_read_at_its_end_is_the_text_read_token_by_token(self, shared: Shared) -> None:
        """A stop string that never comes makes vLLM read every token as it comes. Random weights write parts of
        characters, and end some texts by themselves."""
        asks = [
            make_request("Tell me about the d\u00f6ner", seed=n, temperature=1.8, max_tokens=48, min_tokens=0)
            for n in range(64)
        ]
        watched = [asking(request, params={**request.params, "stop": ("\x01 never \x02",)}) for request in asks]
        told = [[(d.text, d.finish, d.completion_tokens) for d in shared.generate(way)] for way in (asks, watched)]
        assert told[0] == told[1]
        assert {finish for _, finish, _ in told[0]} == {"stop", "length"}
        assert any("\ufffd" in text for text, _, _ in told[0])

    def test_a_request_that_vllm_refuses_fails_alone(self, shared: Shared) -> None:
        async def scenario(backend: VllmBackend) -> list[Any]:
            requests = [make_request(f"dog {n}") for n in range(3)]
            requests[1] = asking(requests[1], regex="(")
            return await asyncio.gather(*map(backend.generate, requests), return_exceptions=True)

        fine, wrong, too = shared.run(scenario)
        assert isinstance(wrong, BackendError) and not wrong.retryable
        assert fine.finish == too.finish == "length"

    def test_numpy_numbers_are_numbers(self, shared: Shared) -> None:
        import numpy as np

        plain = make_request("dog", seed=3, temperature=0.5, top_k=7)
        from_numpy = make_request("dog", seed=np.int64(3), temperature=np.float64(0.5), top_k=7)
        first, second = shared.generate([plain, from_numpy])
        assert outcome(first) == outcome(second)


class TestRoom:
    def test_as_many_run_as_texts_of_their_length_fit_into_the_cache(self, llama: Path) -> None:
        """A cache of 1,024 tokens: eight texts of the guessed length, many short ones, and fewer long ones again."""

        async def most(backend: VllmBackend, requests: list[Request]) -> float:
            tasks = [asyncio.ensure_future(backend.generate(request)) for request in requests]
            seen = 0.0
            while not all(task.done() for task in tasks):
                seen = max(seen, backend.stats()["running"])
                await asyncio.sleep(0.001)
            assert [task.result().finish for task in tasks] == ["length"] * len(tasks)
            return seen

        async def scenario(backend: VllmBackend) -> None:
            info = await backend.open()
            assert info.concurrency == 8 + 2

            def asked(count: int, tokens: int) -> list[Request]:
                text = {"max_tokens": tokens, "min_tokens": tokens, "temperature": 1.0}
                return [make_request("dog", seed=n, **text) for n in range(count)]

            short, long = 16, 64  # tokens: long enough to be seen from outside; one block and three
            assert await most(backend, asked(12, short)) <= 9
            await most(backend, asked(100, short))
            assert await most(backend, asked(100, short)) >= 24
            assert backend.stats()["concurrency"] > 24
            await most(backend, asked(64, long))
            assert await most(backend, asked(20, long)) <= 16
            assert backend.stats()["concurrency"] <= 16 + 4

        engine = Shared(llama, num_gpu_blocks_override=32, block_size=32, max_model_len=128, max_num_seqs=64)
        try:
            engine.run(scenario)
        finally:
            engine.close()


class TestCancelling:
    def test_half_of_two_hundred_leave_at_once_and_all_slots_are_used_again(self, shared: Shared) -> None:
        def long(seed: int) -> Request:
            return make_request(f"dog {seed}", seed=seed, max_tokens=480, min_tokens=480, temperature=1.0)

        async def scenario(backend: VllmBackend) -> float:
            async def running(count: int) -> None:
                while backend.stats()["running"] != count:
                    await asyncio.sleep(0.001)

            clock = asyncio.get_running_loop().time
            tasks = [asyncio.ensure_future(backend.generate(long(n))) for n in range(SLOTS)]
            async with asyncio.timeout(120):
                await running(SLOTS)
                began = clock()
                for task in tasks[::2]:
                    task.cancel()
                await running(SLOTS // 2)
                took = clock() - began
                assert not any(task.done() for task in tasks[1::2]), "they left because they were cancelled"
                more = [asyncio.ensure_future(backend.generate(long(n))) for n in range(SLOTS // 2)]
                await running(SLOTS)
                for task in (*tasks, *more):
                    task.cancel()
                await asyncio.gather(*tasks, *more, return_exceptions=True)
                await until_idle(backend)
            return took

        assert shared.run(scenario) < 1.0

    def test_fifty_rounds_leave_neither_tasks_nor_memory_behind(self, shared: Shared) -> None:
        async def scenario(backend: VllmBackend) -> None:
            held: list[tuple[int, int]] = []
            for number in range(50):
                asks = [make_request("dog", seed=n, max_tokens=99, min_tokens=99) for n in range(SLOTS)]
                slow = [asyncio.ensure_future(backend.generate(ask)) for ask in asks]
                while backend.stats()["running"] < SLOTS:
                    await asyncio.sleep(0.001)
                for task in slow:
                    task.cancel()
                ended = await asyncio.gather(*slow, return_exceptions=True)
                assert all(isinstance(error, asyncio.CancelledError) for error in ended)
                await until_idle(backend)
                del asks, slow, task, ended
                if number == 9:
                    tracemalloc.start()
                if number in (10, 49):
                    await asyncio.sleep(0.05)
                    gc.collect()
                    held.append((len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0]))
            tracemalloc.stop()
            (tasks, before), (later, after) = held
            assert tasks == later == 1
            assert after - before < 39 * SLOTS * 100  # bytes a request; one that stayed would be thousands

        shared.run(scenario)
        (done,) = shared.generate([make_request("dog")])
        assert done.finish == "length"


class TestAdapters:
    def test_every_one_writes_its_own_texts_and_no_prefix_is_taken_from_another(self, shared: Shared) -> None:
        prompt = "Tell me about the order, the refund and the dog. " * 4
        requests = [make_request(prompt, lora=name, temperature=0.0) for name in ("none", "a", "b")]
        apart = [shared.generate([request])[0].text for request in requests]
        assert len(set(apart)) == 3
        together = shared.generate(requests * 8)
        assert [done.text for done in together] == apart * 8

    def test_they_are_a_dimension_of_a_study(self, shared: Shared, adapters: dict[str, str], tmp_path: Path) -> None:
        """Every row's answer is what one adapter writes: the search has to find which."""
        rows = [{"id": str(n), "text": f"row {n}"} for n in range(40)]
        written = shared.generate([make_request(row["text"], lora="b", temperature=0.0) for row in rows])
        answers = {row["id"]: done.text for row, done in zip(rows, written, strict=True)}
        shared.close()  # one engine at a time in this process

        def same(example: Example, text: str) -> float:
            return float(text == answers[example.id])

        spec = StudySpec(
            name="adapters",
            storage=f"sqlite:///{tmp_path}/adapters.db",
            dataset={"rows": rows, "holdout": 0.5},
            prompt={"user": "{{ text }}"},
            backend={"kind": "vllm", "model": str(shared.model), "options": {**OPTIONS, "lora": adapters}},
            space={"lora": {"choices": ["none", "a", "b"]}},
            baseline={"lora": "none", "temperature": 0.0, "max_tokens": 24},
            scorers={"same": same},
            search={"sampler": "grid", "pruner": "none"},
            budget={"trials": 3},
        )
        verdict = genopt.optimize(spec).verdict
        assert (verdict.verdict, verdict.params["lora"], verdict.winner_score) == ("improved", "b", 1.0)


class TestStructure:
    SCHEMA = {  # noqa: RUF012
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
        "required": ["ok", "score"],
        "additionalProperties": False,
    }

    def test_a_text_keeps_to_choices_to_a_regex_and_to_a_schema(self, shared: Shared) -> None:
        base = [make_request("Is it right?", seed=n, temperature=1.5, max_tokens=64) for n in range(12)]
        words = ("yes", "no", "not known")
        asked = [
            *(asking(request, choices=words) for request in base),
            *(asking(request, regex="(10|[1-9])") for request in base),
            *(asking(request, schema=self.SCHEMA) for request in base),
        ]
        done = shared.generate([*asked, *base])
        chosen, numbers, tables, free = (done[n : n + 12] for n in (0, 12, 24, 36))
        assert {d.text for d in chosen} <= set(words) and len({d.text for d in chosen}) > 1
        assert all(re.fullmatch("10|[1-9]", d.text) for d in numbers)
        whole = [json.loads(d.text) for d in tables if d.finish == "stop"]
        assert whole and all(set(table) == {"ok", "score"} and 1 <= table["score"] <= 5 for table in whole)
        assert [outcome(d) for d in free] == [outcome(d) for d in shared.generate(base)], "those beside them are free"

    def test_choices_tell_the_model_s_own_probabilities_among_them(self, shared: Shared) -> None:
        ask = asking(make_request("Grade it.", temperature=1.0, max_tokens=1), choices=tuple("12345"), top_logprobs=5)
        (told,) = shared.generate([ask])
        assert told.logprobs is not None
        (entry,) = told.logprobs
        chances = {text: math.exp(value) for text, value in entry.top.items()}
        assert set(chances) == set("12345") and sum(chances.values()) == pytest.approx(1, abs=1e-3)
        draws = shared.generate([asking(ask, seed=seed, top_logprobs=0) for seed in range(600)])
        for text, chance in chances.items():
            share = sum(done.text == text for done in draws) / 600
            assert abs(share - chance) < 4 * math.sqrt(chance * (1 - chance) / 600) + 1e-3

    def test_every_token_tells_as_many_alternatives_as_were_asked_for(self, shared: Shared) -> None:
        asks = [asking(make_request(f"dog {n}", seed=n, temperature=1.5), top_logprobs=n) for n in (0, 1, 20)]
        none, one, many = shared.generate(asks)
        assert none.logprobs is None
        assert one.logprobs is not None and [len(entry.top) for entry in one.logprobs] == [1] * one.completion_tokens
        assert many.logprobs is not None and all(10 < len(entry.top) <= 20 for entry in many.logprobs)
        assert all(entry.logprob <= max(entry.top.values()) for entry in many.logprobs)
        assert "".join(entry.token for entry in many.logprobs).replace("\ufffd", "")[:3] in many.text
        with pytest.raises(BackendError, match="top_logprobs: 21"):
            shared.generate([asking(make_request("dog"), top_logprobs=21)])


class TestModels:
    def test_another_model_takes_the_place_and_the_change_is_told(self, shared: Shared) -> None:
        before = shared.generate([make_request("dog")])[0].text
        shared.told.clear()
        changes = shared.backend.stats()["model_changes"]
        mixed_up = [make_request(f"dog {n}", model=("llama", "other")[n % 2]) for n in range(12)]
        done = shared.generate(mixed_up)
        assert {d.finish for d in done} <= {"stop", "length"}
        assert shared.backend.stats()["model_changes"] == changes + 1, "those of one model run together"
        assert shared.backend.stats()["seconds_changing"] > 0
        assert any("llama made room for other" in text for text in shared.told)
        assert shared.generate([make_request("dog", model="llama")])[0].text == before

    def test_each_is_known_by_its_content(self, shared: Shared) -> None:
        async def scenario(backend: VllmBackend) -> Any:
            return await backend.models(["llama", "other"]), (await backend.open()).identity

        found, own = shared.run(scenario)
        assert found["llama"] == {"model": "llama", "digest": own["digest"]}
        assert found["other"]["digest"] != own["digest"]
        with pytest.raises(SpecError, match="does not exist"):
            asyncio.run(shared.backend.models(["/no/such/model"]))


class TestStarting:
    @pytest.fixture(autouse=True)
    def _alone(self, shared: Shared) -> None:
        shared.close()  # else a second engine gets a process of its own

    def test_a_model_without_chat_template_gets_the_texts(self, folder: Path) -> None:
        plain = make_model(folder / "plain", chat=False)
        engine = Shared(plain)
        try:
            parts = (Message("system", "Be brief."), Message("user", "dog"))
            joined, one = engine.generate([make_request(parts), make_request("Be brief.\n\ndog")])
            assert outcome(joined) == outcome(one)
        finally:
            engine.close()

    def test_what_the_template_refuses_is_said(self, folder: Path) -> None:
        strict = make_model(folder / "strict")
        (strict / "chat_template.jinja").write_text("{{ raise_exception('no system message') }}", encoding="utf-8")
        engine = Shared(strict)
        try:
            with pytest.raises(BackendError, match="no system message"):
                engine.generate([make_request("dog")])
        finally:
            engine.close()

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"max_modellen": 128}, SpecError, "max_modellen: there is no such option. Did you mean 'max_model_len'"),
            ({"max_model_len": 100_000}, SpecError, "max_model_len"),
            ({"dtype": "float13"}, SpecError, "dtype: 'float13'"),
            ({"kv_cache_memory_bytes": 4096}, BackendError, "the model does not fit"),
            ({"lora": {"a": "/no/adapter"}}, SpecError, "holds no adapter"),
        ],
    )
    def test_an_engine_that_cannot_start_says_why(
        self, llama: Path, options: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        backend = make_backend(llama, **options)
        with pytest.raises(error, match=re.escape(message)):
            asyncio.run(backend.open())
        asyncio.run(backend.aclose())


class TestParallel:
    def test_two_engines_share_the_requests_and_one_that_dies_costs_no_text(self, shared: Shared, llama: Path) -> None:
        asks = [make_request(f"dog {n}", seed=n, temperature=1.0, max_tokens=160, min_tokens=160) for n in range(48)]
        expected = [done.text for done in shared.generate(asks)]
        engine = Shared(llama, data_parallel_size=2, max_num_seqs=24)

        async def scenario(backend: VllmBackend) -> None:
            async def begun() -> list[asyncio.Future[Any]]:
                tasks = [asyncio.ensure_future(backend.generate(ask)) for ask in asks]
                async with asyncio.timeout(60):
                    while backend.stats()["running"] <= 24:  # more than one engine has places for
                        await asyncio.sleep(0.001)
                return tasks

            assert (await backend.open()).concurrency == 48 + 12
            done = await asyncio.gather(*await begun())
            assert [one.text for one in done] == expected
            assert all(0 < one.first_token_seconds < one.seconds for one in done)

            wrong = asking(asks[0], regex="(")
            fine, refused = await asyncio.gather(*map(backend.generate, (asks[0], wrong)), return_exceptions=True)
            assert isinstance(refused, BackendError) and fine.text == expected[0]

            tasks = await begun()
            for task in tasks[1:]:
                task.cancel()
            assert (await tasks[0]).text == expected[0]
            await asyncio.gather(*tasks, return_exceptions=True)
            assert backend.stats()["running"] == 0

            tasks = await begun()
            os.kill(engine.processes()[1], signal.SIGKILL)
            assert [one.text for one in await asyncio.gather(*tasks)] == expected
            assert any("unfinished texts are written anew" in text for text in engine.told)

        try:
            engine.run(scenario)
            left = engine.processes()
        finally:
            engine.close()
        assert len(left) == 2 and not any(map(alive, left))


class TestDeath:
    def test_a_killed_engine_is_started_again_and_every_text_is_written(self, shared: Shared, llama: Path) -> None:
        asks = [make_request(f"dog {n}", seed=n, temperature=1.0, max_tokens=200, min_tokens=200) for n in range(16)]
        expected = [done.text for done in shared.generate(asks)]
        engine = Shared(llama, in_process=False)

        async def scenario(backend: VllmBackend) -> list[str]:
            tasks = [asyncio.ensure_future(backend.generate(ask)) for ask in asks]
            while backend.stats()["running"] < len(asks):
                await asyncio.sleep(0.001)
            (process,) = engine.processes()
            os.kill(process, signal.SIGKILL)
            done = await asyncio.gather(*tasks)
            return [one.text for one in done]

        try:
            assert engine.run(scenario) == expected
            assert any("16 unfinished texts are written anew" in text for text in engine.told)
        finally:
            engine.close()

    def test_a_study_that_was_killed_repeats_no_finished_text(self, llama: Path, tmp_path: Path) -> None:
        rows = [json.dumps({"id": f"r{n}", "text": f"row {n}", "answer": "the order"}) for n in range(40)]
        (tmp_path / "data.jsonl").write_text("\n".join(rows), encoding="utf-8")
        (tmp_path / "study.toml").write_text(STUDY.format(model=llama), encoding="utf-8")
        with started(tmp_path) as process:
            while len(committed(tmp_path)) < 60:
                assert process.poll() is None, process.stderr.read() if process.stderr is not None else ""
                time.sleep(0.05)
            process.kill()
            process.wait()
        kept, before = committed(tmp_path), len(asked(tmp_path))
        with started(tmp_path) as process:
            out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert json.loads(out)["verdict"] in ("improved", "not shown", "worse")
        assert asked(tmp_path)[before:], "there was something left to do"
        assert not kept & set(asked(tmp_path)[before:])
        assert kept < committed(tmp_path)


STUDY = """
name = "killed"
storage = "sqlite:///killed.db"
[dataset]
path = "data.jsonl"
reference = "answer"
holdout = 0.4
[prompt]
user = "{{{{ text }}}}"
[backend]
kind = "tests.real.vllm_engines:LoggedBackend"
model = "{model}"
options = {{ dtype = "float32", kv_cache_memory_bytes = 134217728, max_num_seqs = 8 }}
[space]
temperature = {{ low = 0.1, high = 1.5 }}
[baseline]
temperature = 0.7
max_tokens = 32
[scorers.near]
kind = "chrf"
[budget]
trials = 6
"""
Asked = tuple[str, str, int, str]


def started(folder: Path) -> subprocess.Popen[str]:
    """The study's command, running."""
    command = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--quiet", "--json"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def committed(folder: Path) -> set[Asked]:
    """What was asked for every generation that is stored."""
    if not (folder / "killed.db").exists():
        return set()
    with closing(sqlite3.connect(f"file:{folder / 'killed.db'}?mode=ro", uri=True)) as connection:
        try:
            found = connection.execute("SELECT params, example_id, sample, phase FROM genopt_generations").fetchall()
        except sqlite3.OperationalError:  # not made yet
            return set()
    return {(json.dumps(json.loads(params), sort_keys=True), *rest) for params, *rest in found}


def asked(folder: Path) -> list[Asked]:
    """The lines of the log; a killed process may have left half a line."""
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line)) for line in lines if line.endswith("]")]
