"""Owns the named starting points of a search, with where each comes from, and how one is fitted into a search space.

A preset says only what it is about: what it does not name stays as the user runs it today.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from genopt.space import Choice, Constant, Dimension, Number, SearchSpace, Switch
from genopt.types import Params, ParamValue


@dataclass(frozen=True, slots=True)
class Preset:
    """A configuration that people use, and who says so."""

    params: Mapping[str, float]
    source: str


PRESETS: Mapping[str, Preset] = {
    "greedy": Preset({"temperature": 0.0}, "the likeliest token every time"),
    "precise": Preset({"temperature": 0.2}, 'OpenAI\'s API reference: "more focused and deterministic"'),
    "creative": Preset(
        {"temperature": 1.5, "min_p": 0.1, "top_p": 1.0, "top_k": 0},
        "Nguyen et al. 2024, arXiv:2407.01082: high temperatures with min_p 0.1",
    ),
    "min_p": Preset(
        {"temperature": 1.0, "min_p": 0.05, "top_p": 1.0, "top_k": 0},
        "Nguyen et al. 2024, arXiv:2407.01082: min_p 0.05 to 0.1 instead of top_p",
    ),
    "nucleus": Preset(
        {"temperature": 1.0, "top_p": 0.95, "top_k": 0}, "Holtzman et al. 2020, arXiv:1904.09751: top_p 0.95"
    ),
    "top_k": Preset({"temperature": 1.0, "top_k": 40, "top_p": 1.0}, "Radford et al. 2019, GPT-2's own samples"),
    "typical": Preset(
        {"temperature": 1.0, "typical_p": 0.95, "top_p": 1.0, "top_k": 0},
        "Meister et al. 2023, arXiv:2202.00666: 0.95 for summaries",
    ),
    "penalised": Preset(
        {"temperature": 0.0, "repetition_penalty": 1.2}, "Keskar et al. 2019, arXiv:1909.05858: greedy, penalty 1.2"
    ),
    "beams": Preset(
        {"temperature": 0.0, "num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3},
        "config.json of facebook/bart-large-cnn, for summaries",
    ),
    "ollama": Preset({"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0}, "Ollama's own defaults"),
    "llama.cpp": Preset({"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05}, "llama.cpp's own defaults"),
    "llama3": Preset({"temperature": 0.6, "top_p": 0.9}, "generation_config.json of Meta-Llama-3-8B-Instruct"),
    "qwen3": Preset(
        {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "min_p": 0.0}, "model card of Qwen3, without thinking"
    ),
    "qwen3-thinking": Preset(
        {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.0}, "model card of Qwen3, thinking"
    ),
    "deepseek-r1": Preset({"temperature": 0.6, "top_p": 0.95}, "model card of DeepSeek-R1"),
    "gemma3": Preset({"temperature": 1.0, "top_k": 64, "top_p": 0.95}, "generation_config.json of Gemma 3"),
    "mistral": Preset({"temperature": 0.15}, "model card of Mistral Small 3"),
}


def presets_text(names: Collection[str]) -> str:
    """A table of the presets whose parameters are all among `names`."""
    rows = [("name", "settings", "where it comes from")]
    for name, preset in PRESETS.items():
        if preset.params.keys() <= set(names):
            settings = " ".join(f"{parameter}={value:g}" for parameter, value in preset.params.items())
            rows.append((name, settings, preset.source))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[2]]) for row in rows)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A starting point in a space: what its dimensions are answered, and in what it differs from what was wanted."""

    answers: Mapping[str, ParamValue]
    changes: tuple[str, ...]


def fit(
    space: SearchSpace, wanted: Params, today: Params, resolve: Callable[[Params], Mapping[str, ParamValue]]
) -> Fitted | None:
    """The configuration of the space nearest to `wanted`, for the rest nearest to `today`; None when the space has
    nothing of it.

    `resolve` gives every parameter of a configuration from what the space samples. A switch that is not named takes the
    branch under which most of what is wanted comes true; then the nearest, then the one most like today.
    """
    if not wanted.keys() & (space.names() | space.switches()):
        return None
    target = {**today, **wanted}

    def outcome(answers: Mapping[str, ParamValue]) -> Mapping[str, ParamValue]:
        return resolve(space.sample(lambda path, _: answers[path]))

    def cost(answers: Mapping[str, ParamValue]) -> tuple[int, float, int]:
        made = outcome(answers)
        missed = [name for name, value in wanted.items() if made.get(name) != value]
        distance = sum(_distance(wanted[name], made.get(name)) for name in missed)
        return len(missed), distance, sum(made.get(name) != value for name, value in today.items())

    best = min(_answers(space.dimensions, "", target, wanted), key=cost)
    made = outcome(best)
    known = space.names() | space.switches()
    changes = [
        f"{name} = {_told(made.get(name))} for {_told(value)}" if name in known else f"no {name}, which is not searched"
        for name, value in wanted.items()
        if made.get(name) != value
    ]
    return Fitted(best, tuple(changes))


def _answers(
    dimensions: Mapping[str, Dimension], prefix: str, target: Params, wanted: Params
) -> Iterator[dict[str, ParamValue]]:
    """The answers nearest to the target, once for every way to take the switches that `wanted` does not name."""
    axes: list[list[dict[str, ParamValue]]] = []
    for name, dimension in dimensions.items():
        match dimension:
            case Number() | Choice():
                axes.append([{prefix + name: dimension.nearest(target.get(name))}])
            case Switch(branches):
                named = wanted.get(name)
                axes.append(
                    [
                        {prefix + name: branch, **inner}
                        for branch, parameters in branches.items()
                        if branch == named or named not in branches
                        for inner in _answers(parameters, f"{prefix}{name}.{branch}.", target, wanted)
                    ]
                )
            case Constant():
                pass
    for combination in product(*axes):
        yield {key: value for answers in combination for key, value in answers.items()}


def _distance(wanted: Any, made: Any) -> float:
    numbers = isinstance(wanted, (int, float)) and isinstance(made, (int, float))
    return abs(wanted - made) if numbers else 0.0


def _told(value: ParamValue) -> str:
    return f"{value:g}" if isinstance(value, float) else repr(value)
