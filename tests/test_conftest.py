"""Tests of the rule that a skipped real test fails where every real part is said to be installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest

MARK = "[pytest]\nmarkers =\n    real: x\n"
SKIPS = "import pytest\n@pytest.mark.real\ndef test_it():\n    pytest.skip('no engine here')\n"
PLAIN = "import pytest\ndef test_it():\n    pytest.skip('not on this system')\n"
MODULE = "import pytest\npytest.importorskip('no_such_part')\n@pytest.mark.real\ndef test_it():\n    pass\n"
XFAIL = "import pytest\n@pytest.mark.real\n@pytest.mark.xfail(strict=True)\ndef test_it():\n    assert False\n"


def run(folder: Path, text: str, *, all_real: str) -> subprocess.CompletedProcess[str]:
    """pytest's run of one test file beside a copy of the conftest."""
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    (folder / "pytest.ini").write_text(MARK)
    (folder / "test_one.py").write_text(text + "def test_other():\n    pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    environment = {**os.environ, "GENOPT_REAL": all_real}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_skipped_real_test_fails_and_says_why(tmp_path: Path) -> None:
    ran = run(tmp_path, SKIPS, all_real="1")
    assert ran.returncode == 1
    assert "test_it was skipped although GENOPT_REAL is 1: Skipped: no engine here" in ran.stdout
    assert "1 failed, 1 passed" in ran.stdout


def test_file_that_skips_itself_fails(tmp_path: Path) -> None:
    ran = run(tmp_path, MODULE, all_real="1")
    assert ran.returncode != 0
    assert "no_such_part" in ran.stdout


@pytest.mark.parametrize(
    ("text", "all_real", "outcome"),
    [(SKIPS, "0", "1 passed, 1 skipped"), (PLAIN, "1", "1 passed, 1 skipped"), (XFAIL, "1", "1 passed, 1 xfailed")],
)
def test_other_skips_stay_skips(tmp_path: Path, text: str, all_real: str, outcome: str) -> None:
    ran = run(tmp_path, text, all_real=all_real)
    assert ran.returncode == 0
    assert outcome in ran.stdout


@pytest.mark.parametrize(
    ("reason", "applies_not"),
    [
        ("Skipped: the engine has no min_tokens", True),
        ("Skipped: not promised here: it adds in another order", True),
        ("Skipped: needs Ollama: let X name the folder", False),
        ("Skipped: Chromium is not installed", False),
    ],
)
def test_only_what_a_contract_does_not_ask_may_be_skipped(reason: str, applies_not: bool) -> None:
    assert conftest._does_not_apply(("file", 1, reason)) is applies_not
