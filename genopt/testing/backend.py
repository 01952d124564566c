"""Owns the contract of a backend, and how each parameter is shown to change the text. Knows no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from genopt.errors import BackendError
from genopt.types import Backend, BackendInfo, Generation, Message, ParamValue, Request

Scenario = Callable[[Backend, BackendInfo], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Probe:
    """How one parameter is shown to change the text: all else equal, values `a` and `b` must not give the same texts.

    `base` is set over the neutral parameters. A value may be a function of the text that `base` alone gives.
    """

    a: Any
    b: Any
    base: Mapping[str, ParamValue] = field(default_factory=dict)


def middle(text: str) -> tuple[str, ...]:
    """A stop string that is certain to occur: two characters from inside the text."""
    half = len(text) // 2
    return (text[half : half + 2],)


GREEDY: Mapping[str, ParamValue] = {"temperature": 0.0}
HOT: Mapping[str, ParamValue] = {"temperature": 1.5}
PROBES: Mapping[str, Probe] = {
    "temperature": Probe(0.1, 2.0),
    "top_k": Probe(0, 2, HOT),
    "top_p": Probe(1.0, 0.1, HOT),
    "min_p": Probe(0.0, 0.8, HOT),
    "typical_p": Probe(1.0, 0.2, HOT),
    "repetition_penalty": Probe(1.0, 2.0, GREEDY),
    "no_repeat_ngram_size": Probe(0, 1, GREEDY),
    "presence_penalty": Probe(0.0, 2.0, GREEDY),
    "frequency_penalty": Probe(0.0, 2.0, GREEDY),
    "num_beams": Probe(1, 4, GREEDY),
    "length_penalty": Probe(-5.0, 5.0, {**GREEDY, "num_beams": 4}),
    "max_tokens": Probe(3, 12),
    "min_tokens": Probe(0, 20, {**HOT, "max_tokens": 24}),
    "stop": Probe((), middle, GREEDY),
}


class BackendContract:
    """What every backend must keep. Override `backend`; the rest only where the engine makes it necessary.

    prompt     a text the model answers with at least a dozen tokens
    length     max_tokens of the tests' texts
    seeds      a probe is tried with each, and with a prompt that names it; one text that changes is enough
    probes     parameter -> Probe; every parameter the backend declares needs one
    why_inexact  not empty: the engine cannot promise the same text in a batch as alone, and this is the reason
    """

    prompt: str = "Tell me about the order, the refund and the dog."
    length: int = 24
    seeds: Sequence[int] = (1, 2, 3, 4, 5, 6)
    probes: Mapping[str, Probe] = PROBES
    why_inexact: str = ""

    def backend(self) -> Backend:
        """A fresh backend, not opened."""
        raise NotImplementedError("override backend()")

    def request(
        self, info: BackendInfo, params: Mapping[str, Any] | None = None, *, seed: int = 1, prompt: str | None = None
    ) -> Request:
        """A request with every parameter explicit: neutral values, `length`, and over them `params`."""
        full: dict[str, ParamValue] = {}
        for name, domain in info.params.items():
            full[name] = domain.neutral[0] if domain.neutral else info.defaults[name]
        if "max_tokens" in info.params:
            full["max_tokens"] = self.length
        wanted = {name: value for name, value in (params or {}).items() if name in info.params}
        text = self.prompt if prompt is None else prompt
        return Request((Message("user", text),), full | wanted, seed, "example")

    def run(self, scenario: Scenario) -> None:
        """Run a scenario against an opened backend, and close it."""

        async def session() -> None:
            backend = self.backend()
            try:
                await scenario(backend, await backend.open())
            finally:
                await backend.aclose()

        asyncio.run(session())

    def test_it_is_a_backend(self) -> None:
        assert isinstance(self.backend(), Backend)

    def test_opening_reports_identity_parameters_and_defaults(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            assert info.identity.get("engine") and info.identity.get("model")
            assert all(isinstance(v, str) for v in info.identity.values())
            assert info.params and info.concurrency >= 1
            assert set(info.defaults) == set(info.params), "defaults are explicit: one for each parameter"
            again = await self._reopened()
            assert (again.identity, again.defaults) == (info.identity, info.defaults)

        self.run(scenario)

    def test_domains_are_consistent(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            for name, domain in info.params.items():
                assert domain.doc, f"{name} does not say what it does"
                assert domain.coerce(info.defaults[name]) == info.defaults[name], f"the default of {name} is not legal"
                for value in domain.neutral:
                    assert domain.coerce(value) == value, f"the neutral {value!r} of {name} is not legal"
                if domain.search is not None:
                    assert domain.low <= domain.search.low < domain.search.high <= domain.high, name

        self.run(scenario)

    def test_same_seed_same_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            for seed in self.seeds[:3]:
                first = await backend.generate(self.request(info, HOT, seed=seed))
                second = await backend.generate(self.request(info, HOT, seed=seed))
                assert (first.text, first.finish) == (second.text, second.finish)

        self.run(scenario)

    def test_another_seed_another_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            texts = [(await backend.generate(self.request(info, HOT, seed=seed))).text for seed in self.seeds]
            assert len(set(texts)) > len(texts) // 2, texts

        self.run(scenario)

    def test_temperature_zero_ignores_the_seed(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            if "temperature" not in info.params:
                pytest.skip("the engine has no temperature")
            texts = {(await backend.generate(self.request(info, GREEDY, seed=seed))).text for seed in self.seeds}
            assert len(texts) == 1, texts

        self.run(scenario)

    def test_every_parameter_changes_the_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            missing = sorted(set(info.params) - set(self.probes))
            assert not missing, f"no probe for {', '.join(missing)}: a parameter must be shown to work"
            dead = [name for name in info.params if not await self._alive(backend, info, name)]
            assert not dead, f"declared, but without any effect on the text: {', '.join(dead)}"

        self.run(scenario)

    def test_max_tokens_bounds_the_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            done = await backend.generate(self.request(info, {**GREEDY, "max_tokens": 3}))
            assert done.finish == "length" and done.completion_tokens == 3 and done.prompt_tokens > 0

        self.run(scenario)

    def test_stop_string_is_cut_and_ends_the_text(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            if "stop" not in info.params:
                pytest.skip("the engine has no stop strings")
            full = await backend.generate(self.request(info, GREEDY))
            stop = middle(full.text)
            assert stop[0] in full.text
            done = await backend.generate(self.request(info, {**GREEDY, "stop": stop}))
            assert done.text == full.text[: full.text.index(stop[0])] and done.finish == "stop"
            assert done.completion_tokens <= full.completion_tokens

        self.run(scenario)

    def test_min_tokens_holds_back_the_end(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            if "min_tokens" not in info.params:
                pytest.skip("the engine has no min_tokens")
            for seed in self.seeds:
                done = await backend.generate(self.request(info, {**HOT, "min_tokens": self.length - 2}, seed=seed))
                assert done.completion_tokens >= self.length - 2

        self.run(scenario)

    def test_a_prompt_that_does_not_fit_is_an_error_with_a_reason(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            if info.context is None:
                pytest.skip("the model has no fixed context")
            done = await backend.generate(self.request(info, prompt=f"{self.prompt} " * info.context))
            assert done.finish == "error" and str(info.context) in done.why
            assert (await backend.generate(self.request(info))).finish != "error"

        self.run(scenario)

    def test_texts_in_a_batch_are_the_texts_alone(self) -> None:
        if self.why_inexact:
            pytest.skip(f"not promised here: {self.why_inexact}")

        async def scenario(backend: Backend, info: BackendInfo) -> None:
            requests = self.mixed_requests(info, 32)
            alone = [await backend.generate(request) for request in requests]
            together = await asyncio.gather(*(backend.generate(request) for request in requests))
            for request, one, other in zip(requests, alone, together, strict=True):
                assert _outcome(one) == _outcome(other), request.params

        self.run(scenario)

    def test_cancelling_leaves_the_others_alone(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            requests = [self.request(info, HOT, seed=seed) for seed in range(8)]
            tasks = [asyncio.ensure_future(backend.generate(request)) for request in requests]
            await asyncio.sleep(0.02)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            for result in results[1::2]:
                assert isinstance(result, Generation) and result.finish in ("stop", "length")
            for result in results[::2]:  # a fast engine may have finished it first
                assert isinstance(result, Generation | asyncio.CancelledError)
            later = await asyncio.wait_for(backend.generate(requests[0]), 60)
            assert later.finish in ("stop", "length")

        self.run(scenario)

    def test_closing_twice_is_fine_and_ends_the_engine(self) -> None:
        async def scenario(backend: Backend, info: BackendInfo) -> None:
            await backend.aclose()
            await backend.aclose()
            with pytest.raises(BackendError):
                await backend.generate(self.request(info))

        self.run(scenario)

    def mixed_requests(self, info: BackendInfo, count: int) -> list[Request]:
        """`count` requests, no two with the same parameters, prompt and seed."""
        names = [name for name in info.params if name in self.probes and not callable(self.probes[name].b)]
        made = []
        for n in range(count):
            probe = self.probes[names[n % len(names)]]
            changes = {**HOT, **probe.base, names[n % len(names)]: probe.b}
            if "max_tokens" in info.params and "max_tokens" not in changes:
                changes["max_tokens"] = self.length - n % 7
            made.append(self.request(info, changes, seed=n, prompt=f"{self.prompt} " * (1 + n % 3) + str(n)))
        return made

    async def _alive(self, backend: Backend, info: BackendInfo, name: str) -> bool:
        probe = self.probes[name]
        for seed in self.seeds:
            prompt = f"{self.prompt} ({seed})"  # greedy texts do not depend on the seed
            texts = []
            for value in (probe.a, probe.b):
                if callable(value):
                    plain = await backend.generate(self.request(info, probe.base, seed=seed, prompt=prompt))
                    value = value(plain.text)
                changed = {**probe.base, name: value}
                done = await backend.generate(self.request(info, changed, seed=seed, prompt=prompt))
                assert done.finish != "error", f"{name} = {value!r}: {done.why}"
                texts.append(done.text)
            if texts[0] != texts[1]:
                return True
        return False

    async def _reopened(self) -> BackendInfo:
        other = self.backend()
        try:
            return await other.open()
        finally:
            await other.aclose()


def _outcome(done: Generation) -> tuple[str, str, int, int]:
    return done.text, done.finish, done.prompt_tokens, done.completion_tokens
