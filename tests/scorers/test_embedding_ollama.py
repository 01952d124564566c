"""Embeddings from Ollama's /api/embed: what is sent, what is done with refusals, what is told; on a strict double."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from genopt.errors import BackendError, ScorerError, SpecError
from genopt.scorers import make_scorer, scorer_key
from genopt.scorers.embedding import Embedding
from genopt.spec.read import make_study
from genopt.types import Score
from tests.scorers.helpers import example, obeys, scores, values

WORDS = ["cat", "dog", "sat", "ran"]
CONTEXT = 40  # bytes that the double's model reads
FIELDS = {"model", "input", "truncate", "options", "keep_alive"}


class Double:
    """A server with one model, whose embedding of a text is its counts of known words. `embeds` holds the bodies it
    was sent; `replies` are given instead of the right one, first come first served."""

    def __init__(self) -> None:
        self.embeds: list[dict[str, Any]] = []
        self.replies: list[tuple[int, Any]] = []
        self.digest = "abc"
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listed = [{"name": "embedder:latest", "digest": double.digest}]
                self.reply(200, {"/api/version": {"version": "0.33.0"}, "/api/tags": {"models": listed}}[self.path])

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path == "/api/show":
                    known = body["model"] == "embedder"
                    self.reply(*((200, {"details": {}}) if known else (404, {"error": "model not found"})))
                else:
                    assert self.path == "/api/embed" and body.keys() <= FIELDS
                    double.embeds.append(body)
                    self.reply(*(double.replies.pop(0) if double.replies else double.embed(body)))

            def reply(self, status: int, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def embed(self, body: dict[str, Any]) -> tuple[int, Any]:
        texts = body["input"]
        if not body["truncate"] and any(len(text.encode()) > CONTEXT for text in texts):
            return 400, {"error": "input length exceeds maximum context length"}
        if any(text == "\N{ZERO WIDTH SPACE}" for text in texts):
            return 500, {"error": "Failed to create new sequence: no input provided"}
        seen = [text.encode()[:CONTEXT].decode(errors="ignore") for text in texts]
        vectors = np.array([[text.count(word) for word in WORDS] + [1e-3] for text in seen])
        vectors *= 7 / np.linalg.norm(vectors, axis=1, keepdims=True)  # older servers do not normalise
        return 200, {"model": body["model"], "embeddings": vectors.tolist()}

    @property
    def batches(self) -> list[list[str]]:
        return [body["input"] for body in self.embeds]


@pytest.fixture
def double() -> Iterator[Double]:
    found = Double()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


def scorer(double: Double, **options: Any) -> Embedding:
    return Embedding(name="e", engine="ollama", host=double.host, **{"model": "embedder"} | options)


def test_it_obeys_and_scores_by_direction(double: Double) -> None:
    obeys(scorer(double), example("cat sat", "dog"))
    given = example("cat", "cat dog")
    assert values(scorer(double), given, "cat dog", "dog", "ran") == pytest.approx([1.0, 2**-0.5, 0.0], abs=0.01)


def test_batches_are_as_large_as_asked_for_and_a_text_is_asked_once(double: Double) -> None:
    made = scorer(double, batch_size=3, options={"num_thread": 1, "num_ctx": 512, "keep_alive": "30m"})
    rows = [example(f"cat {i}", id=str(i)) for i in range(5)]

    async def everything() -> None:
        await made.prepare(rows)
        await asyncio.gather(*(made.score(row, []) for row in rows))
        await made.aclose()

    asyncio.run(everything())
    assert double.batches == [["cat 0", "cat 1", "cat 2"], ["cat 3", "cat 4"]]
    assert {json.dumps(body["options"]) for body in double.embeds} == {'{"num_ctx": 512, "num_thread": 1}'}
    assert {(body["model"], body["keep_alive"]) for body in double.embeds} == {("embedder", "30m")}


def test_a_text_beyond_the_context_is_cut_alone_and_said(double: Double) -> None:
    long = "cat " * 20
    made = scorer(double)
    short, cut = scores(made, example("cat dog"), "dog", long)
    assert (short.why, cut.why) == ("", "longer than the model's context: only the beginning was compared")
    assert cut.value == pytest.approx(2**-0.5, abs=0.01)
    assert [body["input"] for body in double.embeds if body["truncate"]] == [[long]]
    warned = asyncio.run(made.prepare([example("cat", id="1"), example(long + "!", id="2")]))
    assert warned == ("scorers.e: 1 of 2 references are longer than the model's context",)


def test_a_text_in_which_the_model_reads_nothing_is_like_no_other(double: Double) -> None:
    assert values(scorer(double), example("cat"), "\N{ZERO WIDTH SPACE}", "cat") == [0.0, 1.0]


def test_a_busy_server_is_asked_again(double: Double) -> None:
    double.replies = [(503, {"error": "server busy, please try again.  maximum pending requests exceeded"})]
    assert values(scorer(double), example("cat"), "cat") == [1.0]
    assert double.batches == [["cat"], ["cat"]]


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, {"embeddings": [[1.0]]}), "embedder gave no usable embeddings of 2 texts"),
        ((200, {"embeddings": [[1.0], [float("nan")]]}), "no usable embeddings"),
        ((200, {}), "no usable embeddings"),
        ((400, {"error": "this model does not support embeddings"}), "this model does not support embeddings"),
    ],
)
def test_what_is_no_embedding_is_an_error_and_not_a_score(double: Double, reply: Any, words: str) -> None:
    double.replies = [reply]
    with pytest.raises(ScorerError, match=words):
        scores(scorer(double), example("cat"), "dog")


def test_a_server_that_is_not_there_is_told(double: Double) -> None:
    absent = Embedding(name="e", engine="ollama", model="embedder", host="127.0.0.1:9")
    with pytest.raises(BackendError, match=r"Ollama at http://127\.0\.0\.1:9 does not answer"):
        asyncio.run(absent.attach(None, None, None))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"scorers\.e\.model: .* has no model 'other'"):
        asyncio.run(scorer(double, model="other").attach(None, None, None))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"scorers\.e\.options\.num_tread: there is no such option"):
        scorer(double, options={"num_tread": 1})


def test_the_server_s_model_is_part_of_what_a_score_depends_on(double: Double) -> None:
    table = {"kind": "embedding", "engine": "ollama", "model": "embedder", "host": double.host}

    def key(**more: Any) -> str:
        study = {"dataset": {"rows": []}, "backend": {"model": "m"}, "scorers": {"e": table | more}}
        spec = make_study(study)
        made = make_scorer("e", spec.scorers["e"], spec.folder)
        asyncio.run(made.attach(None, None, None))  # type: ignore[attr-defined]
        return scorer_key(spec.scorers["e"], made, spec.folder, repeats=1)

    first = key()
    assert key() == key(options={"num_thread": 1}) == key(host=f"http://{double.host}") == first
    assert key(options={"num_ctx": 512}) != first
    double.digest = "another"
    assert key() != first


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"engine": "ollama"}, "model is missing: name one that embeds"),
        ({"engine": "ollama", "model": "m", "device": "cuda"}, "engine ollama has no device"),
        ({"host": "x"}, "engine sentence-transformers has no host"),
        ({"engine": "olama", "model": "m"}, "Did you mean 'ollama'?"),
    ],
)
def test_keys_of_the_other_engine_are_refused(keys: dict[str, Any], words: str) -> None:
    study = {"dataset": {"rows": []}, "backend": {"model": "m"}, "scorers": {"e": {"kind": "embedding", **keys}}}
    with pytest.raises(SpecError) as error:
        make_study(study)
    assert words in str(error.value)


def test_without_references_the_model_is_loaded_all_the_same(double: Double) -> None:
    made = scorer(double)
    assert asyncio.run(made.prepare([example()])) == ()
    assert double.batches == [["-"]]
    assert scores(made, example(), "cat") == [Score(None, "the example has no reference")]
