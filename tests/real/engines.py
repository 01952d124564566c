"""Owns the engines that the real tests talk to: where they are found, how they are started and ended.

The environment names them: GENOPT_VLLM_PYTHON is the Python of an installation of vLLM (its pins are its own, so it
has an environment to itself), GENOPT_OLLAMA the folder of the `ollama` program.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VLLM_PYTHON, OLLAMA = "GENOPT_VLLM_PYTHON", "GENOPT_OLLAMA"
STARTS_WITHIN = 60.0  # seconds; a cold machine reads 40 MB from its disk
Conversation = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Answer:
    """What an engine wrote and how many tokens it read."""

    text: str
    prompt_tokens: int


def vllm_python() -> str | None:
    """The Python that can import vLLM, or None."""
    found = os.environ.get(VLLM_PYTHON)
    return found if found and os.access(found, os.X_OK) else None


def vllm_answers(python: str, model: Path, conversations: Sequence[Conversation], max_tokens: int) -> list[Answer]:
    """Greedy texts in float32 from a vLLM engine in a process of its own, which has ended when this returns."""
    task = {"model": str(model), "conversations": list(conversations), "max_tokens": max_tokens}
    quiet = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: nothing to leave behind
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_LOGS": "-all",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONWARNINGS": "ignore",
    }
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    ran = subprocess.run(
        [python, str(Path(__file__).with_name("vllm_process.py"))],
        input=json.dumps(task),
        env=environment | quiet,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if ran.returncode != 0:
        raise RuntimeError(f"vLLM: exit code {ran.returncode}\n{ran.stderr[-4000:]}")
    return [Answer(**answer) for answer in json.loads(ran.stdout.splitlines()[-1])]


def ollama_program() -> Path | None:
    """The `ollama` program, or None."""
    folder = os.environ.get(OLLAMA)
    program = shutil.which("ollama", path=folder) if folder else None
    return Path(program) if program else None


@dataclass
class Ollama:
    """A server with a model store of its own, in a process group of its own."""

    program: Path
    address: str
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _groups: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Start serving and wait until it answers. Raises RuntimeError with its log when it does not."""
        command = [str(self.program), "serve"]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._groups.append(self.process.pid)
        _wait(self.process, self.address, self.log)

    def kill(self) -> None:
        """kill -9 of the server; the runner of its model goes on without it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def kill_runners(self) -> None:
        """kill -9 of every process that runs a model for this server."""
        assert self.process is not None
        for process in Path("/proc").glob("[0-9]*"):
            pid = int(process.name)
            with contextlib.suppress(OSError):
                if pid != self.process.pid and os.getpgid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server and its runners."""
        if self.process is not None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=20)
        for group in self._groups:  # the runners of a server that was killed too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def create(self, name: str, folder: Path) -> None:
        """`ollama create` from the Modelfile in a folder."""
        command = [str(self.program), "create", name, "-f", "Modelfile"]
        ran = subprocess.run(
            command, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        if ran.returncode != 0:
            raise RuntimeError(f"ollama create: exit code {ran.returncode}\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The reply to a JSON request."""
        request = urllib.request.Request(self.address + path, json.dumps(body).encode())
        with _direct.open(request, timeout=120) as reply:
            return json.load(reply)

    def answer(self, model: str, conversation: Conversation, options: dict[str, Any]) -> Answer:
        """One turn of /api/chat."""
        body = {"model": model, "messages": list(conversation), "stream": False, "options": options}
        reply = self.post("/api/chat", body)
        return Answer(reply["message"]["content"], reply["prompt_eval_count"])


@contextmanager
def ollama_server(program: Path, folder: Path, **settings: str) -> Iterator[Ollama]:
    """A server on a free port that keeps everything in `folder`; `settings` are variables of its environment. It has
    ended, runners and all, when the block has."""
    host = f"127.0.0.1:{_free_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OLLAMA_")}
    environment |= {"OLLAMA_HOST": host, "OLLAMA_MODELS": str(folder / "models"), "HOME": str(folder)} | settings
    ollama = Ollama(program, f"http://{host}", environment, folder / "serve.log")
    try:
        ollama.start()
        yield ollama
    finally:
        ollama.stop()


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of this machine's ports


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return when the server answers. Raises RuntimeError with its log when it ends or stays silent."""
    until = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < until and server.poll() is None:
        try:
            with _direct.open(f"{address}/api/version", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"ollama serve does not answer (exit code {server.poll()})\n{log.read_text()[-4000:]}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
