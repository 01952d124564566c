"""A judge in vLLM (its build for CPUs): grades read from probabilities, and beside generation in one engine."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from genopt.archive import load
from genopt.runner import optimize_async
from genopt.spec.read import make_study
from tests.real.judgments import COUNT, QUICKSTART, SHORT, run
from tests.real.vllm_engines import OPTIONS, make_backend

pytest.importorskip("vllm", reason="needs vLLM in this Python's environment", exc_type=ImportError)
pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore:max_rollback_tokens:DeprecationWarning"),  # what vLLM asks of xgrammar
]


def test_vllm_gives_two_hundred_expected_grades() -> None:
    judge, scores, identity = run(make_backend(QUICKSTART / "model"))
    assert judge.mode == identity["mode"] == "logprobs of choices"
    values = [score.value for score in scores]
    assert None not in values and judge.usage.calls == COUNT + 1
    assert len(set(values)) > COUNT / 2, "an expected value is not one of five grades"


def test_a_study_is_judged_by_the_engine_that_writes(tmp_path: Path) -> None:
    table = {
        "name": "itself",
        "storage": f"sqlite:///{tmp_path / 'itself.db'}",
        "dataset": {"path": str(QUICKSTART / "data.jsonl"), "id": "id", "limit": 40},
        "prompt": {"user": "Walk: {{ name }}\nSight: {{ sight }}"},
        "backend": {"kind": "vllm", "model": str(QUICKSTART / "model"), "options": dict(OPTIONS)},
        "space": {"temperature": {"low": 0.1, "high": 1.5}},
        "baseline": {"max_tokens": 24},
        "scorers": {"told": {"kind": "judge", "rubric": "Does it?", "templates": {"system": "", "user": SHORT}}},
        "budget": {"trials": 3},
    }
    verdict = asyncio.run(optimize_async(make_study(table, folder=tmp_path))).verdict
    assert verdict.verdict in ("improved", "not shown", "worse")
    rows = load(f"{table['storage']}#itself").rows()
    assert len(rows) >= 3 and all(row["eligible"] for row in rows)
