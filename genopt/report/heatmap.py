"""Owns the heat map of generalisation: configurations, the best first, against examples or groups, coloured by the
paired gain over the baseline. Is there one setting that is good for all of them?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genopt.report.charts import kind_of, name_of, shade
from genopt.report.facts import Facts, Setting
from genopt.report.material import Material, by_unit, gain_table
from genopt.report.svg import element, figure, line, number, text

MOST_CELLS, MOST_COLUMNS = 60_000, 1_000  # beyond, a page is too heavy to send around
LEFT, RIGHT, TOP, WIDTH = 128.0, 96.0, 30.0, 760.0


@dataclass(frozen=True)
class Sheet:
    """The configurations of one model (or all) against the columns; `gains` has NaN where nothing was measured. The
    columns go from what most configurations make better to what they make worse; `left_out` configurations and
    `columns_left_out` are not shown."""

    model: str | None
    settings: tuple[Setting, ...]
    columns: tuple[str, ...]
    gains: NDArray[np.float64]
    grouped: bool
    left_out: int
    columns_left_out: int

    @property
    def noun(self) -> str:
        return "groups" if self.grouped else "examples"

    @property
    def scale(self) -> float:
        """The gain that gets the strongest colour: all but one in fifty are smaller."""
        sizes = np.abs(self.gains[~np.isnan(self.gains) & (self.gains != 0)])
        return float(np.quantile(sizes, 0.98)) if sizes.size else 0.0


def sheets(material: Material, facts: Facts) -> tuple[Sheet, ...]:
    """One sheet, or one for every model that was searched."""
    table, units = gain_table(material), material.units("tune")
    grouped = len(set(units.values())) < len(units)
    table = by_unit(table, units) if grouped else table
    models = list(dict.fromkeys(str(s.params.get("model")) for s in facts.settings if "model" in s.params))
    several = len(models) > 1
    found = []
    for model in models if several else [None]:
        chosen = [s for s in facts.settings if not several or s.role == "baseline" or s.params.get("model") == model]
        gains = table.loc[[s.key for s in chosen]]
        complete = gains[[not s.stopped_early and s.role != "baseline" for s in chosen]]
        liked = (complete if len(complete) else gains).mean().fillna(0)
        order = list(liked.sort_values(ascending=False, kind="stable").index)
        columns = order[:MOST_COLUMNS]
        rows = chosen[: max(30, MOST_CELLS // max(1, len(columns)))]
        kept = gains.loc[[s.key for s in rows], columns].to_numpy(dtype=np.float64)
        left_out = (len(chosen) - len(rows), len(order) - len(columns))
        found.append(Sheet(model, tuple(rows), tuple(map(str, columns)), kept, grouped, *left_out))
    return tuple(found)


def answer(sheet: Sheet) -> str:
    """Is there one setting that is good for all? In one or two sentences."""
    tried = [s for s in sheet.settings if s.role != "baseline" and not s.stopped_early]
    if not tried:
        return "No configuration but the baseline was measured on all of them."
    best = max(tried, key=lambda s: (s.good, s.gain.value))
    who = f"the winner, {name_of(best)}," if best.role == "winner" else name_of(best)
    said = f"{who} is good for {best.good} of {best.units} {sheet.noun}, the most of all: no worse than the"
    said += f" baseline there, better on {best.better}."
    if best.good == best.units:
        said = f"yes: {said}"
    said = said[0].upper() + said[1:]
    winner = next((s for s in tried if s.role == "winner" and s is not best), None)
    if winner is not None:
        said += f" The winner, {name_of(winner)}, is good for {winner.good}."
    gains = sheet.gains[[s in tried for s in sheet.settings]]
    helped = int(np.sum(np.any(gains > 0, axis=0)))
    total = gains.shape[1]
    some = f"Every one of the {total}" if helped == total else f"{helped} of the {total}"
    return f"{said} {some} {sheet.noun} got better with at least one configuration."


def drawing(sheet: Sheet, index: int) -> str:
    """The map. Where its cells lie stands in its data attributes, in the units of the drawing."""
    rows, columns = sheet.gains.shape
    each = min(40.0, max(3.0, (WIDTH - LEFT - RIGHT) / max(1, columns)))
    high = min(20.0, max(3.0, 460.0 / max(1, rows)))
    width, bottom = LEFT + each * columns + RIGHT, TOP + high * rows
    most = sheet.scale
    classes = np.array(
        [[-1 if math.isnan(gain) else shade(gain, most) for gain in row] for row in sheet.gains.tolist()]
    )
    drawn = [text(LEFT, TOP - 12, f"{columns} {sheet.noun}, those that gain most first", kind="axis")]
    drawn.append(text(width - RIGHT + 8, TOP - 12, "good for", kind="axis"))
    place = f"translate({LEFT:g} {TOP:g}) scale({each:.6g} {high:.6g})"
    paths = [element("path", d=_cells(classes == level), class_=f"g{level}") for level in range(9)]
    drawn.append(element("g", *paths, transform=place, class_="cells"))
    last = -100.0
    for row, setting in enumerate(sheet.settings):
        y = TOP + high * (row + 0.5)
        if setting.role in ("baseline", "winner") or y - last >= 13:
            if y - last < 13:  # a name that has to be told pushes the one before it aside
                drawn[-2:] = []
            shown = setting.role if setting.role in ("baseline", "winner") else name_of(setting)
            kind = f"label {kind_of(setting)}"
            drawn.append(text(LEFT - 8, y + 4, f"{shown} {number(setting.gain.value, '+')}", anchor="end", kind=kind))
            drawn.append(text(width - RIGHT + 8, y + 4, f"{setting.good} of {setting.units}", kind=kind))
            last = y
    stopped = next((row for row, s in enumerate(sheet.settings) if s.stopped_early), None)
    if stopped:
        drawn.append(line(LEFT - 4, TOP + high * stopped, width - RIGHT + 4, TOP + high * stopped, "base"))
    drawn.append(element("rect", class_="cursor", width=each, height=high, x=-100.0, y=0.0))
    drawn.append(
        text(LEFT, bottom + 18, "below the line: stopped early; empty: not measured" if stopped else "", kind="label")
    )
    label = f"Gain of {rows} configurations on {columns} {sheet.noun}"
    places = {"data_left": LEFT, "data_top": TOP, "data_each": each, "data_high": high}
    return figure(
        width, bottom + 26, drawn, label, "heat",
        role="application", tabindex=0, width=width, data_sheet=index, **places,
    )  # fmt: skip


def _cells(chosen: NDArray[np.bool_]) -> str:
    """A path over the cells of one colour; neighbours in a row are one stroke."""
    found: list[str] = []
    for row, cells in enumerate(chosen):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], cells.astype(np.int8), [0]))))
        found += [f"M{a} {row}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(found)


def told(facts: Facts, around: int = 10) -> tuple[Setting, ...]:
    """The configurations whose texts a page holds: the baseline, the winner (or the leading one), and those next to
    them in the order of their gains, `around` for each."""
    order = facts.settings
    leader = facts.setting("winner") or next(iter(order), None)
    chosen: dict[str, Setting] = {}
    for centre in filter(None, (facts.setting("baseline"), leader)):
        rank = order.index(centre)
        chosen[centre.key] = centre
        nearest = sorted(range(len(order)), key=lambda i: (abs(i - rank), i))
        for index in [i for i in nearest if order[i].role not in ("baseline", "winner")][:around]:
            chosen[order[index].key] = order[index]
    return tuple(s for s in order if s.key in chosen)
