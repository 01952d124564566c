"""Owns how a request becomes the JSON body of /chat/completions or /completions. Sends nothing."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genopt.backends._openai_params import Dialect, field
from genopt.errors import BackendError
from genopt.types import Message, Params, Request


@dataclass(frozen=True, slots=True)
class Wire:
    """What is the same for every request to one server.

    `completions` sends the messages' texts as one raw prompt; `max_tokens_field` is what /chat/completions calls the
    limit; `extra` are fixed fields; `without` names parameters (or "seed") that the model refuses.
    """

    dialect: Dialect
    completions: bool = False
    stream: bool = True
    max_tokens_field: str = "max_tokens"
    extra: Mapping[str, Any] | None = None
    without: Collection[str] = ()

    @property
    def path(self) -> str:
        """Where requests go, below the base URL."""
        return "/completions" if self.completions else "/chat/completions"

    def body(self, model: str, request: Request, params: Params) -> dict[str, Any]:
        """The body of one request; `params` are legal values. Raises BackendError for an image that cannot be sent."""
        body: dict[str, Any] = {"model": model, **(self.extra or {}), "stream": self.stream}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.completions:
            if any(message.images for message in request.messages):
                raise BackendError("a raw prompt (backend.options.completions) cannot hold images")
            body["prompt"] = "".join(message.content for message in request.messages)
        else:
            body["messages"] = [_turn(message) for message in request.messages]
        for name, value in params.items():
            if name != "model":
                limit = name == "max_tokens" and not self.completions
                wire = self.max_tokens_field if limit else field(self.dialect, name)
                body[wire] = list(value) if isinstance(value, tuple) else value
        if isinstance(body.get("min_tokens"), int):  # the server refuses what cannot be kept
            body["min_tokens"] = min(body["min_tokens"], int(str(params["max_tokens"])))
        if not body.get("stop", True):
            del body["stop"]
        if "seed" not in self.without:
            body["seed"] = request.seed
        if request.top_logprobs:
            alternatives = {"logprobs": True, "top_logprobs": request.top_logprobs}
            body |= {"logprobs": request.top_logprobs} if self.completions else alternatives
        return body | self._constraint(request)

    def _constraint(self, request: Request) -> dict[str, Any]:
        if request.schema is not None:
            shape: dict[str, Any] = {"name": "answer", "schema": request.schema}
            if self.dialect == "openai":
                shape["strict"] = closed(request.schema)
            return {"response_format": {"type": "json_schema", "json_schema": shape}}
        if request.choices and self.dialect == "llama.cpp":
            texts = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in request.choices)
            return {"grammar": f"root ::= {texts}"}
        if request.choices:
            return {"structured_outputs": {"choice": list(request.choices)}}
        if request.regex is not None:
            return {"structured_outputs": {"regex": request.regex}}
        return {}


def closed(schema: Any) -> bool:
    """True when every object of a JSON Schema requires all its properties and allows no other: what OpenAI's strict
    mode asks of a schema; others are followed as well as the model can."""
    if isinstance(schema, Mapping):
        if "properties" in schema and (
            schema.get("additionalProperties") is not False
            or set(schema.get("required", ())) != set(schema["properties"])
        ):
            return False
        return all(closed(part) for part in schema.values())
    return all(closed(part) for part in schema) if isinstance(schema, (list, tuple)) else True


def _turn(message: Message) -> dict[str, Any]:
    if not message.images:
        return {"role": message.role, "content": message.content}
    images = [{"type": "image_url", "image_url": {"url": data_url(path)}} for path in message.images]
    return {"role": message.role, "content": [*images, {"type": "text", "text": message.content}]}


def data_url(path: str) -> str:
    """A file as a data: URL. Raises BackendError when it cannot be read or is no image."""
    kind, _ = mimetypes.guess_type(path)
    if kind is None or not kind.startswith("image/"):
        raise BackendError(f"{path} is no image", hint="name a .png, .jpg, .webp or .gif file")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise BackendError(f"the image {path} cannot be read ({error.strerror})") from None
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
