"""Owns two sets of outputs held against each other: which rows differ, by how much, and whether that can be chance.

The outputs are those of a study's configurations, or come from files made elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from scipy.stats import binomtest

from genopt.errors import SpecError
from genopt.stats import PairedResult, examples_needed, paired

Show = Literal["all", "different", "worse", "better"]


@dataclass(frozen=True, slots=True)
class Output:
    """What one side wrote for one example (its first sample), and the mean score over its samples, by metric."""

    text: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of an example besides the outputs: what was asked, the references, the group."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    references: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class Side:
    """One set of outputs by example id. `settings` are its parameters where they are known, `less` the metrics of which
    less is better."""

    name: str
    outputs: Mapping[str, Output]
    asked: Mapping[str, Asked] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    about: str = ""
    less: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Pair:
    """Both outputs for one example; the difference is B minus A, NaN where a score is missing."""

    id: str
    a: Output
    b: Output
    asked: Asked
    difference: float

    @property
    def same(self) -> bool:
        return self.a.text == self.b.text


@dataclass(frozen=True)
class Comparison:
    """Two sides on the examples both have, the largest differences first.

    `p_value` is McNemar's exact test where every score is 0 or 1 (`test` says so), else the sign-flip test.
    `needed` is how many examples would show a difference of this size (80 % power, level 0.05), None when there is
    none or nothing is scored. `sign` is -1 where less of the metric is better: wins of the `result` are then examples
    on which B has less.
    """

    a: Side
    b: Side
    metric: str | None
    pairs: tuple[Pair, ...]
    result: PairedResult | None
    p_value: float | None
    test: str
    needed: int | None
    only_a: int
    only_b: int
    sign: int = 1

    def gain(self, pair: Pair) -> float:
        """By how much B is better; NaN where a score is missing."""
        return self.sign * pair.difference

    def select(self, show: Show = "all", pattern: str | None = None) -> list[Pair]:
        """The pairs that a filter lets through; `pattern` is a regular expression that either text must contain."""
        try:
            wanted = re.compile(pattern) if pattern else None
        except re.error as error:
            raise SpecError(f"--grep {pattern!r}: is no regular expression ({error}). Correct it") from None

        def kept(pair: Pair) -> bool:
            match show:
                case "different":
                    return not pair.same
                case "worse":
                    return self.gain(pair) < 0
                case "better":
                    return self.gain(pair) > 0
            return True

        def found(pair: Pair) -> bool:
            return wanted is None or bool(wanted.search(pair.a.text) or wanted.search(pair.b.text))

        return [pair for pair in self.pairs if kept(pair) and found(pair)]


def compare(a: Side, b: Side, metric: str | None = None) -> Comparison:
    """Hold B against A, example by example. Raises SpecError when they share no example or not the metric asked for."""
    shared = [name for name in a.outputs if name in b.outputs]
    if not shared:
        raise SpecError(
            f"{a.name} and {b.name} share no example: their ids differ (e.g. {_some(a)} and {_some(b)})."
            " Compare outputs to the same rows"
        )
    metric = _metric(a, b, shared, metric)
    pairs = [_pair(a, b, name, metric) for name in shared]
    pairs.sort(key=lambda pair: (-_size(pair.difference), pair.same, pair.id))
    result = p_value = needed = None
    sign = -1 if metric in a.less | b.less else 1
    test = ""
    if metric is not None:
        before, after = ([_score(side.outputs[name], metric) for name in shared] for side in (a, b))
        groups = [_asked(a, b, name).group for name in shared]
        result = paired(after, before, groups=groups)
        p_value, test = result.p_value, "sign-flip test"
        if _binary([*before, *after]) and result.clusters == result.n:
            p_value, test = mcnemar_exact(result.wins, result.losses), "McNemar's exact test"
        if result.difference and math.isfinite(result.se) and result.n > 1:
            # The normal approximation may think that these were enough; the test, which assumes less, does not.
            needed = max(result.n + 1, examples_needed(result.se * math.sqrt(result.n), abs(result.difference)))
        if sign < 0:
            result = replace(result, wins=result.losses, losses=result.wins)
    return Comparison(
        a, b, metric, tuple(pairs), result, p_value, test, needed,
        len(a.outputs) - len(shared), len(b.outputs) - len(shared), sign,
    )  # fmt: skip


def mcnemar_exact(wins: int, losses: int) -> float:
    """The two-sided p-value of McNemar's exact test: a fair coin thrown for every example on which one side alone is
    right (McNemar 1947; the exact form of Mosteller 1952)."""
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def _metric(a: Side, b: Side, shared: Sequence[str], asked: str | None) -> str | None:
    """The metric to compare by: the one asked for, else the study's objective, else the only one both have."""
    names = [
        name
        for name in dict.fromkeys(name for example in shared for name in a.outputs[example].scores)
        if any(name in b.outputs[example].scores for example in shared)
    ]
    if asked is not None:
        if asked not in names:
            raise SpecError(f"--metric {asked}: is not scored on both sides. Known: {', '.join(names) or 'none'}")
        return asked
    preferred = [side.metric for side in (a, b) if side.metric in names]
    if len(names) > 1 and not preferred:
        raise SpecError(f"--metric: both sides have several scores. Choose one of {', '.join(names)}")
    return next(iter([*preferred, *names]), None)


def _pair(a: Side, b: Side, name: str, metric: str | None) -> Pair:
    before, after = a.outputs[name], b.outputs[name]
    difference = _score(after, metric) - _score(before, metric)
    return Pair(name, before, after, _asked(a, b, name), difference)


def _asked(a: Side, b: Side, name: str) -> Asked:
    return a.asked.get(name) or b.asked.get(name) or Asked()


def _score(output: Output, metric: str | None) -> float:
    return math.nan if metric is None else output.scores.get(metric, math.nan)


def _size(difference: float) -> float:
    return 0.0 if math.isnan(difference) else abs(difference)


def _binary(values: Sequence[float]) -> bool:
    return all(value in (0.0, 1.0) for value in values if not math.isnan(value))


def _some(side: Side) -> str:
    return ", ".join(repr(name) for name in list(side.outputs)[:2]) or "nothing"
