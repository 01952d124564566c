"""Owns the parts of a study, opened and fitting together: what a configuration is there, what the study costs at most,
and what must not change while it goes on."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from genopt import canonical
from genopt import dataset as data
from genopt.answers import Answers, samples_of
from genopt.crossfit import Fold
from genopt.harvest import Harvest
from genopt.meter import Meter
from genopt.objectives import Goal
from genopt.prompt import Prompt
from genopt.race import Split, first_look
from genopt.space import SearchSpace
from genopt.spec import StudySpec
from genopt.spec.confirm import second_judge
from genopt.study.samplers import SamplerChoice
from genopt.trial import Configuration, Observer, Sink
from genopt.types import Backend, BackendInfo, Domain, Example, Params, ParamValue, Scorer

log = logging.getLogger(__name__)
DEFAULT_TRIALS = 60
MOST_REPLICATES = 7  # of one configuration: more say ever less about examples that are seen already


def concurrency(spec: StudySpec, info: BackendInfo) -> int:
    """How many requests are in flight at once: one where time is measured, since requests that share an engine wait for
    each other."""
    if spec.goal().timed:
        return 1
    wanted = spec.backend.concurrency
    return info.concurrency if wanted == "auto" else wanted


@dataclass(frozen=True)
class Bill:
    """What a study costs at most, in generations; racing makes the search cheaper, never dearer. `judged` counts the
    requests to judges while every reply can be read: fewer where texts are equal."""

    search: int
    finalists: int
    confirm: int
    judged: int = 0

    @property
    def total(self) -> int:
        return self.search + self.finalists + self.confirm

    @property
    def reserve(self) -> int:
        """What is kept back from the search for choosing and confirming a winner."""
        return self.finalists + self.confirm


@dataclass
class Plan:
    """The parts of a study, opened. `aclose` frees the engine and the scorers."""

    spec: StudySpec
    dataset: data.Dataset
    tune: tuple[Example, ...]
    holdout: tuple[Example, ...]
    prompt: Prompt
    backend: Backend
    info: BackendInfo
    space: SearchSpace
    goal: Goal
    scorers: Mapping[str, Scorer]
    scorer_keys: Mapping[str, str]
    sampler: SamplerChoice
    today: Params
    slots: asyncio.Semaphore
    models: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()  # of the tune split, whose later examples are then the holdout, too (see crossfit)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._granted = self.concurrency

    @property
    def domains(self) -> Mapping[str, Domain]:
        return self.info.params

    @cached_property
    def answers(self) -> Answers:
        """How samples become answers."""
        return Answers.of(self.spec.answer, self.scorer_keys, self.spec.dataset.reference)

    @property
    def samples(self) -> int:
        """Generations of one observation, at most."""
        return self.spec.search.repeats * self.answers.most

    @property
    def trials(self) -> int | None:
        """The budget in trials; a default when no budget is named at all."""
        budget = self.spec.budget
        if budget.trials is None and budget.generations is budget.tokens is budget.hours is None:
            return DEFAULT_TRIALS
        return budget.trials

    @property
    def concurrency(self) -> int:
        return concurrency(self.spec, self.info)

    def refit(self) -> None:
        """Have as many requests in flight as the engine says by now: some learn from texts how many fit."""
        stats = getattr(self.backend, "stats", None)
        told = int(stats().get("concurrency", 0)) if stats is not None else 0
        if told > 0:
            self.info = replace(self.info, concurrency=told)
        for _ in range(self._granted, self.concurrency):
            self.slots.release()
        self._granted = max(self._granted, self.concurrency)  # fewer only wait in the engine instead

    @property
    def names(self) -> frozenset[str]:
        """Every flat parameter that is not the backend's: prompt variables and shots."""
        return frozenset(self.space.names() | self.today.keys()) - self.domains.keys()

    def baseline(self) -> Configuration:
        """What the user runs today."""
        return self._configuration(dict(self.today))

    def configure(self, chosen: Params) -> Configuration:
        """The configuration behind flat parameters as the space gives them."""
        resolved = canonical.resolve(chosen, space=self.space, today=self.today, domains=self.domains)
        return self._configuration(resolved)

    def live(self, chosen: Params) -> Mapping[str, ParamValue]:
        """What acts in the configuration behind flat parameters as the space gives them (see canonical.live)."""
        resolved = canonical.resolve(chosen, space=self.space, today=self.today, domains=self.domains)
        return canonical.live(resolved, self.domains, switches=self.space.switches(), vocabulary=self.info.vocabulary)

    def over_baseline(self, params: Params) -> Configuration:
        """The baseline with some of its settings replaced."""
        coerced = {n: self.domains[n].coerce(v) if n in self.domains else v for n, v in params.items()}
        return self._configuration({**self.today, **coerced})

    def _configuration(self, resolved: Mapping[str, ParamValue]) -> Configuration:
        request = {name: value for name, value in resolved.items() if name in self.domains and value is not None}
        switches = self.space.switches()
        apart = {*request, *switches, "shots", *(("n",) if self.spec.answer else ())}
        variables = {name: value for name, value in resolved.items() if name not in apart}
        shots = resolved.get("shots", self.spec.prompt.shots)
        count = shots if isinstance(shots, int) else 0
        kept = canonical.canonical(resolved, self.domains, switches=switches, vocabulary=self.info.vocabulary)
        texts = list(self.prompt.texts(variables))
        if count:
            texts.append(self._pool_digest)
        identity = {**self.info.identity, **({"shots": str(count)} if count else {})}
        identity |= self.models.get(str(request.get("model")), {})
        if self.output:
            identity["output"] = json.dumps(self.output, sort_keys=True)
        shown = {name: value for name, value in resolved.items() if value is not None}
        settings = {name: value for name, value in kept.items() if name in self.domains}
        kin, certain = self._kin(identity, texts, settings), canonical.deterministic(kept)
        samples = samples_of(resolved, deterministic=certain) if self.spec.answer else 1
        if samples > 1:
            identity["n"] = str(samples)
        key = canonical.config_key(identity, texts, settings)
        return Configuration(shown, request, variables, count, key, certain, kin, samples)

    def _kin(self, identity: Mapping[str, str], texts: list[str], settings: Params) -> str:
        """What configurations share whose texts may be the same or cuts of each other; "" where there are none: time is
        measured, beams choose by the whole text, or nothing is searched that only ends a text, or takes more of them.
        Without seeds a text may be taken as it is, but it is no cut of what another request would have given."""
        cut = self.info.seeded or canonical.deterministic(settings)
        alike = {name: value for name, value in settings.items() if not cut or name not in canonical.ENDS}
        useful = {*(canonical.ENDS if cut else ()), *(("n",) if self.spec.answer else ())} & self.space.names()
        if not useful or self.goal.timed or settings.get("num_beams", 1) != 1:
            return ""
        return canonical.config_key(identity, texts, alike)

    @cached_property
    def _pool_digest(self) -> str:
        ids = [(example.id, data.example_digest(example)) for example in self.tune]
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()

    def observer(
        self, study_id: int, writer: Sink, meter: Meter, *, on_generation: Callable[[], None] = lambda: None
    ) -> Observer:
        """What makes observations with these parts, `concurrency` of them at once."""
        return Observer(
            study_id=study_id,
            seed=self.spec.seed,
            repeats=self.spec.search.repeats,
            backend=self.backend,
            kind=self.spec.backend.kind,
            prompt=self.prompt,
            pool=self.tune,
            scorers=self.scorers,
            scorer_keys=self.scorer_keys,
            goal=self.goal,
            writer=writer,
            meter=meter,
            slots=self.slots,
            answers=self.answers,
            harvest=Harvest(getattr(self.backend, "replay", None), hidden=self.info.hidden),
            on_generation=on_generation,
            output=self.output,
        )

    def digested(self) -> list[tuple[Example, str, str]]:
        """Every example with the digest of its content and its split: "tune", "holdout", or "both" with folds."""
        sides = (("tune", self.tune), ("holdout", self.holdout))
        if self.folds:
            tried = {example.id for example in self.holdout}
            sides = (("tune", tuple(e for e in self.tune if e.id not in tried)), ("both", self.holdout))
        return [(example, data.example_digest(example), side) for side, part in sides for example in part]

    @property
    def races(self) -> bool:
        """Whether trials are compared at rungs and stopped there."""
        pruner = self.spec.search.pruner
        return pruner == "paired" or (pruner != "none" and not self.goal.several)

    @property
    def counted(self) -> bool:
        """Whether texts are what is counted."""
        return self.spec.budget.generations is not None or self.spec.budget.tokens is not None

    @property
    def rounds(self) -> int:
        """How often those that may be best see the tune split, at most."""
        replicates = self.spec.search.replicates
        if replicates != "auto":
            return 1 + replicates
        return 2 if self.trials is not None else 1 + MOST_REPLICATES

    @property
    def finals(self) -> int | None:
        """The generations that the choice among the best takes at most; None: what the budget leaves."""
        spec = self.spec.search
        if spec.replicates == "auto" and self.trials is None:
            return None
        return len(self.tune) * self.samples * (self.rounds - 1) * (spec.finalists + 1)

    def first_look(self) -> int:
        """How many examples a trial sees before anything can stop it, when nothing is known of the others."""
        return first_look(None, len(self.tune)) if self.races else len(self.tune)

    def least(self) -> int:
        """Generations without which there is no baseline, no trial or no verdict."""
        search = (len(self.tune) + self.first_look()) * self.samples
        return math.ceil(Split.least(search, self.bill().confirm, finals=self.finals))

    def bill(self) -> Bill:
        """The cost at most. Without a limit on trials the search costs whatever the other budgets leave."""
        spec, budget = self.spec.search, self.spec.budget.generations
        each = len(self.tune) * self.samples
        confirm = (1 + (spec.front if self.goal.several else 1)) * len(self.holdout)
        confirm *= self.samples * spec.confirm_repeats
        finals = each * (spec.finalists + 1) if self.finals is None else self.finals
        if budget is not None and self.trials is None:
            split = Split.of(budget, confirm, finals=self.finals)
            bill = Bill(int(split.search), int(split.total) - int(split.search), confirm)
        else:
            bill = Bill(each * (self.trials or 0), finals, confirm)
        calls = {name: getattr(scorer, "calls", 0) for name, scorer in self.scorers.items()}
        again = int(self.spec.confirm.pairwise is not None)  # two texts, two orders: one for each text
        if self.spec.audit is not None:
            again += calls[second_judge(self.spec.audit, self.spec.scorers)[0]]
        return replace(bill, judged=bill.total * sum(calls.values()) + bill.confirm * again)

    def description(self) -> dict[str, Any]:
        """What must not change while a study goes on, by key of the study file. Plain JSON."""
        spec = self.spec
        return {
            "seed": spec.seed,
            "dataset": self.dataset.digest,
            "dataset.holdout": "cross-fitting" if self.folds else spec.dataset.fraction,
            "prompt": [*self.prompt.texts({}), spec.prompt.shots],
            "backend": dict(sorted(self.info.identity.items())),
            "models": {name: dict(sorted(identity.items())) for name, identity in sorted(self.models.items())},
            "space": self.space.describe(),
            "baseline": json.loads(json.dumps(self.baseline().params)),
            "scorers": {name: key for name, key in sorted(self.scorer_keys.items())},
            "objectives": self.goal.title,
            "constraints": [str(constraint) for constraint in self.goal.constraints],
            "search.repeats": spec.search.repeats,
            **({"answer": self.answers.describe()} if spec.answer else {}),
            **({"output": json.loads(json.dumps(self.output))} if self.output else {}),
        }

    async def aclose(self) -> None:
        """Free the engine and the scorers; safe to call twice. One that fails at that is told, and takes nothing along:
        the verdict is there."""
        parts: list[tuple[str, Scorer | Backend]] = [(f"scorers.{n}", s) for n, s in self.scorers.items()]
        for name, part in [*parts, ("backend", self.backend)]:
            try:
                await part.aclose()
            except Exception as error:
                log.warning("%s could not be closed (%s: %s)", name, type(error).__name__, error)
