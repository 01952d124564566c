"""Owns what a study looks like in words: verdict, trials, bill. Computes nothing that is not stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from genopt.objectives import pareto_front
from genopt.report.front import (
    admissible_sentence,
    bound_lines,
    front_lines,
    front_sentence,
    settings_title,
    suggested,
)
from genopt.words import bound, brief, safe, score, value_text

if TYPE_CHECKING:
    from genopt.archive import Archive


def verdict_text(verdict: Mapping[str, Any]) -> str:
    """The verdict in words: one sentence, the evidence, the settings."""
    lines = [sentence(verdict)]
    if verdict["holdout_examples"]:
        low, high = (bound(limit, "+") for limit in verdict["interval"])
        confidence = f"{100 * (1 - verdict['level']):.4g} %"
        lines += [
            "",
            f"  {_claimed(verdict['objective'])}",
            f"  on {verdict['holdout_examples']} examples {_unseen(verdict)}, fresh seeds"
            + (f" (look {verdict['look']} at them)" if verdict["look"] > 1 else ""),
            f"    baseline    {verdict['baseline_score']:.4f}",
            f"    winner      {verdict['winner_score']:.4f}",
            f"    difference  {verdict['difference']:+.4f}   {confidence} interval [{low}, {high}]"
            f"   p = {verdict['p_value']:.2g}",
            *split_lines(verdict.get("split")),
            f"    examples    won {verdict['wins']}, tied {verdict['ties']}, lost {verdict['losses']}",
        ]
        for name, means in (verdict.get("metrics") or {}).items():
            if means["winner"] is not None and means["baseline"] is not None:
                lines.append(f"    {name:<20} {means['baseline']:>10.4g} -> {means['winner']:.4g}")
        lines += bound_lines(verdict.get("constraints"))
    lines += front_lines(verdict)
    if verdict["note"]:
        lines += ["", f"  {verdict['note']}"]
    lines += ["", f"{settings_title(verdict)}:"]
    before, after = verdict["baseline_params"], verdict["params"]
    kept = after if suggested(verdict) else before
    for name in sorted(name for name in kept if name in verdict["searched"] or kept[name] != before.get(name)):
        was = before.get(name)
        changed = f"   (was {value_text(was)})" if kept[name] != was and name in before else ""
        lines.append(f"  {name:<20} {value_text(kept[name])}{changed}")
    lines += [
        "",
        f"Cost: {verdict['trials']} configurations, {verdict['search_generations']:,} generations to search and"
        f" {verdict['confirm_generations']:,} to confirm, {verdict['tokens']:,} tokens.",
        *harvest_lines(verdict.get("harvested", 0), verdict.get("saved_tokens", 0)),
    ]
    return safe("\n".join(lines))


def harvest_lines(texts: int, tokens: int) -> list[str]:
    """What was had from texts that existed, in a line; nothing where nothing was."""
    return [f"Saved: {texts:,} more texts of {tokens:,} tokens are cuts of generated ones."] if texts else []


def split_lines(split: Mapping[str, Any] | None) -> list[str]:
    """The two parts for people."""
    if not split:
        return []
    lines = [f"    of which, with {split['n']} samples an answer:"]
    for name in ("settings", "more samples"):
        part = split[name]
        low, high = (bound(limit, "+") for limit in part["interval"])
        less, more = part["completion_tokens"]
        cost = f"   tokens {less:g} -> {more:g}" if less is not None and more is not None else ""
        lines.append(f"      {name:<14} {part['difference']:+.4f}   [{low}, {high}]{cost}")
    return lines


def _claimed(objectives: str) -> str:
    """What the verdict's numbers are about: of several objectives without weights, the first."""
    first, _, others = objectives.partition(", ")
    return f"{first}   (searched together with: {others})" if others else first


def _unseen(verdict: Mapping[str, Any]) -> str:
    """What the examples of the claim are."""
    folds = verdict.get("folds") or ()
    if not folds:
        return "the search never saw"
    different = len({fold["key"] for fold in folds})
    return f"by turns (cross-fitting: {len(folds)} folds, {different} different choices)"


def sentence(verdict: Mapping[str, Any]) -> str:
    if verdict.get("knee"):
        return front_sentence(verdict)
    if verdict["verdict"] == "admissible":
        return admissible_sentence(verdict)
    if verdict.get("folds"):
        return _sentence_of_folds(verdict)
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


def _sentence_of_folds(verdict: Mapping[str, Any]) -> str:
    """The claim of a cross-fitted study is about the choosing."""
    match verdict["verdict"]:
        case "improved":
            return (
                f"Improved: choosing as this study did beats the baseline by {verdict['difference']:+.4f} on examples"
                " that the choice had not seen."
            )
        case "worse":
            return "Worse: choosing as this study did loses to the baseline on examples that the choice had not seen."
    return "Not shown: no improvement could be shown on examples that the choice had not seen. Keep the baseline."


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
    if not found["params"]:
        return "No verdict yet, and no trial that was measured to its end."
    lines = ["No verdict yet: the leading trial is mostly luck until the holdout confirmed it.", ""]
    return safe("\n".join(lines + [f"  {name:<20} {value_text(value)}" for name, value in found["params"].items()]))


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
    """The trials of a study with several objectives that no other trial beats in all, as the tune split has them; ""
    with one objective, and where the verdict holds the front on the holdout."""
    if archive.verdict and archive.verdict.get("front"):
        return ""
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
        "calls_failed": archive.spent.failed,
        "workers": [
            {"host": w.host, "started": w.started, "heartbeat": w.heartbeat, "closed": w.closed}
            for w in archive.workers
        ],
        "verdict": None if archive.verdict is None else archive.verdict["verdict"],
    }
