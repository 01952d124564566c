"""Owns the way of a study's settings into other programs: one text per target, and in words what it cannot say."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from genopt.export import texts
from genopt.export.modelfile import modelfile, unsaid
from genopt.export.settings import Settings, settings
from genopt.export.targets import ORDERS, TARGETS, complete, warnings

__all__ = ["WRITERS", "Exported", "export", "notes", "settings"]

Writer = Callable[[Settings, Mapping[str, Any]], str]
WRITERS: Mapping[str, Writer] = {
    "ollama": modelfile,
    "vllm": texts.vllm,
    "transformers": texts.generation_config,
    "openai": texts.openai,
    "llama.cpp": texts.llama_cpp,
    "curl": texts.curl,
}
_STRUCTURED = {"vllm": ("schema", "regex", "choices"), "openai": ("schema",), "llama.cpp": ("schema",)}


@dataclass(frozen=True, slots=True)
class Exported:
    """The text, and what a person has to know of it, one sentence each."""

    text: str
    notes: tuple[str, ...]


def export(found: Settings, target: str) -> Exported:
    """The settings for one of WRITERS. Raises SpecError for what the target cannot hold at all."""
    params = found.params if target == "curl" else complete(found, target)
    return Exported(WRITERS[target](found, params), notes(found, target))


def notes(found: Settings, target: str, *, created: bool = False) -> tuple[str, ...]:
    """What a person has to know of the settings there; `created`: in the server, not in a Modelfile."""
    if target == "curl":
        return tuple(_prompt_notes(found, target))
    params = complete(found, target)
    ordered = target == "llama.cpp" and found.engine in ORDERS
    about = warnings(found, params, target, ordered=ordered)
    return (*about, *_own_notes(found, params, target, created), *_prompt_notes(found, target))


def _own_notes(found: Settings, params: Mapping[str, Any], target: str, created: bool) -> Iterator[str]:
    """What is peculiar to a target."""
    stop = params.get("stop") or ()
    if found.engine == "ollama" != target and "stop" not in params:
        yield "stop: the model's own stop strings in Ollama (ollama show) do not go along. Add them"
    if target == "ollama":
        if found.engine != "ollama" and not found.renamed:
            yield f"FROM {found.model}: the model as {found.engine} names it. Give its name in Ollama with --model"
        yield from unsaid(found, api=created)
    if target == "transformers":
        yield "write it over the same keys of the model's own file: its other keys (eos_token_id) are needed"
        if stop:
            yield "stop_strings: generate() needs tokenizer=... for them"
    if target == "vllm" and 0 < params.get("temperature", 1.0) < 0.01:
        yield f"vLLM raises the temperature {params['temperature']} to 0.01"
    if target == "openai" and len(stop) > 4:
        yield f"stop: OpenAI takes 4 strings, these are {len(stop)}"
    if target == "llama.cpp" and stop:
        yield f"stop: llama.cpp takes no flag for {list(stop)}. Send it with each request"


def _answer_note(answer: Mapping[str, Any]) -> str:
    """How samples become the study's answer, for who has to do it in the target's place."""
    match answer["aggregate"]:
        case "vote":
            what = {"text": "what most of them say", "last_number": "the last number that most of them give"}
            how = f"take {what.get(answer['extract'], 'what most of them have at ' + repr(answer['extract']))}"
        case "best":
            how = "take the one most alike the others" if not answer["key"] else f"take the one {answer['by']} prefers"
        case _:
            how = "its score is the mean of theirs"
    return f"n = {answer['n']}: ask {answer['n']} times with different seeds, and {how}. No target does this by itself"


def _prompt_notes(found: Settings, target: str) -> Iterator[str]:
    """What is left for each request to bring along."""
    title = TARGETS[target].title if target in TARGETS else target
    if found.answer:
        yield _answer_note(found.answer)
    yield from (f"left out: {what}" for what in found.front.loose)
    if target in ("transformers", "llama.cpp") and found.front.messages:
        yield "the system prompt and the few-shot examples are not part of it: send them with each request"
    if found.front.user and target not in ("openai", "curl"):
        yield f"ask with the study's user prompt: {json.dumps(found.front.user, ensure_ascii=False)}"
    if found.options.get("extra") and target != "curl" and (target, found.engine) != ("openai", "openai"):
        yield f"extra: the study sent {json.dumps(found.options['extra'])} with each request"
    if found.images:
        yield f"show the row's images (column {found.images}) with each request"
    for kind in found.output:
        if target != "curl" and kind not in _STRUCTURED.get(target, ()):
            yield f"{title} is not told to keep answers to the study's {kind}: send it with each request"
