"""Owns drawing: escaped elements, scales with round ticks, axes. Colours are classes, which the page's style gives a
light and a dark form. Pure functions."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genopt.stats import UNBOUNDED
from genopt.words import safe


def escaped(text: object) -> str:
    """Text as HTML and SVG show it, control and direction characters made visible."""
    return html.escape(safe(str(text)))


def element(name: str, *children: str, **attributes: object) -> str:
    """One element; `children` are finished markup, attributes are escaped (`class_`; None: left out)."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{''.join(children)}</{name}>"


def _attribute(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escaped(value)


def text(x: float, y: float, content: object, *, anchor: str = "start", kind: str = "label") -> str:
    """Words at a place."""
    return element("text", escaped(content), x=x, y=y, text_anchor=anchor, class_=kind)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def figure(
    width: float, height: float, body: Iterable[str], label: str, kind: str = "plot", /,
    *, role: str = "img", **more: object,
) -> str:  # fmt: skip
    """A drawing of this size that scales with the page; `label` says what it shows to those who do not see it."""
    view = f"0 0 {width:g} {height:g}"
    return element("svg", *body, viewBox=view, role=role, aria_label=label, class_=kind, **more)


def number(value: float, sign: str = "") -> str:
    """Four significant digits; "?" for what the data cannot tell."""
    return f"{value:{sign if value else ''}.4g}" if abs(value) < UNBOUNDED else "?"


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps [low, high] to [start, end] on the drawing; what lies outside is drawn at the edge."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = (math.log(value) if self.log else value) - low
        return self.start + (self.end - self.start) * (place / (high - low) if high > low else 0.5)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round numbers inside: multiples of 1, 2 or 5 times a power of ten, powers of ten on a log scale."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps: Sequence[int] = (1,) if math.log10(self.high / self.low) > 3 else (1, 2, 5)
            found = [step * 10.0**power for power in powers for step in steps]
            return [tick for tick in found if self.low <= tick <= self.high]
        if not self.high > self.low:
            return [self.low]
        rough = (self.high - self.low) / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spanning(
    values: Iterable[float], start: float, end: float, *, keep: Iterable[float] = (), log: bool = False
) -> Scale:
    """A scale over the values that are known and those in `keep`, with a little room on a linear one."""
    known = [value for value in (*values, *keep) if abs(value) < UNBOUNDED and not math.isnan(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    room = 0.0 if log else 0.05 * (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end, log and low > 0)


def y_axis(scale: Scale, left: float, right: float, title: str, sign: str = "") -> list[str]:
    """Lines across with their values, and what they are."""
    drawn = [text(left, scale.end - 10, title, kind="axis")]
    for tick in scale.ticks():
        drawn.append(line(left, scale(tick), right, scale(tick), "grid"))
        drawn.append(text(left - 6, scale(tick) + 4, number(tick, sign), anchor="end"))
    return drawn


def x_axis(scale: Scale, y: float, title: str, wanted: int = 6) -> list[str]:
    """Values below, and what they are."""
    drawn = [line(scale.start, y, scale.end, y, "base")]
    for tick in scale.ticks(wanted):
        drawn.append(line(scale(tick), y, scale(tick), y + 4, "base"))
        drawn.append(text(scale(tick), y + 17, number(tick), anchor="middle"))
    return [*drawn, text((scale.start + scale.end) / 2, y + 34, title, anchor="middle", kind="axis")]
