"""Owns the arithmetic on texts: tokens, normal forms, similarities in [0, 1]. Knows no examples, scorers or files.

Every similarity here, of two texts or of what they are made of, is 1.0 for two equal texts, 0.0 when exactly one of
them is blank, and never outside [0, 1].
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import regex
from rapidfuzz.distance import LCSseq
from rapidfuzz.distance import Levenshtein as EditDistance
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

Tokens = tuple[str, ...]
BleuTokenizer = Literal["13a", "intl", "zh", "char", "none"]

# Scripts written without spaces between words: each letter (with its marks) is a token of its own.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_ASCII_WORD = re.compile(r"\w+", re.ASCII)  # regex would let the GIL go, which beside an engine's thread costs more
_WORD = regex.compile(rf"(?V1)[{UNSPACED}]\p{{M}}*|[\w--[{UNSPACED}]]+")
_ANSWER_TOKEN = regex.compile(rf"(?V1)[{UNSPACED}]\p{{M}}*|[^\s{UNSPACED}]+")
_NOT_SPACE = regex.compile(r"\S")
# What SQuAD drops and every other punctuation mark, but for a sign, and for marks inside a number other than the comma
# of thousands.
_PUNCTUATION = regex.compile(
    r"(?<=\d),(?=\d{3}(?!\d))|(?!(?<=\d)[\p{P}$+<=>^`|~]\d)(?!(?<![\w.])-\.?\d)[\p{P}$+<=>^`|~]"
)
_ARTICLE = regex.compile(r"\b(?:a|an|the)\b")
_TYPOGRAPHIC = str.maketrans(
    {
        "\N{LEFT SINGLE QUOTATION MARK}": "'",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'",
        "\N{LEFT DOUBLE QUOTATION MARK}": '"',
        "\N{RIGHT DOUBLE QUOTATION MARK}": '"',
        "\N{MINUS SIGN}": "-",
        "\N{NO-BREAK SPACE}": " ",
        "\N{NARROW NO-BREAK SPACE}": " ",
    }
)


def words(text: str) -> Tokens:
    """Lower-case words of any language: runs of letters, digits and `_`; single letters where a script has no spaces.

    A text without a word (":-)", an emoji) gives its visible characters, so only a blank text has no tokens.
    """
    lowered = text.lower()
    found = _ASCII_WORD.findall(lowered) if lowered.isascii() else _WORD.findall(unicodedata.normalize("NFC", lowered))
    return tuple(found or _NOT_SPACE.findall(lowered))


def ngrams(tokens: Sequence[str], n: int) -> list[Tokens]:
    """All runs of `n` tokens in order; fewer tokens than `n` give the one shorter run, no tokens give nothing."""
    if len(tokens) <= n:
        return [tuple(tokens)] if tokens else []
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


def fold(text: str) -> str:
    """The text in one Unicode form (NFC), with plain quotes, minus signs and spaces."""
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_TYPOGRAPHIC))


def normalize(text: str) -> str:
    """The text as short answers are compared (SQuAD): lower case, no punctuation, no a/an/the, single spaces.

    Unlike SQuAD's, it keeps signs and the marks inside a number other than the comma of thousands (-3 is not 3, 3.5 and
    3-5 are not 35), and what would vanish altogether ("A" as a choice, "The", "?") is kept as far as it goes.
    """
    lowered = fold(text.casefold())
    plain = _PUNCTUATION.sub("", lowered)
    for form in (_ARTICLE.sub(" ", plain), plain, lowered):
        squeezed = " ".join(form.split())
        if squeezed:
            return squeezed
    return ""


def answer_tokens(text: str) -> Counter[str]:
    """The words of the normal form with their counts, which is what token F1 compares."""
    normal = normalize(text)
    return Counter(normal.split() if normal.isascii() else _ANSWER_TOKEN.findall(normal))


def f1(overlap: float, left: float, right: float) -> float:
    """The harmonic mean of overlap/left and overlap/right: 1.0 when both sizes are 0, 0.0 when one is."""
    if not left and not right:
        return 1.0
    return 2 * overlap / (left + right)


def count_f1(left: Counter[Any], right: Counter[Any]) -> float:
    """F1 of two multisets: of answer tokens it is SQuAD's F1, of n-grams ROUGE-N."""
    if len(left) > len(right):
        left, right = right, left
    overlap = sum(min(count, right[item]) for item, count in left.items() if item in right)
    return f1(overlap, left.total(), right.total())


def lcs_f1(left: Sequence[str], right: Sequence[str]) -> float:
    """F1 of the longest common subsequence of two token sequences (of words ROUGE-L, beta 1, one sentence)."""
    return f1(LCSseq.similarity(left, right), len(left), len(right))


def ngram_counts(text: str, n: int) -> Counter[Tokens]:
    """The word n-grams of a text with their counts; a text of fewer than `n` words is one shorter n-gram."""
    return Counter(ngrams(words(text), n))


def levenshtein(text: str, reference: str) -> float:
    """1 - edits / length of the longer text, over characters and without the blanks around the texts."""
    return float(EditDistance.normalized_similarity(text.strip(), reference.strip()))


def _percent(score: float) -> float:
    return min(max(score / 100, 0.0), 1.0)


def chrf(text: str, reference: str, *, word_order: Literal[0, 2] = 0) -> float:
    """sacreBLEU's sentence chrF (word_order 2: chrF++) divided by 100."""
    if not text.strip() or not reference.strip():
        return float(text.strip() == reference.strip())
    return _percent(CHRF(word_order=word_order).sentence_score(text, [reference]).score)


def bleu(text: str, references: Sequence[str], *, tokenize: BleuTokenizer = "13a") -> float:
    """sacreBLEU's sentence BLEU (exponential smoothing, effective order) against all references, divided by 100."""
    if not text.strip():
        return float(any(not reference.strip() for reference in references))
    usable = [reference for reference in references if reference.strip()]
    if not usable:
        return 0.0
    return _percent(BLEU(effective_order=True, tokenize=tokenize).sentence_score(text, usable).score)


def jaccard(left: frozenset[Any], right: frozenset[Any]) -> float:
    """Shared members over all members; two empty sets are equal, so 1.0."""
    union = len(left | right)
    return len(left & right) / union if union else 1.0


def mean_similarities(items: Sequence[Any], similarity: Callable[[Any, Any], float]) -> list[float]:
    """For each item the mean of its (symmetric) similarity to every other one; needs two items or more."""
    totals = [0.0] * len(items)
    for i, left in enumerate(items):
        for j in range(i):
            value = similarity(left, items[j])
            totals[i] += value
            totals[j] += value
    return [total / (len(items) - 1) for total in totals]


def within(size: float, low: float | None, high: float | None) -> float:
    """1.0 inside [low, high]; outside it falls linearly with the relative distance to the bound: size/low below,
    2 - size/high above, never under 0."""
    if low is not None and size < low:
        return max(size / low, 0.0)
    if high is not None and size > high:
        return max(1 - (size - high) / high, 0.0) if high > 0 else 0.0
    return 1.0
