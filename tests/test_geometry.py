"""Where configurations lie: equals in one place, what does not act makes no distance, numbers on their own scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from genopt import canonical
from genopt.backends._domains import COMMON
from genopt.geometry import Geometry, draw, mutate
from genopt.space import Choice, Constant, Number, SearchSpace, Switch

SPACE = SearchSpace(
    {
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "nucleus": {"temperature": Number(0.0, 1.5), "top_p": Number(0.5, 1.0)},
                "min_p": {"temperature": Number(0.1, 1.5), "min_p": Number(0.0, 0.3)},
            }
        ),
        "top_k": Choice.of([0, 10, 40]),
        "max_tokens": Number(32, 512, integer=True, log=True),
        "style": Choice.of(["", "brief", "steps"]),
    }
)
DOMAINS = {name: COMMON[name] for name in ("temperature", "top_p", "min_p", "top_k", "max_tokens")}


def acts(chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    resolved = canonical.resolve(chosen, space=SPACE, today={}, domains=DOMAINS)
    return canonical.live(resolved, DOMAINS, switches=SPACE.switches())


def key(chosen: Mapping[str, Any]) -> str:
    resolved = canonical.resolve(chosen, space=SPACE, today={}, domains=DOMAINS)
    return repr(canonical.canonical(resolved, DOMAINS, switches=SPACE.switches()))


GEOMETRY = Geometry(SPACE, acts)
REST = {"top_k": 40, "max_tokens": 100, "style": "brief"}


def nucleus(temperature: float, top_p: float, **rest: Any) -> dict[str, Any]:
    inner = {"decoding.nucleus.temperature": temperature, "decoding.nucleus.top_p": top_p}
    return {"decoding": "nucleus", **inner, **REST, **rest}


def min_p(temperature: float, value: float, **rest: Any) -> dict[str, Any]:
    inner = {"decoding.min_p.temperature": temperature, "decoding.min_p.min_p": value}
    return {"decoding": "min_p", **inner, **REST, **rest}


def far(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return float(np.linalg.norm(GEOMETRY.row(a) - GEOMETRY.row(b)))


def test_equal_configurations_lie_in_one_place() -> None:
    greedy = {"decoding": "greedy", **REST}
    assert far(greedy, nucleus(0.0, 0.6)) == 0
    assert far(nucleus(0.0, 0.6), nucleus(0.0, 0.9, top_k=10)) == 0
    assert far(nucleus(0.7, 1.0), min_p(0.7, 0.0)) == 0
    assert far(greedy, greedy | {"style": "steps"}) > 0


def test_places_are_equal_where_keys_are_and_nowhere_else() -> None:
    rng = np.random.default_rng(0)
    many = [draw(SPACE, rng) for _ in range(60)]
    many += [nucleus(0.0, p) for p in (0.5, 0.8)] + [min_p(0.7, 0.0), nucleus(0.7, 1.0), {"decoding": "greedy", **REST}]
    flat = [SPACE.sample(lambda path, _, answers=answers: answers[path]) for answers in many]  # type: ignore[misc]
    rows = GEOMETRY.rows(many)
    for i, one in enumerate(flat):
        for j, other in enumerate(flat[:i]):
            assert (key(one) == key(other)) == bool(np.all(rows[i] == rows[j])), (one, other)


def test_a_neutral_value_is_next_to_a_small_one() -> None:
    assert far(nucleus(0.7, 1.0), nucleus(0.7, 0.98)) < far(nucleus(0.7, 1.0), nucleus(0.7, 0.8)) < 0.6
    assert far(min_p(0.7, 0.0), min_p(0.7, 0.01)) < 0.1


def test_numbers_lie_on_their_own_scale() -> None:
    low, middle, high = (nucleus(0.7, 0.8, max_tokens=n) for n in (32, 128, 512))
    assert far(low, middle) == pytest.approx(far(middle, high))
    assert far(low, high) == pytest.approx(1.0)


def test_a_top_k_that_is_off_lies_beyond_the_largest() -> None:
    off, ten, forty = (nucleus(0.7, 0.8, top_k=k) for k in (0, 10, 40))
    assert far(off, forty) < far(off, ten)
    assert far(ten, forty) < far(off, ten)


def test_names_are_all_one_apart() -> None:
    a, b, c = (nucleus(0.7, 0.8, style=style) for style in ("", "brief", "steps"))
    assert far(a, b) == pytest.approx(far(b, c)) == pytest.approx(far(a, c)) == pytest.approx(1.0)


def test_without_anything_known_of_what_acts_branches_are_apart() -> None:
    plain = Geometry(SPACE)
    a, b = plain.row(nucleus(0.7, 0.8)), plain.row(min_p(0.7, 0.1))
    assert np.any(a != b)
    inert = [plain.row(min_p(0.7, 0.1)), plain.row(min_p(0.7, 0.2))]
    assert np.count_nonzero(inert[0] != inert[1]) == 1  # top_p, which neither has, makes no distance


def test_an_answer_that_is_missing_is_told() -> None:
    with pytest.raises(KeyError):
        GEOMETRY.row({"decoding": "nucleus", **REST})


def test_draws_and_mutations_lie_in_the_space_and_keep_what_is_fixed() -> None:
    rng = np.random.default_rng(1)
    base = draw(SPACE, rng)
    for i in range(200):
        fixed = {"style": "steps"} if i % 2 else None
        for answers in (draw(SPACE, rng, fixed), mutate(SPACE, rng, base, 0.1, fixed)):
            params = SPACE.sample(lambda path, _, answers=answers: answers[path])  # type: ignore[misc]
            assert SPACE.locate(params) == answers
            assert not fixed or answers["style"] == "steps"
            base = answers


def test_mutations_are_near() -> None:
    rng = np.random.default_rng(2)
    base = nucleus(0.7, 0.8)
    moved = [mutate(SPACE, rng, base, 0.05) for _ in range(300)]
    same = [m for m in moved if m["decoding"] == "nucleus"]
    assert len(same) > 150
    assert np.median([abs(m["decoding.nucleus.temperature"] - 0.7) for m in same]) < 0.05
    assert any(m["decoding.nucleus.temperature"] != 0.7 for m in same)


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (Number(0.0, 2.0), [0.0, 1.0, 2.0]),
        (Number(1, 100, log=True), [1.0, 10.0, 100.0]),
        (Number(0, 4, integer=True), [0, 2, 4]),
        (Number(64, 512, integer=True, step=64), [64, 320, 512]),
        (Number(0.5, 1.0, step=0.1), [0.5, 0.8, 1.0]),
    ],
)
def test_a_fraction_of_the_way_is_a_value(number: Number, at: list[float]) -> None:
    assert [number.at(f) for f in (0.0, 0.5, 1.0)] == pytest.approx(at)
    for f in np.linspace(0, 1, 41):
        assert number.contains(number.at(f))
    assert [number.fraction(number.at(f)) for f in (0.0, 1.0)] == pytest.approx([0.0, 1.0])


def test_counted_values_have_equal_shares() -> None:
    number = Number(64, 512, integer=True, step=64)
    counts = np.unique([number.at(f) for f in (np.arange(800) + 0.5) / 800], return_counts=True)[1]
    assert counts.tolist() == [100] * 8
