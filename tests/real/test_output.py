"""[output] on a real Ollama server: every text of a study is kept to the schema, and judged by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.real.engines import Ollama
from tests.studies import query, run

pytestmark = pytest.mark.real

QUICKSTART = Path(__file__).resolve().parents[2] / "studies" / "quickstart"
SCHEMA = {"type": "object", "properties": {"level": {"enum": ["easy", "hard"]}}, "required": ["level"]}


def test_every_text_of_a_study_is_kept_to_the_schema(ollama: Ollama, tmp_path: Path) -> None:
    lines = (QUICKSTART / "data.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    (tmp_path / "level.json").write_text(json.dumps(SCHEMA))
    options = {"host": ollama.address, "num_thread": 1, "num_ctx": 512}
    table: dict[str, Any] = {
        "name": "toy",
        "storage": f"sqlite:///{tmp_path / 'toy.db'}",
        "dataset": {"rows": [json.loads(line) for line in lines], "holdout": 0.4},
        "prompt": {"user": "Walk: {{ name }}\nLevel: {{ level }}"},
        "output": {"schema": {"file": "level.json"}},
        "backend": {"kind": "ollama", "model": "walks", "options": options},
        "space": {"temperature": {"low": 0.5, "high": 1.5}},
        "baseline": {"max_tokens": 200},
        "scorers": {"valid": {"kind": "json_schema", "strict": True}},
        "search": {"sampler": "random", "pruner": "none"},
        "budget": {"trials": 2},
    }
    ran = run(table, tmp_path)
    assert ran.decided()
    texts = [
        text for text, finish in query(tmp_path, "SELECT text, finish FROM genopt_generations") if finish == "stop"
    ]
    assert len(texts) > 20
    assert all(json.loads(text).get("level") in ("easy", "hard") for text in texts)
    scored = query(tmp_path, "SELECT value FROM genopt_scores s JOIN genopt_generations g ON g.id = generation_id "
                   "WHERE finish = 'stop'")  # fmt: skip
    assert {value for (value,) in scored} == {1.0}
