"""Owns settings as an Ollama model: the text of a Modelfile, and the same as the body of /api/create.

A Modelfile has no escapes. Texts go between triple quotes, where everything stands as it is but two things: a line
that ends in triple quotes ends the text, and characters that do not print are dropped (Ollama's parser/parser.go).
The body of /api/create takes any text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

from genopt.backends._ollama_options import RUNNER
from genopt.errors import SpecError
from genopt.export.settings import Settings
from genopt.export.targets import TARGETS, translated
from genopt.types import Message


def create_body(settings: Settings, params: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The body of /api/create that makes the settings a model of that name."""
    body: dict[str, Any] = {"model": name, "from": settings.model, "stream": False}
    if settings.options.get("template") is not None:
        body["template"] = settings.options["template"]
    if settings.system:
        body["system"] = settings.system
    if turns := _turns(settings):
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
    return body | {"parameters": _parameters(settings, params)}


def modelfile(settings: Settings, params: Mapping[str, Any]) -> str:
    """The Modelfile. Raises SpecError, with the body for /api/create, for a text that none can hold."""
    body = create_body(settings, params, "NAME")
    lines = [f"# {_comment(settings.title)}", f"FROM {settings.model}"]
    for name, value in body["parameters"].items():
        for each in value if isinstance(value, list) else [value]:
            lines.append(f"PARAMETER {name} {_value(name, each, body)}")
    if "template" in body:
        lines.append(f"TEMPLATE {_quoted('the template', body['template'], body)}")
    if "system" in body:
        lines.append(f"SYSTEM {_quoted('the system prompt', body['system'], body)}")
    for turn in body.get("messages", ()):
        lines.append(f"MESSAGE {turn['role']} {_quoted('a few-shot example', turn['content'], body)}")
    return "\n".join(lines) + "\n"


def unsaid(settings: Settings, *, api: bool) -> list[str]:
    """What a model cannot hold, in words; with `api` when it is made by /api/create."""
    options, said = settings.options, []
    for name, value in {"think": None, "shift": None, "raw": False}.items():
        if options.get(name, value) != value:
            said.append(f"{name}: {json.dumps(options[name])} is sent with each request, a model cannot hold it")
    if settings.engine == "ollama" and settings.own_stop and settings.params.get("stop") == [] and not api:
        said.append("stop: a Modelfile cannot empty the model's own list, --create can")
    if any(turn.images for turn in settings.front.messages):
        said.append("the few-shot examples: a model cannot hold their images")
    return said


def _turns(settings: Settings) -> tuple[Message, ...]:
    """The turns after the system prompt; none of them where some show images."""
    turns = tuple(message for message in settings.front.messages if message.role != "system")
    return () if any(turn.images for turn in turns) else turns


def _parameters(settings: Settings, params: Mapping[str, Any]) -> dict[str, Any]:
    fixed = {name: settings.options[name] for name in RUNNER if settings.options.get(name) is not None}
    return translated(params, TARGETS["ollama"].names) | (fixed if settings.engine == "ollama" else {})


def _value(name: str, value: Any, body: Mapping[str, Any]) -> str:
    if isinstance(value, str):
        return _quoted(f"the {name} string {value!r}", value, body)
    return json.dumps(value)


def _quoted(what: str, text: str, body: Mapping[str, Any]) -> str:
    why = ""
    if any(line.rstrip().endswith('"""') for line in text.split("\n")):
        why = 'a line of it ends in """'
    elif lost := next((c for c in text if not c.isprintable() and c not in "\t\n"), None):
        why = f"Ollama drops the character U+{ord(lost):04X} ({unicodedata.name(lost, 'a control character')})"
    if why:
        raise SpecError(
            f"a Modelfile cannot hold {what}: {why}",
            hint=f"make the model with --create NAME, or send this to /api/create: {json.dumps(body)}",
        )
    return f'"""{text}"""'


def _comment(text: str) -> str:
    return " ".join(text.split())
