"""Tables as TOML: what is written reads back the same."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from genopt.report.toml import toml_text


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"name": "x", "seed": 7, "share": 0.3, "big": 1e22, "on": True},
        {"text": 'quotes " and \\ and \n new \t tab \x7f \x01 é 🙂'},
        {"a key": {"b.c": 1, "d": {"e": [1, 2.5, "x"]}}},
        {"objectives": [{"maximize": "a", "weight": 0.6}, {"minimize": "b", "deep": {"x": 1}}], "after": {"y": 2}},
        {"mixed": [{"role": "user"}, "x"], "empty": [], "table": {}},
        {"a": {"b": {"c": {"low": 0.0, "high": 1.0, "log": True}}}},
    ],
)
def test_it_reads_back_the_same(table: dict[str, Any]) -> None:
    assert tomllib.loads(toml_text(table)) == table


def test_null_is_left_out() -> None:
    assert tomllib.loads(toml_text({"a": None, "b": {"c": None}, "d": [{"e": None, "f": 1}]})) == {
        "b": {},
        "d": [{"f": 1}],
    }
