"""A judge whose opinion is known, and an author whose texts are worth what is known: doubles for tests of judging.

What a text is worth (`worth`): the F1 of its words with the best reference that the prompt shows, or without one the
share of "good" among its words "good" and "bad". The scripted judge reads texts out of the marks that the prompt puts
around data. Like a real model it follows what stands outside of them, and its tokenizer takes chat tokens for what they
are wherever they stand: an injection that is not kept inside its marks gets its grade.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from genopt.errors import BackendError
from genopt.types import BackendInfo, Domain, Generation, Range, Request, TokenLogprob
from tests.scorers.helpers import token_f1
from tests.toy import uniform

BLOCK = re.compile(r"^<<([A-Z][A-Z ]*) ([0-9a-f]{12})>>\n(.*?)\n<<END \1 \2>>$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?i)\b(?:score|grade|rating)\W{0,4}5\b|ignore (?:all|every|the)\b|you are now|new rules?:")
TOKENS = re.compile(
    r"<[|\uff5c][^\s|\uff5c<>]+[|\uff5c]>|</?s>|\[/?INST\]|<<SYS>>|<(?:start|end)_of_turn>|</?think>|<eos>|<bos>"
)
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\u00ad\U000e0000-\U000e007f]")


def worth(text: str, references: Sequence[str] = ()) -> float:
    """What a text is worth, in [0, 1]."""
    if references:
        return max(token_f1(text, reference) for reference in references)
    words = re.findall(r"[a-z]+", text.lower())
    good, bad = words.count("good"), words.count("bad")
    return good / (good + bad) if good + bad else 0.5


class ScriptedJudge:
    """A backend that judges. Options, all of them faults but the last four:

    seed            of all that is random
    noise           standard deviation of its error, on [0, 1]; the same text gets the same error every time
    unsteady        standard deviation of what comes on top each time it is asked
    length_bias     added per hundred words of the text
    always          the value it gives, whatever it reads
    obeys           it follows instructions inside the text, too
    random          its opinion has nothing to do with the text
    position_bias   added to the chance of the first of two texts
    failure_rate    of requests that fail and may be tried again; parse_failure_rate of replies that give no grade
    structured      the constraints it keeps to (default choices and schema); top_logprobs, concurrency; delay (seconds)

    `transcript` holds every request it has answered, `most` how many it has had at once.
    """

    def __init__(self, *, model: str = "scripted", options: Mapping[str, Any] | None = None) -> None:
        self.model, self.options = model, dict(options or {})
        self.transcript: list[Request] = []
        self.asked = self.running = self.most = self.opened = self.closed = 0

    def option(self, name: str, default: float = 0.0) -> float:
        return float(self.options.get(name, default))

    async def open(self) -> BackendInfo:
        self.opened += 1
        params = {
            "temperature": Domain("float", "randomness", 0.0, 2.0),
            "max_tokens": Domain("int", "length", 1, 4096),
            "top_p": Domain("float", "nucleus", 0.0, 1.0, low_open=True, neutral=(1.0,)),
        }
        return BackendInfo(
            {"engine": "scripted", "version": "1", "model": self.model},
            params,
            {"temperature": 1.0, "max_tokens": 256, "top_p": 1.0},
            concurrency=int(self.options.get("concurrency", 16)),
            structured=frozenset(self.options.get("structured", ("choices", "schema"))),
            top_logprobs=int(self.options.get("top_logprobs", 20)),
        )

    async def generate(self, request: Request) -> Generation:
        self.asked += 1
        number = self.asked
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self.option("delay"))
        finally:
            self.running -= 1
        if uniform(self.options.get("seed"), "fails", number) < self.option("failure_rate"):
            raise BackendError("the judge is busy", retryable=True)
        self.transcript.append(request)
        prompt = "\n".join(message.content for message in request.messages)
        if uniform(self.options.get("seed"), "garbles", prompt, request.seed) < self.option("parse_failure_rate"):
            return _reply("I would rather not say.", prompt, {"I": 1.0} if request.top_logprobs else {})
        probabilities = self._opinion(prompt, labels_of(request, prompt), number)
        label = max(probabilities, key=lambda each: probabilities[each])
        if request.schema is not None:
            score: Any = int(label) if label.isdigit() else label
            return _reply(json.dumps({"reason": "It reads so.", "score": score}), prompt, {})
        if request.choices or request.top_logprobs:
            return _reply(label, prompt, _tokens(probabilities, bool(request.choices)) if request.top_logprobs else {})
        return _reply(f"It reads so.\nSCORE: {label}", prompt, {})

    def _opinion(self, prompt: str, labels: Sequence[str], number: int) -> dict[str, float]:
        blocks = [(found[1], found[3]) for found in BLOCK.finditer(prompt)]
        texts = [text for name, text in blocks if name.startswith("RESPONSE")]
        references = [text for name, text in blocks if name == "REFERENCE"]
        outside = BLOCK.sub("", prompt)
        fooled = bool(COMMAND.search(outside) or TOKENS.search(prompt) or INVISIBLE.search(prompt))
        values = [1.0 if fooled else self._value(text, references, number) for text in texts]
        if len(values) == 2:
            first = min(1.0, max(0.0, 0.5 + values[0] - values[1] + self.option("position_bias")))
            return {label: {0: first, 1: 1 - first}.get(n, 0.0) for n, label in enumerate(labels)}
        place = values[0] * (len(labels) - 1)
        below = min(int(place), len(labels) - 2)
        share = place - below
        return {label: {below: 1 - share, below + 1: share}.get(n, 0.0) for n, label in enumerate(labels)}

    def _value(self, text: str, references: Sequence[str], number: int) -> float:
        seed = self.options.get("seed")
        if "always" in self.options:
            return self.option("always")
        if self.options.get("random"):
            return uniform(seed, "random", text)
        if self.options.get("obeys") and COMMAND.search(text):
            return 1.0
        value = worth(text, references) + self.option("length_bias") * len(text.split()) / 100
        value += self.option("noise") * _normal(seed, "noise", text)
        value += self.option("unsteady") * _normal(seed, "unsteady", number)
        return min(1.0, max(0.0, value))

    async def aclose(self) -> None:
        self.closed += 1


class Author:
    """A backend whose parameter `skill` is how good its texts are: of `words` words (a parameter, give or take two
    fifths) each is "good" with that chance, give or take the example's own ease, and else "bad". `requests` counts."""

    def __init__(self, *, model: str = "author", options: Mapping[str, Any] | None = None) -> None:
        self.model, self.options = model, dict(options or {})
        self.requests = 0

    async def open(self) -> BackendInfo:
        params = {
            "skill": Domain("float", "how good", 0.0, 1.0, search=Range(0.0, 1.0)),
            "words": Domain("int", "how long", 1, 1000),
        }
        return BackendInfo(
            {"engine": "author", "version": "1", "model": self.model},
            params,
            {"skill": 0.5, "words": 12},
            concurrency=16,
        )

    async def generate(self, request: Request) -> Generation:
        self.requests += 1
        await asyncio.sleep(0)
        skill, words = float(request.params["skill"] or 0.0), int(request.params["words"] or 1)
        ease = 0.2 * (uniform("ease", request.example_id) - 0.5)
        words = max(1, round(words * (0.6 + 0.8 * uniform("length", words, request.seed, request.example_id))))
        draws = [uniform("word", n, request.seed, request.example_id) for n in range(words)]
        text = " ".join("good" if draw < skill + ease else "bad" for draw in draws)
        return Generation(text, "stop", 10, words, 0.0)

    async def aclose(self) -> None:
        """Nothing is held."""


class Both(Author):
    """An author and a judge in one engine, as a study has them whose judge names no engine. Options are the judge's."""

    def __init__(self, *, model: str = "both", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(model=model)
        self.judge = ScriptedJudge(model=model, options=options)

    async def open(self) -> BackendInfo:
        author, judge = await super().open(), await self.judge.open()
        return replace(
            judge, identity=author.identity, params={**judge.params, **author.params},
            defaults={**judge.defaults, **author.defaults},
        )  # fmt: skip

    async def generate(self, request: Request) -> Generation:
        asked = request.example_id == "judge"
        return await (self.judge.generate(request) if asked else super().generate(request))


def labels_of(request: Request, prompt: str) -> tuple[str, ...]:
    """The labels that a request lets the judge choose from."""
    if request.choices:
        return request.choices
    if request.schema is not None:
        return tuple(str(label) for label in request.schema["properties"]["score"]["enum"])
    return tuple(re.findall(r"one of ([^.]+?)(?: and nothing else)?\.", prompt)[-1].split(", "))


def _tokens(probabilities: Mapping[str, float], constrained: bool) -> dict[str, float]:
    """The same mass over spellings, some of it on what is no label."""
    rest = 0.0 if constrained else 0.1
    spelt = {spelling: share for label, p in probabilities.items() for spelling, share in
             ((label, 0.7 * p), (f" {label}", 0.3 * p))}  # fmt: skip
    return {token: p * (1 - rest) for token, p in spelt.items() if p > 0} | ({"The": rest} if rest else {})


def _reply(text: str, prompt: str, tokens: Mapping[str, float]) -> Generation:
    logprobs = None
    if tokens:
        top = {token: math.log(p) for token, p in tokens.items()}
        likeliest = max(top, key=lambda token: top[token])
        logprobs = [TokenLogprob(likeliest, top[likeliest], top)]
    return Generation(text, "stop", len(prompt) // 4, 1 + len(text) // 4, 0.001, logprobs)


def _normal(*parts: object) -> float:
    return random.Random(repr(parts)).gauss(0.0, 1.0)
