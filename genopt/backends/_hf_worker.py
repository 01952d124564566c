"""Owns the thread that owns the model: the queue, who is admitted when, running out of memory, cancelling, closing.

It knows rows go in and finished rows come out; nothing of tensors, sampling or the shape of a request.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

import torch

from genopt.backends._failing import closed, fail
from genopt.backends._hf_batch import Batch
from genopt.backends._hf_beams import beam_search
from genopt.backends._hf_loading import LoadedModel
from genopt.backends._hf_rows import Finished, Row
from genopt.errors import BackendError, GenoptError

_LINGER_SECONDS = 0.002
_PATIENCE_STEPS = 4
_STEPS_BETWEEN_BEAMS = 16

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way: `prepare` makes its row, or its result at once, in the worker's thread.

    `alone` marks one of a batch that failed: it is decoded once more with the engine to itself.
    """

    prepare: Callable[[], Row | Finished]
    future: Future[Finished] = field(default_factory=Future)
    row: Row | None = None
    alone: bool = False


class Worker:
    """Runs jobs in one thread until it is closed; results arrive at the jobs' futures, which may be cancelled."""

    def __init__(self, loaded: LoadedModel, batch_size: int, tell: Callable[[str], None]) -> None:
        self._loaded = loaded
        self._tell = tell
        self._most = batch_size if loaded.batchable else 1
        self._arrived: deque[Job] = deque()
        self._waiting: deque[Job] = deque()
        self._beams: deque[Job] = deque()
        self._beaming = 0
        self._admitting: list[Job] = []
        self._batch = Batch(loaded)
        self._changed = threading.Condition()
        self._closing = False
        self._warned = False
        self._waited = 0
        self._since_beams = 0
        self._thread = threading.Thread(target=self._run, name="genopt-transformers", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; never blocks. After `close` it fails at once."""
        with self._changed:
            if not self._closing:
                self._arrived.append(job)
                self._changed.notify()
                return
        fail([job], closed())

    def stats(self) -> dict[str, float]:
        """How many texts are being written and how many wait. May be called from any thread."""
        waiting = len(self._arrived) + len(self._waiting) + len(self._beams)
        return {"running": len(self._batch.rows) + self._beaming, "waiting": waiting}

    def close(self) -> None:
        """End the thread after its current step; whatever is unfinished gets a BackendError. Blocks; safe twice."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    self._intake()
                    self._drop_cancelled()
                    try:
                        self._turn()
                    except Exception as error:
                        self._recover(error)
        finally:
            with self._changed:
                self._closing = True  # whatever ended the thread, nobody is to wait for it
            running = [row.owner for row in self._batch.rows] + self._admitting
            fail([*running, *self._waiting, *self._beams, *self._arrived], closed())
            self._batch = Batch(self._loaded)

    def _wait(self) -> bool:
        """Sleep until there is work; False when the worker is to end."""
        idle = not (self._batch.rows or self._waiting or self._beams)
        with self._changed:
            if idle and not self._arrived and not self._closing:
                self._changed.wait_for(lambda: self._closing or bool(self._arrived))
                linger = True
            else:
                linger = False
            if self._closing:
                return False
        if linger:
            time.sleep(_LINGER_SECONDS)  # requests come in bursts: the first one is not to run alone
        return True

    def _intake(self) -> None:
        """Turn what has arrived into rows."""
        while self._arrived:
            job = self._arrived.popleft()
            if job.future.cancelled():
                continue
            try:
                made = job.prepare()
            except Exception as error:
                fail([job], _as_backend_error(error))
                continue
            if isinstance(made, Finished):
                _finish(job, made)
                continue
            made.owner, job.row = job, made
            (self._beams if made.decoding.num_beams > 1 else self._waiting).append(job)

    def _drop_cancelled(self) -> None:
        self._waiting = deque(job for job in self._waiting if not job.future.cancelled())
        self._beams = deque(job for job in self._beams if not job.future.cancelled())
        if cancelled := [row for row in self._batch.rows if row.owner.future.cancelled()]:
            self._batch.drop(cancelled)

    def _turn(self) -> None:
        """Admit, decode one step, and now and then let a beam search have the model."""
        newcomers = self._newcomers()
        done = self._batch.admit([job.row.afresh() for job in newcomers if job.row]) if newcomers else []
        self._admitting = []
        done += self._batch.step()
        for finished in done:
            _finish(finished.row.owner, finished)
        self._since_beams += 1
        if self._beams and (not self._batch.rows or self._since_beams >= _STEPS_BETWEEN_BEAMS):
            self._since_beams = 0
            self._search(self._beams.popleft())

    def _newcomers(self) -> list[Job]:
        """Who joins now. A prefill interrupts everyone, so a few newcomers wait a few steps for each other."""
        rows = self._batch.rows
        running = len(rows)
        free = self._most - running
        if not self._waiting or free <= 0 or (running and not self._loaded.joinable):
            return []
        if self._waiting[0].alone or (rows and rows[0].owner.alone):
            free = 0 if rows else 1
        enough = min(free, max(1, self._most // 8))
        self._waited += 1
        if running and len(self._waiting) < enough and self._waited < _PATIENCE_STEPS:
            return []
        self._waited = 0
        alike: dict[tuple[int, ...], list[Job]] = {}  # the same prompts together: each is then computed once
        for job in self._waiting:
            alike.setdefault(job.row.prompt if job.row else (), []).append(job)
        ordered = [job for jobs in alike.values() for job in jobs]
        chosen, self._waiting = ordered[:free], deque(ordered[free:])
        self._admitting = chosen
        return chosen

    def _search(self, job: Job) -> None:
        self._beaming = 1
        try:
            assert job.row is not None
            _finish(job, beam_search(self._loaded, job.row.afresh()))
        except Exception as error:
            if _is_out_of_memory(error):
                self._free_memory()
                error = _too_big()
            fail([job], _as_backend_error(error))
        finally:
            self._beaming = 0

    def _recover(self, error: Exception) -> None:
        """A failed step: out of memory halves the batch and starts its rows again; anything else lets every row try
        once alone, so that it fails the guilty ones only."""
        jobs = list(dict.fromkeys([*(row.owner for row in self._batch.rows), *self._admitting]))
        jobs = [job for job in jobs if not job.future.done()]
        self._batch, self._admitting = Batch(self._loaded), []
        scarce = _is_out_of_memory(error)
        if scarce:
            self._free_memory()
        if len(jobs) <= 1:
            fail(jobs, _too_big() if scarce else _as_backend_error(error))
            return
        if scarce:
            self._most = max(1, len(jobs) // 2)
            if not self._warned:
                self._warned = True
                self._tell(f"out of memory with {len(jobs)} texts at once; going on with {self._most}")
        else:
            _log.debug("a batch of %d requests failed; each is tried alone", len(jobs), exc_info=error)
            for job in jobs:
                job.alone = True
        self._waiting.extendleft(reversed(jobs))

    def _free_memory(self) -> None:
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()


def _finish(job: Job, finished: Finished) -> None:
    try:
        job.future.set_result(finished)
    except InvalidStateError:
        return  # cancelled meanwhile


def _too_big() -> BackendError:
    return BackendError(
        "out of memory with a single text", hint="Use a smaller model, shorter prompts, fewer beams or dtype bfloat16"
    )


def _as_backend_error(error: Exception) -> BackendError:
    if isinstance(error, BackendError):
        return error
    made = BackendError(str(error) if isinstance(error, GenoptError) else f"{type(error).__name__}: {error}")
    made.__cause__ = error
    return made


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
