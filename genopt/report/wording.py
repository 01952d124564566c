"""Owns the words and short tables that every form of a report shares."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
from dataclasses import dataclass
from typing import Any

from genopt.archive import Archive
from genopt.errors import SpecError
from genopt.export import WRITERS, export, settings
from genopt.report import front
from genopt.report.facts import Facts
from genopt.report.toml import toml_text
from genopt.words import duration


@dataclass(frozen=True)
class Target:
    """Settings in the form that one engine or program takes, and what a person has to know of it."""

    name: str
    text: str
    notes: tuple[str, ...] = ()


def settings_title(facts: Facts) -> str:
    """What is done with the settings."""
    if facts.verdict is None:
        return "Leading settings (not confirmed)"
    return front.settings_title(facts.verdict)


def kept(facts: Facts) -> dict[str, Any]:
    """The settings to use: what was searched, and whatever differs from the baseline."""
    verdict = facts.verdict
    if verdict is None:
        leader = next((s for s in facts.settings if s.eligible and not s.stopped_early), None)
        return dict(leader.params) if leader else {}
    before, after = verdict["baseline_params"], verdict["params"]
    chosen = after if front.suggested(verdict) else before
    return {n: v for n, v in sorted(chosen.items()) if n in verdict["searched"] or v != before.get(n)}


def targets(archive: Archive, facts: Facts) -> tuple[Target, ...]:
    """The settings in every form they can be copied in, the study's own engine first. Before a verdict they are only
    shown as they are: nothing of them is confirmed."""
    chosen = kept(facts)
    plain = (
        Target("study file", toml_text({"baseline": chosen})),
        Target("JSON", json.dumps(chosen, ensure_ascii=False, indent=2)),
    )
    if facts.verdict is None:
        return plain
    found = settings(archive)
    exported = []
    for name in sorted(WRITERS, key=lambda name: name != found.engine):
        with contextlib.suppress(SpecError):  # this program cannot hold them
            made = export(found, name)
            exported.append(Target(name, made.text, made.notes))
    own = [target for target in exported if target.name == found.engine]
    return (*own, *plain, *(target for target in exported if target not in own))


def cost_rows(facts: Facts) -> list[tuple[str, str]]:
    """What the study took, for people."""
    cost = facts.cost
    without = cost.search_generations + cost.saved
    saved = (
        f"{cost.saved:,} generations, {cost.saved / without:.0%} of what the search would have made" if without else "0"
    )
    harvested = f"{cost.harvested:,}, which saved {cost.saved_tokens:,} tokens"
    return [
        ("configurations", f"{cost.configurations:,} in {cost.trials:,} trials"),
        ("stopped early", f"{cost.stopped:,}, which saved {saved}"),
        ("equal to a known one", f"{cost.duplicates:,} trials, answered from {cost.known:,} stored generations"),
        *([("cuts of other texts", harvested)] if cost.harvested else []),
        ("failed or interrupted", f"{cost.failed:,}"),
        ("generations", f"{cost.search_generations:,} to search, {cost.confirm_generations:,} to confirm"),
        *([("calls that failed", f"{cost.calls_failed:,}, which made no text")] if cost.calls_failed else []),
        ("tokens", f"{cost.tokens:,} read and written"),
        ("working time", duration(cost.hours * 3600)),
    ]


def data_rows(facts: Facts) -> list[tuple[str, str]]:
    """What was asked, and how the texts ended, for people."""
    table = facts.spec.get("dataset", {})
    rows = [("data", str(table.get("path", "rows given from Python")))]
    for split in ("tune", "holdout"):
        count, groups = facts.examples[split], facts.groups[split]
        rows.append((f"{split} examples", f"{count:,}" + (f" in {groups:,} groups" if groups < count else "")))
    engine = facts.description.get("backend", {})
    rows.append(("engine", ", ".join(f"{k} {v}" for k, v in engine.items() if k in ("engine", "version", "model"))))
    for role, finishes in facts.finishes.items():
        total = sum(finishes.values())
        shares = (f"{name} {count / total:.1%}" for name, count in sorted(finishes.items(), key=lambda f: -f[1]))
        rows.append((f"{role}'s texts ended", ", ".join(shares)))
    return rows


def versions() -> str:
    """What the study and its report were made with, as installed here."""
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("optuna", "numpy", "scipy"))
    try:
        own = importlib.metadata.version("genopt")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        own = "(not installed)"
    return f"genopt {own}, Python {platform.python_version()}, {libraries}"


def commands(facts: Facts) -> str:
    """What to type to see or repeat what the report says."""
    return "\n".join(
        [
            "genopt export study.toml --data rows.jsonl     every text, score and seed (or .csv, .parquet)",
            "genopt report study.toml -o report.json        every number of this page",
            "genopt evaluate study.toml --params best       the settings once more",
            f"genopt optimize study.toml                     the study {facts.name!r}: goes on, or says its verdict",
        ]
    )
