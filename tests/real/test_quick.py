"""`genopt optimize --model NAME --data FILE` on a real Ollama server: no study file, a verdict, a file to go on."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from genopt.template import guess_backend
from tests.commands import Shell, write_rows
from tests.real.engines import Ollama

pytestmark = pytest.mark.real

QUICKSTART = Path(__file__).resolve().parents[2] / "studies" / "quickstart"


def test_a_name_and_a_file_reach_a_verdict(
    ollama: Ollama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    lines = (QUICKSTART / "data.jsonl").read_text(encoding="utf-8").splitlines()[:30]
    cards = [json.loads(line) for line in lines]
    walks = [{"question": f"Walk: {card['name']}", "answer": card["references"]} for card in cards]
    write_rows(tmp_path / "questions.jsonl", walks)
    shell = Shell(tmp_path, monkeypatch, capsys)
    ollama.post("/api/create", {"model": "me/walks", "from": "walks", "stream": False})
    monkeypatch.setenv("OLLAMA_HOST", ollama.address)
    assert guess_backend("me/walks") == "ollama" and guess_backend("me/others") == "transformers"
    flags = ["--model", "walks", "--data", "questions.jsonl", "--trials", "2", "--json"]
    flags += ["--set", "backend.options.num_thread=1", "--set", "backend.options.num_ctx=512", "-q"]
    first = shell("optimize", *flags)
    assert first.code == 0, first.err
    assert first.json["trials"] == 2 and first.json["baseline_params"]["top_k"] == 40
    table = tomllib.loads((tmp_path / "walks-questions.toml").read_text(encoding="utf-8"))
    assert table["backend"] == {"kind": "ollama", "model": "walks"}
    assert shell("optimize", *flags).json == first.json
