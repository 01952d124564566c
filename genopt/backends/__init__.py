"""Owns the names of the engines. A table name -> class; an engine of the user's is "module:Class"."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from pathlib import Path

from genopt import handed
from genopt.errors import GenoptError, SpecError
from genopt.plugins import load_object
from genopt.spec import BackendSpec
from genopt.spec.backend import MANY
from genopt.spec.mistakes import hint
from genopt.types import Backend, BackendInfo, Domain, Params

KINDS = {
    "ollama": "genopt.backends.ollama:OllamaBackend",
    "openai": "genopt.backends.openai:OpenAIBackend",
    "ray": "genopt.backends.ray:RayBackend",
    "transformers": "genopt.backends.transformers:TransformersBackend",
    "vllm": "genopt.backends.vllm:VllmBackend",
}


def make_backend(spec: BackendSpec, folder: Path) -> Backend:
    """The engine a study file names, not yet opened. A model that is a folder beside the study file is found there."""
    if spec.kind in KINDS:
        name = KINDS[spec.kind]
    elif ":" in spec.kind:
        name = spec.kind
    else:
        what = f'there is no engine {spec.kind!r} (your own is "module:Class")'
        raise SpecError(f"backend.kind: {what}.{hint(spec.kind, KINDS)}")
    made = load_object(name, folder, key="backend.kind")
    model = str(folder / spec.model) if (folder / spec.model).is_dir() else spec.model
    many = {"engine": spec.engine, "replicas": spec.replicas, "folder": folder} if spec.kind == MANY else {}
    try:
        backend = made(model=model, options=spec.options, **many)
    except TypeError as error:
        raise SpecError(f"backend.kind: {name} cannot be made as Class(model=..., options=...): {error}") from error
    except GenoptError:
        raise
    except Exception as error:
        raise SpecError(
            f"backend.kind: {name} cannot be made: {type(error).__name__}: {error}. Correct its options, or the class"
        ) from error
    if not isinstance(backend, Backend):
        raise SpecError(f"backend.kind: {name} is no backend: it needs open, generate and aclose")
    return backend


def declared(kind: str, model: str | None, folder: Path) -> tuple[Mapping[str, Domain], Params]:
    """The parameters an engine honours, and with a model its defaults too. Raises SpecError or BackendError."""
    if kind == MANY:
        raise SpecError(f"{kind} honours what the engine in its actors honours: name that one, e.g. vllm")
    if model is None:
        if kind not in KINDS:
            raise SpecError(f"there is no engine {kind!r} (for your own, give --model too).{hint(kind, KINDS)}")
        module = importlib.import_module(KINDS[kind].partition(":")[0])
        domains: Mapping[str, Domain] = module.PARAMS
        return domains, {}
    backend = make_backend(BackendSpec(kind=kind, model=model), folder)

    async def ask() -> BackendInfo:
        try:
            with handed.raised(f"backend.kind: {kind}", "open"):
                return await backend.open()
        finally:
            await backend.aclose()

    info = asyncio.run(ask())
    return info.params, info.defaults
