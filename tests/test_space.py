"""The space: what is sampled can be found again, equal configurations share one spelling, branches are alternatives."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from genopt.canonical import canonical, config_key, deterministic, resolve
from genopt.space import Choice, Constant, Number, SearchSpace, Switch, default_space
from genopt.types import Domain, Range

DOMAINS = {
    "temperature": Domain("float", "", 0.0, 2.0, search=Range(0.1, 1.5)),
    "top_p": Domain("float", "", 0.0, 1.0, low_open=True, neutral=(1.0,), search=Range(0.5, 1.0)),
    "top_k": Domain("int", "", -1, neutral=(0, -1), search=Range(1, 100, log=True)),
    "min_p": Domain("float", "", 0.0, 1.0, neutral=(0.0,)),
    "typical_p": Domain("float", "", 0.0, 1.0, low_open=True, neutral=(1.0,)),
    "repetition_penalty": Domain("float", "", 0.5, 2.0, neutral=(1.0,)),
    "presence_penalty": Domain("float", "", -2.0, 2.0, neutral=(0.0,)),
    "frequency_penalty": Domain("float", "", -2.0, 2.0, neutral=(0.0,)),
    "repeat_last_n": Domain("int", "", -1),
    "num_beams": Domain("int", "", 1, 8, neutral=(1,)),
    "length_penalty": Domain("float", "", neutral=(1.0,)),
    "max_tokens": Domain("int", "", 1, search=Range(64, 512, step=64)),
    "stop": Domain("strings", "", neutral=((),)),
}
NESTED = SearchSpace(
    {
        "top_p": Number(0.5, 1.0),
        "max_tokens": Number(64, 512, integer=True, step=64),
        "repetition_penalty": Number(0.8, 1.25, log=True),
        "style": Choice.of(["", "Be brief.", "Think step by step. " * 10]),
        "stop": Choice.of([(), ("\n",), ("END", "\n\n")]),
        "schema": Choice.of([True, False]),
        "typical_p": Constant(1.0),
        "decoding": Switch(
            {
                "greedy": {"temperature": Constant(0.0)},
                "sampling": {
                    "temperature": Number(0.1, 1.5),
                    "cut": Switch(
                        {"k": {"top_k": Number(1, 100, integer=True, log=True)}, "p": {"min_p": Number(0, 1)}}
                    ),
                },
                "hot": {"temperature": Number(1.5, 2.0)},
            }
        ),
    }
)


class Oracle:
    """Answers at random, as a sampler would, and remembers what it answered."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.answers: dict[str, Any] = {}

    def __call__(self, path: str, dimension: Number | Choice) -> Any:
        assert path not in self.answers, f"{path} is asked twice"
        self.answers[path] = answer = self.draw(dimension)
        return answer

    def draw(self, dimension: Number | Choice) -> Any:
        if isinstance(dimension, Choice):
            return self.random.choice(dimension.labels)
        if dimension.step is not None:
            count = round((dimension.high - dimension.low) / dimension.step)
            value = dimension.low + self.random.randint(0, count) * dimension.step
        elif dimension.integer:
            return self.random.randint(int(dimension.low), int(dimension.high))
        else:
            value = self.random.uniform(dimension.low, dimension.high)
        return int(value) if dimension.integer else value


def canon(**params: Any) -> dict[str, Any]:
    return canonical({"temperature": 0.7} | params, DOMAINS)


# --- sampling and finding again


def test_a_sample_holds_the_parameters_of_the_branches_taken_and_no_others() -> None:
    taken = set()
    for seed in range(200):
        oracle = Oracle(seed)
        params = NESTED.sample(oracle)
        branch = params["decoding"]
        inner = {"sampling": {"temperature", "cut"}, "greedy": {"temperature"}, "hot": {"temperature"}}[str(branch)]
        if branch == "sampling":
            inner = inner | {"top_k" if params["cut"] == "k" else "min_p"}
        outer = {"top_p", "max_tokens", "repetition_penalty", "style", "stop", "schema", "typical_p", "decoding"}
        assert params.keys() == outer | inner
        assert params["temperature"] == 0 or oracle.answers[f"decoding.{branch}.temperature"] == params["temperature"]
        taken.add((branch, params.get("cut")))
    assert taken == {("greedy", None), ("hot", None), ("sampling", "k"), ("sampling", "p")}


def test_whatever_is_sampled_is_located_again() -> None:
    for seed in range(500):
        oracle = Oracle(seed)
        params = NESTED.sample(oracle)
        assert NESTED.locate(params) == oracle.answers
        answers = oracle.answers
        assert NESTED.sample(lambda path, _, answers=answers: answers[path]) == params


def test_locate_ignores_other_names_and_finds_the_branch_of_an_unnamed_switch() -> None:
    space = SearchSpace({"decoding": NESTED.dimensions["decoding"]})
    assert space.locate({"temperature": 0.0, "top_p": 0.3}) == {"decoding": "greedy"}
    assert space.locate({"temperature": 1.8}) == {"decoding": "hot", "decoding.hot.temperature": 1.8}
    found = space.locate({"temperature": 1.0, "min_p": 0.25})
    assert found is not None
    assert found["decoding.sampling.cut"] == "p"


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.05},
        {"temperature": 1.0},  # neither branch of the inner switch
        {"decoding": "greedy", "temperature": 1.8},
        {"decoding": "unknown", "temperature": 0.0},
        {"temperature": 1.0, "top_k": 2.5},
        {"temperature": 1.0, "top_k": 0},
    ],
)
def test_locate_gives_none_for_what_the_space_never_proposes(params: dict[str, Any]) -> None:
    assert SearchSpace({"decoding": NESTED.dimensions["decoding"]}).locate(params) is None


def test_locate_holds_constants_and_choices_against_the_values() -> None:
    space = SearchSpace({"typical_p": Constant(1.0), "style": Choice.of(["a", "b"])})
    assert space.locate({"typical_p": 1.0, "style": "b"}) == {"style": "b"}
    assert space.locate({"typical_p": 0.9, "style": "b"}) is None
    assert space.locate({"typical_p": 1.0, "style": "c"}) is None
    assert space.locate({"style": "b"}) is None


def test_locate_tells_true_from_one_where_both_are_choices() -> None:
    space = SearchSpace({"x": Choice.of([1, True, 0.5])})
    for answer in (1, True, 0.5):
        params = space.sample(lambda *_, answer=answer: answer)
        found = space.locate(params)
        assert found is not None
        assert type(found["x"]) is type(answer)
    assert SearchSpace({"x": Choice.of([0, 1])}).locate({"x": 1.0}) == {"x": 1}


@pytest.mark.parametrize(
    ("number", "inside", "outside"),
    [
        (Number(0.1, 1.5), [0.1, 1.5, 1, 0.777], [0.09, 1.51, True, "1", None, math.nan]),
        (Number(1, 9, integer=True), [1, 9, 5, 5.0], [0, 10, 5.5]),
        (Number(64, 512, integer=True, step=64), [64, 128, 512], [65, 576, 0]),
        (Number(0.0, 1.0, step=0.1), [0.0, 0.1 + 0.2, 0.7, 1.0], [0.05, 0.35]),
    ],
)
def test_a_number_contains_what_a_search_could_propose(number: Number, inside: list[Any], outside: list[Any]) -> None:
    assert all(number.contains(value) for value in inside)
    assert not any(number.contains(value) for value in outside)


def test_long_texts_get_short_distinct_labels_that_lead_back() -> None:
    texts = ["You are a careful assistant. " * 20 + ending for ending in ("a", "b")]
    choice = Choice.of(["", "short", *texts])
    assert choice.labels[:2] == ("", "short")
    assert len(set(choice.labels)) == 4
    assert all(len(str(label)) <= 60 for label in choice.labels)
    assert [choice.value_of(label) for label in choice.labels] == list(choice.values)
    with pytest.raises(KeyError):
        choice.value_of("unknown")


def test_labels_keep_types_apart_and_lists_readable() -> None:
    choice = Choice.of([1, True, ("a", "ä")])
    assert choice.value_of(True) is True
    assert type(choice.value_of(1)) is int
    assert choice.labels[2] == '["a", "ä"]'
    assert Choice.of(["text one", "text two"], labels=["a.txt", "b.txt"]).value_of("b.txt") == "text two"


# --- what is in a space


def test_names_switches_and_open_dimensions() -> None:
    assert NESTED.switches() == {"decoding", "cut"}
    assert {"temperature", "top_k", "min_p", "style", "typical_p"} <= NESTED.names()
    assert not NESTED.names() & NESTED.switches()
    assert NESTED.conditional()
    assert not SearchSpace({"top_p": Number(0.5, 1.0)}).conditional()
    dimensions = NESTED.open_dimensions()
    assert set(dimensions) == {
        *("top_p", "max_tokens", "repetition_penalty", "style", "stop", "schema", "decoding"),
        *("decoding.sampling.temperature", "decoding.sampling.cut", "decoding.hot.temperature"),
        *("decoding.sampling.cut.k.top_k", "decoding.sampling.cut.p.min_p"),
    }
    assert dimensions["decoding.sampling.cut"] == Choice.of(("k", "p"))


def test_the_grid_holds_every_combination_once_and_each_is_in_the_space() -> None:
    points = 3
    cells = list(NESTED.grid(points))
    decoding = 1 + points * (points + points) + points  # greedy; sampling x (k + p); hot
    assert len(cells) == points * 3 * points * 3 * 3 * 2 * decoding
    assert len({tuple(sorted(cell.items(), key=str)) for cell in cells}) == len(cells)
    for cell in cells[:: len(cells) // 200]:
        params = NESTED.sample(lambda path, _, cell=cell: cell[path])
        assert NESTED.locate(params) == cell


@pytest.mark.parametrize(
    ("number", "count", "wanted"),
    [
        (Number(0.0, 1.0), 3, [0.0, 0.5, 1.0]),
        (Number(0.0, 1.0), 1, [0.5]),
        (Number(1.0, 100.0, log=True), 3, [1.0, 10.0, 100.0]),
        (Number(1, 3, integer=True), 10, [1, 2, 3]),
        (Number(1, 100, integer=True, log=True), 3, [1, 10, 100]),
        (Number(64, 256, integer=True, step=64), 4, [64, 128, 192, 256]),
        (Number(64, 512, integer=True, step=64), 3, [64, 320, 512]),
        (Number(0.0, 0.3, step=0.1), 4, [0.0, 0.1, 0.2, 0.3]),
    ],
)
def test_points_of_a_number(number: Number, count: int, wanted: list[float]) -> None:
    got = number.points(count)
    assert got == pytest.approx(wanted)
    assert all(isinstance(value, int) == number.integer for value in got)
    assert all(number.contains(value) for value in got)


def test_the_points_of_random_numbers_lie_in_them() -> None:
    draw = random.Random(5)
    for _ in range(300):
        low = draw.randint(1, 50)
        steps = draw.randint(1, 20)
        kind = draw.choice(["plain", "log", "step", "integer", "integer log"])
        step = draw.randint(1, 7) if kind == "step" else None
        high = low + steps * (step or 1)
        number = Number(low, high, integer="integer" in kind, log="log" in kind, step=step)
        for count in (1, 2, 3, 7):
            points = number.points(count)
            assert 1 <= len(points) <= count
            assert points == sorted(set(points))
            assert all(number.contains(point) for point in points)


def test_the_description_is_plain_json_and_tells_spaces_apart() -> None:
    text = json.dumps(NESTED.describe(), sort_keys=True)
    assert json.loads(text) == NESTED.describe()
    described = NESTED.describe()
    assert described["max_tokens"] == {"low": 64, "high": 512, "step": 64}
    assert described["repetition_penalty"] == {"low": 0.8, "high": 1.25, "log": True}
    assert described["decoding"]["greedy"] == {"temperature": 0.0}
    assert described["stop"] == {"choices": [[], ["\n"], ["END", "\n\n"]]}
    floats, integers = SearchSpace({"x": Number(0, 1)}), SearchSpace({"x": Number(0, 1, integer=True)})
    assert json.dumps(floats.describe()) != json.dumps(integers.describe())


def test_the_default_space_is_what_the_backend_recommends() -> None:
    space = default_space(DOMAINS)
    assert space.dimensions == {
        "temperature": Number(0.1, 1.5),
        "top_p": Number(0.5, 1.0),
        "top_k": Number(1, 100, integer=True, log=True),
        "max_tokens": Number(64, 512, integer=True, step=64),
    }


# --- canonical: facts of the engines, one by one


@pytest.mark.parametrize("inert", [{"top_p": 0.3}, {"top_k": 40}, {"min_p": 0.2}, {"typical_p": 0.5}])
def test_greedy_makes_truncation_inert(inert: dict[str, Any]) -> None:
    assert canon(temperature=0.0, **inert) == canon(temperature=0.0)
    assert canon(temperature=0.7, **inert) != canon(temperature=0.7)


def test_top_k_one_is_greedy() -> None:
    assert canon(temperature=1.3, top_k=1, top_p=0.4) == canon(temperature=0.0)
    assert canon(temperature=1.3, top_k=2) != canon(temperature=0.0)
    assert deterministic(canon(temperature=1.3, top_k=1))


def test_top_k_one_with_beams_is_not_greedy() -> None:
    assert canon(temperature=1.3, top_k=1, num_beams=4) != canon(temperature=0.0, num_beams=4)


def test_a_temperature_that_engines_take_for_zero_is_zero() -> None:
    assert canon(temperature=1e-6) == canon(temperature=0.0)
    assert deterministic({"temperature": 9e-6})
    assert not deterministic({"temperature": 1e-4})
    assert not deterministic({"temperature": 0.0, "xtc_probability": 0.5})
    assert deterministic({"temperature": 0.0, "xtc_probability": 0.0, "dynatemp_range": 0.0})
    assert not deterministic({})


@pytest.mark.parametrize(
    "neutral",
    [
        *({"top_p": 1.0}, {"min_p": 0.0}, {"top_k": 0}, {"top_k": -1}, {"typical_p": 1.0}, {"num_beams": 1}),
        *({"repetition_penalty": 1.0}, {"presence_penalty": 0.0}, {"frequency_penalty": 0.0}, {"stop": ()}),
        *({"top_p": None}, {"shots": 0}),
    ],
)
def test_a_neutral_value_is_the_same_as_none(neutral: dict[str, Any]) -> None:
    assert canon(**neutral) == canon()
    assert canon(temperature=0.0, **neutral) == canon(temperature=0.0)


@pytest.mark.parametrize("active", [{"repetition_penalty": 1.1}, {"presence_penalty": -0.5}, {"max_tokens": 10}])
def test_penalties_and_lengths_matter_in_greedy_decoding_too(active: dict[str, Any]) -> None:
    assert canon(temperature=0.0, **active) != canon(temperature=0.0)


def test_a_top_k_of_the_whole_vocabulary_is_off() -> None:
    def with_vocabulary(top_k: int) -> dict[str, Any]:
        return canonical({"temperature": 0.7, "top_k": top_k}, DOMAINS, vocabulary=512)

    assert with_vocabulary(512) == with_vocabulary(9999) == with_vocabulary(0) == canon()
    assert with_vocabulary(511) == {"temperature": 0.7, "top_k": 511}


def test_a_length_penalty_without_beams_is_nothing() -> None:
    assert canon(length_penalty=2.0) == canon() == canon(length_penalty=2.0, num_beams=1)
    assert canon(length_penalty=2.0, num_beams=4) != canon(num_beams=4)


def test_a_penalty_window_without_penalties_is_nothing() -> None:
    assert canon(repeat_last_n=64) == canon() == canon(repeat_last_n=64, repetition_penalty=1.0)
    assert canon(repeat_last_n=64, repetition_penalty=1.2) != canon(repetition_penalty=1.2)
    assert canon(repeat_last_n=0, repetition_penalty=1.2, presence_penalty=0.5) == canon()


def test_the_order_of_stop_strings_does_not_matter() -> None:
    assert canon(stop=("b", "a", "b")) == canon(stop=("a", "b"))
    assert canon(stop=("a",)) != canon(stop=("a", "b"))


def test_the_name_of_a_switch_does_not_matter() -> None:
    plain = canonical({"temperature": 0.7}, DOMAINS)
    for branch in ("nucleus", "other"):
        assert canonical({"temperature": 0.7, "decoding": branch}, DOMAINS, switches=frozenset({"decoding"})) == plain
    assert canonical({"temperature": 0.7, "decoding": "x"}, DOMAINS) != plain


def random_params(draw: random.Random) -> dict[str, Any]:
    pool: dict[str, list[Any]] = {
        "temperature": [0.0, 1e-7, 0.7, 1.0],
        "top_p": [1.0, 0.5, None],
        "top_k": [0, -1, 1, 40, 512, 1000],
        "min_p": [0.0, 0.1],
        "typical_p": [1.0, 0.9],
        "repetition_penalty": [1.0, 1.1],
        "presence_penalty": [0.0, 0.3],
        "frequency_penalty": [0.0, 0.2],
        "repeat_last_n": [0, 64, -1],
        "num_beams": [1, 4],
        "length_penalty": [1.0, 2.0],
        "stop": [(), ("a",), ("b", "a"), ("a", "b")],
        "shots": [0, 3],
        "decoding": ["x", "y"],
    }
    names = draw.sample(list(pool), draw.randint(0, len(pool)))
    return {name: draw.choice(pool[name]) for name in names}


def test_canonical_is_idempotent_and_does_not_see_the_order() -> None:
    draw = random.Random(3)
    for _ in range(2000):
        params = random_params(draw)
        once = canonical(params, DOMAINS, switches=frozenset({"decoding"}), vocabulary=512)
        assert canonical(once, DOMAINS, switches=frozenset({"decoding"}), vocabulary=512) == once, params
        shuffled = dict(draw.sample(list(params.items()), len(params)))
        again = canonical(shuffled, DOMAINS, switches=frozenset({"decoding"}), vocabulary=512)
        assert list(again.items()) == list(once.items())


# --- keys


def test_a_key_depends_on_identity_prompt_and_parameters_and_not_on_their_order() -> None:
    identity, params = {"engine": "toy", "version": "1"}, {"temperature": 0.7, "stop": ("a", "b")}
    key = config_key(identity, ["system", "user"], params)
    assert len(key) == 64
    assert key == config_key(dict(reversed(identity.items())), ["system", "user"], dict(reversed(params.items())))
    others = [
        config_key(identity | {"version": "2"}, ["system", "user"], params),
        config_key(identity, ["system", "other"], params),
        config_key(identity, ["user", "system"], params),
        config_key(identity, ["systemuser"], params),
        config_key(identity, ["system", "user"], params | {"temperature": 0.8}),
        config_key(identity, ["system", "user"], {"temperature": 0.7}),
        config_key(identity, ["system", "user"], params | {"stop": ("ab",)}),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_key_takes_any_text() -> None:
    assert config_key({}, ["ä\ud800\0"], {}) != config_key({}, ["ä\ud801\0"], {})


# --- resolve

TODAY = {"temperature": 1.2, "top_p": 0.9, "top_k": 40, "max_tokens": 64}


def resolved(space: SearchSpace, chosen: dict[str, Any]) -> dict[str, Any]:
    return resolve(chosen, space=space, today=TODAY, domains=DOMAINS)


def test_resolve_keeps_todays_settings_outside_the_space() -> None:
    space = SearchSpace({"temperature": Number(0, 2)})
    assert resolved(space, {"temperature": 1}) == TODAY | {"temperature": 1.0}
    assert type(resolved(space, {"temperature": 1})["temperature"]) is float


def test_the_parameters_of_another_branch_are_off() -> None:
    space = SearchSpace(
        {
            "cut": Switch(
                {
                    "p": {"top_p": Number(0.5, 1.0)},
                    "k": {"top_k": Number(1, 100, integer=True)},
                    "min": {"min_p": Number(0.01, 0.2)},
                }
            )
        }
    )
    assert resolved(space, {"cut": "p", "top_p": 0.6}) == TODAY | {"top_p": 0.6, "top_k": 0, "min_p": 0.0, "cut": "p"}
    assert resolved(space, {"cut": "k", "top_k": 5}) == TODAY | {"top_p": 1.0, "top_k": 5, "min_p": 0.0, "cut": "k"}


def test_what_has_no_neutral_value_stays_as_it_is_today() -> None:
    space = SearchSpace({"s": Switch({"a": {"temperature": Number(0, 1)}, "b": {"max_tokens": Constant(8)}})})
    assert resolved(space, {"s": "b", "max_tokens": 8}) == TODAY | {"max_tokens": 8, "s": "b"}


def test_a_parameter_that_is_off_where_nothing_is_sent_is_not_sent() -> None:
    space = SearchSpace({"way": Switch({"plain": {}, "penal": {"penalty": Number(1, 2)}})})
    domains = {"penalty": Domain("float", "", 0.0, 2.0, neutral=(None, 1.0))}
    found = resolve({"way": "plain"}, space=space, today={"penalty": 1.5}, domains=domains)
    assert found == {"way": "plain", "penalty": None}


def test_prompt_variables_and_absent_values_pass_through() -> None:
    space = SearchSpace({"style": Choice.of(["", "brief"])})
    assert resolved(space, {"style": "brief"}) == TODAY | {"style": "brief"}
    assert resolve({}, space=space, today={"stop": None}, domains=DOMAINS) == {"stop": None}
