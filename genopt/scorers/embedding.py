"""Owns similarity by sentence embeddings: the scale, the batches, the cache. Where vectors come from is its source's.

Cheap, and blind to negation, numbers and names: "it is safe" and "it is not safe" are near each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from genopt.errors import GenoptError, ScorerError
from genopt.scorers._embed_local import LocalSource
from genopt.scorers._embed_ollama import OllamaSource
from genopt.scorers._embedded import Embedded, Source
from genopt.scorers._plain import NO_REFERENCE, REFERENCES
from genopt.types import Backend, BackendInfo, Example, Generation, Score

KEPT_OUTPUTS = 20_000  # embeddings of model outputs kept in memory: 30 MB at 384 dimensions
LEAST_FOR_FLOOR = 20  # different references that a mean similarity of unrelated texts is worth computing from
HIGHEST_FLOOR = 0.95
_DIGITS = 6  # the rest of a cosine depends on which texts shared a batch


class Embedding:
    """Cosine similarity to the references, clipped to [0, 1]: their best, or with `aggregate` "mean" their mean.

    With `rescale`, 0 is the mean similarity of references of different examples (`prepare` measures it, so that the
    scale is the same in every trial) and 1 is still 1. `engine` "sentence-transformers" loads the model here, on
    `device`, and `prompt` names one of its own prompts; "ollama" asks a server (`host`, and `options` as the engine of
    that name has them). The model is loaded by `prepare` or the first `score`; concurrent calls share batches; a text
    is embedded once. A blank answer scores 0. Raises MissingExtra, SpecError (a model that cannot be loaded, an unknown
    prompt), BackendError, ScorerError.
    """

    needs = REFERENCES

    def __init__(
        self,
        *,
        name: str,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        device: str = "cpu",
        batch_size: int = 32,
        rescale: bool = False,
        aggregate: Literal["max", "mean"] = "max",
        prompt: str | None = None,
        engine: Literal["sentence-transformers", "ollama"] = "sentence-transformers",
        host: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.identity: Mapping[str, str] = {}
        self.tell: Callable[[str], None] = lambda text: None
        self._model_name = model
        self._rescale, self._aggregate = rescale, aggregate
        where = f"scorers.{name}"
        self._source: Source = (
            LocalSource(model, device, batch_size, prompt, where=where)
            if engine == "sentence-transformers"
            else OllamaSource(model, host, options or {}, batch_size, where=where, tell=lambda text: self.tell(text))
        )
        self._pinned: dict[bytes, Embedded] = {}
        self._recent: OrderedDict[bytes, Embedded] = OrderedDict()
        self._floor: float | None = None
        self._queue: list[tuple[bytes, str]] = []
        self._futures: dict[bytes, asyncio.Future[Embedded]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def attach(self, backend: Backend, info: BackendInfo, slots: asyncio.Semaphore) -> None:
        """Find out what identifies the model. The study's own engine is not used."""
        self.identity = await self._source.open()

    async def prepare(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Load the model and embed the references of all the study's examples; warnings about what it cannot read."""
        texts = list(dict.fromkeys(text for example in examples for text in _solid(example.references)))
        if not texts:
            await self._source.load()
        found = dict(zip(texts, await self._embed(texts), strict=True))
        self._pinned.update((_key(text), embedded) for text, embedded in found.items())
        warnings = []
        cut = sum(embedded.cut for embedded in found.values())
        if cut:
            warnings.append(f"{cut} of {len(texts)} references are longer than {self._source.limit}")
        if self._rescale:
            firsts = dict.fromkeys(refs[0] for refs in (_solid(example.references) for example in examples) if refs)
            self._floor = unrelated([found[text].vector for text in firsts])
            if len(firsts) < LEAST_FOR_FLOOR:
                self._floor = 0.0
                warnings.append(f"not rescaled: fewer than {LEAST_FOR_FLOOR} examples with different references")
            elif self._floor > HIGHEST_FLOOR:
                warnings.append(f"unrelated references already have a similarity of {self._floor:.2f}: use a judge")
                self._floor = HIGHEST_FLOOR
        return tuple(f"scorers.{self.name}: {warning}" for warning in warnings)

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, None without a reference."""
        if not example.references:
            return [Score(None, NO_REFERENCE)] * len(generations)
        if self._rescale and self._floor is None:
            raise ScorerError(f"scorer {self.name!r} rescales and was not prepared with the study's examples")
        references = _solid(example.references)
        answers = _solid([generation.text for generation in generations])
        texts = (*references, *answers) if references and answers else ()
        embedded = dict(zip(texts, await self._embed(texts), strict=True))
        wanted = np.stack([embedded[text].vector for text in references]) if embedded else None
        scores = []
        for text in (generation.text for generation in generations):
            if wanted is None or text not in embedded:
                # A blank answer, or nothing but blank references: equal only when both are.
                scores.append(Score(float(not text.strip() and len(references) < len(example.references))))
                continue
            cut = embedded[text].cut
            why = f"longer than {self._source.limit}: only the beginning was compared" if cut else ""
            scores.append(Score(self._value(wanted @ embedded[text].vector), why))
        return scores

    def _value(self, cosines: npt.NDArray[np.float32]) -> float:
        floor = self._floor or 0.0
        scaled = np.clip((cosines.astype(np.float64) - floor) / (1 - floor), 0.0, 1.0)
        return round(float(scaled.max() if self._aggregate == "max" else scaled.mean()), _DIGITS)

    async def aclose(self) -> None:
        """Free the model and the embeddings; safe to call twice."""
        worker, self._worker = self._worker, None
        if worker is not None and worker.get_loop() is asyncio.get_running_loop():
            worker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await worker
        await self._source.aclose()
        self._pinned.clear()
        self._recent.clear()

    # ---------------------------------------------------------------------------------------------- batches, cache

    async def _embed(self, texts: Sequence[str]) -> list[Embedded]:
        """The embeddings of the texts, in order; those that are neither known nor under way join the next batch."""
        loop = asyncio.get_running_loop()
        if self._worker is None or self._worker.done() or self._worker.get_loop() is not loop:
            self._worker, self._queue, self._futures = None, [], {}  # whatever a dead event loop left behind
        ready: dict[bytes, Embedded] = {}
        awaited: dict[bytes, asyncio.Future[Embedded]] = {}
        keys = [_key(text) for text in texts]
        for key, text in zip(keys, texts, strict=True):
            known = self._pinned.get(key) or self._recent.get(key)
            if known is not None:
                ready[key] = known
                if key in self._recent:
                    self._recent.move_to_end(key)
                continue
            if key not in self._futures:
                self._futures[key] = loop.create_future()
                self._queue.append((key, text))
            awaited[key] = self._futures[key]
        if awaited:
            if self._worker is None:
                self._worker = loop.create_task(self._work())
            # Not gather: a cancelled caller must not cancel what others wait for.
            await asyncio.wait(awaited.values())
        return [ready[key] if key in ready else awaited[key].result() for key in keys]

    async def _work(self) -> None:
        """Embed what is queued, batch by batch, until nothing is; every caller of `_embed` gets a result or error."""
        try:
            while True:
                await asyncio.sleep(0)  # the other examples that are scored now put their texts in the queue first
                if not self._queue:
                    return
                batch, self._queue = self._queue, []
                try:
                    results = await self._source.embed([text for _, text in batch])
                except Exception as error:
                    self._fail(batch, error)
                    continue
                for (key, _), embedded in zip(batch, results, strict=True):
                    self._recent[key] = embedded
                    self._futures.pop(key).set_result(embedded)
                while len(self._recent) > KEPT_OUTPUTS:
                    self._recent.popitem(last=False)
        finally:
            self._fail([(key, "") for key in self._futures], ScorerError(f"scorer {self.name!r} was closed"))

    def _fail(self, batch: Sequence[tuple[bytes, str]], error: Exception) -> None:
        if not isinstance(error, GenoptError):
            error = ScorerError(f"scorer {self.name!r}: {self._model_name} failed: {type(error).__name__}: {error}")
        for key, _ in batch:
            future = self._futures.pop(key)
            future.set_exception(error)
            future.exception()  # marks it as seen, for callers that were cancelled meanwhile


def unrelated(vectors: Sequence[npt.NDArray[np.float32]]) -> float:
    """The mean cosine over all pairs of different unit vectors, at least 0; 0 for fewer than two."""
    n = len(vectors)
    if n < 2:
        return 0.0
    total = np.stack(vectors).astype(np.float64).sum(axis=0)
    return max(float(total @ total - n) / (n * (n - 1)), 0.0)


def _solid(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if text.strip()]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
