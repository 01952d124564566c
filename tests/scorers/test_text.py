import asyncio

import pytest

from genopt import metrics
from genopt.errors import SpecError
from genopt.scorers import patterns
from genopt.scorers import text as scorers
from genopt.types import Score
from tests.scorers.helpers import example, generation, obeys, rouge_l, rouge_n, scores, token_f1, values

COMPARING = {
    "exact_match": scorers.ExactMatch,
    "token_f1": scorers.TokenF1,
    "rouge_l": scorers.RougeL,
    "rouge_n": scorers.RougeN,
    "chrf": scorers.Chrf,
    "bleu": scorers.Bleu,
    "levenshtein": scorers.Levenshtein,
    "numeric": patterns.Numeric,
    "contains": patterns.Contains,
    "regex": lambda name: patterns.Regex(name=name, pattern=r".+", group=0, flags="s"),
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
        lambda: patterns.Contains(name="s", values=["a|b", "x"], mode="fraction"),
        lambda: patterns.Contains(name="s", field="facts"),
        lambda: patterns.Regex(name="s", pattern=r"\d+"),
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
        (scorers.TokenF1, token_f1),
        (scorers.RougeL, rouge_l),
        (lambda name: scorers.RougeN(name=name, n=1), rouge_n),
        (scorers.RougeN, lambda a, b: rouge_n(a, b, 2)),
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
