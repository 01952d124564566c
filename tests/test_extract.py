import json
import random

import pytest

from genopt import extract, metrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-3", [-3]),
        ("1,234.5 and 1,234,567", [1234.5, 1234567]),
        ("It is 42.", [42]),
        ("1e3, 2.5E-2", [1000, 0.025]),
        (".5 or -.5", [0.5, -0.5]),
        ("wait...5", [5]),
        ("version 1.2.3", [1.2]),
        ("10-5=5", [10, 5, 5]),
        ("1,2,3", [1, 2, 3]),
        ("1,2345", [1, 2345]),
        ("1/2/2024", [1, 2, 2024]),
        ("3/4", [0.75]),
        ("1/0", [1]),
        ("H2O, v2, x1", []),
        ("$12, -$5.20, €1'000", [12, -5.2, 1000]),
        ("**42**", [42]),
        ("x = \N{MINUS SIGN}7", [-7]),
        ("1\N{NARROW NO-BREAK SPACE}000 km", [1000]),
        ("5th, 42km", [5, 42]),
        ("答案是42。", [42]),
        ("답은 -42입니다", [-42]),
        ("9" * 400, []),
        ("", []),
    ],
)
def test_numbers(text, expected):
    assert [number.value for number in extract.numbers(text)] == pytest.approx(expected)


def test_percent_is_seen():
    assert [number.percent for number in extract.numbers("25% of 30, 5 %, 7\\%")] == [True, False, True, True]


@pytest.mark.parametrize("style", ["{:d}", "{:,d}", "{:+d}", "{:_d}", "is {:d}.", "({:,d})", "**{:d}**", "{:d}.0"])
def test_numbers_survive_every_way_of_writing_them(style):
    rng = random.Random(1)
    for value in [0, 7, 999, 1000, *(rng.randrange(-(10**9), 10**9) for _ in range(100))]:
        assert [number.value for number in extract.numbers(style.format(value))] == [value]


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("25", "5", False),
        ("25%", "25", True),
        ("25%", "0.25", True),
        ("25%", "0.25%", False),
        ("0.3333333", "1/3", True),
        ("1000000", "1000000.5", True),
        ("100", "100.5", False),
        ("0", "1e-9", True),
    ],
)
def test_numbers_equal(left, right, equal):
    (a,), (b,) = extract.numbers(left), extract.numbers(right)
    assert extract.numbers_equal(a, b) is equal
    assert extract.numbers_equal(b, a) is equal


@pytest.mark.parametrize(
    ("value", "text", "found"),
    [
        ("5", "it is 5.", True),
        ("5", "it is 25", False),
        ("5", "it is 2.5", False),
        ("5", "it is 5.7", False),
        ("5", "it is 5,700", False),
        ("700", "it is 5,700", False),
        ("2", "1,2,3", True),
        ("5.7", "it is 5.7 m", True),
        ("cat", "cats", False),
        ("cat", "A Cat!", True),
        ("New York", "new\n  york", True),
        ("C++", "use c++.", True),
        ("东京", "我在东京市", True),
        ("Python", "用Python写", True),
        ("서울", "서울에서", True),
        ("café", "CAFE\N{COMBINING ACUTE ACCENT}", True),
        ("don't", "don\N{RIGHT SINGLE QUOTATION MARK}t", True),
        ("a.c", "abc", False),
        (".5", "x .5", True),
    ],
)
def test_finder(value, text, found):
    assert bool(extract.finder([value]).search(metrics.fold(text))) is found


def test_finder_takes_alternatives_and_minds_case_when_told():
    assert extract.finder(["colour", " ", "color"]).search("the color")
    assert not extract.finder(["IT"], case_sensitive=True).search("it is")
    with pytest.raises(ValueError, match="nothing to look for"):
        extract.finder(["", " "])


def test_every_word_of_a_text_is_found_in_it_and_none_inside_another():
    rng = random.Random(2)
    for _ in range(40):
        tokens = ["".join(rng.choices("abc123", k=rng.randint(1, 4))) for _ in range(6)]
        text = " ".join(tokens)
        for wanted in [*tokens, *("".join(rng.choices("abc123", k=2)) for _ in range(5))]:
            assert bool(extract.finder([wanted]).search(text)) is (wanted in tokens)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (' {"a": 1} ', {"a": 1}),
        ('Sure:\n```json\n{"a": [1, 2]}\n```\nDone {x}', {"a": [1, 2]}),
        ("```\n[1]\n```", [1]),
        ('```python\nprint(1)\n```\n```json\n{"b": 2}\n```', {"b": 2}),
        ('The answer is {"a": {"b": 1}}. Hope this helps', {"a": {"b": 1}}),
        ('See [1]: {"a": 1}', {"a": 1}),
        ('list: [{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('only [{"a": 1}]', [{"a": 1}]),
        ("12", 12),
        ('"text"', "text"),
        ("null", None),
    ],
)
def test_extract_json(text, expected):
    assert extract.extract_json(text) == expected


@pytest.mark.parametrize("text", ["", "no json", "{a: 1}", '{"a": 1,}', "NaN", '{"a": Infinity}', "[" * 100_000])
def test_what_is_no_json(text):
    with pytest.raises(ValueError, match=r"line|NaN|Infinity|deep"):
        extract.extract_json(text)


def test_strict_takes_the_whole_text_only():
    fenced = '```json\n{"a": 1}\n```'
    assert extract.extract_json(fenced) == {"a": 1}
    with pytest.raises(ValueError, match="line 1, column 1"):
        extract.extract_json(fenced, strict=True)
    assert extract.extract_json(' {"a": 1}\n', strict=True) == {"a": 1}


def test_random_json_is_found_inside_prose():
    rng = random.Random(3)

    def value(depth: int):
        kind = rng.randrange(5 if depth else 3)
        if kind == 3:
            return [value(depth - 1) for _ in range(rng.randint(0, 3))]
        if kind == 4:
            return {rng.choice(["a", "ключ", "}"]): value(depth - 1) for _ in range(rng.randint(0, 3))}
        return [rng.randint(-9, 9), rng.choice(["x", 'q"{', "é"]), None][kind]

    for _ in range(200):
        made = {"root": value(3)}
        text = json.dumps(made, ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, 2]))
        assert extract.extract_json(text) == made
        assert extract.extract_json(f"Here you are: {text} I hope it helps.") == made
