"""vLLM's own server for OpenAI's protocol, on a free port, for as long as a block lasts."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.real.engines import _free_port

STARTS_WITHIN = 300.0  # seconds; a busy machine imports vLLM twice
SETTINGS = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONWARNINGS": "ignore",
}
FLAGS = [
    *("--dtype", "float32", "--max-model-len", "1024", "--enforce-eager", "--kv-cache-memory-bytes", str(2**27)),
    *("--block-size", "32", "--max-num-seqs", "64", "--max-num-batched-tokens", "8192"),
]


@contextmanager
def vllm_server(python: str, model: Path, log: Path, *, name: str) -> Iterator[str]:
    """The base URL of a server that calls its model `name`. It has ended, engine and all, when the block has."""
    port = _free_port()
    # What `vllm serve` runs: the program itself asks for a distribution named vllm, which the build for CPUs is not.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--served-model-name", name]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), *FLAGS], env=environment | SETTINGS,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(server, url, log)
            yield f"{url}/v1"
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + STARTS_WITHIN
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < until and server.poll() is None:
            try:
                if client.get(f"{url}/health", timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
    raise RuntimeError(f"vLLM's server does not answer (exit code {server.poll()})\n{log.read_text()[-4000:]}")
