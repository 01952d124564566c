"""What is drawn stands where its number says."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as tree
from typing import Any

import numpy as np
import pytest

from genopt.report.charts import history, shade
from genopt.report.facts import Estimate, Facts, Setting
from genopt.report.heatmap import Sheet, answer, drawing
from genopt.report.svg import Scale, element, number, spanning
from genopt.stats import UNBOUNDED

SVG = "{http://www.w3.org/2000/svg}"


def setting(number: int, gain: float, **changes: Any) -> Setting:
    fields: dict[str, Any] = {
        "key": f"k{number}",
        "number": number,
        "role": "trial",
        "params": {"t": number / 10},
        "stopped_early": False,
        "eligible": True,
        "why": "",
        "score": 0.5 + gain,
        "gain": Estimate(gain, gain - 0.1, gain + 0.1),
        "examples": 4,
        "units": 4,
        "good": 2,
        "better": 1,
        "values": (),
    }
    return Setting(**(fields | changes))


def drawn(svg: str) -> tree.Element:
    return tree.fromstring(svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1))


@pytest.mark.parametrize(
    ("gain", "level"),
    [(0, 4), (1e-9, 5), (0.25, 5), (0.26, 6), (1, 8), (7, 8), (-0.1, 3), (-0.5, 2), (-0.76, 0), (-9, 0)],
)
def test_a_gain_has_one_of_nine_colours_and_only_none_at_all_the_middle(gain: float, level: int) -> None:
    assert shade(gain, 1.0) == level


def test_every_cell_of_the_map_has_the_colour_of_its_gain() -> None:
    gains = np.array([[0.5, -1.0, 0.0, math.nan], [1.0, 1.0, 1.0, -0.25], [math.nan, 0.0, math.nan, -0.5]])
    settings = (setting(3, 0.2, role="winner"), setting(0, 0.0, role="baseline"), setting(5, -0.1, stopped_early=True))
    sheet = Sheet(None, settings, ("a", "b", "c", "<d>"), gains, False, 0, 0)
    picture = drawn(drawing(sheet, 0))
    found: dict[tuple[int, int], str] = {}
    for path in picture.iter(f"{SVG}path"):
        for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.get("d", "")):
            for step in range(int(width)):
                assert (int(row), int(column) + step) not in found
                found[int(row), int(column) + step] = path.get("class", "")
    expected = {
        (i, j): f"g{shade(value, sheet.scale)}" for (i, j), value in np.ndenumerate(gains) if not math.isnan(value)
    }
    assert found == expected
    words = [text.text for text in picture.iter(f"{SVG}text")]
    assert "winner +0.2" in words and "baseline 0" in words and words.count("2 of 4") == 3
    place = picture.find(f"{SVG}g")
    assert place is not None
    left, top, each, high = (float(picture.get(f"data-{name}", "")) for name in ("left", "top", "each", "high"))
    assert place.get("transform") == f"translate({left:g} {top:g}) scale({each:.6g} {high:.6g})"


def test_the_map_says_whether_one_setting_is_good_for_all() -> None:
    gains = np.array([[0.5, 0.0, 0.2, 0.0], [1.0, -1.0, 1.0, 0.0], [0.0] * 4])
    good = setting(1, 0.2, good=4, better=2, role="winner")
    rest = (setting(2, 0.3, good=3, better=2), setting(0, 0.0, role="baseline", good=4))
    sheet = Sheet(None, (good, *rest), tuple("abcd"), gains, True, 0, 0)
    assert answer(sheet) == (
        "Yes: the winner, #1, is good for 4 of 4 groups, the most of all: no worse than the baseline there, better on"
        " 2. 2 of the 4 groups got better with at least one configuration."
    )
    other = Sheet(None, (setting(1, 0.2, good=1, role="winner"), *rest), tuple("abcd"), gains + 0.1, False, 0, 0)
    assert answer(other) == (
        "#2 is good for 3 of 4 examples, the most of all: no worse than the baseline there, better on 2."
        " The winner, #1, is good for 1. Every one of the 4 examples got better with at least one configuration."
    )
    alone = Sheet(None, rest[1:], tuple("abcd"), gains[2:], False, 0, 0)
    assert answer(alone) == "No configuration but the baseline was measured on all of them."


def test_the_line_of_the_best_steps_where_it_was_found_and_only_for_what_counts() -> None:
    tried = (
        setting(0, 0.0, role="baseline"),
        setting(1, 0.5, stopped_early=True),
        setting(2, 0.4, eligible=False),
        setting(3, 0.3),
        setting(4, -5.0, stopped_early=True),
    )
    facts = Facts(**{name: None for name in Facts.__dataclass_fields__} | {"settings": tried, "objective": "x"})
    picture = drawn(history(facts))
    places = {}
    for circle in picture.iter(f"{SVG}circle"):
        title = circle.find(f"{SVG}title")
        assert title is not None and title.text is not None
        places[title.text.split(":")[0]] = (float(circle.get("cx", "")), float(circle.get("cy", "")))
    (path,) = [path.get("d", "") for path in picture.iter(f"{SVG}path")]
    turns = [(kind, float(value)) for kind, value in re.findall(r"([HV])([\d.]+)", path)]
    assert [value for kind, value in turns if kind == "V"] == [pytest.approx(places["#3"][1], abs=0.06)]
    before = turns[turns.index(next(turn for turn in turns if turn[0] == "V")) - 1]
    assert before == ("H", pytest.approx(places["#3"][0], abs=0.06))
    assert places["#4"][1] <= 270, "what lies below is on the edge, not outside"
    assert places["#1"][1] < places["#3"][1] < places["#0"][1]


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0.0, 1.0, False, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.03, 0.12, False, [0.0, 0.05, 0.1]),
        (10.0, 200.0, True, [10.0, 20.0, 50.0, 100.0, 200.0]),
        (1e-5, 10.0, True, [1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0]),
        (3.0, 3.0, False, [3.0]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, log: bool, ticks: list[float]) -> None:
    assert Scale(low, high, 0, 100, log).ticks() == pytest.approx(ticks)


def test_scales_map_ends_to_ends_and_clamp() -> None:
    scale = Scale(10, 1000, 0, 100, log=True)
    assert [scale(value) for value in (1, 10, 100, 1000, 9999)] == pytest.approx([0, 0, 50, 100, 100])
    found = spanning([1.0, math.nan, UNBOUNDED, 3.0], 0, 1)
    assert (found.low, found.high) == pytest.approx((0.9, 3.1))


def test_words_in_a_drawing_are_escaped_and_unknown_numbers_are_question_marks() -> None:
    assert element("a", x='"<', b=None, stroke_width=1.5) == '<a x="&quot;&lt;" stroke-width="1.5"></a>'
    assert [number(v, "+") for v in (0.12345678, 0.0, -2.0, UNBOUNDED)] == ["+0.1235", "0", "-2", "?"]
