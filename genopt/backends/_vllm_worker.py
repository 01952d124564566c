"""Owns the thread that owns the engine: who is admitted when, cancelling, a change of models, an engine that dies.

It knows requests and finished texts, and an engine that can add, step, abort and close; nothing of vLLM itself.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from typing import Any, Protocol

from genopt.backends._failing import closed, fail
from genopt.backends._vllm_queue import Job, Queue
from genopt.errors import BackendError, GenoptError
from genopt.types import Generation, Request

_LINGER = 0.002  # seconds between two requests of one burst at most
_BURST = 0.05  # seconds that a burst is waited for at most
_DEATHS = 8  # in a row without a finished text, until the engine is given up
_LONGEST_PAUSE = 60.0  # seconds before a new start

_log = logging.getLogger(__name__)


class Counting(Protocol):
    """An engine's own counters."""

    prompt_tokens: int
    cached_tokens: int

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def kv_cache(self) -> float: ...


class Running(Protocol):
    """A started engine, as `_vllm_engine.Engine` has it."""

    @property
    def slots(self) -> int: ...
    @property
    def concurrency(self) -> int: ...
    @property
    def counters(self) -> Counting: ...
    def add(self, name: str, request: Request) -> Generation | None: ...
    def step(self) -> list[tuple[str, Generation | BackendError]]: ...
    def abort(self, names: Sequence[str]) -> None: ...
    def close(self) -> None: ...


class Worker:
    """Runs requests in one thread until it is closed; results arrive at the jobs' futures, which may be cancelled.

    `load` starts the engine of a model, in the thread. `sleep` waits before a new start; True ends the waiting early.
    """

    def __init__(
        self,
        load: Callable[[str], Running],
        model: str,
        tell: Callable[[str], None],
        *,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
    ) -> None:
        self._load, self._tell, self._pause = load, tell, wait
        self._model = model
        self._engine: Running | None = None
        self._arrived: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._waiting = Queue()
        self._inside: dict[str, Job] = {}
        self._limit = 1
        self._count = 0
        self._deaths = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._ended: BackendError | None = None
        self.ready: Future[None] = Future()
        self.changes, self.seconds_changing = 0, 0.0
        self._thread = threading.Thread(target=self._run, name="genopt-vllm", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; never blocks. After the end of the engine it fails at once."""
        job.future.add_done_callback(lambda future: self._left(job) if future.cancelled() else None)
        with self._changed:
            if self._ended is None:
                self._arrived.append(job)
                self._changed.notify()
                return
        fail([job], self._ended)

    def stats(self) -> dict[str, float]:
        """What the engine is doing by its own counters, and what waits for it. May be called from any thread."""
        engine = self._engine
        waiting = len(self._arrived) + len(self._waiting)
        if engine is None:
            return {"running": 0, "waiting": waiting}
        now, busy = engine.counters, bool(self._inside)
        return {
            "running": now.running if busy else 0,
            "waiting": waiting + (now.waiting if busy else 0),
            "prefix_hits": now.cached_tokens / now.prompt_tokens if now.prompt_tokens else 0.0,
            "kv_cache": now.kv_cache if busy else 0.0,
            "concurrency": engine.concurrency,
            "prompt_tokens_computed": now.prompt_tokens - now.cached_tokens,
            "model_changes": self.changes,
            "seconds_changing": self.seconds_changing,
        }

    def close(self) -> None:
        """End the engine after its current step; whatever is unfinished gets a BackendError. Blocks; safe twice."""
        atexit.unregister(self.close)
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()

    def _left(self, job: Job) -> None:
        self._cancelled.append(job)
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        try:
            self._start(self._model)
        except BaseException as error:
            self._end(closed())
            self.ready.set_exception(error)
            return
        atexit.register(self.close)  # Python's own end waits for ever for an engine's process that nobody ended
        self.ready.set_result(None)
        try:
            while self._wait():
                while self._arrived:
                    self._waiting.put(self._arrived.popleft())
                try:
                    self._turn()
                except Exception as error:
                    self._recover(error)
        finally:
            self._end(self._ended or closed())
            self._stop()

    def _start(self, model: str) -> None:
        self._engine = self._load(model)
        self._model = model
        self._limit = self._most()

    def _stop(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def _most(self) -> int:
        """Requests that are handed over at once: a few more than run, so that a free slot is filled without a word."""
        assert self._engine is not None
        return self._engine.slots + self._engine.slots // 8

    def _wait(self) -> bool:
        """Sleep until there is work; False when the worker is to end."""
        with self._changed:
            idle = not (self._inside or self._arrived or len(self._waiting))
            if idle:
                self._changed.wait_for(lambda: self._closing.is_set() or bool(self._arrived))
        if idle:
            self._gather()
        return not self._closing.is_set() and self._ended is None

    def _gather(self) -> None:
        """Wait for the requests that come now, until the slots are full or the burst is over: a step costs nearly as
        much with a few, and one that begins with the first of them leaves the others a step behind for good."""
        until = time.monotonic() + _BURST
        slots = self._engine.slots if self._engine is not None else 1
        room = slots - len(self._waiting) - len(self._inside)
        with self._changed:
            while (known := len(self._arrived)) < room:
                more = self._changed.wait_for(lambda: len(self._arrived) > known or self._closing.is_set(), _LINGER)
                if not more or self._closing.is_set() or time.monotonic() > until:
                    return

    def _turn(self) -> None:
        """Let go of the cancelled, admit, and take one step."""
        gone = [job.name for job in self._drain() if self._inside.pop(job.name, None) is not None]
        if gone and self._engine is not None:
            self._engine.abort(gone)
        models = self._waiting.models()
        if models and not self._inside and (self._engine is None or self._model not in models):
            self._change(models[0])
        if self._engine is not None:
            self._admit(self._engine)
            if self._inside:
                finished = self._engine.step()
                for name, done in finished:
                    self._finish(name, done)
                if len(finished) > self._engine.slots // 8:
                    self._gather()  # who got a text asks for the next

    def _drain(self) -> Iterable[Job]:
        while self._cancelled:
            yield self._cancelled.popleft()

    def _admit(self, engine: Running) -> None:
        """Hand over what there is room for. What the engine itself lets wait has no room in its cache: then the order
        in which the rest gets there is still to be chosen."""
        if self._inside and engine.counters.waiting > engine.slots // 8:
            return
        while len(self._inside) < self._limit and (job := self._waiting.take(self._model)) is not None:
            self._count += 1
            job.name, job.added = f"genopt-{self._count}", time.perf_counter()
            self._inside[job.name] = job
            try:
                done = engine.add(job.name, job.request)
            except BackendError as error:
                del self._inside[job.name]
                fail([job], error)
            else:
                if done is not None:
                    self._finish(job.name, done)

    def _finish(self, name: str, done: Generation | BackendError) -> None:
        job = self._inside.pop(name, None)
        if job is None:
            return  # cancelled meanwhile
        self._deaths = 0
        self._limit = min(self._limit + 1, self._most())
        if isinstance(done, BackendError):
            fail([job], done)
            return
        first = done.first_token_seconds
        done = replace(
            done,
            seconds=time.perf_counter() - job.arrived,
            first_token_seconds=None if first is None else first + job.added - job.arrived,
        )
        try:
            job.future.set_result(done)
        except InvalidStateError:
            return  # cancelled meanwhile

    def _change(self, model: str) -> None:
        """Another model takes the place of the loaded one; the requests for one that cannot be loaded fail."""
        began = time.perf_counter()
        before = self._model if self._engine is not None else ""
        self._stop()
        try:
            self._start(model)
        except Exception as error:
            while (job := self._waiting.take(model)) is not None:
                fail([job], _as_backend_error(error))
            return
        self.changes += 1
        seconds = time.perf_counter() - began
        self.seconds_changing += seconds
        if before:
            self._tell(f"{before} made room for {model} in {seconds:.0f} s ({self.changes}. change of models)")

    def _recover(self, error: Exception) -> None:
        """A broken engine: a new one, and what was unfinished runs again, a quarter as much at once: that finds the
        request that is to blame, if one is, and what is too much, if that was it."""
        jobs = [job for job in self._inside.values() if not job.future.done()]
        most = len(jobs)
        self._inside.clear()
        self._stop()
        self._deaths += 1
        words = f"vLLM's engine died: {type(error).__name__}: {error}".rstrip(": ")
        _log.debug("the engine died", exc_info=error)
        if self._deaths >= _DEATHS:
            self._end(_because(BackendError(f"{words} ({self._deaths} times in a row)"), error), jobs)
            return
        if most == 1:
            fail(jobs, _because(BackendError(f"{words}, with this request alone in it"), error))
        else:
            for job in jobs:
                self._waiting.put(job)
        pause = min(float(2 ** (self._deaths - 1)), _LONGEST_PAUSE)
        self._tell(f"{words}. It starts again in {pause:g} s; {most} unfinished texts are written anew")
        if self._pause(self._closing, pause):
            return
        try:
            self._start(self._model)
        except Exception as failure:
            self._recover(failure)
        else:
            self._limit = max(1, most // 4)

    def _end(self, error: BackendError, jobs: Sequence[Job] = ()) -> None:
        """From now on everything fails with this error."""
        with self._changed:
            self._ended = error
        left = [*jobs, *self._inside.values(), *self._arrived]
        for model in self._waiting.models():
            while (job := self._waiting.take(model)) is not None:
                left.append(job)
        self._inside.clear()
        self._arrived.clear()
        fail(left, error)


def _because(error: BackendError, cause: BaseException) -> BackendError:
    error.__cause__ = cause
    return error


def _as_backend_error(error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    hint: Any = error.hint if isinstance(error, GenoptError) else ""
    text = str(error) if isinstance(error, GenoptError) else f"{type(error).__name__}: {error}"
    return _because(BackendError(text, hint=hint), error)
