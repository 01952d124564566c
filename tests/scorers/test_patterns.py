import asyncio
import time

import pytest

from genopt.errors import SpecError
from genopt.scorers import patterns, text
from genopt.types import Score
from tests.scorers.helpers import example, scores, values


@pytest.mark.parametrize("name", ["Contains", "Numeric", "Regex"])
def test_they_are_found_beside_the_other_scorers_of_one_text(name):
    assert getattr(text, name) is getattr(patterns, name)


def test_numeric():
    scorer = patterns.Numeric(name="s")
    given = example("so 20 + 22 = 42", "forty-three: 43")
    assert scores(scorer, given, "first 7, then 42.", "It is 43!", "142", "none") == [
        Score(1.0),
        Score(1.0),
        Score(0.0, "found 142, expected 42 or 43"),
        Score(0.0, "the answer holds no number"),
    ]
    assert scores(scorer, example("none"), "1") == [Score(None, "no reference holds a number")]
    assert values(patterns.Numeric(name="s", which="first"), example("7, later 8"), "7 or 9", "8 or 7") == [1.0, 0.0]
    assert values(patterns.Numeric(name="s", tolerance=0.01), example("100"), "100.9", "102") == [1.0, 0.0]


def test_numeric_warns_of_references_without_numbers():
    scorer = patterns.Numeric(name="n")
    assert asyncio.run(scorer.prepare([example("1"), example("2", "two")])) == ()
    assert asyncio.run(scorer.prepare([example("1"), example("two")])) == (
        "scorers.n: 1 of 2 rows have no number in their references",
    )
    with pytest.raises(SpecError, match=r"scorers\.n: no reference holds a number"):
        asyncio.run(scorer.prepare([example("one"), example("two")]))


def test_contains_values():
    wanted = ["Paris", "1889|eighteen eighty-nine", "iron"]
    good, half = "Built in PARIS in 1889 of iron", "Paris, eighteen eighty-nine"
    every = patterns.Contains(name="s", values=wanted)
    assert scores(every, example(), good, half) == [Score(1.0), Score(0.0, 'missing: "iron"')]
    assert values(patterns.Contains(name="s", values=wanted, mode="any"), example(), half, "nothing") == [1.0, 0.0]
    part = patterns.Contains(name="s", values=wanted, mode="fraction")
    assert values(part, example(), good, half, "no") == pytest.approx([1.0, 2 / 3, 0.0])
    assert values(patterns.Contains(name="s", values=["IT"], case_sensitive=True), example(), "it", "IT") == [0.0, 1.0]


def test_contains_a_field():
    scorer = patterns.Contains(name="s", field="facts", mode="fraction")
    assert values(scorer, example(facts=["Rome", 5]), "Rome 5", "Rome 25") == [1.0, 0.5]
    assert values(scorer, example(facts="Rome|Roma"), "Roma") == [1.0]
    for empty in (example(), example(facts=[]), example(facts=None), example(facts=" | ")):
        assert scores(scorer, empty, "x") == [Score(None, "the row has no text in 'facts'")]


def test_contains_references_where_a_bar_has_no_meaning():
    scorer = patterns.Contains(name="s")
    assert values(scorer, example("Paris", "a|b"), "in Paris", "it is a|b", "b") == [1.0, 1.0, 0.0]


def test_contains_says_what_is_wrong_before_scoring():
    with pytest.raises(SpecError, match="values and field exclude each other"):
        patterns.Contains(name="s", values=["a"], field="b")
    with pytest.raises(SpecError, match="values is empty"):
        patterns.Contains(name="s", values=[])
    with pytest.raises(SpecError, match=r"scorers\.s: values: ' \| ' holds nothing"):
        patterns.Contains(name="s", values=["a", " | "])
    scorer = patterns.Contains(name="s", field="facts")
    assert asyncio.run(scorer.prepare([example(facts="a"), example(other=1)])) == (
        "scorers.s: 1 of 2 rows have no text in 'facts'",
    )
    with pytest.raises(SpecError, match=r"no row has texts in 'facts'. Fields: answer, question"):
        asyncio.run(scorer.prepare([example(question="q"), example(answer="a")]))


def test_regex_found_or_not():
    scorer = patterns.Regex(name="s", pattern=r"^answer:\s*\w+", flags="im")
    assert scores(scorer, example(), "Well,\nANSWER: yes", "no answer") == [
        Score(1.0),
        Score(0.0, "the pattern was not found"),
    ]


def test_regex_group_is_compared_with_the_references():
    last = patterns.Regex(name="s", pattern=r"answer is (?P<letter>\(?[A-D]\)?)", group="letter")
    assert scores(last, example("B"), "answer is A. No, the answer is (B)", "answer is B. No: answer is C", "B") == [
        Score(1.0),
        Score(0.0, 'extracted "C"'),
        Score(0.0, "the pattern was not found"),
    ]
    anywhere = patterns.Regex(name="s", pattern=r"answer is (\w)|(\w)!", group=1, match="any")
    assert values(anywhere, example("B"), "answer is B. No: answer is C", "B!") == [1.0, 0.0]


def test_regex_gives_up_on_an_endless_search():
    scorer = patterns.Regex(name="s", pattern=r"(?:a|a)+c|z")
    started = time.perf_counter()
    assert scores(scorer, example(), "a" * 40 + "b") == [Score(None, "the search took more than 1 s")]
    assert time.perf_counter() - started < 20  # without the limit: years


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "(a"}, r"scorers\.s: pattern: missing \)"),
        ({"pattern": "a", "flags": "iq"}, "flags: unknown q. Known: a, i, m, s, x"),
        ({"pattern": "(a)", "group": 2}, "no group 2. It has 0, 1"),
        ({"pattern": "(?P<x>a)", "group": "y"}, "no group 'y'. It has 0, 1, x"),
    ],
)
def test_regex_refuses_mistakes(options, message):
    with pytest.raises(SpecError, match=message):
        patterns.Regex(name="s", **options)
