"""The dashboard in a real Chromium: notes, the table of outputs and the figures are there, and what a model wrote is
shown as text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import genopt
from genopt.archive import load
from genopt.spec.read import make_study
from tests.hostile import SCRIPT
from tests.real.browser import Browser
from tests.toy import study

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished study whose model writes hostile texts."""
    folder = tmp_path_factory.mktemp("hostile")
    table = study(
        folder, count=80, budget={"trials": 8}, seed=3, scorers={"right": {"kind": "contains", "values": ["yes"]}}
    )
    table["backend"]["kind"] = "tests.hostile:HostileBackend"
    genopt.optimize(make_study(table, folder=folder))
    return f"sqlite:///{folder / 'toy.db'}#toy"


@pytest.fixture(scope="module")
def address(where: str) -> Iterator[str]:
    pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed")
    command = [sys.executable, "-m", "genopt", "dashboard", where, "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert process.stderr is not None
    found = re.search(r"(http://\S+)/dashboard ", process.stderr.readline())
    assert found
    yield found[1]
    process.kill()
    process.communicate()


def trial(where: str) -> int:
    archive = load(where)
    assert archive.verdict is not None
    return int(archive.verdict["trial"])


@pytest.mark.parametrize("width", [1280, 390])
def test_a_trials_note_and_its_table(browser: Browser, address: str, where: str, width: int) -> None:
    page = browser.open(f"{address}/dashboard/studies/1/trials?numbers={trial(where)}", width=width)
    page.wait("document.body.innerText.includes('Best against the baseline')")
    page.wait("document.body.innerText.includes('outputs.jsonl')")
    text = page.evaluate("document.body.innerText")
    assert "draws each token at temperature" in text
    assert SCRIPT in text
    assert "\\u001b[31mred" in text
    page.evaluate("document.querySelector('[aria-label=\"show artifact table\"]').click()")
    page.wait("document.querySelectorAll('table tbody tr').length >= 10")
    table = page.evaluate("document.querySelector('table').innerText")
    for column in ("example", "output", "reference", "right", "tokens", "seconds"):
        assert column in table.lower()
    assert "<script>" in table
    assert page.evaluate("window.obeyed") is None
    assert not page.problems
    assert all(request.startswith((address, "data:", "blob:")) for request in page.requests)


def test_the_figures_are_drawn(browser: Browser, address: str) -> None:
    page = browser.open(f"{address}/dashboard/studies/1")
    for name, shape in (("score-by-trial", ".scatterlayer .point"), ("gain-by-example", ".heatmaplayer image")):
        page.wait(f"document.getElementById('user-defined-plot:{name}')?.querySelector('{shape}') != null")
    assert not page.problems


def test_the_study_note_holds_the_verdict(browser: Browser, address: str) -> None:
    page = browser.open(f"{address}/dashboard/studies/1/note", width=390, height=844)
    page.wait("document.body.innerText.includes('genopt report')")
    assert page.evaluate("window.obeyed") is None
    assert all(request.startswith((address, "data:", "blob:")) for request in page.requests)
    assert re.search(r"p = [\d.e-]+", page.evaluate("document.body.innerText"))
    assert not page.problems
