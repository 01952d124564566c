"""Owns the texts on a trial and on the study: markdown in which everything a model wrote is a block of plain text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from genopt.report import verdict_text
from genopt.words import bound, safe

SHOWN = 1200  # characters of an output in a note; the table has all of it
_FENCES = re.compile(r"`{3,}")


@dataclass(frozen=True, slots=True)
class Gain:
    """A trial's mean gain over the baseline on the examples both answered, with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    wins: int
    losses: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One example in a note: what the trial and the baseline wrote, and the trial's gain there."""

    title: str
    example_id: str
    gain: float
    output: str
    baseline: str


def trial_note(
    row: Mapping[str, Any],
    *,
    examples: int,
    gain: Gain | None,
    tokens: float,
    shown: Sequence[Shown],
) -> str:
    """What a trial is, what it was worth, and three of its outputs. `row` is the trial's record as `trials --jsonl`
    has it, `examples` the size of the tune split, `tokens` the mean length of its outputs (NaN when unknown)."""
    parts = [f"**{_state(row, examples)}**", "\n".join(f"- {line}" for line in plain_words(row["params"]))]
    if row["mean"] is not None:
        half = "" if row["se"] is None else f" ± {1.96 * row['se']:.4f} (95 %)"
        worth = f"Score **{row['mean']:.4f}**{half} on {row['n']} of {examples} examples"
        if math.isfinite(tokens):
            worth += f", {tokens:.1f} tokens an answer"
        parts.append(worth)
    if gain is not None:
        equal = gain.n - gain.wins - gain.losses
        parts.append(
            f"Against the baseline on the same {gain.n} examples: **{gain.mean:+.4f}**"
            f" [{bound(gain.low, '+')}, {bound(gain.high, '+')}], better on {gain.wins}, equal on {equal},"
            f" worse on {gain.losses}"
        )
    for each in shown:
        parts.append(f"#### {each.title}: example {_inline(each.example_id)}, {each.gain:+.4g}")
        parts.append(block(each.output))
        if each.output != each.baseline:
            parts += ["baseline:", block(each.baseline)]
    return "\n\n".join(part for part in parts if part)


def study_note(verdict: Mapping[str, Any] | None, where: str, *, failed: int = 0) -> str:
    """The verdict, how many calls of the engine `failed`, and how to go on: `where` is what a command calls the
    study."""
    said = verdict_text(verdict) if verdict is not None else "No verdict yet: the study is running or was stopped."
    if failed:
        said += f"\n{failed:,} calls of the engine failed, and made no text."
    commands = [
        f"genopt optimize {where}",
        f"genopt report {where} -o report.html",
        f"genopt compare {where}",
        f"genopt export {where} --to ollama",
    ]
    if "#" in where:  # a study without its file can be read, but not gone on with
        commands = [f"genopt {line.split()[1]} '{where}'{line.partition(where)[2]}" for line in commands[1:]]
    return "\n\n".join([block(said), "Go on, report, compare, export:", block("\n".join(commands))])


def block(text: str) -> str:
    """Text as a code block that shows it as it is: a fence in the text does not end it, nothing in it is markup."""
    longest = max((len(found) for found in _FENCES.findall(text)), default=2)
    fence = "`" * max(3, longest + 1)
    cut = text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"
    return f"{fence}text\n{safe(cut)}\n{fence}"


def _inline(text: str) -> str:
    return f"`{safe(text).replace('`', chr(39))}`"


def _state(row: Mapping[str, Any], examples: int) -> str:
    """What became of a trial, in words."""
    if row["duplicate_of"] is not None:
        return f"The same as trial {row['duplicate_of']} in other words: answered from the records"
    if row["state"] == "failed":
        return f"Failed: {safe(row['why']) or 'stopped; its configuration is asked again'}"
    if row["stopped_early"]:
        return f"Stopped early after {row['n']} of {examples} examples: clearly worse than the best so far"
    if row["state"] != "complete":
        return f"{str(row['state']).capitalize()}"
    if not row["eligible"]:
        return f"Complete, but cannot win: {safe(row['why'])}"
    return "The baseline: what runs today" if row["baseline"] else "Complete"


def plain_words(params: Mapping[str, Any]) -> list[str]:
    """A configuration as sentences; what does nothing is left out."""
    lines, rest = [], dict(params)
    temperature = rest.pop("temperature", None)
    if temperature == 0:
        lines.append("always takes the likeliest token (temperature 0)")
        for name in ("top_k", "top_p", "min_p", "typical_p"):
            rest.pop(name, None)
    elif temperature is not None:
        lines.append(f"draws each token at temperature {temperature:.4g}")
    words = {
        "top_k": (0, "only from the {} likeliest tokens (top_k)"),
        "top_p": (1.0, "only from the likeliest tokens that make up {} of the probability (top_p)"),
        "min_p": (0.0, "only from tokens at least {} times as likely as the likeliest (min_p)"),
        "typical_p": (1.0, "only from typical tokens that make up {} of the probability (typical_p)"),
        "repetition_penalty": (1.0, "divides the logits of tokens that occurred by {} (repetition_penalty)"),
        "presence_penalty": (0.0, "lowers tokens that occurred by {} (presence_penalty)"),
        "frequency_penalty": (0.0, "lowers tokens by {} for every time they occurred (frequency_penalty)"),
        "no_repeat_ngram_size": (0, "never repeats {} tokens in a row (no_repeat_ngram_size)"),
        "max_tokens": (None, "stops after {} tokens (max_tokens)"),
        "min_tokens": (0, "writes at least {} tokens (min_tokens)"),
    }
    for name, (neutral, sentence) in words.items():
        value = rest.pop(name, neutral)
        if value is not None and value != neutral:
            lines.append(sentence.format(f"{value:.4g}" if isinstance(value, float) else value))
    for name, value in rest.items():
        if value not in (None, [], ()):
            lines.append(f"{name}: {_inline(json.dumps(value, ensure_ascii=False))}")
    return lines
