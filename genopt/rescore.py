"""Owns scoring the texts of a finished or running study with another scorer: nothing is generated, and what was scored
once is never scored again."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from genopt import handed
from genopt.agreement import kendall, spearman
from genopt.answers import Answers
from genopt.archive import Archive, load
from genopt.backends import make_backend
from genopt.errors import SpecError
from genopt.measures import metrics_of
from genopt.schedule import run_trial
from genopt.scorers import make_scorer, scorer_key
from genopt.spec import BackendSpec
from genopt.spec.read import read_study
from genopt.spec.scorers import ScorerSpec
from genopt.stats import PairedResult, paired
from genopt.store import Store
from genopt.tables import Row
from genopt.trial import score_rows
from genopt.types import Backend, BackendInfo, Example, Params, Phase, Score, Scorer
from genopt.writer import Writer

WINDOW = 256  # observations under way at once: more than engines take; the scorer holds back what is too much
Group = tuple[str, Phase, Sequence[Row]]


@dataclass(frozen=True)
class Again:
    """One configuration under the old objective and the new score, over the same texts of the tune split.

    `old` is in the objective's own direction; NaN where nothing could be scored. `partial`: not all examples were
    answered, so that its means are not comparable with the others'.
    """

    number: int | None
    role: str
    params: Params
    examples: int
    old: float
    new: float
    partial: bool


@dataclass(frozen=True)
class Rescored:
    """What another scorer makes of a study: the configurations, best new score first, the partial ones last.

    `spearman` and `kendall` compare the two orders (NaN below three whole configurations); `holdout` is winner minus
    baseline under the new scorer on the rows that the search never saw, None without a verdict. `calls` and `tokens`
    are what a judge cost this time.
    """

    objective: str
    trials: Sequence[Again]
    texts: int
    missing: int
    spearman: float
    kendall: float
    holdout: PairedResult | None
    calls: int
    tokens: int
    warnings: Sequence[str]


async def rescore_async(
    where: str, spec: ScorerSpec, *, name: str = "rescored", tell: Callable[[str], None] = lambda text: None
) -> Rescored:
    """Score every stored text of STUDY (a study file, or storage-URL#name) with the scorer; `tell` takes a line for
    people while an engine loads. Raises SpecError, StudyError, BackendError, MissingExtra or ScorerError; what was
    scored by then is kept."""
    archive = await asyncio.to_thread(load, where)
    folder, source = _origin(where, archive)
    repeats = int(archive.description.get("search.repeats", 1))
    scorer = make_scorer(name, spec, folder, seed=int(archive.description["seed"]))
    if "repeats" in scorer.needs and repeats < 2:
        raise SpecError(f"--scorer: {name} compares samples of one example, and the study has one of each")
    store = Store(archive.url)
    loop = asyncio.get_running_loop()
    if hasattr(scorer, "tell"):
        scorer.tell = lambda text: loop.call_soon_threadsafe(tell, text)
    engine: Backend | None = None
    writer: Writer | None = None
    try:
        await asyncio.to_thread(store.create)
        rows = await asyncio.to_thread(store.all_rows, archive.id)
        examples = {example.id: example for example, _ in await asyncio.to_thread(store.examples, archive.id)}
        _has_references(scorer, examples, archive)
        if hasattr(scorer, "attach"):
            engine = make_backend(source, folder)
            await _attach(scorer, engine, source, archive)
        prepare = getattr(scorer, "prepare", None)
        warnings = list(await prepare(list(examples.values()))) if prepare is not None else []
        key = scorer_key(spec, scorer, folder, repeats=repeats)
        writer = Writer(archive.url)
        if hasattr(scorer, "remember"):
            known = await asyncio.to_thread(store.judgments, getattr(scorer, "digest", ""))
            scorer.remember(known, writer.add)
        answers = Answers.from_description(archive.description)
        groups = list(_observations(rows, repeats, answers))
        into = writer

        async def score(index: int) -> Sequence[Score]:
            _, _, members = groups[index]
            return await score_rows(scorer, key, examples[members[0].example_id], members, into)

        tell(f"{len(rows):,} texts of {len({group[0] for group in groups})} configurations")
        found = await run_trial(len(groups), score, window=WINDOW)
        await asyncio.wrap_future(writer.flush())
        return _compared(archive, groups, found, examples, scorer, warnings)
    finally:
        if writer is not None:
            await asyncio.to_thread(writer.close)
        await asyncio.shield(scorer.aclose())
        if engine is not None:
            await asyncio.shield(engine.aclose())
        store.close()


def _origin(where: str, archive: Archive) -> tuple[Path, BackendSpec]:
    """Where relative paths of the scorer start, and the study's engine."""
    if "://" not in where and where.endswith(".toml"):
        study = read_study(Path(where), allow_outside=True)  # only its engine is wanted
        return study.folder, study.backend
    return Path.cwd(), BackendSpec.model_validate(archive.spec.get("backend", {"model": "-"}))


def _has_references(scorer: Scorer, examples: Mapping[str, Example], archive: Archive) -> None:
    without = [example.id for example in examples.values() if not example.references]
    if "references" in scorer.needs and without:
        raise SpecError(
            f"--scorer: {scorer.name} compares with references, and row {without[0]!r} of {archive.name!r} has none"
        )


async def _attach(scorer: Any, engine: Backend, source: BackendSpec, archive: Archive) -> None:
    """Give the scorer the study's engine; one that brings its own is only told what the study's was."""
    if getattr(scorer, "own_engine", False):
        info = BackendInfo(archive.description["backend"], {}, {})
    else:
        with handed.raised(f"backend.kind: {source.kind}", "open"):
            info = await engine.open()
    slots = info.concurrency if source.concurrency == "auto" else source.concurrency
    await scorer.attach(engine, info, asyncio.Semaphore(slots))


def _observations(rows: Sequence[tuple[str, Phase, int, Row]], repeats: int, answers: Answers) -> Iterator[Group]:
    """The rows that are answers by configuration, phase, example and replicate."""

    def place(stored: tuple[str, Phase, int, Row]) -> tuple[str, Phase, str, int]:
        config, phase, _, row = stored
        return config, phase, row.example_id, row.sample // (repeats * answers.most)

    for (config, phase, *_), members in groupby(rows, place):
        yield config, phase, answers.chosen([row for *_, row in members])


def _compared(
    archive: Archive,
    groups: Sequence[Group],
    found: Sequence[Sequence[Score]],
    examples: Mapping[str, Example],
    scorer: Scorer,
    warnings: Sequence[str],
) -> Rescored:
    goal, keys = archive.goal, archive.description["scorers"]
    old: dict[tuple[str, Phase], dict[str, list[float]]] = {}
    new: dict[tuple[str, Phase], dict[str, list[float]]] = {}
    for (config, phase, members), scores in zip(groups, found, strict=True):
        known = {n: [row.scores.get(k, Score(None)) for row in members] for n, k in keys.items()}
        worth = goal.sign * goal.utility(metrics_of([row.generation for row in members], known, goal))
        values = [math.nan if score.value is None else score.value for score in scores]
        id = members[0].example_id
        old.setdefault((config, phase), {}).setdefault(id, []).append(worth)
        new.setdefault((config, phase), {}).setdefault(id, []).append(math.fsum(values) / len(values))
    roles, params = archive.roles(), {row["config_key"]: row["params"] for row in archive.rows()}
    tuned = [config for config, phase in new if phase == "tune"]
    whole = max((len(new[config, "tune"]) for config in tuned), default=0)
    trials = [
        Again(
            *roles.get(config, (None, "trial")),
            params.get(config, {}),
            len(new[config, "tune"]),
            _mean(old[config, "tune"]),
            _mean(new[config, "tune"]),
            len(new[config, "tune"]) < whole,
        )
        for config in tuned
    ]
    trials.sort(key=lambda each: (each.partial, -each.new if each.new == each.new else math.inf))
    kept = [each for each in trials if not each.partial and each.old == each.old and each.new == each.new]
    sides = [goal.sign * each.old for each in kept], [each.new for each in kept]
    usage = getattr(scorer, "usage", None)
    return Rescored(
        objective=goal.title,
        trials=trials,
        texts=sum(len(members) for *_, members in groups),
        missing=sum(score.value is None for scores in found for score in scores),
        spearman=spearman(*sides) if len(kept) > 2 else math.nan,
        kendall=kendall(*sides) if len(kept) > 2 else math.nan,
        holdout=_holdout(roles, new, examples, archive.tried()),
        calls=usage.calls if usage else 0,
        tokens=usage.tokens if usage else 0,
        warnings=warnings,
    )


def _holdout(
    roles: Mapping[str, tuple[int | None, str]],
    new: Mapping[tuple[str, Phase], Mapping[str, list[float]]],
    examples: Mapping[str, Example],
    tried: Mapping[str, str],
) -> PairedResult | None:
    """Winner minus baseline under the new scorer, on the examples that both answered in the holdout."""
    by_role = {role: key for key, (_, role) in roles.items()}
    winner = new.get((by_role.get("winner", ""), "confirm"), {})
    if tried:
        answered = {example: new.get((key, "confirm"), {}).get(example) for example, key in tried.items()}
        winner = {example: values for example, values in answered.items() if values is not None}
    baseline = new.get((by_role.get("baseline", ""), "confirm"), {})
    shared = sorted(winner.keys() & baseline.keys())
    if not shared:
        return None
    sides = [[_known_mean(side[id]) for id in shared] for side in (winner, baseline)]
    return paired(sides[0], sides[1], groups=[examples[id].group for id in shared])


def _mean(by_example: Mapping[str, Sequence[float]]) -> float:
    return _known_mean([_known_mean(values) for values in by_example.values()])


def _known_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
