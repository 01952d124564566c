"""Owns the keys of an engine's table, the study's and a judge's."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genopt.spec._base import Table

MANY = "ray"  # the kind that runs another engine in many places


class EngineSpec(Table):
    """The engine that every actor of a Ray cluster holds."""

    kind: str
    """As backend.kind."""
    model: str
    """As backend.model; a folder has to be at the same path on every machine."""
    options: dict[str, Any] = {}
    """Its options."""


class Engines(Table):
    """What the study's engine and a judge's have in common."""

    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Requests in flight; auto = what the engine says."""
    options: dict[str, Any] = {}
    """Engine options, fixed for the study."""
    engine: EngineSpec | None = None
    """With kind = "ray": the engine that every actor holds, { kind = "vllm", model = "...", options = {...} }."""
    replicas: Annotated[int, Field(ge=1)] | None = None
    """With kind = "ray": how many actors at most (default 1); those that find no room yet start when there is some."""

    @model_validator(mode="before")
    @classmethod
    def _model_of_the_engine(cls, table: Any) -> Any:
        inner = table.get("engine") if isinstance(table, dict) and table.get("kind") == MANY else None
        named = inner.get("model") if isinstance(inner, dict) else getattr(inner, "model", None)
        return {"model": named, **table} if named is not None else table

    @model_validator(mode="after")
    def _engine_where_there_are_many(self) -> Engines:
        kind, model = getattr(self, "kind", None), getattr(self, "model", None)
        if kind != MANY:
            if given := [name for name in ("engine", "replicas") if getattr(self, name) is not None]:
                raise ValueError(f'{" and ".join(given)}: only with kind = "{MANY}". Drop it, or change kind')
        elif self.engine is None:
            raise ValueError('engine is missing. Say which one runs on Ray: engine = { kind = "vllm", model = "..." }')
        elif self.engine.kind == MANY:
            raise ValueError("engine.kind: Ray cannot run Ray. Name the engine that generates")
        elif model != self.engine.model:
            raise ValueError(f"model: {model!r} is not engine.model ({self.engine.model!r}). Drop it")
        return self
