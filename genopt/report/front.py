"""Owns the words of a verdict on several objectives (the front on the holdout, its knee) and on constraints, and whose
settings a verdict says to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genopt.words import bound, brief

USED = ("improved", "admissible")  # the conclusions after which the winner's settings are to be used
MEETS = "meets every constraint, which the baseline does not"


def to_use(verdict: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings to use: the winner's where they improve on the baseline's, or meet the constraints that these miss;
    else the baseline's."""
    kept: Mapping[str, Any] = verdict["params" if verdict["verdict"] in USED else "baseline_params"]
    return kept


def suggested(verdict: Mapping[str, Any]) -> bool:
    """Whether the winner is worth a look: its settings are to be used, or it is the knee of a front that is shown
    better in one objective and pays for that in another, which is for a person to decide."""
    return verdict["verdict"] in USED or bool((verdict.get("knee") or {}).get("suggested"))


def settings_title(verdict: Mapping[str, Any]) -> str:
    """What is done with the settings that are shown: the winner's where it is `suggested`, else the baseline's."""
    if verdict["verdict"] in USED:
        return "Settings to use"
    return "The knee's settings, a trade for you to make" if suggested(verdict) else "Keep"


def knee_of(verdict: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The member of the front that is its knee."""
    knee = verdict.get("knee")
    return next((m for m in verdict["front"] if m["trial"] == knee["trial"]), None) if knee else None


def front_sentence(verdict: Mapping[str, Any]) -> str:
    """What the holdout says of the knee, in one sentence."""
    member = knee_of(verdict) or {"objectives": {}}
    told = member["objectives"].items()
    gains = " and ".join(name for name, found in told if found["shown"] == "better")
    losses = " and ".join(name for name, found in told if found["shown"] == "worse" or found["behind"])
    unseen = "on data the search never saw"
    if verdict["verdict"] == "improved":
        return f"Improved: the knee of the front is better in {gains}, and behind in nothing, {unseen}."
    if verdict["verdict"] == "admissible":
        return f"Admissible: the knee of the front {MEETS}; {unseen} it is {' and '.join(map(_against, told))}."
    if suggested(verdict):
        return f"A trade: the knee of the front is better in {gains}, and behind in {losses}, {unseen}."
    if verdict["verdict"] == "worse":
        return f"Worse: the knee of the front is worse in {losses}, and shown better in nothing, {unseen}."
    return f"Not shown: no improvement of the front's knee could be shown {unseen}. Keep the baseline."


def _against(objective: tuple[str, Mapping[str, Any]]) -> str:
    """How an admissible knee stands in one objective; a loss with its size, and so what is not known to be one."""
    name, found = objective
    change = f"in {name} ({found['difference']:+.4g} {_limits(found['difference_interval'])})"
    return f"{found['shown']} {change}" if found["shown"] else f"not shown to differ {change}"


def admissible_sentence(verdict: Mapping[str, Any]) -> str:
    """What is said of a winner that is to be used for the constraints' sake: at what loss, if any is shown."""
    unseen = "on data the search never saw"
    who = "the winner"
    if verdict.get("folds"):
        who, unseen = "what this study chose", "on examples that the choice had not seen"
    gain, (low, high) = verdict["difference"], verdict["interval"]
    if gain < 0 and verdict["p_value"] < verdict["level"]:
        return f"Admissible: {who} {MEETS}, at a shown loss of {-gain:.4f} [{bound(-high)}, {bound(-low)}] {unseen}."
    return (
        f"Admissible: {who} {MEETS}; {unseen} neither gain nor loss is shown: {gain:+.4f} [{bound(low, '+')},"
        f" {bound(high, '+')}]."
    )


def front_rows(verdict: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The members of the front as a table, by the first objective: head and rows of text."""
    members: Sequence[Mapping[str, Any]] = verdict["front"]
    names = list(members[0]["objectives"]) if members else []
    knee = knee_of(verdict)
    head = ["trial", *(text for name in names for text in (name, "against the baseline")), "on the front", "knee"]
    rows = []
    for member in sorted(members, key=lambda m: m["objectives"][names[0]]["mean"]):
        row = [("baseline" if member["baseline"] else str(member["trial"])) + ("*" if member is knee else "")]
        for found in member["objectives"].values():
            row.append(f"{found['mean']:.4g} {_limits(found['interval'])}")
            row.append("" if member["baseline"] else f"{found['difference']:+.4g} {found['shown']}".rstrip())
        rows.append([*row, f"{member['front']:.0%}", f"{member['knee']:.0%}", brief(_searched(verdict, member))])
    return [*head, "settings"], rows


def front_note(verdict: Mapping[str, Any]) -> str:
    """What the table says, and how sure the knee is."""
    level, knee = f"{100 * (1 - verdict['level']):.4g} %", verdict["knee"]
    flat = " The front has no bulge there: its ends are as good an answer." if knee["distance"] <= 0 else ""
    return (
        f"{level} intervals of each mean; better or worse: shown with all comparisons together held to"
        f" {verdict['level']:.3g}. Shares are of resamples of the examples. * the knee, farthest beyond the line"
        f" between the front's ends on scaled axes; it is that in {knee['share']:.0%} of the resamples.{flat}"
    )


def front_lines(verdict: Mapping[str, Any]) -> list[str]:
    """The front for a terminal; nothing where there is none."""
    if not verdict.get("front"):
        return []
    head, rows = front_rows(verdict)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    lines = [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in (head, *rows)
    ]
    return ["", "Front, on examples the search never saw:", *lines, f"  {front_note(verdict)}"]


def bound_lines(constraints: Mapping[str, Any] | None) -> list[str]:
    """How sure it is that each constraint is met on the holdout."""
    return [
        f"    {name}: the winner {_met(found['winner'])}, the baseline {_met(found['baseline'])}"
        f" ({found['confidence']:.0%} is asked for)"
        for name, found in (constraints or {}).items()
    ]


def _met(found: Mapping[str, Any]) -> str:
    mean = "?" if found["mean"] is None else f"{found['mean']:.4g}"
    return f"{mean}, met with {found['probability']:.1%} confidence"


def _searched(verdict: Mapping[str, Any], member: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in member["params"].items() if name in verdict["searched"]}


def _limits(interval: Sequence[float | None]) -> str:
    low, high = ("?" if limit is None else f"{limit:.4g}" for limit in interval)
    return f"[{low}, {high}]"
