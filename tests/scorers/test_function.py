import functools
import math

import pytest

from genopt.errors import ScorerError, SpecError
from genopt.scorers.function import Function
from genopt.types import Score
from tests.scorers.helpers import example, obeys, scores


def share_of_vowels(example, text):
    return sum(char in "aeiou" for char in text) / max(len(text), 1)


async def asynchronous(example, text):
    return text in example.references, f"looked for {text}"


class Callable:
    def __call__(self, example, text):
        return Score(0.25, "a quarter")


def together(example, texts):
    longest = max((len(text) for text in texts), default=1) or 1
    return [len(text) / longest for text in texts]


@pytest.mark.parametrize("function", [share_of_vowels, asynchronous, Callable(), together, lambda e, t, extra=1: 0.5])
def test_they_obey(function):
    obeys(Function(name="f", function=function), example("plain words"))


def test_every_kind_of_function_and_result():
    given = example("yes")
    assert scores(Function(name="f", function=share_of_vowels), given, "aexx", "") == [Score(0.5), Score(0.0)]
    assert scores(Function(name="f", function=asynchronous), given, "yes", "no") == [
        Score(1.0, "looked for yes"),
        Score(0.0, "looked for no"),
    ]
    assert scores(Function(name="f", function=Callable()), given, "x") == [Score(0.25, "a quarter")]
    assert scores(Function(name="f", function=together), given, "ab", "abcd") == [Score(0.5), Score(1.0)]
    assert scores(Function(name="f", function=functools.partial(share_of_vowels)), given, "ae") == [Score(1.0)]


def test_what_cannot_be_scored_is_none_with_a_reason():
    def odd(example, text):
        return {"nan": math.nan, "inf": (math.inf, "too big"), "none": None}[text]

    assert scores(Function(name="f", function=odd), example(), "nan", "inf", "none") == [
        Score(None, "the function gave nan"),
        Score(None, "too big"),
        Score(None, "the function gave None"),
    ]


def test_rounding_is_clipped_and_more_is_refused():
    assert scores(Function(name="f", function=lambda e, t: 1 + 1e-12), example(), "x") == [Score(1.0)]
    with pytest.raises(ScorerError, match=r"scorer 'f' gave 7 for example '1', which is outside \[0, 1\]") as caught:
        scores(Function(name="f", function=lambda e, t: 7), example(), "x")
    assert "divide" in caught.value.hint


@pytest.mark.parametrize("result", ["0.5", [0.5], {"score": 1}, (1, 2, 3)])
def test_other_results_are_errors(result):
    with pytest.raises(ScorerError, match=r"scorer 'f' gave .* for example '1'"):
        scores(Function(name="f", function=lambda e, t: result), example(), "x")


def test_a_function_that_raises_names_scorer_example_and_error():
    def broken(example, text):
        return 1 / 0

    with pytest.raises(ScorerError, match="scorer 'f' failed on example '1': ZeroDivisionError") as caught:
        scores(Function(name="f", function=broken), example(), "x")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    line = broken.__code__.co_firstlineno + 1
    assert caught.value.hint.endswith(f"broken (test_function.py, line {line})")


def test_batches_must_have_one_result_per_text():
    with pytest.raises(ScorerError, match="for 2 texts of example '1'"):
        scores(Function(name="f", function=lambda e, texts: [1.0]), example(), "x", "y")


def test_functions_that_cannot_be_called():
    with pytest.raises(SpecError, match=r"scorers\.f: function: 3 cannot be called"):
        Function(name="f", function=3)
    with pytest.raises(SpecError, match=r"has to take \(example, text\)"):
        Function(name="f", function=lambda text: 1.0)
    with pytest.raises(SpecError, match=r"has to take \(example, text\)"):
        Function(name="f", function=lambda example, text, third: 1.0)


def test_a_function_that_ends_the_program_is_an_error_and_does_not():
    def leaves(example, text):
        raise SystemExit(3)

    with pytest.raises(ScorerError, match="SystemExit: 3"):
        scores(Function(name="mine", function=leaves), example(), "text")
