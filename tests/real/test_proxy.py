"""Two workers on PostgreSQL whose trials go over a gRPC proxy, which is killed and comes back while they work."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.databases import Missing, Postgres
from tests.processes import ROOT, finish, log, running, when, write_study
from tests.test_resume import requested

pytest.importorskip("grpc", reason="needs grpcio")
pytestmark = pytest.mark.real


def proxy(url: str, port: int) -> tuple[subprocess.Popen[str], int]:
    """A proxy in a process of its own, and its port."""
    command = [sys.executable, "-m", "genopt", "studies", "proxy", "--port", str(port)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "GENOPT_STORAGE": url}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = process.stderr.readline()
    assert "hidden" not in told
    found = re.search(r" at 127\.0\.0\.1:(\d+) ", told)
    assert found, told
    return process, int(found[1])


def test_two_workers_wait_for_their_proxy_and_ask_for_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path, rows=20, trials=4, delay=0.05)
    try:
        server = Postgres().__enter__()
    except Missing as missing:
        pytest.skip(str(missing))
    begun: list[subprocess.Popen[str]] = []
    try:
        monkeypatch.setenv("GENOPT_STORAGE", server.url)
        first, port = proxy(server.url, 0)
        begun.append(first)
        few = ("--set", "backend.options.meet=meet.txt", "--set", "backend.concurrency=2")  # so that both find work
        to = ("--storage-proxy", f"127.0.0.1:{port}", *few)
        with running(tmp_path, *to) as one, running(tmp_path, *to) as other:
            assert when(tmp_path, one, lambda lines: len(lines) >= 20), finish(one).err
            first.kill()
            first.communicate()
            second, _ = proxy(server.url, port)
            begun.append(second)
            ended = [finish(one), finish(other)]
            second.terminate()
            second.communicate(timeout=20)
        assert [each.code for each in ended] == [0, 0], [each.err for each in ended]
        assert ended[0].out == ended[1].out
        assert second.returncode == 0
        assert max(Counter(requested(line) for line in log(tmp_path)).values()) == 1
        engine = sa.create_engine(server.url)
        with engine.connect() as connection:
            states = {state for (state,) in connection.execute(sa.text("SELECT state FROM trials"))}
            paid = connection.execute(sa.text("SELECT search_generations FROM genopt_workers")).scalars().all()
        engine.dispose()
        assert states <= {"COMPLETE", "FAIL"} and len(paid) == 2 and min(paid) > 0
    finally:
        for process in begun:
            process.kill()
            process.wait()
        server.__exit__()
