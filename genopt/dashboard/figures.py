"""Owns the figures that Optuna's own pages lack, as the JSON of Plotly figures: plain data, no plotting library."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLUE, GREY, ORANGE = "#0072b2", "#888888", "#d55e00"  # told apart also by those who see few colours
HOVER = "%{text}<extra></extra>"


def score_figure(rows: Sequence[Mapping[str, Any]], title: str) -> dict[str, Any]:
    """The mean of every trial with its 95 % interval, in the order of trials; the baseline as a line."""
    measured = [row for row in rows if row["mean"] is not None and row["duplicate_of"] is None]
    traces = []
    kinds = (("complete", BLUE, False), ("stopped early", GREY, True))
    for name, colour, stopped in kinds:
        kept = [row for row in measured if row["stopped_early"] == stopped and row["number"] is not None]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [row["number"] for row in kept],
                "y": [row["mean"] for row in kept],
                "error_y": {"type": "data", "array": [1.96 * (row["se"] or 0.0) for row in kept], "thickness": 1},
                "marker": {"color": colour},
                "text": [f"trial {row['number']}: {row['mean']:.4f}, {row['n']} examples" for row in kept],
                "hovertemplate": HOVER,
            }
        )
    layout = _layout("Score by trial, 95 % intervals", "trial", title)
    baseline = next((row["mean"] for row in measured if row["baseline"]), None)
    if baseline is not None:
        here = {"xref": "paper", "yref": "y"}
        dashed = {"color": ORANGE, "dash": "dash", "width": 1}
        layout["shapes"] = [{"type": "line", **here, "x0": 0, "x1": 1, "y0": baseline, "y1": baseline, "line": dashed}]
        label = {"text": "baseline", "showarrow": False, "xanchor": "right", "yanchor": "bottom"}
        layout["annotations"] = [{**here, "x": 1, "y": baseline, **label}]
    return {"data": traces, "layout": layout}


def heat_map(gains: NDArray[np.float64], trials: Sequence[str], columns: Sequence[str], what: str) -> dict[str, Any]:
    """Paired gain over the baseline of each trial (a row of `gains`) on each example or group (a column); NaN shows as
    a gap."""
    limit = float(np.nanmax(np.abs(gains))) if np.isfinite(gains).any() else 1.0
    cells = [[None if math.isnan(value) else round(float(value), 4) for value in row] for row in gains]
    trace = {
        "type": "heatmap",
        "z": cells,
        "x": list(columns),
        "y": list(trials),
        "zmin": -(limit or 1.0),
        "zmax": limit or 1.0,
        "colorscale": [[0, ORANGE], [0.5, "#f7f7f7"], [1, BLUE]],
        "colorbar": {"title": {"text": "gain"}},
        "hovertemplate": "%{y}, %{x}: %{z:+.3f}<extra></extra>",
    }
    return {"data": [trace], "layout": _layout("Gain over the baseline, the best trials first", what, "")}


def front_figure(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The first two objectives of every complete trial with 95 % intervals; the front (`on_front`) in colour, its
    `knee` a diamond. A row holds `number`, `values`, `halves` (of the intervals), `on_front` and `knee`."""
    traces = []
    for name, colour, front in (("front", BLUE, True), ("beaten in all", GREY, False)):
        kept = [row for row in rows if row["on_front"] == front]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": [row["values"][0] for row in kept],
                "y": [row["values"][1] for row in kept],
                "error_x": {"type": "data", "array": [row["halves"][0] for row in kept], "thickness": 1},
                "error_y": {"type": "data", "array": [row["halves"][1] for row in kept], "thickness": 1},
                "marker": {
                    "color": colour,
                    "symbol": ["diamond" if row["knee"] else "circle" for row in kept],
                    "size": [12 if row["knee"] else 7 for row in kept],
                },
                "text": [f"trial {row['number']}" + (" (knee)" if row["knee"] else "") for row in kept],
                "hovertemplate": HOVER,
            }
        )
    return {"data": traces, "layout": _layout("Objectives, 95 % intervals", names[0], names[1])}


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, "automargin": True},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 60},
    }
