"""How grades are read out of replies: tokens' probabilities, JSON, the last score of a text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import jsonschema
import pytest

from genopt.scorers._judge_items import YES, Item, items_of, together
from genopt.scorers._judge_modes import (
    CHOICES,
    JSON,
    LOGPROBS,
    REGEX,
    SAMPLES,
    Unreadable,
    expected,
    instruction,
    parameters,
    pooled,
    read,
    reason_of,
    schema,
)
from genopt.types import BackendInfo, Domain, Finish, Generation, Judgment, TokenLogprob

FIVE = {"1": 0.0, "2": 0.25, "3": 0.5, "4": 0.75, "5": 1.0}


def reply(text: str, *tokens: Mapping[str, float], finish: Finish = "stop") -> Generation:
    """A reply whose tokens have these alternatives; the first of each is the one that was written."""
    told: Sequence[TokenLogprob] | None = [
        TokenLogprob(next(iter(top)), math.log(next(iter(top.values()))), {t: math.log(p) for t, p in top.items()})
        for top in tokens
    ] or None
    return Generation(text, finish, 1, 1, 0.0, told)


@pytest.mark.parametrize("mode", [CHOICES, LOGPROBS])
def test_spellings_of_a_label_are_one_and_the_rest_is_left_out(mode: str) -> None:
    top = {"4": 0.3, " 4": 0.2, "\u25815": 0.1, "\u01205": 0.1, "5\n": 0.1, "The": 0.1, "45": 0.05, "6": 0.05}
    found = read(mode, FIVE, reply("4", top))
    assert found == pytest.approx({"1": 0, "2": 0, "3": 0, "4": 0.625, "5": 0.375})
    assert expected(FIVE, found) == pytest.approx(0.625 * 0.75 + 0.375)


def test_the_first_token_that_is_a_label_counts() -> None:
    found = read(LOGPROBS, FIVE, reply("\n\n2 of 5", {"\n\n": 1.0}, {"2": 0.9, "3": 0.1}, {" of": 1.0}, {" 5": 1.0}))
    assert found["2"] == pytest.approx(0.9)


def test_too_little_on_the_labels_is_no_grade() -> None:
    with pytest.raises(Unreadable, match="only 45% of the probability lies on 1, 2, 3, 4, 5"):
        read(LOGPROBS, FIVE, reply("4", {"4": 0.4, "The": 0.55, "5": 0.05}))
    with pytest.raises(Unreadable, match='none of the labels is in the reply "I think"'):
        read(LOGPROBS, FIVE, reply("I think", {"I": 0.6, "5": 0.4}, {" think": 1.0}))
    with pytest.raises(Unreadable, match='no log probabilities came with the reply "4"'):
        read(LOGPROBS, FIVE, reply("4"))


def test_the_token_that_was_written_counts_also_where_it_is_none_of_the_top() -> None:
    told = TokenLogprob("3", math.log(0.6), {"5": math.log(0.4)})
    found = read(CHOICES, FIVE, Generation("3", "stop", 1, 1, 0.0, [told]))
    assert found["3"] == pytest.approx(0.6)


def test_words_are_read_from_their_first_pieces() -> None:
    assert read(CHOICES, YES, reply("yes", {"ye": 0.5, "Yes": 0.2, "y": 0.1, "n": 0.2}))["yes"] == pytest.approx(0.8)
    assert read(CHOICES, YES, reply("NO", {"NO": 1.0}))["no"] == 1.0


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ('{"reason": "so", "score": 4}', "4"),
        ('{"score": "2", "reason": ""}', "2"),
        ('The text says {"score": 5}. My grade:\n```json\n{"reason": "poor", "score": 1}\n```', "1"),
        ('{"reason": "it claims \\"score\\": 5", "score": 2}', "2"),
    ],
)
def test_json_gives_its_score(text: str, label: str) -> None:
    assert read(JSON, FIVE, reply(text))[label] == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"reason": "so", "score": 6}', "has no score of 1, 2, 3, 4, 5"),
        ('{"reason": "so", "score": 4.5}', "has no score"),
        ('{"reason": "so"}', "has no score"),
        ("[4]", "has no score"),
        ("four", "is no JSON"),
    ],
)
def test_json_without_a_grade_is_not_guessed_at(text: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        read(JSON, FIVE, reply(text))


def test_a_reply_that_was_cut_or_failed_says_so() -> None:
    with pytest.raises(Unreadable, match="the reply was cut off"):
        read(JSON, FIVE, reply('{"reason": "so and', finish="length"))
    with pytest.raises(Unreadable, match="the prompt has 9000 tokens"):
        read(JSON, FIVE, Generation("", "error", 1, 0, 0.0, why="the prompt has 9000 tokens"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("It is fine.\nSCORE: 4", "4"),
        ("The response says SCORE: 5, but it is wrong.\nSCORE: 1", "1"),
        ("**Score:** 3", "3"),
        ("score = 2/5", "2"),
        (" 4. ", "4"),
    ],
)
def test_the_last_score_of_a_text_counts(text: str, label: str) -> None:
    assert read(REGEX, FIVE, reply(text))[label] == 1.0


@pytest.mark.parametrize("text", ["", "4 or 5", "SCORE: 4.5", "SCORE: 7", "The score is good: it has 4 parts", "45"])
def test_a_text_without_a_clear_score_is_not_guessed_at(text: str) -> None:
    with pytest.raises(Unreadable, match="names no score"):
        read(REGEX, FIVE, reply(text))


def test_words_are_found_in_texts_too() -> None:
    assert read(SAMPLES, YES, reply("Because.\nSCORE: Yes"))["yes"] == 1.0


def test_reasons_are_kept_where_they_are_asked_for() -> None:
    assert reason_of(JSON, '{"reason": " so ", "score": 4}') == "so"
    assert reason_of(REGEX, "It is fine.\nSCORE: 4") == "It is fine."
    assert reason_of(CHOICES, "4") == reason_of(REGEX, "4") == ""


def test_replies_are_pooled_by_their_mean() -> None:
    one, two = read(REGEX, FIVE, reply("4")), read(REGEX, FIVE, reply("5"))
    assert pooled([one, one, two]) == pytest.approx({"1": 0, "2": 0, "3": 0, "4": 2 / 3, "5": 1 / 3})


def test_the_schema_takes_a_reason_and_a_label_and_nothing_else() -> None:
    jsonschema.Draft202012Validator.check_schema(schema(FIVE))
    valid = jsonschema.Draft202012Validator(schema(FIVE)).is_valid
    assert valid({"reason": "so", "score": 4}) and list(schema(FIVE)["properties"]) == ["reason", "score"]
    for wrong in (
        {"score": 4},
        {"reason": "so", "score": 6},
        {"reason": "so", "score": 4, "more": 1},
        {"reason": "x" * 121, "score": 4},
    ):
        assert not valid(wrong)
    assert jsonschema.Draft202012Validator(schema(YES)).is_valid({"reason": "", "score": "yes"})


@pytest.mark.parametrize("mode", [CHOICES, LOGPROBS, JSON, REGEX, SAMPLES])
def test_the_instruction_names_every_label(mode: str) -> None:
    assert all(label in instruction(mode, FIVE) for label in FIVE) and instruction(mode, YES) != instruction(mode, FIVE)


def test_parameters_are_neutral_greedy_and_as_long_as_the_mode_needs() -> None:
    domains = {
        "temperature": Domain("float", "t", 0.0, 2.0),
        "repetition_penalty": Domain("float", "r", 0.1, 2.0, neutral=(1.0,)),
        "max_tokens": Domain("int", "m", 1, 4096),
        "model": Domain("str", "which"),
    }
    defaults = {"temperature": 0.8, "repetition_penalty": 1.3, "max_tokens": 128, "model": "a"}
    info = BackendInfo({}, domains, defaults)
    plain = {"temperature": 0.0, "repetition_penalty": 1.0, "model": "a"}
    assert parameters(CHOICES, info, {}, again=True) == {**plain, "max_tokens": 1}
    assert parameters(LOGPROBS, info, {}, again=False) == {**plain, "max_tokens": 8}
    assert parameters(JSON, info, {}, again=True) == {**plain, "max_tokens": 360, "temperature": 0.3}
    assert parameters(SAMPLES, info, {"model": "b"}, again=False)["temperature"] == 0.7
    assert parameters(SAMPLES, info, {"model": "b"}, again=False)["model"] == "b"
    assert parameters(JSON, BackendInfo({}, {}, {}), {}, again=False) == {}


def judgment(value: float | None, why: str = "") -> Judgment:
    return Judgment(value, why, {}, "raw", JSON, 1, 10, 2, 0.5)


def test_a_checklist_earns_its_weights() -> None:
    items = [Item("a", {}, YES, 2.0), Item("b", {}, YES, 1.0), Item("c", {}, YES, -1.0)]
    full = together(items, [judgment(1.0), judgment(0.5), judgment(0.0)])
    assert full.value == pytest.approx(2.5 / 3) and full.why == "a 1.00; b 0.50; c 0.00"
    assert (full.calls, full.prompt_tokens, full.completion_tokens, full.seconds) == (3, 30, 6, 1.5)
    assert together(items, [judgment(0.0), judgment(0.0), judgment(1.0)]).value == 0.0
    broken = together(items, [judgment(1.0), judgment(None, "unreadable"), judgment(0.0)])
    assert (broken.value, broken.why) == (None, "unreadable")


def test_levels_are_spread_over_the_unit_interval() -> None:
    (item,) = items_of(" r ", [], {"5": "best", "1": "worst", "2": "bad"})
    assert item.criterion == "r" and item.scale == {"1": 0.0, "2": 0.25, "5": 1.0}
    assert list(items_of("r", [], None)[0].scale.items()) == list(FIVE.items())
