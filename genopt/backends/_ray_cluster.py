"""Owns the connection to Ray: a cluster that is there or a small one started here, and actors in it. The only file that
imports Ray, and only when a study connects.

A cluster that is started here listens on the loopback address, has no dashboard and reports nothing to anybody.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genopt.backends._ray_actor import EngineActor
from genopt.errors import BackendError, MissingExtra, SpecError
from genopt.spec.mistakes import hint

OWN = ("address", "num_cpus", "num_gpus", "resources", "start_timeout")
AT_ONCE = 10_000  # calls that one actor may have before it; how many it should have is for the dispatch to say
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # where it is 0 Ray's servers bind to the loopback address
CODE_LIMIT = 5 * 2**20  # bytes of Python that travel to the actors


@dataclass(frozen=True, slots=True)
class Options:
    """`[backend.options]` with kind = "ray".

    address        "auto", "host:port" or "ray://host:port"; None: RAY_ADDRESS, or a cluster started here
    num_cpus       cores that Ray sets aside for one actor
    num_gpus       GPUs likewise; None: tensor_, pipeline_ and data_parallel_size, multiplied, of an engine that uses
                   GPUs, where the cluster has any, else 0
    resources      Ray's custom resources that one actor asks for
    start_timeout  seconds until the first engine has to answer
    """

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    start_timeout: float = 1800.0


def options_of(given: Mapping[str, Any]) -> Options:
    """The options of a study file. Raises SpecError with every mistake."""

    def number(name: str, least: float) -> bool:
        value = given.get(name, least)
        return isinstance(value, int | float) and not isinstance(value, bool) and value >= least

    problems = [f"{name}: there is no such option.{hint(name, OWN)}" for name in given if name not in OWN]
    resources = given.get("resources", {})
    checks = {
        "address": (isinstance(given.get("address", ""), str), 'a text such as "auto" or "ray://head:10001"'),
        "num_cpus": (number("num_cpus", 0), "a number from 0 on"),
        "num_gpus": (number("num_gpus", 0), "a number from 0 on"),
        "resources": (
            isinstance(resources, Mapping) and all(isinstance(v, int | float) and v > 0 for v in resources.values()),
            "a table of numbers above 0",
        ),
        "start_timeout": (number("start_timeout", 1), "a number of seconds"),
    }
    problems += [f"{name}: {given[name]!r} is not {what}" for name, (legal, what) in checks.items() if not legal]
    if problems:
        raise SpecError([f"backend.options.{problem}" for problem in problems])
    return Options(**given)


def code_of(folder: Path) -> dict[str, bytes]:
    """The Python files beside a study file and in packages there, by their path from the folder: what an actor needs to
    import the user's modules. No other file travels. Raises SpecError where they are more than a few megabytes."""
    found: dict[str, bytes] = {}

    def take(place: Path) -> None:
        for path in sorted(place.iterdir()):
            if path.is_dir() and not path.is_symlink() and (path / "__init__.py").is_file():
                take(path)
            elif path.suffix == ".py" and path.is_file():
                found[path.relative_to(folder).as_posix()] = path.read_bytes()

    take(folder)
    if (size := sum(map(len, found.values()))) > CODE_LIMIT:
        raise SpecError(
            f"backend.engine.kind: the Python files in {folder} ({size / 2**20:.0f} MB) are too many to send to the"
            " actors. Give the study a folder of its own, or install your module on every machine"
        )
    return found


class Cluster:
    """Ray, connected: `actor` starts one, `died` tells its death from other errors. Raises BackendError."""

    def __init__(self, options: Options, replicas: int) -> None:
        self._options, self._replicas = options, replicas
        self._ray: Any = None
        self._owned = False
        # Ray's programs end with the thread that started them, so that one has to live as long as the connection.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="genopt-ray")

    async def connect(self) -> str:
        """Connect, or start a cluster here; what it is, for people. Raises MissingExtra without Ray."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._connect)

    def actor(self, *args: Any, gpus: float) -> Any:
        """A new actor that holds an engine. It starts when the cluster has room for it."""
        options = self._options
        asked = {"num_cpus": options.num_cpus, "num_gpus": gpus, "resources": dict(options.resources) or None}
        made = self._ray.remote(EngineActor).options(
            **asked, max_concurrency=AT_ONCE, max_restarts=0, max_task_retries=0, scheduling_strategy="SPREAD"
        )
        return made.remote(*args)

    def has_gpus(self) -> bool:
        """True when some machine of the cluster has a GPU."""
        return bool(self._ray.cluster_resources().get("GPU", 0) > 0)

    def room(self) -> str:
        """What is free in the cluster, for people."""
        free = self._ray.available_resources()
        return f"{free.get('CPU', 0):g} cores and {free.get('GPU', 0):g} GPUs are free"

    @property
    def deaths(self) -> tuple[type[BaseException], ...]:
        """What a call raises when its actor, or the way to it, is gone."""
        told = self._ray.exceptions
        return (
            *(told.RayActorError, told.WorkerCrashedError, told.OutOfMemoryError, told.NodeDiedError),
            *(told.ObjectLostError, told.RaySystemError, ConnectionError),
        )

    def cancel(self, call: Any) -> None:
        """Cancel a call: it reaches the engine's coroutine."""
        self._ray.cancel(call, recursive=False)

    def kill(self, actor: Any) -> None:
        """End an actor at once."""
        self._ray.kill(actor, no_restart=True)

    async def aclose(self) -> None:
        """Disconnect, and end a cluster that was started here. Safe to call twice."""
        if self._owned:
            self._owned = False
            await asyncio.get_running_loop().run_in_executor(self._thread, self._ray.shutdown)
        await asyncio.to_thread(self._thread.shutdown)

    def _connect(self) -> str:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self._options.address or os.environ.get("RAY_ADDRESS")
        if address is None and "ray" not in sys.modules:  # read when Ray is imported, here and by its programs
            os.environ.setdefault(LOOPBACK, "0")
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray") from None
        self._ray = ray
        logging.getLogger("ray").setLevel(logging.ERROR)
        if ray.is_initialized():  # the caller's own connection, or that of another engine of the study
            return "Ray, as it is connected already"
        _keep_off_stdout(ray)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what Ray will do in later versions
                if address is None:
                    _bind_to_loopback(ray)
                    cores = max(os.cpu_count() or 1, math.ceil(self._replicas * self._options.num_cpus))
                    ray.init(
                        address="local",
                        num_cpus=cores,
                        include_dashboard=False,
                        log_to_driver=False,
                        configure_logging=False,
                        object_store_memory=128 * 2**20,  # requests and texts are small
                        _node_ip_address="127.0.0.1",
                    )
                else:
                    ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:
            what = "a cluster cannot be started here" if address is None else f"no cluster answers at {address}"
            raise BackendError(
                f"ray: {what} ({str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__})",
                hint="start one with `ray start --head`, and check backend.options.address and that Ray and Python"
                " have the same versions everywhere",
            ) from error
        self._owned = True
        return "a Ray cluster started here" if address is None else f"the Ray cluster at {address}"


def _bind_to_loopback(ray: Any) -> None:
    """The same as LOOPBACK in the environment, where Ray was imported before."""
    os.environ.setdefault(LOOPBACK, "0")
    ray._private.ray_constants.ENABLE_RAY_CLUSTER = False


def _keep_off_stdout(ray: Any) -> None:
    """Ray prints the deaths of its workers on stdout, which is for data; they are told in other words."""
    log = logging.getLogger(__name__)
    ray._private.worker.print_to_stdstream = lambda data, *_, **__: log.info("%s", data.get("lines"))
