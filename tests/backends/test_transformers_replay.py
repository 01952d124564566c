"""Texts that are harvested are those the embedded engine gives, to the letter: over random settings, stop strings that
lie across tokens, and cuts inside a character."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from genopt.harvest import Harvest, Kin, whole
from genopt.tables import Donor
from genopt.types import Generation, Message, Request
from tests import tiny_models
from tests.backends.embedded import ONE_THREAD, make_request, mixed_requests, outcome

pytest.importorskip("torch", reason="the embedded engine needs PyTorch")
pytest.importorskip("transformers", reason="the embedded engine needs transformers")

from genopt.backends.transformers import TransformersBackend


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose context ends many texts."""
    return tiny_models.make_llama(tmp_path_factory.mktemp("models") / "cramped", context=64)


def stops_from(texts: Sequence[str], draw: random.Random) -> tuple[str, ...]:
    """Up to three pieces of what was written, of one to eight characters: most lie across tokens."""
    pieces = []
    for text in draw.sample(texts, min(len(texts), draw.randrange(4))):
        if text:
            start = draw.randrange(len(text))
            pieces.append(text[start : start + draw.randrange(1, 9)])
    return tuple(dict.fromkeys(pieces))


def kindred(requests: Sequence[Request], texts: Sequence[str], draw: random.Random) -> list[Request]:
    """The same requests with other lengths, and stop strings from the texts."""
    return [
        replace(
            request,
            params={
                **request.params,
                "max_tokens": draw.randrange(1, 56),
                "stop": stops_from([text, draw.choice(texts)], draw),
            },
        )
        for request, text in zip(requests, texts, strict=True)
    ]


async def compare(model: Path, rounds: int) -> tuple[int, int, int]:
    """Harvest every request of `rounds` from every other one with the same seed; how many texts were harvested, of
    them ended by a stop string, and of them cut inside a character."""
    backend = TransformersBackend(model=str(model), options=ONE_THREAD)
    await backend.open()
    draw = random.Random(3)
    base = [
        *(replace(r, params={**r.params, "stop": (), "max_tokens": 48}) for r in mixed_requests(60)),
        *(make_request(f"bytes {n}", seed=n, max_tokens=40, temperature=3.0) for n in range(20)),
    ]
    try:

        async def generated(requests: Sequence[Request]) -> list[Generation]:
            return list(await asyncio.gather(*(backend.generate(request) for request in requests)))

        made = [(base, await generated(base))]
        for _ in range(rounds):
            others = kindred(base, [done.text for done in made[0][1]], draw)
            made.append((others, await generated(others)))
        harvest = Harvest(backend.replay)
        harvested = stopped = broken = 0
        for wanted, true in made:
            for had, donors in made:
                for request, expected, source, donor in zip(wanted, true, had, donors, strict=True):
                    kin = Kin()
                    kin.add(Donor(7, request.example_id, request.sample, source.params, donor))
                    found = harvest.find(kin, request)
                    if found is None:  # and not for want of trying
                        assert donor.finish == "error" or expected.completion_tokens > len(donor.tokens or ())
                    else:
                        assert found[1] == 7
                        assert outcome(found[0]) == outcome(expected), (source.params, request.params)
                        cut = expected.completion_tokens < donor.completion_tokens
                        harvested += source is not request
                        stopped += cut and expected.finish == "stop"
                        broken += cut and expected.text.endswith("\ufffd")
                    untouched = whole(donor, source.params, request.params, hidden=False)
                    assert untouched is None or outcome(untouched) == outcome(expected)
        return harvested, stopped, broken
    finally:
        await backend.aclose()


@pytest.mark.parametrize("name", ["llama", "t5", "cramped"])
def test_a_harvested_text_is_the_generated_one(name: str, request: pytest.FixtureRequest) -> None:
    harvested, stopped, broken = asyncio.run(compare(request.getfixturevalue(name), rounds=3))
    assert harvested > 250
    assert stopped > 40
    assert broken > 2


def test_the_tokens_of_a_harvested_text_are_those_of_the_generated_one(llama: Path) -> None:
    async def main() -> None:
        backend = TransformersBackend(model=str(llama), options=ONE_THREAD)
        await backend.open()
        try:
            long = make_request("an order", max_tokens=30, temperature=1.0)
            short = replace(long, params={**long.params, "max_tokens": 7})
            donor, expected = await backend.generate(long), await backend.generate(short)
            found = backend.replay(short, donor)
            assert found is not None
            assert found.tokens == expected.tokens
            assert len(found.tokens or ()) == 7
            beams = replace(long, params={**long.params, "num_beams": 2})
            assert (await backend.generate(beams)).tokens is None
            assert backend.replay(replace(beams, params={**beams.params, "max_tokens": 5}), donor) is None
            assert backend.replay(replace(short, choices=("yes", "no")), donor) is None
            assert backend.replay(short, replace(donor, tokens=None)) is None
        finally:
            await backend.aclose()

    asyncio.run(main())


def test_choices_end_as_before(llama: Path) -> None:
    """The rule for an end is shared with texts that are kept to choices."""
    request = Request((Message("user", "?"),), {"max_tokens": 9, "temperature": 1.0}, 1, "x", choices=("yes", "no"))

    async def main() -> Generation:
        backend = TransformersBackend(model=str(llama), options=ONE_THREAD)
        await backend.open()
        try:
            return await backend.generate(request)
        finally:
            await backend.aclose()

    assert asyncio.run(main()).text in ("yes", "no")
