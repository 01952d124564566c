"""Owns settings as the text that each of the other targets reads: Python, JSON, flags, a shell line."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from genopt.backends._ollama_options import options_of as ollama_options
from genopt.backends._ollama_wire import Wire as OllamaWire
from genopt.backends._openai_body import Wire as OpenAIWire
from genopt.backends._openai_options import HOSTED
from genopt.backends._openai_params import DIALECTS, Dialect
from genopt.errors import SpecError
from genopt.export.settings import Settings
from genopt.export.targets import ORDERS, TARGETS, translated
from genopt.types import Message, Request

_SAMPLERS = {"typical_p": "typ_p"}
_CONSTRAINTS = {"schema": "json", "regex": "regex", "choices": "choice"}
VLLM_SERVE = "http://127.0.0.1:8000/v1"  # where `vllm serve` listens by itself


def vllm(settings: Settings, params: Mapping[str, Any]) -> str:
    """Python that makes `params`, vLLM's SamplingParams, and `messages` where rows share turns."""
    imports, keywords = ["from vllm import SamplingParams"], translated(params, TARGETS["vllm"].names)
    lines = [f"    {name}={value!r}," for name, value in keywords.items()]
    for kind, value in settings.output.items():
        imports.append("from vllm.sampling_params import StructuredOutputsParams")
        lines.append(f"    structured_outputs=StructuredOutputsParams({_CONSTRAINTS[kind]}={value!r}),")
    text = [f"# {' '.join(settings.title.split())}: {settings.model}", *imports, "", "params = SamplingParams("]
    text += [*lines, ")"]
    if shared := [{"role": turn.role, "content": turn.content} for turn in settings.front.messages]:
        text += ["messages = [  # then the row's own", *(f"    {turn!r}," for turn in shared), "]"]
    return "\n".join(text) + "\n"


def generation_config(settings: Settings, params: Mapping[str, Any]) -> str:
    """generation_config.json, without the tokens that the model's own file names."""
    found = translated(params, TARGETS["transformers"].names)
    greedy = found.get("temperature") == 0
    if greedy:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            found.pop(name, None)
    if not found.get("stop_strings"):
        found.pop("stop_strings", None)
    return _json({"do_sample": not greedy, **found})


def openai(settings: Settings, params: Mapping[str, Any]) -> str:
    """The fields of a request to /chat/completions, the row's template as the last message."""
    named = {name: value for name, value in params.items() if name in TARGETS["openai"].names}
    extra = settings.options.get("extra") if settings.engine == "openai" else None
    wire = OpenAIWire("openai", stream=False, max_tokens_field=_limit(settings), extra=extra)
    return _json(_without_seed(wire.body(settings.model, _request(settings, kinds=("schema",)), named)))


def llama_cpp(settings: Settings, params: Mapping[str, Any]) -> str:
    """Flags of llama-server and llama-cli, one a line; the samplers in the order of the study's engine, where that is
    another: what a list of samplers leaves out is off."""
    flags = [
        f"{name} {json.dumps(value)}"
        for name, value in translated(params, TARGETS["llama.cpp"].names).items()
    ]  # fmt: skip
    if settings.engine in ORDERS and settings.engine != "llama.cpp":
        order = [_SAMPLERS.get(name, name) for name in ORDERS[settings.engine]]
        flags.append(f"--samplers '{';'.join(['penalties', *order])}'")
    if "schema" in settings.output:
        flags.append(f"--json-schema {shlex.quote(json.dumps(settings.output['schema']))}")
    return " \\\n".join(flags) + "\n"


def curl(settings: Settings, params: Mapping[str, Any]) -> str:
    """A shell line that sends one request as the study did, the row's template as the last message.

    Raises SpecError for an engine without an address.
    """
    headers = ["Content-Type: application/json"]
    if settings.kind == "ollama":
        ollama = ollama_options(settings.options)
        wire = OllamaWire(settings.model, ollama, ollama.think)
        url, body = ollama.url + wire.path, wire.body(_request(settings), params) | {"stream": False}
    elif settings.kind == "openai":
        base, options = _base_url(settings), settings.options
        dialect: Dialect = settings.engine  # type: ignore[assignment]
        spoken = OpenAIWire(dialect, options.get("completions", False), False, _limit(settings), options.get("extra"))
        url, body = base + spoken.path, spoken.body(settings.model, _request(settings), params)
        key = options.get("api_key_env", "OPENAI_API_KEY" if base == HOSTED else None)
        headers += [f"Authorization: Bearer ${key}"] if key else []
        headers += [f"{_plain(name)}: ${variable}" for name, variable in options.get("headers_env", {}).items()]
        ours = {"OpenAI-Organization": "organization", "OpenAI-Project": "project"}
        headers += [f"{name}: {_plain(options[option])}" for name, option in ours.items() if options.get(option)]
    elif settings.kind == "vllm":
        served = OpenAIWire("vllm", stream=False)
        named = {name: value for name, value in params.items() if name in DIALECTS["vllm"]}
        url, body = VLLM_SERVE + served.path, served.body(settings.model, _request(settings), named)
    else:
        raise SpecError(
            f"--to curl: the engine {settings.kind} works inside the process and has no address",
            hint="take another target: " + ", ".join(TARGETS),
        )
    quoted = [f'-H "{header}"' for header in headers]
    sent = shlex.quote(json.dumps(_without_seed(body)))
    return " \\\n  ".join([f"curl {shlex.quote(url)}", *quoted, f"-d {sent}"]) + "\n"


def _plain(text: object) -> str:
    """Text inside a shell's double quotes, where it means nothing but itself."""
    return re.sub(r'([\\"$`!])', r"\\\1", str(text))


def _base_url(settings: Settings) -> str:
    return str(settings.options.get("base_url") or HOSTED).rstrip("/") if settings.kind == "openai" else HOSTED


def _limit(settings: Settings) -> str:
    """The field that bounds a text's tokens; OpenAI's own models no longer take the old one."""
    hosted = "max_completion_tokens" if _base_url(settings) == HOSTED else "max_tokens"
    return str(settings.options.get("max_tokens_field") or hosted) if settings.kind == "openai" else hosted


def _request(settings: Settings, kinds: Collection[str] = ("schema", "regex", "choices")) -> Request:
    """A request like those of the study, the row's template in the place of the row."""
    messages = (*settings.front.messages, Message("user", settings.front.user or "..."))
    output = {kind: value for kind, value in settings.output.items() if kind in kinds}
    return Request(messages, {}, 0, "", **output)


def _without_seed(body: dict[str, Any]) -> dict[str, Any]:
    """The study's requests had a seed for each row; one for all would make equal questions get equal answers."""
    body.pop("seed", None)
    if "options" in body:
        body["options"].pop("seed", None)
    return body


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"
