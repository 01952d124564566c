"""Other spellings of parameters: replaced wherever a study names them, refused where both are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from genopt.errors import SpecError
from genopt.names import with_own_names
from genopt.spec import StudySpec
from tests import toy

ALIASES = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}


def spec(**changes: Any) -> StudySpec:
    return StudySpec.model_validate(toy.study(Path("."), **changes))


def test_every_place_gets_the_own_name() -> None:
    sampling = {"temperature": 0.5, "repeat_penalty": {"low": 1.0, "high": 1.2}}
    space = {"num_predict": {"low": 8, "high": 64}, "decoding": {"greedy": {"temperature": 0.0}, "sampling": sampling}}
    start = ["engine", {"num_predict": 9}]
    changed = with_own_names(spec(space=space, baseline={"repeat_penalty": 1.1}, search={"start": start}), ALIASES)
    assert set(changed.space) == {"max_tokens", "decoding"}
    assert set(changed.space["decoding"]["sampling"]) == {"temperature", "repetition_penalty"}
    assert changed.baseline == {"repetition_penalty": 1.1}
    assert changed.search.start == ["engine", {"max_tokens": 9}]
    assert changed.folder == spec().folder


def test_both_spellings_are_refused() -> None:
    space: dict[str, Any] = {"max_tokens": {"low": 1, "high": 2}, "num_predict": {"low": 1, "high": 2}}
    space["decoding"] = {"a": {"repetition_penalty": 1.1, "repeat_penalty": 1.2}, "b": {"temperature": 0.0}}
    with pytest.raises(SpecError) as caught:
        with_own_names(spec(space=space, baseline={"num_predict": 3, "max_tokens": 4}), ALIASES)
    assert caught.value.problems == (
        "space.num_predict: is another name of max_tokens, which is given too. Keep one of them",
        "space.decoding.a.repeat_penalty: is another name of repetition_penalty, which is given too. Keep one of them",
        "baseline.num_predict: is another name of max_tokens, which is given too. Keep one of them",
    )
