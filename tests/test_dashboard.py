"""The dashboard: the real package on the study's storage, for this machine alone."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import genopt
from genopt.dashboard import serve
from genopt.errors import MissingExtra, StudyError
from genopt.spec.read import make_study
from tests.toy import study


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A study that reached its verdict, as URL#name."""
    folder = tmp_path_factory.mktemp("study")
    genopt.optimize(make_study(study(folder, count=24, budget={"trials": 3}), folder=folder))
    return f"sqlite:///{folder / 'toy.db'}#toy"


def get(address: str) -> Any:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=20) as answer:
        assert answer.status == 200
        return answer.read()


@pytest.fixture
def process(where: str) -> Iterator[subprocess.Popen[str]]:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    started = subprocess.Popen(
        [sys.executable, "-m", "genopt", "dashboard", where, "--port", "0", "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    yield started
    started.kill()
    started.communicate()


@pytest.mark.real
def test_it_serves_the_study_on_this_machine_alone_until_ctrl_c(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    line = process.stderr.readline()
    match = re.fullmatch(r"dashboard of toy at (http://127\.0\.0\.1:(\d+))/dashboard \(Ctrl-C ends it\)\n", line)
    assert match, line
    address, port = match[1], int(match[2])
    assert b"<html" in get(f"{address}/dashboard/").lower()
    studies = json.loads(get(f"{address}/api/studies"))["study_summaries"]
    assert [found["study_name"] for found in studies] == ["toy"]
    detail = json.loads(get(f"{address}/api/studies/{studies[0]['study_id']}"))
    assert len(detail["trials"]) >= 2
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", port), timeout=5):
        pass  # would answer if it listened on every address
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0 and out == "" and "Traceback" not in err


@pytest.mark.real
def test_a_taken_port_is_a_clear_error(where: str) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StudyError, match=f"cannot listen on 127.0.0.1:{port}") as caught:
            serve(where, host="127.0.0.1", port=port, browser=False, say=lambda text: None)
    assert caught.value.hint == "choose another --port"


@pytest.mark.real
@pytest.mark.parametrize("browser", [True, False])
def test_the_browser_is_opened_only_when_asked_for(where: str, browser: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    opened: list[str] = []
    said: list[str] = []

    def stop(self: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("genopt.dashboard._Server.serve_forever", stop)
    serve(where, host="127.0.0.1", port=0, browser=browser, say=said.append)
    assert [address in said[0] for address in opened] == [True] * browser


def test_without_the_package_the_pip_line_is_told(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(MissingExtra, match=r'pip install "genopt\[dashboard\]"'):
        serve(where, host="127.0.0.1", port=0, browser=False, say=lambda text: None)
