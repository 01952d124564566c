"""Owns what an Ollama server is asked besides texts: its version, its models, what is loaded, and pulling."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from genopt.backends._http import Refused, Server, in_words, near
from genopt.backends._ollama_params import Own, Runner, Version, own_parameters, runner_of
from genopt.errors import BackendError, SpecError
from genopt.spec.mistakes import hint

STEP = 10  # percent of a pull between two lines for people
SILENCE = 15.0  # seconds after which a pull says where it is anyway


@dataclass(frozen=True, slots=True)
class Model:
    """One model of the server, as /api/show tells it."""

    name: str
    digest: str
    quantization: str
    size: str
    architecture: str
    trained_context: int | None
    vocabulary: int | None
    capabilities: frozenset[str]
    own: Own
    runner: Runner
    file: str

    @property
    def identity(self) -> dict[str, str]:
        """What tells this model from others."""
        told = {"digest": self.digest, "quantization": self.quantization, "parameters": self.size}
        return {name: value for name, value in told.items() if value}

    def can(self, capability: str) -> bool:
        """True when the model has a capability; a server too old to tell is believed to complete texts."""
        return capability in self.capabilities or (not self.capabilities and capability == "completion")


@dataclass(frozen=True, slots=True)
class Loaded:
    """How the server runs a model now: the context of one request, requests at once, and the engine; None where
    neither the server nor this machine's process list tells."""

    context: int | None = None
    slots: int | None = None
    runner: Runner | None = None


async def server_version(server: Server) -> str:
    """The version. Raises BackendError when the server is not reached, or is not Ollama."""
    try:
        told = await server.send_json("/api/version")
        return str(told["version"])
    except (Refused, TypeError, KeyError) as error:
        why = f" ({error})" if isinstance(error, Refused) else ""
        raise BackendError(
            f"{server.where} is not Ollama: /api/version tells no version{why}",
            hint="check OLLAMA_HOST or backend.options.host; for other servers take backend.kind = openai",
        ) from None


async def models_of(
    server: Server, names: Mapping[str, str], version: Version, *, pull: bool = False
) -> dict[str, Model]:
    """What the server tells of these models (name -> the key of the study file that names it), pulled where it may be.
    Raises SpecError for all that it lacks."""
    listed = (await server.send_json("/api/tags")).get("models") or ()
    found: dict[str, Model] = {}
    problems: list[str] = []
    for name, key in names.items():
        told = await _shown(server, name)
        if told is None and pull:
            await pulled(server, name)
            told = await _shown(server, name)
            listed = (await server.send_json("/api/tags")).get("models") or ()
        if told is None:
            have = [entry["name"].removesuffix(":latest") for entry in listed]
            problems.append(
                f"{key}: {server.where} has no model {name!r}. Get it with: ollama pull {name} (or let genopt: --pull)."
                + hint(name, have)
            )
        else:
            digest = next((entry.get("digest", "") for entry in listed if entry["name"] == full_name(name)), "")
            found[name] = _model(name, str(digest), told, version)
    if problems:
        raise SpecError(problems)
    return found


async def _shown(server: Server, name: str) -> Mapping[str, Any] | None:
    try:
        told: Mapping[str, Any] = await server.send_json("/api/show", {"model": name})
        return told
    except Refused as refused:
        if refused.status == 404 or "invalid model name" in in_words(refused.reply):
            return None
        raise


def _model(name: str, digest: str, told: Mapping[str, Any], version: Version) -> Model:
    details, general = told.get("details") or {}, told.get("model_info") or {}
    architecture = str(general.get("general.architecture", details.get("family", "")))
    path = re.search(r"^FROM (\S.*)$", told.get("modelfile", ""), re.MULTILINE)
    file = path.group(1).strip() if path else ""
    return Model(
        name=name,
        digest=digest or os.path.basename(file),
        quantization=str(details.get("quantization_level", "")),
        size=str(details.get("parameter_size", "")),
        architecture=architecture,
        trained_context=general.get(f"{architecture}.context_length"),
        vocabulary=general.get(f"{architecture}.vocab_size"),
        capabilities=frozenset(told.get("capabilities") or ()),
        own=own_parameters(told.get("parameters") or ""),
        runner=runner_of(version, architecture, str(details.get("format", ""))),
        file=file,
    )


async def loaded(server: Server, model: Model) -> Loaded:
    """How the server runs a model that it has just loaded."""
    here = _on_this_machine(model.file) if near(server.url) else Loaded()
    for entry in (await server.send_json("/api/ps")).get("models") or ():
        if model.digest in ("", entry.get("digest")) and entry.get("context_length"):
            return Loaded(int(entry["context_length"]), here.slots, here.runner)
    return here


def _on_this_machine(file: str, proc: Path = Path("/proc")) -> Loaded:
    """What the command line of the process that runs a model file says: no endpoint tells the number of slots."""
    for process in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name), reverse=True) if file else ():
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile, or is somebody else's
        given = dict(pairwise(words))
        if given.get("--model", given.get("-m")) != file:
            continue
        slots, total = (given.get("--parallel", given.get("-np")), given.get("--ctx-size", given.get("-c")))
        if slots is None or total is None or not (slots.isdecimal() and total.isdecimal()):
            continue
        runner: Runner = "llama.cpp"
        if "--ollama-engine" in words:
            runner = "ollama-engine"
        elif os.path.basename(words[0]).startswith("llama-server"):
            runner = "llama-server"
        return Loaded(int(total) // int(slots), int(slots), runner)
    return Loaded()


async def pulled(server: Server, name: str) -> None:
    """Pull a model, telling people how far it is. Raises SpecError when the registry does not have it."""
    sizes: dict[str, tuple[int, int]] = {}
    told, at = -STEP, time.monotonic()
    server.tell(f"pulling {name}")
    try:
        async with server.stream_json("/api/pull", {"model": name, "stream": True}) as lines:
            async for line in lines:
                if "error" in line:
                    raise SpecError(f"backend.model: {name} cannot be pulled: {in_words(line)}")
                if line.get("status") == "success":
                    server.tell(f"pulled {name}")
                    return
                if line.get("total"):
                    sizes[line.get("digest", "")] = (line.get("completed", 0), line["total"])
                    done, total = (sum(column) for column in zip(*sizes.values(), strict=True))
                    percent = 100 * done // total
                    if percent >= told + STEP or time.monotonic() - at > SILENCE:
                        told, at = percent, time.monotonic()
                        server.tell(f"pulling {name}: {percent} % of {total / 1e9:.1f} GB")
    except Refused as error:
        raise SpecError(f"backend.model: {name} cannot be pulled: {in_words(error.reply)}") from None
    raise BackendError(f"{server.where}: pulling {name} ended before its end", retryable=True)


def full_name(name: str) -> str:
    """A model's name with its tag, as the server lists it."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
