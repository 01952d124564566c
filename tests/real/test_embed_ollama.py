"""Embeddings from a real Ollama server: the quickstart's model there embeds, and a study is scored by it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genopt.errors import SpecError
from genopt.scorers.embedding import Embedding
from genopt.types import Example, Generation, Score
from tests.real.engines import Ollama
from tests.studies import run
from tests.toy import study

pytestmark = pytest.mark.real

CARD = "The Otter Loop is an easy walk of four miles."
LONG = "The Otter Loop is an easy walk. " * 400


def table(ollama: Ollama, **more: Any) -> dict[str, Any]:
    return {"engine": "ollama", "model": "walks", "host": ollama.address, "options": {"num_thread": 1}} | more


async def scored(scorer: Embedding, reference: str, *texts: str) -> list[Score]:
    try:
        given = Example("1", {}, (reference,))
        return await scorer.score(given, [Generation(text, "stop", 1, 1, 0.0) for text in texts])
    finally:
        await scorer.aclose()


def test_scores_are_the_cosines_of_what_the_server_gives(ollama: Ollama) -> None:
    texts = [CARD, "The Otter Loop is a hard climb of nine miles.", "Snow.", "ünïcode 🙂", "\N{ZERO WIDTH SPACE}"]
    found = asyncio.run(scored(Embedding(name="e", **table(ollama, batch_size=2)), CARD, *texts))
    body = {"model": "walks", "input": texts, "options": {"num_thread": 1}}
    vectors = np.array(ollama.post("/api/embed", body)["embeddings"])
    cosines = np.clip(vectors @ vectors[0] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[0]), 0, 1)
    values = [score.value for score in found]
    assert values == pytest.approx(list(cosines), abs=1e-3)
    assert values[0] == 1.0 and len({round(value or 0.0, 3) for value in values}) == len(texts)


def test_a_text_beyond_the_context_is_cut_and_said(ollama: Ollama) -> None:
    whole, cut = asyncio.run(scored(Embedding(name="e", **table(ollama)), CARD, CARD, LONG))
    assert (whole.value, whole.why) == (1.0, "")
    assert cut.why == "longer than the model's context: only the beginning was compared"


def test_a_study_is_scored_by_a_model_of_the_server(ollama: Ollama, tmp_path: Path) -> None:
    made = study(tmp_path, scorers={"similar": {"kind": "embedding", **table(ollama)}}, budget={"trials": 3})
    ran = run(made, tmp_path)
    assert ran.decided().baseline_score is not None
    means = {trial.outcome["mean"] for trial in ran.complete()}
    assert len(means) > 1 and all(0 < mean <= 1 for mean in means)
    other = run(made | {"scorers": {"similar": {"kind": "embedding", **table(ollama, model="none")}}}, tmp_path)
    assert isinstance(other.error, SpecError) and "ollama pull none" in str(other.error)
