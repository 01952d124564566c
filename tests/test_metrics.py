import collections
import difflib
import random
import re
import string

import pytest
import sacrebleu

from genopt import metrics
from tests.scorers.helpers import exact, rouge_l, rouge_n, token_f1

ALPHABETS = {
    "english": ["the", "cat", "sat", "on", "a", "mat", "42", "3.5", "well-known", "it's", "U.S."],
    "russian": ["кошка", "сидит", "на", "ковре", "ёлка", "и"],
    "chinese": ["猫", "坐在", "垫子", "上面", "。", "你好"],
    "mixed": ["naïve", "मस्ते", "서울에서", "สวัสดี", "🙂", "C++", "x=1", "\n", "東京 tower"],
}


def texts(seed: int, n: int = 60) -> list[str]:
    """Random texts of all alphabets, some of them short or blank."""
    rng = random.Random(seed)
    made = ["", " \n ", "?", "the", "🙂"]
    for _ in range(n):
        vocabulary = ALPHABETS[rng.choice(sorted(ALPHABETS))]
        made.append(" ".join(rng.choice(vocabulary) for _ in range(rng.randint(1, 12))))
    return made


SIMILARITIES = {
    "exact": exact,
    "token_f1": token_f1,
    "rouge_1": rouge_n,
    "rouge_2": lambda a, b: rouge_n(a, b, 2),
    "rouge_l": rouge_l,
    "chrf": metrics.chrf,
    "chrf++": lambda a, b: metrics.chrf(a, b, word_order=2),
    "bleu": lambda a, b: metrics.bleu(a, [b]),
    "levenshtein": metrics.levenshtein,
}
SYMMETRIC = ["exact", "token_f1", "rouge_1", "rouge_2", "rouge_l", "levenshtein"]


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_are_bounded_and_one_for_equal_texts(name):
    similarity = SIMILARITIES[name]
    made = texts(1)
    others = random.Random(2).sample(made, len(made))
    values = [similarity(a, b) for a, b in zip(made, others, strict=True)]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert len(set(values)) > 1
    assert [similarity(text, text) for text in made] == pytest.approx([1.0] * len(made))


@pytest.mark.parametrize("name", SIMILARITIES)
def test_a_blank_text_equals_only_blank_ones(name):
    similarity = SIMILARITIES[name]
    assert similarity("", "  ") == 1.0
    for text in ("word", "猫", "🙂", "?", "the"):
        assert similarity("", text) == 0.0
        assert similarity(text, " ") == 0.0


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetric(name):
    similarity = SIMILARITIES[name]
    made = texts(3)
    for a, b in zip(made, reversed(made), strict=True):
        assert similarity(a, b) == pytest.approx(similarity(b, a))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat's on a mat.", ("the", "cat", "s", "on", "a", "mat")),
        ("Кошка, ёлка", ("кошка", "ёлка")),
        ("我爱 Python3", ("我", "爱", "python3")),
        ("Python是语言", ("python", "是", "语", "言")),
        ("मस्ते दुनिया", ("मस्ते", "दुनिया")),
        ("서울에서 만나", ("서울에서", "만나")),
        ("café", ("café",)),
        ("cafe\N{COMBINING ACUTE ACCENT}", ("café",)),
        (":-)", (":", "-", ")")),
        ("  ", ()),
    ],
)
def test_words(text, expected):
    assert metrics.words(text) == expected


def test_thai_marks_stay_with_their_letter():
    assert "".join(metrics.words("สวัสดี")) == "สวัสดี"
    assert all(not re.match("[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]", token) for token in metrics.words("สวัสดี"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel\nTower!", "eiffel tower"),
        ("An apple a day", "apple day"),
        ("  'Paris'.", "paris"),
        ("3.50", "3.50"),
        ("1,234", "1234"),
        ("-3", "-3"),
        ("minus \N{MINUS SIGN}3.", "minus -3"),
        ("1/2", "1/2"),
        ("2024-01-02.", "2024-01-02"),
        ("A", "a"),
        ("(A)", "a"),
        ("The", "the"),
        ("?", "?"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("东京。", "东京"),
        ("don\N{RIGHT SINGLE QUOTATION MARK}t", "dont"),
        (" ", ""),
    ],
)
def test_normalize(text, expected):
    assert metrics.normalize(text) == expected


@pytest.mark.parametrize(("left", "right"), [("3.5", "35"), ("-3", "3"), ("3-5", "35"), ("A", "the"), ("!", "?")])
def test_normal_forms_that_must_differ(left, right):
    assert exact(left, right) == 0.0


def squad_normalize(text: str) -> str:
    text = "".join(char for char in text.lower() if char not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(prediction: str, truth: str) -> float:
    left, right = squad_normalize(prediction).split(), squad_normalize(truth).split()
    if not left or not right:
        return float(left == right)
    common = sum((collections.Counter(left) & collections.Counter(right)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(left), common / len(right)
    return 2 * precision * recall / (precision + recall)


def test_token_f1_and_exact_match_agree_with_squad():
    rng = random.Random(4)
    vocabulary = ["The", "a", "cat,", "cat", "mat.", "well-known", "it's", "(dog)", "Dog", "42", "an", "x"]
    compared = 0
    for _ in range(500):
        a, b = (" ".join(rng.choices(vocabulary, k=rng.randint(1, 9))) for _ in range(2))
        if squad_normalize(a) and squad_normalize(b):
            compared += 1
            assert token_f1(a, b) == pytest.approx(squad_f1(a, b))
            assert exact(a, b) == float(squad_normalize(a) == squad_normalize(b))
    assert compared > 400


def test_token_f1_by_hand():
    # cat cat sat / cat sat down: 2 shared of 3 and 3
    assert token_f1("cat cat sat", "The cat sat down") == pytest.approx(2 / 3)
    # 3 of 4 shared letters on each side
    assert token_f1("我爱北京", "我爱南京") == pytest.approx(3 / 4)


def lcs_length(left, right) -> int:
    row = [0] * (len(right) + 1)
    for a in left:
        before = 0
        for j, b in enumerate(right, 1):
            before, row[j] = row[j], before + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]


def test_rouge_l_agrees_with_dynamic_programming():
    rng = random.Random(5)
    for _ in range(300):
        a, b = ([rng.choice("abcde") * rng.randint(1, 2) for _ in range(rng.randint(1, 30))] for _ in range(2))
        common = lcs_length(a, b)
        assert rouge_l(" ".join(a), " ".join(b)) == pytest.approx(2 * common / (len(a) + len(b)))


def test_rouge_by_hand():
    # police killed the gunman / police kill the gunman: LCS "police the gunman"
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert rouge_n("police killed the gunman", "police kill the gunman") == pytest.approx(3 / 4)
    assert rouge_n("police killed the gunman", "police kill the gunman", 2) == pytest.approx(1 / 3)
    assert rouge_n("a a a", "a", 1) == pytest.approx(2 * 1 / 4)


def test_rouge_sees_languages_that_a_latin_tokenizer_does_not():
    assert rouge_l("кошка сидит", "кошка спит") == pytest.approx(0.5)
    assert rouge_l("我爱北京", "我爱南京") == pytest.approx(0.75)


def test_chrf_and_bleu_agree_with_sacrebleu():
    made = [text for text in texts(6) if text.strip()]
    for a, b, c in zip(made, made[1:], made[2:], strict=False):
        assert metrics.chrf(a, b) == pytest.approx(sacrebleu.sentence_chrf(a, [b]).score / 100)
        plus = sacrebleu.sentence_chrf(a, [b], word_order=2).score / 100
        assert metrics.chrf(a, b, word_order=2) == pytest.approx(plus)
        assert metrics.bleu(a, [b, c]) == pytest.approx(sacrebleu.sentence_bleu(a, [b, c]).score / 100)


def test_bleu_uses_references_together_and_knows_chinese():
    # each half of the text is in another reference, so together they explain it
    text, halves = "one two three four five six", ["one two three x y z", "x y z four five six"]
    assert metrics.bleu(text, halves) > max(metrics.bleu(text, [half]) for half in halves)
    assert metrics.bleu("我爱北京天安门", ["我爱北京的春天"], tokenize="zh") > metrics.bleu(
        "我爱北京天安门", ["我爱北京的春天"]
    )


def test_levenshtein_by_hand():
    assert metrics.levenshtein("kitten", " sitting ") == pytest.approx(1 - 3 / 7)
    assert metrics.levenshtein("猫", "犬") == 0.0


def test_levenshtein_agrees_with_matching_blocks_on_insertions():
    # only insertions: every character of the shorter text is matched in order
    short = "parameter"
    long = "hyperparameters"
    matched = sum(block.size for block in difflib.SequenceMatcher(None, short, long).get_matching_blocks())
    assert metrics.levenshtein(short, long) == pytest.approx(1 - (len(long) - matched) / len(long))


def test_ngrams():
    assert metrics.ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert metrics.ngrams(["a"], 2) == [("a",)]
    assert metrics.ngrams([], 2) == []


def test_mean_similarities_against_all_pairs():
    sets = [frozenset("abc"), frozenset("bcd"), frozenset("xyz"), frozenset()]
    means = metrics.mean_similarities(sets, metrics.jaccard)
    assert means == pytest.approx([0.5 / 3, 0.5 / 3, 0.0, 0.0])
    assert metrics.jaccard(frozenset(), frozenset()) == 1.0


@pytest.mark.parametrize(
    ("size", "low", "high", "expected"),
    [
        (5, 5, 10, 1.0),
        (10, 5, 10, 1.0),
        (4, 5, 10, 0.8),
        (0, 5, 10, 0.0),
        (15, 5, 10, 0.5),
        (20, 5, 10, 0.0),
        (99, 5, 10, 0.0),
        (99, 5, None, 1.0),
        (0, None, 10, 1.0),
        (0, None, 0, 1.0),
        (1, None, 0, 0.0),
    ],
)
def test_within(size, low, high, expected):
    assert metrics.within(size, low, high) == pytest.approx(expected)
