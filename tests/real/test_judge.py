"""A judge on real engines: every reply can be read, in the way that the engine has."""

from __future__ import annotations

import pytest

from genopt.backends.ollama import OllamaBackend
from genopt.backends.transformers import TransformersBackend
from tests.real.engines import Ollama
from tests.real.judgments import COUNT, QUICKSTART, run

pytestmark = pytest.mark.real


def test_ollama_answers_two_hundred_times_in_the_schema(ollama: Ollama) -> None:
    engine = OllamaBackend(model="walks", options={"host": ollama.address, "num_ctx": 1024, "num_thread": 1})
    judge, scores, identity = run(engine)
    assert judge.mode == identity["mode"] == "json"
    assert [score.why for score in scores if score.value is None] == []
    assert judge.usage.calls == COUNT + 1  # one to find out how; no reply had to be asked for again
    assert all(score.value in (0.0, 0.25, 0.5, 0.75, 1.0) and score.why for score in scores)


def test_transformers_gives_two_hundred_expected_grades() -> None:
    judge, scores, _ = run(TransformersBackend(model=str(QUICKSTART / "model"), options={"threads": 1}))
    assert judge.mode == "logprobs of choices"
    values = [score.value for score in scores]
    assert None not in values and judge.usage.calls == COUNT + 1
    assert len(set(values)) > COUNT / 2, "an expected value is not one of five grades"
