import itertools
import random

import pytest

from genopt import metrics
from genopt.scorers.diversity import Consistency, Distinct, Diversity
from tests.scorers.helpers import example, obeys, scores, values

MAKERS = [
    lambda: Diversity(name="s"),
    lambda: Diversity(name="s", n=1),
    lambda: Distinct(name="s"),
    lambda: Consistency(name="s"),
    lambda: Consistency(name="s", by="exact"),
]


@pytest.mark.parametrize("make", MAKERS)
def test_they_obey_and_need_repeats(make):
    obeys(make(), example())
    assert make().needs == {"repeats"}
    assert [score.value for score in scores(make(), example(), "alone")] == [None]


def test_diversity_by_hand():
    # bigrams {ab, bc}, {ab, bd}, {xy}: Jaccard 1/3, 0, 0
    found = values(Diversity(name="s"), example(), "a b c", "a b d", "x y")
    assert found == pytest.approx([1 - 1 / 6, 1 - 1 / 6, 1.0])


def test_the_mean_of_diversity_is_one_minus_the_mean_pairwise_similarity():
    rng = random.Random(1)
    texts = [" ".join(rng.choices("abcdef", k=rng.randint(0, 8))) for _ in range(9)]
    for n in (1, 2, 3):
        sets = [frozenset(metrics.ngrams(metrics.words(text), n)) for text in texts]
        pairs = [metrics.jaccard(a, b) for a, b in itertools.combinations(sets, 2)]
        found = values(Diversity(name="s", n=n), example(), *texts)
        assert sum(found) / len(found) == pytest.approx(1 - sum(pairs) / len(pairs))


def test_equal_and_short_and_blank_samples():
    diversity = Diversity(name="s")
    assert values(diversity, example(), "same text here", "Same text, here!") == [0.0, 0.0]
    assert values(diversity, example(), "yes", "yes", "no") == [0.5, 0.5, 1.0]
    assert values(diversity, example(), "", " ") == [0.0, 0.0]
    assert values(diversity, example(), "", "word") == [1.0, 1.0]


def test_distinct_by_hand():
    # bigrams ab, bc | ab, bd: 3 different of 4
    assert values(Distinct(name="s"), example(), "a b c", "a b d") == [0.75, 0.75]
    assert values(Distinct(name="s", n=1), example(), "a a a a", "a") == [0.2, 0.2]
    assert values(Distinct(name="s"), example(), "", " ") == [0.0, 0.0]


def test_consistency_by_hand():
    assert values(Consistency(name="s", by="exact"), example(), "Paris.", "paris", "Rome") == [0.5, 0.5, 0.0]
    # token F1: (new york, new york city) 0.8; nothing shared with rome
    found = values(Consistency(name="s"), example(), "New York", "New York City", "Rome")
    assert found == pytest.approx([0.4, 0.4, 0.0])
    assert values(Consistency(name="s"), example(), *["one and the same"] * 7) == pytest.approx([1.0] * 7)
