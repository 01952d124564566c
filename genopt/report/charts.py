"""Owns the charts of a report, each a drawing made of facts. Computes nothing but places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from genopt.report.facts import Estimate, Facts, HeldOut, Setting
from genopt.report.importance import Bin, Importance, Interaction
from genopt.report.svg import (
    Scale,
    element,
    escaped,
    figure,
    line,
    number,
    spanning,
    text,
    x_axis,
    y_axis,
)
from genopt.stats import UNBOUNDED
from genopt.words import brief, value_text

WIDTH, LEFT, RIGHT = 760.0, 64.0, 16.0


def gain_text(gain: Estimate) -> str:
    """A gain with its interval."""
    return f"{number(gain.value, '+')} [{number(gain.low, '+')}, {number(gain.high, '+')}]"


def name_of(setting: Setting) -> str:
    """How a configuration is called: its trial, or baseline."""
    return "baseline" if setting.number is None else f"#{setting.number}"


def called(setting: Setting) -> str:
    """The same with its part in the verdict."""
    name = name_of(setting)
    return f"{name} ({setting.role})" if setting.role in ("winner", "baseline") and name != setting.role else name


def kind_of(setting: Setting) -> str:
    """The class of its mark."""
    if setting.role in ("baseline", "winner"):
        return setting.role
    return "stopped" if setting.stopped_early or not setting.eligible else "trial"


def history(facts: Facts) -> str:
    """The gain of every configuration with its interval, in the order they were tried, and the best so far."""
    order = sorted((s for s in facts.settings if s.number is not None), key=lambda s: s.number or 0)
    height, bottom, top = 320.0, 270.0, 34.0
    x = spanning([float(s.number or 0) for s in order], LEFT + 8, WIDTH - RIGHT - 8)
    y = gain_scale(order, bottom, top)
    drawn = y_axis(y, LEFT, WIDTH - RIGHT, f"gain over the baseline ({facts.objective})", "+")
    drawn += [*x_axis(x, bottom, "trial", 8), line(LEFT, y(0), WIDTH - RIGHT, y(0), "zero")]
    best, path = -math.inf, ""
    for setting in order:
        across = x(setting.number or 0)
        path += f"H{across:.1f}" if path else ""
        if setting.eligible and not setting.stopped_early and setting.gain.value > best:
            best = setting.gain.value
            path += f"V{y(best):.1f}" if path else f"M{across:.1f} {y(best):.1f}"
    if path:
        drawn.append(element("path", d=path, class_="best"))
    drawn += [_mark(s, x(s.number or 0), y(s.gain.value), y(s.gain.low), y(s.gain.high)) for s in order]
    return figure(WIDTH, height, drawn, f"Gain over the baseline of {len(order)} configurations, in order")


def gain_scale(settings: Sequence[Setting], bottom: float, top: float) -> Scale:
    """A scale that shows the complete configurations well: of the space below them only as much as they take
    themselves, and worse ones lie on the lower edge."""
    complete = [s.gain for s in settings if not s.stopped_early] or [s.gain for s in settings]
    known = [v for gain in complete for v in (gain.low, gain.value, gain.high) if abs(v) < UNBOUNDED]
    low, high = min(known, default=0.0), max(known, default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    worst = min((s.gain.value for s in settings), default=0.0)
    return spanning([max(worst, low - (high - low)), low, high], bottom, top)


def _mark(setting: Setting, x: float, y: float, low: float, high: float) -> str:
    told = f"{name_of(setting)}: {gain_text(setting.gain)} on {setting.examples} examples"
    told += f"\n{brief(setting.params)}" + (f"\n{setting.why}" if setting.why else "")
    told += "\nstopped early" if setting.stopped_early else ""
    kind = kind_of(setting)
    size = 5.5 if kind in ("baseline", "winner") else 3.5
    dot = element("circle", element("title", escaped(told)), cx=x, cy=y, r=size, class_=f"dot {kind}")
    return line(x, low, x, high, f"bar {kind}") + dot


def difference(held: HeldOut) -> str:
    """The paired difference on the holdout with its interval, and the share of examples won, tied and lost."""
    result, width, height = held.result, 440.0, 132.0
    x = spanning([result.low, result.difference, result.high], 10, width - 10, keep=[0.0])
    drawn = x_axis(x, 52, "winner minus baseline, per example", 5)
    drawn.append(line(x(0), 10, x(0), 52, "zero"))
    drawn.append(line(x(result.low), 30, x(result.high), 30, "bar winner wide"))
    drawn.append(element("circle", cx=x(result.difference), cy=30.0, r=7, class_="dot winner"))
    at, total = 10.0, max(1, result.n)
    for count, kind, word in (
        (result.wins, "won", "won"),
        (result.ties, "tied", "tied"),
        (result.losses, "lost", "lost"),
    ):
        share = (width - 20) * count / total
        drawn.append(
            element("rect", element("title", f"{word} {count}"), x=at, y=98, width=share, height=16, class_=kind)
        )
        if share > 60:
            drawn.append(text(at + share / 2, 128, f"{word} {count}", anchor="middle"))
        at += share
    label = f"Difference {number(result.difference, '+')}, won {result.wins}, tied {result.ties}, lost {result.losses}"
    return figure(width, height, drawn, label, "plot small")


def changes(held: HeldOut) -> str:
    """Every holdout example's difference, from the worst to the best."""
    values = [after - before for _, before, after in held.pairs]
    height, bottom, top = 220.0, 190.0, 34.0
    y = spanning(values, bottom, top, keep=[0.0])
    drawn = [
        *y_axis(y, LEFT, WIDTH - RIGHT, "winner minus baseline", "+"),
        line(LEFT, y(0), WIDTH - RIGHT, y(0), "zero"),
    ]
    each = (WIDTH - RIGHT - LEFT) / max(1, len(values))
    for index, ((name, before, after), value) in enumerate(zip(held.pairs, values, strict=True)):
        told = element("title", escaped(f"{name}: {number(before)} -> {number(after)} ({number(value, '+')})"))
        place = {"x": LEFT + index * each, "width": max(0.6, each * 0.85)}
        ends = sorted((y(value), y(0)))
        kind = "won" if value > 0 else "lost" if value < 0 else "tied"
        drawn.append(element("rect", told, y=ends[0], height=max(1.0, ends[1] - ends[0]), class_=kind, **place))
    drawn.append(text(LEFT, height - 8, "worst example"))
    drawn.append(text(WIDTH - RIGHT, height - 8, "best example", anchor="end"))
    return figure(WIDTH, height, drawn, f"Differences of {len(values)} holdout examples, sorted")


def importance(found: Sequence[Importance]) -> str:
    """The share of the gains' variance that each parameter explains, with its interval."""
    width, row, left = 480.0, 26.0, 150.0
    x = Scale(0.0, 1.0, left, width - 52)
    bottom = 14 + row * len(found)
    drawn = []
    for index, each in enumerate(found):
        middle = 14 + row * index + row / 2
        told = f"{each.name}: {each.share:.0%} [{each.low:.0%}, {each.high:.0%}], p = {each.p_value:.2g}"
        drawn.append(text(left - 10, middle + 4, value_text(each.name), anchor="end"))
        drawn.append(
            element(
                "rect",
                element("title", escaped(told)),
                x=left,
                y=middle - 8,
                width=max(1.0, x(each.share) - left),
                height=16,
                class_="share" if each.p_value < 0.05 else "share chance",
            )
        )
        drawn.append(line(x(each.low), middle, x(each.high), middle, "bar over"))
        drawn.append(text(width - 44, middle + 4, f"{each.share:.0%}"))
    drawn += [line(left, 10, left, bottom, "base")]
    return figure(width, bottom + 6, drawn, "Importance of the parameters", "plot small")


def response(found: Importance, settings: Sequence[Setting], *, log: bool) -> str:
    """Gains against one parameter, on a logarithmic axis if it was searched so: every configuration, and the mean of
    each bin with its interval."""
    width, height, left, bottom, top = 360.0, 240.0, 56.0, 196.0, 30.0
    settings = [each for each in settings if each.params.get(found.name) is not None]
    y = gain_scale(settings, bottom, top)
    drawn = [*y_axis(y, left, width - 10, "gain", "+"), line(left, y(0), width - 10, y(0), "zero")]
    values = [s.params.get(found.name) for s in settings]
    numbers = [float(value) for value in values if _number(value)]
    others = [b for b in found.bins if not _number(b.low)]
    # Numbers have an axis of their own, other values a slot each to the right of it.
    edge = left if not numbers else width - 10 - 70.0 * len(others)
    each = (width - 10 - edge) / max(1, len(others))
    x = spanning(numbers, left + 8, edge - 8, log=log)
    drawn += x_axis(x, bottom, found.name, 4) if numbers else []
    for index, b in enumerate(others):
        drawn.append(text(edge + each * (index + 0.5), bottom + 17, bin_text(b, int(each / 6)), anchor="middle"))
    if not numbers:
        drawn.append(line(left, bottom, width - 10, bottom, "base"))
        drawn.append(text((left + width - 10) / 2, bottom + 34, found.name, anchor="middle", kind="axis"))
    slots = {repr(b.low): edge + each * (index + 0.5) for index, b in enumerate(others)}
    places = [
        x(float(value)) if _number(value) else slots[repr(value)] + each * _spread(index)
        for index, value in enumerate(values)
    ]
    bands = [
        (x(float(b.low)), x(float(b.high)), b)
        if _number(b.low)
        else (slots[repr(b.low)] - each * 0.35, slots[repr(b.low)] + each * 0.35, b)
        for b in found.bins
    ]
    for place, setting in zip(places, settings, strict=True):
        told = element("title", escaped(f"{name_of(setting)}: {gain_text(setting.gain)}"))
        drawn.append(
            element("circle", told, cx=place, cy=y(setting.gain.value), r=2.6, class_=f"dot {kind_of(setting)}")
        )
    for start, end, b in bands:
        if b.mean_high < UNBOUNDED:
            high, low = y(b.mean_high), y(b.mean_low)
            where = {"x": min(start, end - 3), "width": max(3.0, end - start)}
            drawn.append(element("rect", y=high, height=max(1.0, low - high), class_="band", **where))
        drawn.append(line(min(start, end - 3), y(b.mean), max(end, start + 3), y(b.mean), "mean"))
    return figure(width, height, drawn, f"Gain against {found.name}", "plot small")


def grid(found: Interaction) -> str:
    """The mean gain for each pair of bins of two parameters."""
    left, top, each, row = 128.0, 14.0, 104.0, 30.0
    width, bottom = left + each * len(found.columns) + 10, top + row * len(found.rows)
    most = max((abs(m) for means in found.means for m in means if m is not None), default=0.0)
    drawn = []
    for i, (b, means, counts) in enumerate(zip(found.rows, found.means, found.counts, strict=True)):
        drawn.append(text(left - 8, top + row * i + row / 2 + 4, bin_text(b, 18), anchor="end"))
        for j, (mean, count) in enumerate(zip(means, counts, strict=True)):
            place = {"x": left + each * j + 1, "y": top + row * i + 1, "width": each - 2, "height": row - 2}
            kind = "none" if mean is None else f"g{shade(mean, most)}"
            drawn.append(element("rect", class_=kind, **place))
            if mean is not None:
                told = f"{number(mean, '+')} ({count})"
                words = f"t{shade(mean, most)}"
                drawn.append(
                    text(left + each * (j + 0.5), top + row * i + row / 2 + 4, told, anchor="middle", kind=words)
                )
    for j, b in enumerate(found.columns):
        drawn.append(text(left + each * (j + 0.5), bottom + 18, bin_text(b, 14), anchor="middle"))
    drawn.append(text(left + each * len(found.columns) / 2, bottom + 38, found.second, anchor="middle", kind="axis"))
    drawn.append(text(left - 8, bottom + 38, found.first, anchor="end", kind="axis"))
    return figure(width, bottom + 48, drawn, f"Mean gain by {found.first} and {found.second}", "plot medium")


def front(facts: Facts) -> str:
    """The first two objectives of every complete configuration with their intervals; those of the front stand out,
    where the holdout puts them once there is a verdict, and the knee among them."""
    held = {member["trial"]: member["objectives"] for member in (facts.verdict or {}).get("front", ())}
    shown = [_held(s, held.get(s.number)) for s in facts.settings]
    best_keys = {s.key for s in shown if s.number in held} if held else set(facts.front)
    shown = [
        s
        for s in shown
        if (s.key in best_keys or not s.stopped_early) and not any(math.isnan(v.value) for v in s.values)
    ]
    height, bottom, top = 340.0, 288.0, 34.0
    x = spanning([v for s in shown for v in (s.values[0].low, s.values[0].high)], LEFT, WIDTH - RIGHT)
    y = spanning([v for s in shown for v in (s.values[1].low, s.values[1].high)], bottom, top)
    titles = [f"{name} ({direction})" for name, direction in zip(facts.metrics, facts.directions, strict=True)]
    drawn = [*y_axis(y, LEFT, WIDTH - RIGHT, titles[1]), *x_axis(x, bottom, titles[0])]
    best = sorted((s for s in shown if s.key in best_keys), key=lambda s: s.values[0].value)
    if best:
        path = "M" + "L".join(f"{x(s.values[0].value):.1f} {y(s.values[1].value):.1f}" for s in best)
        drawn.append(element("path", d=path, class_="best"))
    for setting in shown:
        first, second = setting.values[:2]
        kind = "front" if setting.key in best_keys and setting.role != "winner" else kind_of(setting)
        told = f"{name_of(setting)}\n{titles[0]} {gain_text(first)}\n{titles[1]} {gain_text(second)}"
        told += f"\n{brief(setting.params)}"
        size = 6.5 if kind == "winner" else 4
        drawn.append(line(x(first.low), y(second.value), x(first.high), y(second.value), f"bar {kind}"))
        drawn.append(line(x(first.value), y(second.low), x(first.value), y(second.high), f"bar {kind}"))
        dot = element("title", escaped(told))
        drawn.append(element("circle", dot, cx=x(first.value), cy=y(second.value), r=size, class_=f"dot {kind}"))
    return figure(WIDTH, height, drawn, f"{titles[0]} against {titles[1]}, {len(best)} configurations on the front")


def _held(setting: Setting, objectives: Mapping[str, Any] | None) -> Setting:
    """The configuration with what the holdout says of its objectives, where it was measured there."""
    if objectives is None:
        return setting
    ends = (
        [-math.inf if low is None else low, math.inf if high is None else high]
        for low, high in (found["interval"] for found in objectives.values())
    )
    values = tuple(Estimate(found["mean"], *end) for found, end in zip(objectives.values(), ends, strict=True))
    return replace(setting, values=values)


def shade(gain: float, most: float) -> int:
    """The colour of a gain: 0 (a loss of `most` or more) to 8 (a gain of `most`), 4 only where nothing changed."""
    if gain == 0 or most <= 0:
        return 4
    level = min(4, max(1, math.ceil(4 * abs(gain) / most - 1e-9)))
    return 4 + level if gain > 0 else 4 - level


def bin_text(found: Bin, width: int) -> str:
    """The values of a bin: one, or from the lowest to the highest."""
    same = found.low == found.high
    shown = value_text(found.low) if same else f"{found.low:.3g} to {found.high:.3g}"
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _spread(index: int) -> float:
    """A small place beside the middle, so that points do not hide each other."""
    return ((index * 0.618) % 1 - 0.5) * 0.5


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
