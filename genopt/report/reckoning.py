"""Owns how every number of a report is computed from the stored rows. Knows no words and no drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from genopt.answers import Answers
from genopt.leases import worked
from genopt.objectives import pareto_front
from genopt.observations import paired_table
from genopt.report import sentence
from genopt.report.facts import Change, Cost, Estimate, Facts, HeldOut, ScorerFacts, Setting
from genopt.report.importance import importances, interaction
from genopt.report.material import Material, by_unit, gain_table
from genopt.stats import PairedResult, interval, mean_se, paired

if TYPE_CHECKING:
    import pandas


def facts_of(material: Material) -> Facts:
    """Every number of the report."""
    archive, frame = material.archive, material.frame
    goal, settings = archive.goal, _settings(material)
    measured = [each for each in settings if each.role != "baseline"]  # which names more than what is searched
    gains = [each.gain.value for each in measured]
    params = [dict(each.params) for each in measured]
    important = importances(params, gains)
    tune = paired_table(frame)
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
        examples={side: len(material.units(side)) for side in ("tune", "holdout")},
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
    shared = by_unit(gain_table(material), units)
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
    tried = archive.tried()
    if not verdict or not verdict["holdout_examples"] or (winner not in table.index and not tried):
        return None
    order = [example for example, (_, side) in material.examples.items() if side != "tune"]

    def sides(table: pandas.DataFrame) -> tuple[pandas.Series[float], pandas.Series[float]]:
        table = table.reindex(columns=order)
        before = table.loc[archive.baseline["key"]]
        if not tried:
            return before, table.loc[winner]
        return before, before.copy().mask([True] * len(order), [table.at[tried[name], name] for name in order])

    units, goal = material.units("holdout"), archive.goal
    groups = [units[name] for name in order]
    before, after = sides(table)
    seed, level = int(archive.description.get("seed", 0)), 1 - verdict["level"]
    changes = []
    for name in verdict["metrics"] or {}:
        old, new = sides(paired_table(frame, "confirm", f"metric.{name}"))
        change = paired(new.to_numpy(), old.to_numpy(), groups=groups, level=level, resamples=0)
        difference = Estimate(change.difference if change.n else math.nan, change.low, change.high)
        changes.append(Change(name, _mean(old), _mean(new), difference))
    pairs = [(name, float(before[name]), float(after[name])) for name in order]
    result = paired(after.to_numpy(), before.to_numpy(), groups=groups, level=level, seed=seed)
    return HeldOut(
        baseline=goal.sign * _mean(before),
        winner=goal.sign * _mean(after),
        # Of several objectives the p-value is corrected for everything on the front that is compared.
        result=replace(result, p_value=verdict["p_value"]) if goal.several else result,
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
    repeats *= Answers.from_description(archive.description).most
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
        harvested=int(spent.get("harvested", 0)),
        saved_tokens=int(spent.get("saved_tokens", 0)),
        hours=worked(worker.span for worker in archive.workers) / 3600,
        saved=int(sum(max(0, examples * each[key] - made[key]) for key in stopped)),
        known=int(sum(made[key] for key in equal)),
        calls_failed=archive.spent.failed,
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
