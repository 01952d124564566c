"""`genopt compare` as it is typed: in the open, as JSON, and blind with a person's keys."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from tests.commands import Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, monkeypatch, capsys)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Ten rows of which B has nine right and A one; the texts of the last are the same."""
    paths = []
    for name, right in (("a", {0}), ("b", set(range(9)))):
        path = tmp_path / f"{name}.jsonl"
        rows = [
            {
                "id": i,
                "question": f"q{i}",
                "output": f"{name if i < 9 else 'same'} says {i}",
                "score": float(i in right),
            }
            for i in range(10)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths.append(str(path))
    return paths[0], paths[1]


def test_in_the_open(shell: Shell, files: tuple[str, str]) -> None:
    ran = shell("compare", *files, "-n", 2)
    assert ran.code == 0
    assert "B is better" in ran.out
    assert ran.out.count("[-a-]{+b+} says") == 2
    assert "7 more rows" in ran.out
    assert "question: q" in ran.out


def test_only_what_is_asked_for(shell: Shell, files: tuple[str, str]) -> None:
    assert shell("compare", *files, "--show", "worse").out.count("---") == 0
    assert shell("compare", *files, "--show", "all", "--grep", "same").out.count("---") == 1
    broken = shell("compare", *files, "--grep", "(")
    assert (broken.code, broken.out) == (2, "")
    assert "--grep" in broken.err


def test_as_json(shell: Shell, files: tuple[str, str]) -> None:
    found = shell("compare", *files, "--json").json
    assert (found["wins"], found["ties"], found["losses"], found["test"]) == (8, 2, 0, "McNemar's exact test")
    assert found["p_value"] == pytest.approx(2 / 2**8)


def test_blind(shell: Shell, files: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\ns\n0\nq\n"))
    ran = shell("compare", *files, "--blind", "--labels", labels)
    assert ran.code == 0
    assert "a.jsonl" not in ran.err
    made = [json.loads(line) for line in labels.read_text().splitlines()]
    assert len(made) == 3
    assert [row["preferred"] for row in made][2] == "tie"
    assert "A is a.jsonl" in ran.out
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    again = shell("compare", *files, "--blind", "--labels", labels)
    assert "6 rows to read, 3 read before" in again.err
    assert again.out == ran.out
