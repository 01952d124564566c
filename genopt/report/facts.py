"""Owns every number of a report, computed from the stored rows: one record that the page, the Markdown and the JSON are
made of. Knows no HTML.

A gain is a configuration's utility minus the baseline's on the same examples: > 0 is better, in units of the objective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from genopt.objectives import pareto_front
from genopt.observations import paired_table
from genopt.report import sentence
from genopt.report.importance import Importance, Interaction, importances, interaction
from genopt.report.material import Material, by_unit
from genopt.stats import UNBOUNDED, PairedResult, interval, mean_se, paired

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval; NaN and unbounded where the data cannot tell."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Setting:
    """One configuration as it was measured on the tune split; equal ones are one.

    `score` is the mean of the objective, `gain` is paired with the baseline. It is no worse than the baseline on `good`
    of `units` examples (or groups, where the data have them).
    """

    key: str
    number: int | None
    role: str
    params: Mapping[str, Any]
    stopped_early: bool
    eligible: bool
    why: str
    score: float
    gain: Estimate
    examples: int
    units: int
    good: int
    better: int
    values: tuple[Estimate, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A metric on the holdout: both means, and the paired difference with its interval (more may be worse)."""

    name: str
    baseline: float
    winner: float
    difference: Estimate


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Winner against baseline on the holdout; `pairs` are (example, baseline, winner) in utility, the worst first."""

    baseline: float
    winner: float
    result: PairedResult
    metrics: tuple[Change, ...]
    pairs: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What the study took. `saved` generations were not made because racing stopped trials, `known` because a trial
    equalled another one."""

    trials: int
    configurations: int
    stopped: int
    duplicates: int
    failed: int
    search_generations: int
    confirm_generations: int
    tokens: int
    hours: float
    saved: int
    known: int


@dataclass(frozen=True, slots=True)
class ScorerFacts:
    """A scorer as the study file has it, and on the baseline's texts: mean, spread, how many could not be scored."""

    name: str
    options: Mapping[str, Any]
    mean: float
    sd: float
    scored: int
    unscored: int


@dataclass(frozen=True)
class Facts:
    """A study in numbers. `verdict` is the stored one, or null fields before there is one."""

    name: str
    objective: str
    directions: tuple[str, ...]
    metrics: tuple[str, ...]
    sentence: str
    verdict: Mapping[str, Any] | None
    baseline: float
    settings: tuple[Setting, ...]
    held_out: HeldOut | None
    importances: tuple[Importance, ...]
    interaction: Interaction | None
    front: tuple[str, ...]
    cost: Cost
    scorers: tuple[ScorerFacts, ...]
    finishes: Mapping[str, Mapping[str, int]]
    examples: Mapping[str, int]
    groups: Mapping[str, int]
    sampler: tuple[str, ...]
    description: Mapping[str, Any]
    spec: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what the data cannot tell is null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain

    def setting(self, role: str) -> Setting | None:
        """The baseline or the winner."""
        return next((setting for setting in self.settings if setting.role == role), None)


def facts_of(material: Material) -> Facts:
    """Every number of the report."""
    archive, frame = material.archive, material.frame
    goal, settings = archive.goal, _settings(material)
    measured = [each for each in settings if each.role != "baseline"]  # which names more than what is searched
    gains = [each.gain.value for each in measured]
    params = [dict(each.params) for each in measured]
    important = importances(params, gains)
    tune = paired_table(frame)
    splits = [side for _, side in material.examples.values()]
    return Facts(
        name=archive.name,
        objective=goal.title,
        directions=goal.directions,
        metrics=tuple(o.metric for o in goal.objectives) if goal.several else (goal.title,),
        sentence=sentence(archive.verdict or {"verdict": None}),
        verdict=archive.verdict,
        baseline=goal.sign * _mean(tune.loc[archive.baseline["key"]]) if archive.baseline else math.nan,
        settings=settings,
        held_out=_held_out(material),
        importances=important,
        interaction=interaction(params, gains, *(each.name for each in important[:2])) if len(important) > 1 else None,
        front=_front(settings, goal.directions) if goal.several else (),
        cost=_cost(material, tune.shape[1]),
        scorers=_scorers(material),
        finishes=_finishes(frame),
        examples={side: splits.count(side) for side in ("tune", "holdout")},
        groups={side: len(set(material.units(side).values())) for side in ("tune", "holdout")},
        sampler=tuple(archive.sampler),
        description=archive.description,
        spec=archive.spec,
    )


def _settings(material: Material) -> tuple[Setting, ...]:
    """Every configuration that shares examples with the baseline, the largest gain first, stopped ones last."""
    archive, frame, goal = material.archive, material.frame, material.archive.goal
    if not archive.baseline:
        return ()
    utility, units = paired_table(frame), material.units("tune")
    base = utility.loc[archive.baseline["key"]]
    shared = by_unit(utility - base, units)
    groups = [units.get(str(name), str(name)) for name in utility.columns]
    roles = frame.drop_duplicates("config_key").set_index("config_key")["role"]
    metrics = [paired_table(frame, value=f"metric.{o.metric}") for o in goal.objectives] if goal.several else []
    numbers = {row["number"]: row for row in archive.rows()}
    found = []
    for key, (number, _) in archive.roles().items():
        if key not in utility.index or not (result := _gain(utility.loc[key], base, groups)).n:
            continue
        row, differences = numbers[number], shared.loc[key].dropna()
        found.append(
            Setting(
                key=key,
                number=number,
                role=str(roles[key]),
                params=row["params"],
                stopped_early=row["stopped_early"],
                eligible=row["eligible"],
                why=row["why"],
                score=goal.sign * _mean(utility.loc[key]),
                gain=Estimate(result.difference, result.low, result.high),
                examples=result.n,
                units=len(differences),
                good=int((differences >= 0).sum()),
                better=int((differences > 0).sum()),
                values=tuple(_estimate(table.loc[key]) for table in metrics),
            )
        )
    return tuple(sorted(found, key=lambda each: (each.stopped_early, -each.gain.value, each.key)))


def _gain(values: pandas.Series[float], base: pandas.Series[float], groups: Sequence[str]) -> PairedResult:
    """Without a p-value, which nothing here is claimed by: a thousand sign flips for every configuration take long."""
    return paired(values.to_numpy(), base.to_numpy(), groups=groups, resamples=0)


def _held_out(material: Material) -> HeldOut | None:
    archive, frame, verdict = material.archive, material.frame, material.archive.verdict
    table = paired_table(frame, "confirm")
    winner = next((key for key, (_, role) in archive.roles().items() if role == "winner"), None)
    if not verdict or not verdict["holdout_examples"] or winner not in table.index:
        return None
    keys, order = (archive.baseline["key"], winner), [e for e, (_, side) in material.examples.items() if side != "tune"]
    table = table.reindex(columns=order)
    units, goal = material.units("holdout"), archive.goal
    groups = [units[name] for name in order]
    before, after = (table.loc[key] for key in keys)
    seed, level = int(archive.description.get("seed", 0)), 1 - verdict["level"]
    changes = []
    for name in verdict["metrics"] or {}:
        metric = paired_table(frame, "confirm", f"metric.{name}").reindex(columns=order)
        old, new = (metric.loc[key] for key in keys)
        change = paired(new.to_numpy(), old.to_numpy(), groups=groups, level=level, resamples=0)
        difference = Estimate(change.difference if change.n else math.nan, change.low, change.high)
        changes.append(Change(name, _mean(old), _mean(new), difference))
    pairs = [(name, float(before[name]), float(after[name])) for name in order]
    return HeldOut(
        baseline=goal.sign * _mean(before),
        winner=goal.sign * _mean(after),
        result=paired(after.to_numpy(), before.to_numpy(), groups=groups, level=level, seed=seed),
        metrics=tuple(changes),
        pairs=tuple(sorted((p for p in pairs if not math.isnan(p[2] - p[1])), key=lambda p: (p[2] - p[1], p[0]))),
    )


def _front(settings: Sequence[Setting], directions: Sequence[str]) -> tuple[str, ...]:
    chosen = [each for each in settings if each.eligible and not any(math.isnan(v.value) for v in each.values)]
    best = pareto_front([[v.value for v in each.values] for each in chosen], directions)
    return tuple(chosen[index].key for index in best)


def _cost(material: Material, examples: int) -> Cost:
    archive, frame = material.archive, material.frame
    repeats = int(archive.description.get("search.repeats", 1))
    rows, spent = archive.rows(), archive.verdict or asdict(archive.spent)
    first = frame[(frame["phase"] == "tune") & (frame["sample"] < repeats)]
    made = first.groupby("config_key").size()
    each = first.groupby("config_key")["sample"].max() + 1  # one text is enough where they would all be equal
    stopped = [row["config_key"] for row in rows if row["stopped_early"] and row["config_key"] in made.index]
    equal = [row["config_key"] for row in rows if row["duplicate_of"] is not None and row["config_key"] in made.index]
    stopped = list(dict.fromkeys(key for key in stopped))
    return Cost(
        trials=len(archive.trials),
        configurations=len({row["config_key"] for row in rows if row["config_key"]}),
        stopped=len(stopped),
        duplicates=sum(row["duplicate_of"] is not None for row in rows),
        failed=sum(row["state"] == "failed" for row in rows),
        search_generations=int(spent["search_generations"]),
        confirm_generations=int(spent["confirm_generations"]),
        tokens=int(spent["tokens"]),
        hours=sum(max(0.0, worker.heartbeat - worker.started) for worker in archive.workers) / 3600,
        saved=int(sum(max(0, examples * each[key] - made[key]) for key in stopped)),
        known=int(sum(made[key] for key in equal)),
    )


def _scorers(material: Material) -> tuple[ScorerFacts, ...]:
    frame = material.frame
    rows = frame[(frame["role"] == "baseline") & (frame["phase"] == "tune")]
    found = []
    for name, options in material.archive.spec["scorers"].items():
        values = rows[f"score.{name}"]
        known = options if isinstance(options, Mapping) else {"kind": str(options)}
        given = frame[f"why.{name}"].notna()
        missing = int((given & frame[f"score.{name}"].isna()).sum())
        mean, sd = (float(values.mean()), float(values.std())) if values.notna().any() else (math.nan, math.nan)
        found.append(ScorerFacts(name, known, mean, sd, int(given.sum()) - missing, missing))
    return tuple(found)


def _finishes(frame: pandas.DataFrame) -> dict[str, dict[str, int]]:
    """How the baseline's and the winner's texts ended: at a stop, cut off, degenerate, failed."""
    chosen = frame[frame["role"].isin(["baseline", "winner"])]
    found: dict[str, dict[str, int]] = {}
    for (role, finish), count in chosen.groupby(["role", "finish"]).size().items():
        found.setdefault(str(role), {})[str(finish)] = int(count)
    return found


def _mean(values: pandas.Series[float]) -> float:
    return float(values.mean()) if values.notna().any() else math.nan


def _estimate(values: pandas.Series[float]) -> Estimate:
    known = values.to_numpy(dtype=np.float64)
    mean, se = mean_se(known)
    return Estimate(mean, *interval(mean, se, int(np.count_nonzero(~np.isnan(known)))))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not abs(value) < UNBOUNDED:
        return None
    return value
