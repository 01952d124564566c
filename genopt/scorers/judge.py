"""Owns the judge: a language model that grades texts, and its memory.

What it is shown is _judge_prompt.py's, how a grade is asked for and read _judge_modes.py's and _judge_engine.py's, what
several answers come to _judge_items.py's. It knows no study: the engine, the stored judgments and where new ones go are
handed to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from genopt import handed
from genopt.backends import make_backend
from genopt.errors import SpecError
from genopt.scorers._judge_engine import Asker, Usage, digest, legal
from genopt.scorers._judge_items import YES, Item, items_of, together
from genopt.scorers._judge_modes import Scale, instruction
from genopt.scorers._judge_prompt import SYSTEM, USER, JudgePrompt, neutral
from genopt.spec import BackendSpec
from genopt.spec.dimensions import read_text
from genopt.tables import judgment_row
from genopt.types import Backend, BackendInfo, Example, Generation, Judgment, Message, Need, Request, Score

PROBE = "Two and two is four."  # any text will do to find out whether grades can be read


class Judge:
    """Scores with the expected value of a language model's grade, on [0, 1].

    `attach` comes first: it opens the judge's own engine, or takes the study's, and finds out how grades can be read
    (`mode`), which never changes afterwards. Equal texts of one example are judged once. A blank or failed text has the
    lowest score without a call; a judge that cannot be understood gives Score(None, why), never a number. The keywords
    are the keys of the judge's table; `folder` is where its files are, `seed` the study's. Raises SpecError, and
    BackendError when its engine fails.
    """

    needs: frozenset[Need] = frozenset()

    def __init__(
        self,
        *,
        name: str,
        rubric: str | None = None,
        checklist: Sequence[Mapping[str, Any]] = (),
        levels: Mapping[str, str] | None = None,
        reference: bool = True,
        show: Sequence[str] | None = None,
        backend: Mapping[str, Any] | None = None,
        mode: str = "auto",
        samples: int = 5,
        templates: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        check: bool = True,
        strict: bool = False,
        retries: int = 2,
        folder: Path = Path(),
        seed: int = 0,
    ) -> None:
        self.name, self.check, self.strict = name, check, strict
        self.tell: Callable[[str], None] = lambda text: None
        self.items = items_of(rubric, checklist, levels)
        self.usage = Usage()
        self.identity: Mapping[str, str] = {}
        own = {role: _text(source, folder) for role, source in (templates or {}).items() if source is not None}
        system, user = own.get("system", SYSTEM), own.get("user", USER)
        secret = f"genopt judge {seed}"
        self.prompt = JudgePrompt(name=name, system=system, user=user, secret=secret, reference=reference, show=show)
        self._reference = reference
        self._wanted, self._samples, self._retries = mode, samples, retries
        self._spec, self._folder, self._params = backend, folder, params or {}
        self._own: Backend | None = None
        self._asker: Asker
        self._itself = False
        self._known: dict[str, Judgment] = {}
        self._under_way: dict[str, asyncio.Event] = {}
        self._add: Callable[[str, Mapping[str, Any]], None] = lambda table, row: None

    async def attach(self, engine: Backend, info: BackendInfo, slots: asyncio.Semaphore) -> None:
        """Open the judge's own engine, or use this one and its `slots`; then find out how grades can be read."""
        study = info
        if self._spec is not None:
            spec = BackendSpec(**self._spec)
            try:
                self._own = engine = make_backend(spec, self._folder)
                if hasattr(engine, "tell"):
                    engine.tell = self.tell
                with handed.raised(f"scorers.{self.name}.backend.kind: {spec.kind}", "open"):
                    info = await engine.open()
            except SpecError as error:
                raise SpecError([f"scorers.{self.name}.{each}" for each in error.problems], hint=error.hint) from None
            slots = asyncio.Semaphore(info.concurrency if spec.concurrency == "auto" else spec.concurrency)
        params = legal(self.name, self._params, info)
        who, model = dict(info.identity), params.get("model")
        if model is not None and hasattr(engine, "models"):
            with handed.raised(f"scorers.{self.name}: {type(engine).__name__}", "models"):
                who |= {"model": str(model), **(await engine.models([str(model)]))[str(model)]}
        self._itself = _same(who, study.identity)
        self._asker = Asker(self.name, engine, info, slots, params, self._samples, self._retries, self.usage)
        item = self.items[0]
        probe = f"{item.criterion}\n\n{self.prompt.mark('RESPONSE', PROBE)}\n\n"
        await self._asker.find_mode(self._wanted, lambda answer: (Message("user", probe + answer),), item.scale)
        asked = [
            [each.criterion, dict(each.meanings), self.instruction(each.scale), each.weight] for each in self.items
        ]
        self.identity = {**who, "mode": self.mode, "prompt": digest([self.prompt.sources, asked])}
        self.tell(f"scorers.{self.name}: judged by {who.get('model', 'its engine')}, grades read from {self.mode}")

    async def prepare(self, examples: Sequence[Example]) -> tuple[str, ...]:
        """Warnings about what makes this judge's grades doubtful."""
        found = []
        if self._itself:
            found.append(
                "the judge is the model that it grades: judges favour what they find likely (arXiv 2410.21819), and"
                f" that is what temperature and top_p change. Give it another model: [scorers.{self.name}.backend]"
            )
        without = sum(not example.references for example in examples)
        if self._reference and 0 < without < len(examples):
            found.append(f"{without} of {len(examples)} rows have no reference: they are judged without one")
        return tuple(f"scorers.{self.name}: {warning}" for warning in found)

    @property
    def mode(self) -> str:
        """How grades are read: one of the modes of _judge_modes.py."""
        return self._asker.mode

    @property
    def calls(self) -> int:
        """Requests that one text costs while every reply can be read."""
        return len(self.items) * self._asker.wanted

    @property
    def own_engine(self) -> bool:
        """True when it brings its engine, and takes the study's for nothing but its name."""
        return self._spec is not None

    @property
    def digest(self) -> str:
        """What all judgments of this judge depend on besides the messages, as a key."""
        return digest([dict(self.identity), dict(self._asker.params), self._samples])

    def remember(self, known: Mapping[str, Judgment], add: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Take stored judgments by key, and from now on hand every new one to `add` as a row of its table."""
        self._known.update(known)
        self._add = add

    async def score(self, example: Example, generations: Sequence[Generation]) -> list[Score]:
        """One score per generation, in order."""
        found = []
        for generation in generations:
            if generation.failed:
                found.append(Score(0.0, generation.why or generation.finish))
                continue
            judgment = await self.judge_text(example, generation.text)
            found.append(Score(judgment.value, judgment.why))
        return found

    async def judge_text(self, example: Example, text: str, *, repeat: int = 0) -> Judgment:
        """What the judge says of a text as an answer to this example; another `repeat` asks it afresh."""
        if not neutral(text).strip():
            return Judgment(0.0, "the text is empty", {}, "", self.mode, 0, 0, 0, 0.0)
        found = [await self.ask(self.messages(example, text, i), i.scale, repeat=repeat) for i in self.items]
        return together(self.items, found) if self.items[0].scale is YES else found[0]

    def messages(self, example: Example, text: str, item: Item | None = None) -> tuple[Message, ...]:
        """Exactly what is sent about a text: the first question, or that of `item`."""
        item = item or self.items[0]
        return self.prompt.render(
            example, text, criterion=item.criterion, levels=item.meanings, answer=self.instruction(item.scale)
        )

    def instruction(self, scale: Scale) -> str:
        """How the judge is told to answer; messages that `ask` is given have to end in it."""
        return instruction(self.mode, scale)

    def request(self, messages: Sequence[Message], scale: Scale) -> Request:
        """The request that `ask` makes of messages, but for its seed."""
        return self._asker.request(messages, scale)

    async def ask(self, messages: Sequence[Message], scale: Scale, *, repeat: int = 0) -> Judgment:
        """The judge's answer on a scale (label -> value in [0, 1]) to any messages; the same question is asked once,
        however many ask it at the same time."""
        asked = [[message.role, message.content] for message in messages]
        key = digest([self.digest, asked, dict(scale), repeat])
        while key not in self._known:
            under_way = self._under_way.get(key)
            if under_way is not None:
                await under_way.wait()  # and look again: whoever asked may have been cancelled
                continue
            done = self._under_way[key] = asyncio.Event()
            try:
                made = self._known[key] = await self._asker.answer(messages, scale, key)
                self._add("genopt_judgments", judgment_row(key, self.digest, made))
            finally:
                del self._under_way[key]
                done.set()
        return self._known[key]

    async def aclose(self) -> None:
        """Free the judge's own engine; safe to call twice."""
        if self._own is not None:
            await self._own.aclose()


def _same(judge: Mapping[str, str], study: Mapping[str, str]) -> bool:
    """True when both engines answer with one model, as far as their identities tell."""
    key = "digest" if judge.get("digest") and study.get("digest") else "model"
    return judge.get(key) is not None and judge.get(key) == study.get(key)


def _text(source: str | Mapping[str, str], folder: Path) -> str:
    return source if isinstance(source, str) else read_text(folder, source["file"])
