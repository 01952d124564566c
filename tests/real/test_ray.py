"""The ray engine on a real Ray: the contract with the embedded engine in actors, deaths, nodes that join, a study."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from genopt.backends import make_backend
from genopt.backends.ray import RayBackend
from genopt.errors import BackendError, SpecError
from genopt.spec import BackendSpec
from genopt.testing import BackendContract, Scenario
from genopt.types import Backend, BackendInfo, Generation, Message, Request
from tests import tiny_models
from tests.processes import ROOT, write_study
from tests.studies import query
from tests.toy import DEFAULTS

pytest.importorskip("ray", reason="needs Ray")
pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::ResourceWarning")]  # Ray's own files and sockets

TOY = "tests.toy:ToyBackend"


class Loop:
    """An event loop in a thread: engines with tasks of their own outlive one test on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()

    def run(self, work: Coroutine[Any, Any, Any], seconds: float = 120) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def many(folder: Path, engine: Mapping[str, Any], replicas: int = 2, **options: Any) -> RayBackend:
    spec = BackendSpec(kind="ray", engine=dict(engine), replicas=replicas, options=options)
    made = make_backend(spec, folder)
    assert isinstance(made, RayBackend)
    return made


@pytest.fixture(scope="module")
def cluster(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A local cluster as the engine starts one, with one free core, which all tests of this file share; what the engine
    said of it."""
    taken = (os.cpu_count() or 1) - 1
    first, told = many(tmp_path_factory.mktemp("first"), {"kind": TOY, "model": "toy"}, 1, num_cpus=taken), []
    first.tell = told.append
    loop.run(first.open())
    yield told
    loop.run(first.aclose())


@pytest.fixture(scope="module")
def llamas(loop: Loop, cluster: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayBackend]:
    folder = tmp_path_factory.mktemp("llama")
    tiny_models.make_llama(folder / "llama")
    engine = {"kind": "transformers", "model": "llama", "options": {"threads": 1, "device": "cpu"}}
    made = many(folder, engine, num_cpus=0)
    yield made
    loop.run(made.aclose())


class TestContract(BackendContract):
    @pytest.fixture(autouse=True)
    def _engines(self, llamas: RayBackend, loop: Loop) -> None:
        self.shared, self.loop = llamas, loop

    def backend(self) -> Backend:
        return self.shared

    def run(self, scenario: Scenario) -> None:
        """On the engines that all tests share: starting them takes most of a test's time."""

        async def on_them() -> None:
            info = await self.shared.open()
            while len(self.shared._dispatch.engines) < 2:
                await asyncio.sleep(0.05)
            await scenario(self.shared, info)

        self.loop.run(on_them())

    async def _reopened(self) -> BackendInfo:
        await self.shared.aclose()
        return await self.shared.open()


def asked(n: int) -> Request:
    return Request((Message("user", f"Is {n} right?"),), DEFAULTS, n, f"r{n}")


def on(
    loop: Loop, backend: RayBackend, scenario: Callable[[BackendInfo], Coroutine[Any, Any, None]], replicas: int = 2
) -> list[str]:
    """Runs the scenario when all replicas answer, closes the engine; what it said."""
    told: list[str] = []
    backend.tell = told.append

    async def session() -> None:
        try:
            info = await backend.open()
            while len(backend._dispatch.engines) < replicas:
                await asyncio.sleep(0.05)
            await scenario(info)
        finally:
            await backend.aclose()

    loop.run(session())
    return told


def logged(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []


@pytest.mark.usefixtures("cluster")
class TestActors:
    def test_a_local_cluster_listens_on_the_loopback_address_alone(self, cluster: list[str]) -> None:
        assert "a Ray cluster started here" in " ".join(cluster)
        ours = {int(line.split()[0]) for line in _processes() if "/ray/" in line or "ray::" in line}
        listening = [(pid, address) for pid, address in _listening() if pid in ours | {os.getpid()}]
        assert len(listening) >= 4  # gcs, raylet, this process
        assert {address.rpartition(":")[0] for _, address in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}

    def test_concurrency_is_the_sum_and_all_actors_work(self, loop: Loop, tmp_path: Path) -> None:
        backend = many(tmp_path, {"kind": TOY, "model": "toy", "options": {"delay": 0.1}}, num_cpus=0)

        async def scenario(info: BackendInfo) -> None:
            assert info.concurrency == 32 and info.identity["engine"] == "toy"
            jobs = [asyncio.ensure_future(backend.generate(asked(n))) for n in range(40)]
            await asyncio.sleep(0.03)
            assert [e.running for e in backend._dispatch.engines.values()] == [16, 16]
            assert backend.stats()["waiting"] == 8 and backend.stats()["engines"] == 2
            assert {done.text for done in await asyncio.gather(*jobs)} == {"yes", "no"}

        on(loop, backend, scenario)

    def test_cancelling_reaches_the_engine_in_the_actor(self, loop: Loop, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "from tests.toy import ToyBackend\n"
            "class Mine(ToyBackend):\n    def stats(self): return {'cancelled': self.cancelled}\n"
        )
        backend = many(tmp_path, {"kind": "mine:Mine", "model": "toy", "options": {"delay": 30}}, 1, num_cpus=0)

        async def scenario(info: BackendInfo) -> None:
            jobs = [asyncio.ensure_future(backend.generate(asked(n))) for n in range(5)]
            await asyncio.sleep(0.5)
            for job in jobs:
                job.cancel()
            async with asyncio.timeout(20):
                while backend.stats().get("cancelled") != 5:
                    await asyncio.sleep(0.05)
            assert backend._dispatch.engines[1].running == 0

        on(loop, backend, scenario, 1)

    def test_a_killed_actor_loses_no_request_and_comes_back(self, loop: Loop, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "import os\nfrom tests.toy import ToyBackend\n"
            "class Mine(ToyBackend):\n    def stats(self): return {'pid': os.getpid()}\n"
        )
        backend = many(tmp_path, {"kind": "mine:Mine", "model": "toy", "options": {"delay": 0.4}}, num_cpus=0)

        async def scenario(info: BackendInfo) -> None:
            async with asyncio.timeout(20):
                while len(backend._stats) < 2:
                    await asyncio.sleep(0.05)
            jobs = [asyncio.ensure_future(backend.generate(asked(n))) for n in range(60)]
            await asyncio.sleep(0.2)
            victim = int(backend._stats[1]["pid"])
            os.kill(victim, signal.SIGKILL)
            done = await asyncio.gather(*jobs)
            assert len(done) == 60 and all(isinstance(each, Generation) for each in done)
            async with asyncio.timeout(40):
                while backend._stats.get(1, {}).get("pid", victim) == victim:
                    await asyncio.sleep(0.1)
            assert len(backend._dispatch.engines) == 2

        told = on(loop, backend, scenario)
        assert sum("engine 1 ended" in line for line in told) == 1

    def test_an_engine_that_cannot_open_is_told_as_its_own_error(self, loop: Loop, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "from genopt.errors import SpecError\nfrom tests.toy import ToyBackend\nclass Mine(ToyBackend):\n"
            "    async def open(self): raise SpecError('backend.model: is too large', hint='take a smaller one')\n"
        )
        backend = many(tmp_path, {"kind": "mine:Mine", "model": "toy"}, num_cpus=0)
        with pytest.raises(SpecError, match="is too large") as told:
            loop.run(backend.open())
        assert told.value.hint == "take a smaller one"

    def test_what_never_finds_room_is_told_with_what_it_asks_for(self, loop: Loop, tmp_path: Path) -> None:
        engine = {"kind": TOY, "model": "toy"}
        backend = many(tmp_path, engine, resources={"fpga": 1}, start_timeout=2)
        with pytest.raises(BackendError, match=r"no engine answered within 2 s; .* cores and 0 GPUs are free"):
            loop.run(backend.open())

    def test_replicas_start_while_requests_run_when_room_appears(self, loop: Loop, tmp_path: Path) -> None:
        engine = {"kind": TOY, "model": "toy", "options": {"delay": 0.2}}
        holder, backend = many(tmp_path, engine, 1, num_cpus=0.75), many(tmp_path, engine, 2, num_cpus=0.25)

        async def session() -> None:
            import ray

            async with asyncio.timeout(60):
                while ray.available_resources().get("CPU", 0) < 1:
                    await asyncio.sleep(0.1)
                await holder.open()
                try:
                    assert (await backend.open()).concurrency == 32
                    before = [await backend.generate(asked(n)) for n in range(10)]
                    assert len(before) == 10 and len(backend._dispatch.engines) == 1
                    jobs = [asyncio.ensure_future(backend.generate(asked(n))) for n in range(160)]
                    await holder.aclose()
                    while len(backend._dispatch.engines) < 2:
                        await asyncio.sleep(0.05)
                    jobs += [asyncio.ensure_future(backend.generate(asked(n))) for n in range(32)]
                    await asyncio.sleep(0.1)
                    assert all(e.running for e in backend._dispatch.engines.values())
                    assert len(await asyncio.gather(*jobs)) == 192
                finally:
                    await backend.aclose()
                    await holder.aclose()

        loop.run(session())


class TestStudy:
    def test_a_study_on_actors_that_is_stopped_goes_on_and_repeats_nothing(self, tmp_path: Path) -> None:
        write_study(tmp_path, rows=40, trials=4, delay=0.2)
        file = tmp_path / "study.toml"
        log = tmp_path / "log.jsonl"
        lines = file.read_text().splitlines()
        at = lines.index("[backend]")
        options = f'{{ delay = 0.15, log = "{log}" }}'
        lines[at + 1 : at + 4] = [
            'kind = "ray"',
            f'engine = {{ kind = "{TOY}", model = "toy", options = {options} }}',
            "replicas = 2",
            "options = { num_cpus = 1 }",
        ]
        file.write_text("\n".join(lines))
        command = [sys.executable, "-m", "genopt", "optimize", "study.toml", "--json"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}  # for the toy engine, here and in the actors
        piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **piped)
        until = time.monotonic() + 60
        while len(logged(log)) < 60 and time.monotonic() < until and first.poll() is None:
            time.sleep(0.05)
        asked = len(logged(log))
        first.send_signal(signal.SIGTERM)
        out, err = first.communicate(timeout=60)
        assert first.returncode == 75, err
        before = query(tmp_path, "SELECT count(*) FROM genopt_generations")[0][0]
        assert before >= asked - 32 > 0 and out == ""  # all but those in flight
        second = subprocess.run(command, cwd=tmp_path, env=environment, timeout=120, check=False, **piped)
        assert second.returncode == 0, second.stderr
        assert json.loads(second.stdout)["verdict"] in ("improved", "not shown", "worse")
        assert "engine 2 answers" in second.stderr
        counted = Counter(
            (json.dumps(line["params"], sort_keys=True), line["example"], line["sample"], line["phase"])
            for line in logged(log)
        )
        stored = query(tmp_path, "SELECT count(*) FROM genopt_generations")[0][0]
        repeated = sum(counted.values()) - len(counted)
        assert len(counted) == stored and repeated <= 32  # those in flight when it was stopped


def _processes() -> list[str]:
    return subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout.splitlines()[1:]


def _listening() -> list[tuple[int, str]]:
    """(process, address) of every listening TCP socket of this user's processes."""
    sockets: dict[str, str] = {}
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A":
                sockets[parts[9]] = _address(*parts[1].split(":"))
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        found += [(int(process.name), sockets[link[8:-1]]) for link in links if link[8:-1] in sockets]
    return found


def _address(host: str, port: str) -> str:
    import ipaddress

    raw = b"".join(bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8))
    address = ipaddress.ip_address(raw)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return f"{address}:{int(port, 16)}"
