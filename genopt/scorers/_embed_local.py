"""Owns sentence embeddings from a model in this process. The only user of sentence-transformers."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from genopt._loading import ONE_AT_A_TIME
from genopt.errors import MissingExtra, SpecError
from genopt.scorers._embedded import Embedded


class LocalSource:
    """A sentence-transformers model, loaded when it is first needed and run in a thread."""

    limit = "what the model reads"

    def __init__(self, model: str, device: str, batch_size: int, prompt: str | None, *, where: str) -> None:
        self._name, self._device, self._batch_size, self._prompt = model, device, batch_size, prompt
        self._where = where
        self._model: Any = None
        self._one_at_a_time = threading.RLock()  # a cancelled batch goes on in its thread

    async def open(self) -> Mapping[str, str]:
        """Nothing: the model's name stands in the study file."""
        return {}

    async def load(self) -> None:
        """Load the model. Raises MissingExtra, SpecError."""
        await asyncio.to_thread(self._load)

    async def embed(self, texts: Sequence[str]) -> list[Embedded]:
        """One vector per text."""
        return await asyncio.to_thread(self._encode, list(texts))

    async def aclose(self) -> None:
        """Let the model go."""
        self._model = None

    def _encode(self, texts: Sequence[str]) -> list[Embedded]:
        """Runs in a thread."""
        with self._one_at_a_time:
            model = self._load()
            clean = [text.encode("utf-8", "replace").decode() for text in texts]  # tokenizers refuse lone surrogates
            vectors = model.encode(
                clean,
                prompt_name=self._prompt,
                batch_size=self._batch_size,
                normalize_embeddings=True,
                convert_to_numpy=True,
                show_progress_bar=False,
            )
            cut = _cut(model, clean)
        return [Embedded(np.asarray(v, dtype=np.float32), c) for v, c in zip(vectors, cut, strict=True)]

    def _load(self) -> Any:
        with self._one_at_a_time:
            if self._model is None:
                model = load_model(self._name, self._device, where=self._where)
                if self._prompt is not None and self._prompt not in model.prompts:
                    known = ", ".join(model.prompts) or "none"
                    raise SpecError(f"{self._where}: prompt: the model has no {self._prompt!r}. It has: {known}")
                self._model = model
                self.limit = f"the {model.max_seq_length} tokens that the model reads"
            return self._model


def load_model(name: str, device: str, *, where: str) -> Any:
    """A SentenceTransformer from a folder or the hub, loaded without a word. Raises MissingExtra, SpecError."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtra("sentence-transformers", "embedding") from error
    local = Path(name).expanduser()
    try:
        with ONE_AT_A_TIME, _no_progress_bars():
            return SentenceTransformer(str(local) if local.exists() else name, device=device)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SpecError(
            f"{where}: model: cannot load {name!r} on {device}: {reason}",
            hint="name a folder that holds a sentence-transformers model, or a model of the Hugging Face hub",
        ) from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if shown:
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _cut(model: Any, texts: Sequence[str]) -> list[bool]:
    """Which texts are longer than what the model reads. A token has at least one byte, so most need no tokenizing."""
    limit = model.max_seq_length
    if limit is None:
        return [False] * len(texts)
    long = [text for text in texts if len(text.encode()) > limit - 2]
    if not long:
        return [False] * len(texts)
    ids = model.tokenizer(long, truncation=False, return_attention_mask=False, verbose=False)["input_ids"]
    lengths = {text: len(tokens) for text, tokens in zip(long, ids, strict=True)}
    return [lengths.get(text, 0) > limit for text in texts]
