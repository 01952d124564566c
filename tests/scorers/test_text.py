import asyncio
import time

import pytest

from genopt import metrics
from genopt.errors import SpecError
from genopt.scorers import text as scorers
from genopt.types import Score
from tests.scorers.helpers import example, generation, obeys, scores, values

COMPARING = {
    "exact_match": scorers.ExactMatch,
    "token_f1": scorers.TokenF1,
    "rouge_l": scorers.RougeL,
    "rouge_n": scorers.RougeN,
    "chrf": scorers.Chrf,
    "bleu": scorers.Bleu,
    "levenshtein": scorers.Levenshtein,
    "numeric": scorers.Numeric,
    "contains": scorers.Contains,
    "regex": lambda name: scorers.Regex(name=name, pattern=r".+", group=0, flags="s"),
}


@pytest.mark.parametrize("kind", COMPARING)
def test_comparing_scorers_obey_and_need_references(kind):
    obeys(COMPARING[kind](name="s"), example("plain words", "-1.5%"))
    obeys(COMPARING[kind](name="s"), example("", "4"))
    scorer = COMPARING[kind](name="s")
    assert scorer.name == "s"
    assert scorer.needs == {"references"}
    assert scores(scorer, example(), "x", "y") == [Score(None, "the example has no reference")] * 2


@pytest.mark.parametrize("kind", COMPARING)
def test_the_best_reference_counts(kind):
    scorer = COMPARING[kind](name="s")
    near, far = "the answer is 42", "something else entirely 7"
    alone = values(scorer, example(near), "the answer is 42")
    assert alone == pytest.approx([1.0])
    assert values(scorer, example(far, near), "the answer is 42") == pytest.approx([1.0])
    assert values(scorer, example(far), "the answer is 42")[0] < 0.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: scorers.Contains(name="s", values=["a|b", "x"], mode="fraction"),
        lambda: scorers.Contains(name="s", field="facts"),
        lambda: scorers.Regex(name="s", pattern=r"\d+"),
        lambda: scorers.Length(name="s", min=3, max=9, unit="characters"),
        lambda: scorers.Length(name="s", max=9, unit="tokens"),
    ],
)
def test_scorers_without_references_obey(make):
    assert make().needs == frozenset()
    obeys(make(), example(facts=["plain", "好き"]))


def test_likeness_gives_the_metric():
    given = example("the cat sat on the mat", "a dog")
    text = "The cat lay on a mat."
    for make, metric in [
        (scorers.TokenF1, metrics.token_f1),
        (scorers.RougeL, metrics.rouge_l),
        (lambda name: scorers.RougeN(name=name, n=1), metrics.rouge_n),
        (scorers.RougeN, lambda a, b: metrics.rouge_n(a, b, 2)),
        (scorers.Chrf, metrics.chrf),
        (lambda name: scorers.Chrf(name=name, word_order=2), lambda a, b: metrics.chrf(a, b, word_order=2)),
        (scorers.Levenshtein, metrics.levenshtein),
    ]:
        expected = max(metric(text, reference) for reference in given.references)
        assert 0 < expected < 1
        assert values(make(name="s"), given, text) == pytest.approx([expected])


def test_exact_match_without_normalizing():
    scorer = scorers.ExactMatch(name="s", normalize=False)
    assert values(scorer, example("Paris"), " Paris\n", "paris", "Paris.") == [1.0, 0.0, 0.0]
    assert values(scorers.ExactMatch(name="s"), example("Paris"), "paris.", "The Paris") == [1.0, 1.0]


def test_numeric():
    scorer = scorers.Numeric(name="s")
    given = example("so 20 + 22 = 42", "forty-three: 43")
    assert scores(scorer, given, "first 7, then 42.", "It is 43!", "142", "none") == [
        Score(1.0),
        Score(1.0),
        Score(0.0, "found 142, expected 42 or 43"),
        Score(0.0, "the answer holds no number"),
    ]
    assert scores(scorer, example("none"), "1") == [Score(None, "no reference holds a number")]
    assert values(scorers.Numeric(name="s", which="first"), example("7, later 8"), "7 or 9", "8 or 7") == [1.0, 0.0]
    assert values(scorers.Numeric(name="s", tolerance=0.01), example("100"), "100.9", "102") == [1.0, 0.0]


def test_numeric_warns_of_references_without_numbers():
    scorer = scorers.Numeric(name="n")
    assert asyncio.run(scorer.prepare([example("1"), example("2", "two")])) == ()
    assert asyncio.run(scorer.prepare([example("1"), example("two")])) == (
        "scorers.n: 1 of 2 rows have no number in their references",
    )
    with pytest.raises(SpecError, match=r"scorers\.n: no reference holds a number"):
        asyncio.run(scorer.prepare([example("one"), example("two")]))


def test_contains_values():
    wanted = ["Paris", "1889|eighteen eighty-nine", "iron"]
    good, half = "Built in PARIS in 1889 of iron", "Paris, eighteen eighty-nine"
    every = scorers.Contains(name="s", values=wanted)
    assert scores(every, example(), good, half) == [Score(1.0), Score(0.0, 'missing: "iron"')]
    assert values(scorers.Contains(name="s", values=wanted, mode="any"), example(), half, "nothing") == [1.0, 0.0]
    part = scorers.Contains(name="s", values=wanted, mode="fraction")
    assert values(part, example(), good, half, "no") == pytest.approx([1.0, 2 / 3, 0.0])
    assert values(scorers.Contains(name="s", values=["IT"], case_sensitive=True), example(), "it", "IT") == [0.0, 1.0]


def test_contains_a_field():
    scorer = scorers.Contains(name="s", field="facts", mode="fraction")
    assert values(scorer, example(facts=["Rome", 5]), "Rome 5", "Rome 25") == [1.0, 0.5]
    assert values(scorer, example(facts="Rome|Roma"), "Roma") == [1.0]
    for empty in (example(), example(facts=[]), example(facts=None), example(facts=" | ")):
        assert scores(scorer, empty, "x") == [Score(None, "the row has no text in 'facts'")]


def test_contains_references_where_a_bar_has_no_meaning():
    scorer = scorers.Contains(name="s")
    assert values(scorer, example("Paris", "a|b"), "in Paris", "it is a|b", "b") == [1.0, 1.0, 0.0]


def test_contains_says_what_is_wrong_before_scoring():
    with pytest.raises(SpecError, match="values and field exclude each other"):
        scorers.Contains(name="s", values=["a"], field="b")
    with pytest.raises(SpecError, match="values is empty"):
        scorers.Contains(name="s", values=[])
    with pytest.raises(SpecError, match=r"scorers\.s: values: ' \| ' holds nothing"):
        scorers.Contains(name="s", values=["a", " | "])
    scorer = scorers.Contains(name="s", field="facts")
    assert asyncio.run(scorer.prepare([example(facts="a"), example(other=1)])) == (
        "scorers.s: 1 of 2 rows have no text in 'facts'",
    )
    with pytest.raises(SpecError, match=r"no row has texts in 'facts'. Fields: answer, question"):
        asyncio.run(scorer.prepare([example(question="q"), example(answer="a")]))


def test_regex_found_or_not():
    scorer = scorers.Regex(name="s", pattern=r"^answer:\s*\w+", flags="im")
    assert scores(scorer, example(), "Well,\nANSWER: yes", "no answer") == [
        Score(1.0),
        Score(0.0, "the pattern was not found"),
    ]


def test_regex_group_is_compared_with_the_references():
    last = scorers.Regex(name="s", pattern=r"answer is (?P<letter>\(?[A-D]\)?)", group="letter")
    assert scores(last, example("B"), "answer is A. No, the answer is (B)", "answer is B. No: answer is C", "B") == [
        Score(1.0),
        Score(0.0, 'extracted "C"'),
        Score(0.0, "the pattern was not found"),
    ]
    anywhere = scorers.Regex(name="s", pattern=r"answer is (\w)|(\w)!", group=1, match="any")
    assert values(anywhere, example("B"), "answer is B. No: answer is C", "B!") == [1.0, 0.0]


def test_regex_gives_up_on_an_endless_search():
    scorer = scorers.Regex(name="s", pattern=r"(?:a|a)+c|z")
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
        scorers.Regex(name="s", **options)


def test_length_in_every_unit():
    given = example()
    words = scorers.Length(name="s", min=2, max=4)
    assert scores(words, given, "one two", "one", "a b c d e", "") == [
        Score(1.0),
        Score(0.5, "1 words, wanted at least 2"),
        Score(0.75, "5 words, wanted at most 4"),
        Score(0.0, "0 words, wanted at least 2"),
    ]
    assert values(scorers.Length(name="s", max=3, unit="characters"), given, " 猫猫猫 ", "four") == [
        1.0,
        pytest.approx(2 / 3),
    ]
    tokens = scorers.Length(name="s", max=10, unit="tokens")
    found = asyncio.run(tokens.score(given, [generation("", 10), generation("", 15), generation("", 30)]))
    assert [score.value for score in found] == [1.0, 0.5, 0.0]


@pytest.mark.parametrize(
    ("options", "message"), [({}, "needs min, max or both"), ({"min": 3, "max": 2}, r"min \(3\) is larger")]
)
def test_length_refuses_mistakes(options, message):
    with pytest.raises(SpecError, match=message):
        scorers.Length(name="s", **options)
