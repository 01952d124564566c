"""Owns the ray engine: one driver, and another engine in many actors over a cluster.

The adapter keeps its actors alive and joins its parts; which engine gets a request, what runs in an actor and the
connection to Ray are the `_ray_*` files beside it. Ray is imported when the engine is opened, not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from genopt.backends import make_backend
from genopt.backends._ray_actor import answered, result
from genopt.backends._ray_cluster import Cluster, code_of, options_of
from genopt.backends._ray_dispatch import Dispatch, Engine
from genopt.errors import BackendError, GenoptError, SpecError
from genopt.spec import BackendSpec, EngineSpec
from genopt.types import Backend, BackendInfo, Generation, Request

T = TypeVar("T")
DEATHS = 4  # engines that may die under one request before it is given up: it may be what kills them
STARTS = 6  # starts in a row that may fail before a replica is given up
LONGEST_PAUSE = 60.0  # seconds between two starts of a replica
LOOK = 2.0  # seconds between two looks at an engine that answers
PARALLEL = ("tensor", "pipeline", "data")
ON_GPUS = ("vllm", "transformers")

_log = logging.getLogger(__name__)


class RayBackend:
    """Many engines as one: `engine` in up to `replicas` actors of a Ray cluster, each in a process of its own.

    It honours what the inner engine honours and is known by the inner engine's identity, so that a study may move
    between one engine and many; replicas that turn out to be another engine than the first are not used. Requests go to
    the least loaded engine, those of one example to the same one while it is not much busier (see Dispatch). Replicas
    start when the cluster has room and take part at once, also while a study runs; the concurrency is that of all. A
    replica that dies is started again, with growing pauses, and its requests go to the others.

    A user's engine ("my_file:Engine") is found on the actors because the Python files of the study's folder travel; no
    other file does, and no variable of the environment: an API key has to be set on the machines that use it. Images
    travel with their requests. A model's folder has to be at the same path on every machine.

    Options: address ("auto", "host:port", "ray://host:port"; default RAY_ADDRESS, else a cluster started here, on the
    loopback address); num_cpus and num_gpus and resources of one actor; start_timeout (seconds until the first engine
    answers). Raises SpecError for an option that does not exist, here or in the engine.
    """

    tell: Callable[[str], None] = staticmethod(_log.info)

    def __init__(
        self,
        *,
        model: str,
        options: Mapping[str, Any] | None = None,
        engine: EngineSpec | None = None,
        replicas: int | None = None,
        folder: Path | None = None,
    ) -> None:
        if engine is None:
            raise SpecError(
                'backend.engine: is missing. Say which engine runs on Ray: { kind = "vllm", model = "..." }'
            )
        self._options = options_of(options or {})
        self._engine, self._replicas, self._folder = engine, replicas or 1, folder or Path.cwd()
        inner = self._unopened()
        if (known := getattr(inner, "known", None)) is not None:
            self.known: BackendInfo = known
        if hasattr(inner, "models"):
            self.models = self._models
        self._code = {} if ":" not in engine.kind else code_of(self._folder)
        self._info: BackendInfo | None = None
        self._cluster: Cluster | None = None
        self._dispatch = Dispatch()
        self._keepers: list[asyncio.Task[None]] = []
        self._first: asyncio.Future[BackendInfo]
        self._gone: dict[int, asyncio.Event] = {}
        self._stats: dict[int, Mapping[str, float]] = {}
        self._said: set[str] = set()
        self._opening = asyncio.Lock()

    async def open(self) -> BackendInfo:
        """Connect and return when the first engine answers; the others join as they are ready. Raises MissingExtra
        without Ray, BackendError where no cluster or no engine answers, and what the inner engine raises."""
        async with self._opening:
            if self._info is not None:
                return self._info
            self._dispatch, self._said = Dispatch(), set()
            self._cluster = Cluster(self._options, self._replicas)
            self._first = asyncio.get_running_loop().create_future()
            try:
                self.tell(f"connecting to {self._options.address or 'Ray'}")
                where = await self._cluster.connect()
                self.tell(f"{where}: starting up to {self._replicas} engines")
                gpus = self._gpus(self._cluster)
                self._keepers = [asyncio.ensure_future(self._keep(n, gpus)) for n in range(1, self._replicas + 1)]
                info = await asyncio.wait_for(asyncio.shield(self._first), self._options.start_timeout)
            except TimeoutError:
                room = self._cluster.room()
                await self._end()
                raise BackendError(
                    f"ray: no engine answered within {self._options.start_timeout:g} s; {room}",
                    hint="check what one actor asks for (backend.options num_cpus, num_gpus, resources)",
                ) from None
            except BaseException:
                await asyncio.shield(self._end())
                raise
            self._info = info
            return info

    async def generate(self, request: Request) -> Generation:
        """One text, from whichever engine has room. Cancelling reaches that engine; when it dies, another is asked."""
        if self._info is None or self._cluster is None:
            raise BackendError("the engine is not open", hint="await backend.open() first")
        cluster = self._cluster
        paths = {path for message in request.messages for path in message.images}
        images = {path: await asyncio.to_thread(Path(path).read_bytes) for path in paths}
        for _ in range(DEATHS):
            engine = await self._dispatch.take(request.example_id)
            try:
                call = engine.handle.generate.remote(request, images)
                try:
                    outcome = await call
                except asyncio.CancelledError:
                    cluster.cancel(call)
                    raise
            except cluster.deaths:
                self._dispatch.leave(engine)
                if engine.number in self._gone:
                    self._gone[engine.number].set()
                continue
            finally:
                self._dispatch.give_back(engine)
            return answered(outcome, f"engine {engine.number}")
        raise BackendError(f"{DEATHS} engines died while they worked on this request: it may be what ends them")

    def stats(self) -> dict[str, float]:
        """How many engines answer, what they do in sum, and what waits here."""
        if self._info is None:
            return {}
        told = in_sum(list(self._stats.values()), self._replicas)
        told["waiting"] = told.get("waiting", 0) + self._dispatch.waiting
        told["running"] = told.get("running", sum(engine.running for engine in self._dispatch.engines.values()))
        return told | {"engines": len(self._dispatch.engines)}

    async def aclose(self) -> None:
        """End the engines, and the cluster where it was started here. Safe to call twice."""
        self._info = None
        await self._end()

    async def _models(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """As the inner engine's `models`."""
        engine = await self._dispatch.take("")
        try:
            found: dict[str, dict[str, str]] = result(await engine.handle.models.remote(list(names)), "an engine")
            return found
        finally:
            self._dispatch.give_back(engine)

    def _unopened(self) -> Backend:
        spec = BackendSpec(kind=self._engine.kind, model=self._engine.model, options=self._engine.options)
        try:
            return make_backend(spec, self._folder)
        except SpecError as error:
            told = [problem.replace("backend.", "backend.engine.", 1) for problem in error.problems]
            raise SpecError(told, hint=error.hint) from None

    def _gpus(self, cluster: Cluster) -> float:
        if self._options.num_gpus is not None:
            return self._options.num_gpus
        if self._engine.kind not in ON_GPUS or not cluster.has_gpus():
            return 0
        return float(math.prod(self._engine.options.get(f"{what}_parallel_size", 1) for what in PARALLEL))

    async def _keep(self, number: int, gpus: float) -> None:
        """Keep one replica alive until the engine is closed, or for good reason no longer."""
        assert self._cluster is not None
        failures, reason = 0, ""
        while failures < STARTS:
            if failures:
                await asyncio.sleep(min(LONGEST_PAUSE, 2.0 ** (failures - 1)))
            began, actor = time.monotonic(), None
            try:
                actor = self._start(gpus)
                await self._serve(number, actor, gpus)
                return  # it is another engine than the first: never used
            except GenoptError as error:
                reason = str(error)
                if not self._first.done() and not getattr(error, "retryable", False):
                    self._first.set_exception(error)
                    return
            except Exception as error:  # its death, or a fault in the engine's code
                reason = _in_short(error)
            finally:
                self._gone.pop(number, None)
                self._stats.pop(number, None)
                if actor is not None:
                    with contextlib.suppress(Exception):
                        self._cluster.kill(actor)
            failures = 1 if time.monotonic() - began > LONGEST_PAUSE else failures + 1
            self._once(f"engine {number} ended ({reason}): its requests go to the others, and it is started again")
        self.tell(f"engine {number} is given up: {STARTS} starts in a row failed ({reason})")
        if not any(not keeper.done() for keeper in self._keepers if keeper is not asyncio.current_task()):
            self._over(BackendError(f"ray: no engine is left ({reason})", hint="see what the engines said above"))

    def _start(self, gpus: float) -> Any:
        assert self._cluster is not None
        folder, engine = self._folder, self._engine
        model = str((folder / engine.model).resolve()) if (folder / engine.model).is_dir() else engine.model
        return self._cluster.actor(engine.kind, model, engine.options, str(folder), self._code, gpus=gpus)

    async def _serve(self, number: int, actor: Any, gpus: float) -> None:
        """Open the actor's engine, let it take part, and look after it until it is gone. Raises what ended it."""
        where = await self._news(actor, _awaited(actor.where.remote()), gpus)
        info: BackendInfo = result(await self._news(actor, _awaited(actor.open.remote()), None), where)
        first = self._first.result() if self._first.done() else info
        if (dict(info.identity), dict(info.defaults)) != (dict(first.identity), dict(first.defaults)):
            differs = [k for k, v in first.identity.items() if info.identity.get(k) != v] or ["defaults"]
            self.tell(f"engine {number} on {where} is not used: its {', '.join(differs)} is another than the others'")
            return
        engine = Engine(number, actor, info.concurrency)
        gone = self._gone[number] = asyncio.Event()
        self._dispatch.join(engine)
        self.tell(f"engine {number} answers ({len(self._dispatch.engines)} of {self._replicas}, on {where})")
        if not self._first.done():
            self._first.set_result(_all_of(info, self._replicas))
        try:
            while not gone.is_set():
                self._stats[number] = told = await actor.stats.remote()
                self._dispatch.resize(engine, int(told.get("concurrency", info.concurrency)))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(gone.wait(), LOOK)
            await actor.stats.remote()  # raises what ended it
            raise BackendError("the way to it was cut", retryable=True)
        finally:
            self._dispatch.leave(engine)

    async def _news(self, actor: Any, work: Coroutine[Any, Any, T], gpus: float | None) -> T:
        """What `work` gives, while what the actor says is told; `gpus` while it waits for room."""
        task, began = asyncio.ensure_future(work), time.monotonic()
        try:
            while not (await asyncio.wait({task}, timeout=0.5))[0]:
                if gpus is None:
                    for line in await actor.news.remote():
                        self._once(line)
                elif time.monotonic() - began > 5 and self._cluster is not None:
                    asked = f"{self._options.num_cpus:g} cores and {gpus:g} GPUs"
                    self._once(f"engines wait for room in the cluster: one asks for {asked}, {self._cluster.room()}")
                    began = time.monotonic() + 55
            return await task
        finally:
            task.cancel()

    def _once(self, text: str) -> None:
        """Tell something that many replicas may say."""
        if text not in self._said:
            self._said.add(text)
            self.tell(text)

    def _over(self, error: BackendError) -> None:
        if not self._first.done():
            self._first.set_exception(error)
        self._dispatch.end(error)

    async def _end(self) -> None:
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        engines = list(self._dispatch.engines.values())
        closing = [_awaited(engine.handle.aclose.remote()) for engine in engines]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), 20)
        await asyncio.gather(*keepers, return_exceptions=True)  # each kills its actor
        self._dispatch.end(BackendError("the engine was closed"))
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.aclose()
        if hasattr(self, "_first") and self._first.done() and not self._first.cancelled():
            self._first.exception()  # it was told, or nobody asks any more


def in_sum(each: Sequence[Mapping[str, float]], replicas: int) -> dict[str, float]:
    """What engines do together, of what each says: a sum, but for shares; what they take at once is told of all
    `replicas`, as `open` does, those too that have not said anything yet."""
    found: dict[str, list[float]] = {}
    for stats in each:
        for name, value in stats.items():
            found.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    times = {"prefix_hits": 1, "kv_cache": 1, "concurrency": replicas}
    return {name: mean * times.get(name, len(found[name])) for name, mean in means.items()}


def _all_of(info: BackendInfo, replicas: int) -> BackendInfo:
    slots = None if info.slots is None else info.slots * replicas
    return replace(info, concurrency=info.concurrency * replicas, slots=slots)


def _in_short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


async def _awaited(call: Any) -> Any:
    return await call
