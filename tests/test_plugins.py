"""Finding the user's own code by name, and saying what was tried when it is not found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genopt.errors import SpecError
from genopt.plugins import load_object


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """The import path and the modules as they were."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def load(name: str, folder: Path) -> Any:
    return load_object(name, folder, key="scorers.mine")


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_module_beside_the_study_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "my_scorers.py", "def score(example, text):\n    return 1.0\n")
    assert load("my_scorers:score", tmp_path)(None, "") == 1.0


def test_a_module_in_a_package_is_found(tmp_path: Path) -> None:
    write(tmp_path, "my_pkg/__init__.py", "")
    write(tmp_path, "my_pkg/mod.py", "class Backend: pass\n")
    assert load("my_pkg.mod:Backend", tmp_path).__name__ == "Backend"


def test_an_installed_module_is_found(tmp_path: Path) -> None:
    import json

    assert load("json:dumps", tmp_path) is json.dumps


def test_a_file_written_after_a_failed_attempt_is_found(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        load("late_mod:thing", tmp_path)
    write(tmp_path, "late_mod.py", "thing = 3\n")
    assert load("late_mod:thing", tmp_path) == 3


def test_the_folder_is_put_on_the_path_once(tmp_path: Path) -> None:
    for _ in range(3):
        load("json:dumps", tmp_path)
    assert sys.path.count(str(tmp_path)) == 1


def test_two_studies_may_have_a_module_of_the_same_name(tmp_path: Path) -> None:
    """One after the other in one process, each with its own folder."""
    for folder in ("one", "two", "one"):
        write(tmp_path, f"{folder}/scorer.py", f"def score(example, text): return {folder!r}")
        assert load("scorer:score", tmp_path / folder)(None, "") == folder


def test_our_own_modules_do_not_see_the_study_folder(tmp_path: Path) -> None:
    """A regex.py beside the study file is none of ours."""
    write(tmp_path, "regex.py", "raise SystemExit('imported by accident')")
    load("genopt.scorers.text:ExactMatch", tmp_path)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nowhere:thing", "there is no module 'nowhere'"),
        ("mod.inner:thing", "mod.inner"),
        ("mod:scoer", "Did you mean 'score'?"),
        ("needs:thing", "importing needs failed: No module named 'not_installed_anywhere'"),
        ("broken:thing", "importing broken failed: ZeroDivisionError"),
        ("syntax:thing", "importing syntax failed: SyntaxError"),
        ("mod:", "mod has no ''"),
    ],
)
def test_what_went_wrong_is_said(tmp_path: Path, name: str, says: str) -> None:
    write(tmp_path, "mod.py", "def score(): ...\n")
    write(tmp_path, "needs.py", "import not_installed_anywhere\n")
    write(tmp_path, "broken.py", "1 / 0\n")
    write(tmp_path, "syntax.py", "def (\n")
    with pytest.raises(SpecError) as error:
        load(name, tmp_path)
    assert str(error.value).startswith("scorers.mine: ")
    assert says in str(error.value)
