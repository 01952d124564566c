"""Owns how a measurement outside any study is put in words: the rows of `check`, one configuration, an engine's
parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genopt.space import Constant
from genopt.spec.outside import code_named, sent_to
from genopt.types import Domain, Params
from genopt.words import bound, brief, duration, finite, safe, value_text

if TYPE_CHECKING:
    from genopt.evaluation import Checked, Measured


def check_json(checked: Checked) -> dict[str, Any]:
    """What `check` found."""
    plan, bill = checked.plan, checked.bill
    return {
        "study": plan.spec.name,
        "examples": {"tune": len(plan.tune), "holdout": len(plan.holdout)},
        "claim": "cross-fitting" if plan.folds else "holdout",
        "dataset": plan.dataset.digest,
        "engine": dict(plan.info.identity),
        "sampler": [plan.sampler.name, plan.sampler.why],
        "space": plan.space.describe(),
        "baseline": {k: list(v) if isinstance(v, tuple) else v for k, v in plan.baseline().params.items()},
        "warnings": list(plan.warnings),
        "code": code_named(plan.spec),
        "network": sent_to(plan.spec),
        "rows": list(checked.rows),
        "generations": {
            "search": bill.search,
            "finalists": bill.finalists,
            "confirm": bill.confirm,
            "total": bill.total,
        },
        "judge_calls": bill.judged,
        "tokens": round(bill.total * checked.tokens_each),
        "minutes": [round(minutes, 2) for minutes in checked.minutes()],
    }


def check_text(checked: Checked) -> str:
    """The same for people."""
    plan, bill = checked.plan, checked.bill
    found = check_json(checked)
    fixed = {name: part.value for name, part in plan.space.dimensions.items() if isinstance(part, Constant)}
    engine = ", ".join(f"{k} {v}" for k, v in plan.info.identity.items() if k in ("engine", "version", "model"))
    lines = [
        f"Study      {plan.spec.name}: {plan.goal.title}",
        f"Data       {plan.dataset.source}: {len(plan.tune)} examples to tune on, {len(plan.holdout)} held out"
        + (" by turns (cross-fitting)" if plan.folds else ""),
        f"Engine     {engine}; {plan.concurrency} requests in flight",
        f"Search     {plan.sampler.name} ({plan.sampler.why}), {plan.spec.search.pruner} pruner",
        f"Baseline   {brief(plan.baseline().params)}",
        f"Starts     {_starts(plan.spec.search.warm_start)}",
        f"Space      {', '.join(plan.space.open_dimensions())}{f'; always {brief(fixed)}' if fixed else ''}",
    ]  # fmt: skip
    lines += [f"Code       {line}" for line in found["code"]]
    lines += [f"Network    {line}" for line in found["network"]]
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
        kept = f"{bill.confirm:,} generations of it are for the verdict"
        kept += ", about a third for choosing" if plan.finals is None else f", {bill.finalists:,} for choosing"
        lines += ["", f"The bill   as much as the budget allows: {kept}"]
        return safe("\n".join(lines))
    fastest, slowest = checked.minutes()
    lines += [
        "",
        f"The bill   at most {bill.total:,} generations: {bill.search:,} to search ({plan.trials} trials; racing"
        f" usually saves a third or more), {bill.finalists:,} to choose, {bill.confirm:,} to confirm",
        f"           about {found['tokens']:,} tokens; {duration(60 * fastest)} if the engine answers"
        f" {plan.concurrency} requests at once as fast as one, {duration(60 * slowest)} if one after the other",
    ]
    if bill.judged:
        lines.append(f"           and at most {bill.judged:,} requests to judges: equal texts are judged once")
    return safe("\n".join(lines))


def measured_json(measured: Measured) -> dict[str, Any]:
    """One configuration's metrics."""
    params = {k: list(v) if isinstance(v, tuple) else v for k, v in measured.params.items()}
    return {
        "params": params,
        "examples": measured.examples,
        "metrics": finite(measured.metrics),
    }


def measured_text(measured: Measured) -> str:
    """The same for people."""
    lines = [f"{measured.examples} examples with {brief(measured.params)}", ""]
    for name, m in measured.metrics.items():
        mean = f"{m['mean']:.4f}" if math.isfinite(m["mean"]) else "?"  # no row could be scored
        lines.append(f"  {name:<20} {mean:>10}   95 % interval [{bound(m['low'])}, {bound(m['high'])}]")
    return safe("\n".join(lines))


def params_text(domains: Mapping[str, Domain], defaults: Params) -> str:
    """A table of generation parameters."""
    rows = [("parameter", "legal", "default", "searched by default", "what it does")]
    for name, domain in domains.items():
        search = "" if domain.search is None else f"{domain.search.low:g} .. {domain.search.high:g}"
        rows.append((name, domain.bounds(), value_text(defaults[name]) if name in defaults else "", search, domain.doc))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[4]]) for row in rows)


def _starts(rule: str | bool) -> str:
    """What a search begins with."""
    if rule is False:
        return "nothing known before (search.warm_start = false)"
    known = "earlier studies here on the same model" if rule == "auto" else f"the study {rule}"
    return f"the best of {known}, if there are any, and what the model recommends"
