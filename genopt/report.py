"""Owns what a study looks like in words: verdict, trials, bill. Computes nothing that is not stored."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genopt.objectives import pareto_front
from genopt.stats import UNBOUNDED
from genopt.types import Domain, Params

if TYPE_CHECKING:
    from genopt.archive import Archive
    from genopt.evaluation import Checked, Measured


def duration(seconds: float) -> str:
    """A length of time for people: 45 s, 3 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def score(mean: float | None, se: float | None, width: int = 7) -> str:
    """A mean and the half width of its 95 % interval; "?" for what the data cannot tell."""
    known_mean = "?" if mean is None or not math.isfinite(mean) else f"{mean:.4f}"
    known_half = "?" if se is None or not se < UNBOUNDED else f"{1.96 * se:.4f}"
    return f"{known_mean:>{width}} ±{known_half:<6}"


def brief(params: Params | Mapping[str, Any]) -> str:
    """Parameters on one line, numbers to four digits, texts that hold spaces or nothing in quotes."""
    return " ".join(f"{name}={_value(value)}" for name, value in params.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(list(value) if isinstance(value, tuple) else value)
    shown = safe(text if len(text) <= 40 else text[:37] + "...").replace("\n", "\\n")
    apart = isinstance(value, str) and (not value or any(c.isspace() for c in value))
    return f'"{shown}"' if apart else shown


def safe(text: str) -> str:
    """Text that a terminal only prints: control and direction characters, with which a model's output could repaint the
    screen, become visible escapes."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs") else f"\\u{ord(c):04x}" for c in text
    )


def _bound(limit: float, sign: str = "") -> str:
    """The end of an interval; "?" where the data cannot tell."""
    return f"{limit:{sign}.4f}" if abs(limit) < UNBOUNDED else "?"


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """The verdict in words: one sentence, the evidence, the settings."""
    lines = [_sentence(verdict)]
    if verdict["holdout_examples"]:
        low, high = (_bound(limit, "+") for limit in verdict["interval"])
        confidence = f"{100 * (1 - verdict['level']):.4g} %"
        lines += [
            "",
            f"  {_claimed(verdict['objective'])}",
            f"  on {verdict['holdout_examples']} examples the search never saw, fresh seeds"
            + (f" (look {verdict['look']} at them)" if verdict["look"] > 1 else ""),
            f"    baseline    {verdict['baseline_score']:.4f}",
            f"    winner      {verdict['winner_score']:.4f}",
            f"    difference  {verdict['difference']:+.4f}   {confidence} interval [{low}, {high}]"
            f"   p = {verdict['p_value']:.2g}",
            f"    examples    won {verdict['wins']}, tied {verdict['ties']}, lost {verdict['losses']}",
        ]
        for name, means in (verdict.get("metrics") or {}).items():
            if means["winner"] is not None and means["baseline"] is not None:
                lines.append(f"    {name:<20} {means['baseline']:>10.4g} -> {means['winner']:.4g}")
    if verdict["note"]:
        lines += ["", f"  {verdict['note']}"]
    lines += ["", "Settings to use:" if verdict["verdict"] == "improved" else "Keep:"]
    before, after = verdict["baseline_params"], verdict["params"]
    kept = after if verdict["verdict"] == "improved" else before
    for name in sorted(name for name in kept if name in verdict["searched"] or kept[name] != before.get(name)):
        was = before.get(name)
        changed = f"   (was {_value(was)})" if kept[name] != was and name in before else ""
        lines.append(f"  {name:<20} {_value(kept[name])}{changed}")
    lines += [
        "",
        f"Cost: {verdict['trials']} configurations, {verdict['search_generations']:,} generations to search and"
        f" {verdict['confirm_generations']:,} to confirm, {verdict['tokens']:,} tokens.",
    ]
    return safe("\n".join(lines))


def _claimed(objectives: str) -> str:
    """What the verdict's numbers are about: of several objectives without weights, the first."""
    first, _, others = objectives.partition(", ")
    return f"{first}   (searched together with: {others})" if others else first


def _sentence(verdict: Mapping[str, Any]) -> str:
    match verdict["verdict"]:
        case "improved":
            return (
                f"Improved: the winner beats the baseline by {verdict['difference']:+.4f} on data the search never saw."
            )
        case "worse":
            return "Worse: what looked best while searching loses to the baseline on data the search never saw."
        case "not shown":
            return "Not shown: no improvement could be shown on data the search never saw. Keep the baseline."
    return "No verdict yet."


def best_json(archive: Archive) -> dict[str, Any]:
    """The fields of `optimize --json`; before a verdict the leading trial, with verdict null."""
    if archive.verdict is not None:
        return {name: value for name, value in archive.verdict.items() if name != "budget"}
    rows = [r for r in archive.rows() if r["state"] == "complete" and not r["stopped_early"] and r["mean"] is not None]
    leader = max((row for row in rows if row["eligible"]), key=lambda row: row["mean"], default=None)
    baseline = next((row for row in rows if row["baseline"]), None)
    nothing = ("verdict", "difference", "interval", "p_value", "winner_score", "baseline_score")
    return {
        "schema": 1,
        **dict.fromkeys(nothing),
        "params": leader["params"] if leader else {},
        "baseline_params": baseline["params"] if baseline else {},
        "holdout_examples": 0,
        "trials": len({row["config_key"] for row in archive.rows()}),
        "search_generations": archive.spent.search_generations,
        "confirm_generations": archive.spent.confirm_generations,
        "tokens": archive.spent.tokens,
    }


def best_text(archive: Archive) -> str:
    """The settings, one per line; before a verdict the leading trial's, and that it is unconfirmed."""
    if archive.verdict is not None:
        return verdict_text(archive.verdict)
    found = best_json(archive)
    lines = ["No verdict yet: the leading trial is mostly luck until the holdout confirmed it.", ""]
    return safe("\n".join(lines + [f"  {name:<20} {_value(value)}" for name, value in found["params"].items()]))


def trials_text(archive: Archive) -> str:
    """One line per trial, the best first."""
    lines = ["trial  state     n     mean    ±95 %    parameters"]
    rows = sorted(archive.rows(), key=lambda row: -(row["mean"] if row["mean"] is not None else float("-inf")))
    tried = {name for row in rows if not row["baseline"] for name in row["params"]}
    for row in rows:
        shown = row["params"]
        if row["baseline"] and tried:  # what is never searched would drown what is compared
            shown = {name: value for name, value in shown.items() if name in tried}
        state = "stopped" if row["stopped_early"] else row["state"]
        if row["duplicate_of"] is not None:
            state = "known"
        number = "  base" if row["number"] is None else f"{row['number']:>5}{'*' if row['baseline'] else ' '}"
        lines.append(f"{number} {state:<9} {row['n']:<5} {score(row['mean'], row['se'])}  {brief(shown)}")
    return safe("\n".join([*lines, "* baseline"]))


def front_text(archive: Archive) -> str:
    """The trials of a study with several objectives that no other trial beats in all; "" with one objective."""
    trials = [t for t in archive.trials if t.values and len(t.values) > 1 and t.outcome.get("duplicate_of") is None]
    trials = [trial for trial in trials if trial.outcome.get("eligible", True)]
    if not trials:
        return ""
    wanted = [part.partition(" ") for part in str(archive.description["objectives"]).split(", ")]
    best = pareto_front([trial.values or () for trial in trials], [direction for direction, _, _ in wanted])
    rows = sorted((trials[index] for index in best), key=lambda trial: trial.values or (), reverse=True)
    lines = ["Front: no other trial is better in one of these without being worse in another", ""]
    lines.append("trial  " + "".join(f"{name:>18}" for _, _, name in wanted) + "  parameters")
    for trial in rows:
        values = "".join(f"{value:>18.4f}" for value in trial.values or ())
        lines.append(f"{trial.number:>5}  {values}  {brief(trial.config.get('params', {}))}")
    return "\n".join(lines)


def report_text(archive: Archive) -> str:
    """Verdict, cost, the front of a study with several objectives, and the leading trials."""
    lines = [f"Study {archive.name}", ""]
    lines.append(verdict_text(archive.verdict) if archive.verdict else best_text(archive))
    spent = archive.spent
    stopped = sum(bool(trial.outcome.get("stopped_early")) for trial in archive.trials)
    failed = sum(trial.state == "failed" for trial in archive.trials)
    lines += [
        "",
        f"Search: {archive.sampler[0]} ({archive.sampler[1]}); {len(archive.trials)} trials, {stopped} stopped early"
        + (f", {failed} failed or interrupted" if failed else "")
        + f"; {spent.generations:,} generations, {spent.tokens:,} tokens so far.",
        "",
    ]
    if front := front_text(archive):
        lines += [front, ""]
    lines += trials_text(archive).splitlines()[:16]
    return safe("\n".join(lines))


def inspect_json(archive: Archive) -> dict[str, Any]:
    """What a study is about and who worked on it."""
    return {
        "name": archive.name,
        "study": dict(archive.description),
        "sampler": list(archive.sampler),
        "baseline": dict(archive.baseline),
        "trials": len(archive.trials),
        "search_generations": archive.spent.search_generations,
        "confirm_generations": archive.spent.confirm_generations,
        "tokens": archive.spent.tokens,
        "workers": [
            {"host": w.host, "started": w.started, "heartbeat": w.heartbeat, "closed": w.closed}
            for w in archive.workers
        ],
        "verdict": None if archive.verdict is None else archive.verdict["verdict"],
    }


def check_json(checked: Checked) -> dict[str, Any]:
    """What `check` found."""
    plan, bill = checked.plan, checked.bill
    return {
        "study": plan.spec.name,
        "examples": {"tune": len(plan.tune), "holdout": len(plan.holdout)},
        "dataset": plan.dataset.digest,
        "engine": dict(plan.info.identity),
        "sampler": [plan.sampler.name, plan.sampler.why],
        "space": plan.space.describe(),
        "baseline": {k: list(v) if isinstance(v, tuple) else v for k, v in plan.baseline().params.items()},
        "warnings": list(plan.warnings),
        "rows": list(checked.rows),
        "generations": {
            "search": bill.search,
            "finalists": bill.finalists,
            "confirm": bill.confirm,
            "total": bill.total,
        },
        "tokens": round(bill.total * checked.tokens_each),
        "minutes": [round(minutes, 2) for minutes in checked.minutes()],
    }


def check_text(checked: Checked) -> str:
    """The same for people."""
    plan, bill = checked.plan, checked.bill
    found = check_json(checked)
    engine = ", ".join(f"{k} {v}" for k, v in plan.info.identity.items() if k in ("engine", "version", "model"))
    lines = [
        f"Study      {plan.spec.name}: {plan.goal.title}",
        f"Data       {plan.dataset.source}: {len(plan.tune)} examples to tune on, {len(plan.holdout)} held out",
        f"Engine     {engine}; {plan.concurrency} requests in flight",
        f"Search     {plan.sampler.name} ({plan.sampler.why}), {plan.spec.search.pruner} pruner",
        f"Baseline   {brief(plan.baseline().params)}",
        "Space      " + ", ".join(f"{name}" for name in plan.space.open_dimensions()),
    ]  # fmt: skip
    lines += [f"warning: {warning}" for warning in plan.warnings]
    for row in checked.rows:
        lines += ["", f"Row {row['id']}"]
        if row is checked.rows[0]:  # one prompt shows whether the template is right
            for message in row["prompt"]:
                lines += [f"  {message['role']}", *(f"    {line}" for line in safe(message["content"]).splitlines())]
        lines += [f"  -> {safe(text)}" for text in row["outputs"]]
        found_of = row["metrics"].items()
        lines.append(
            "  " + ", ".join(f"{name} {'?' if value is None else format(value, '.4g')}" for name, value in found_of)
        )
    if plan.trials is None:
        lines += ["", "The bill   as much as the budget allows; the verdict takes "
                  f"{bill.reserve:,} generations of it."]  # fmt: skip
        return safe("\n".join(lines))
    fastest, slowest = checked.minutes()
    lines += [
        "",
        f"The bill   at most {bill.total:,} generations: {bill.search:,} to search ({plan.trials} trials; racing"
        f" usually saves a third or more), {bill.finalists:,} to choose, {bill.confirm:,} to confirm",
        f"           about {found['tokens']:,} tokens; {duration(60 * fastest)} if the engine answers"
        f" {plan.concurrency} requests at once as fast as one, {duration(60 * slowest)} if one after the other",
    ]
    return safe("\n".join(lines))


def measured_json(measured: Measured) -> dict[str, Any]:
    """One configuration's metrics."""
    params = {k: list(v) if isinstance(v, tuple) else v for k, v in measured.params.items()}
    return {
        "params": params,
        "examples": measured.examples,
        "metrics": {
            name: {k: v if math.isfinite(v) else None for k, v in found.items()}
            for name, found in measured.metrics.items()
        },
    }


def measured_text(measured: Measured) -> str:
    """The same for people."""
    lines = [f"{measured.examples} examples with {brief(measured.params)}", ""]
    for name, m in measured.metrics.items():
        mean = f"{m['mean']:.4f}" if math.isfinite(m["mean"]) else "?"  # no row could be scored
        lines.append(f"  {name:<20} {mean:>10}   95 % interval [{_bound(m['low'])}, {_bound(m['high'])}]")
    return safe("\n".join(lines))


def params_text(domains: Mapping[str, Domain], defaults: Params) -> str:
    """A table of generation parameters."""
    rows = [("parameter", "legal", "default", "searched by default", "what it does")]
    for name, domain in domains.items():
        search = "" if domain.search is None else f"{domain.search.low:g} .. {domain.search.high:g}"
        rows.append((name, domain.bounds(), _value(defaults[name]) if name in defaults else "", search, domain.doc))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows)
