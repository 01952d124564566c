"""A study in words: verdicts, numbers, and nothing that could write to the terminal by itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from genopt.archive import Archive
from genopt.confirm import Verdict
from genopt.report import best_json, best_text, inspect_json, report_text, trials_text, verdict_text
from genopt.report.measured import params_text
from genopt.store import Spent
from genopt.study import TrialRecord
from genopt.words import brief, duration, safe, score
from tests.toy import DEFAULTS, PARAMETERS

BEFORE = {"temperature": 1.2, "top_p": 1.0, "style": "plain", "max_tokens": 64}
AFTER = {"temperature": 0.6, "top_p": 0.8, "style": "plain", "max_tokens": 64}


def verdict(**changes: Any) -> dict[str, Any]:
    """A verdict as it is stored; improved unless changed."""
    fields: dict[str, Any] = {
        "schema": 1,
        "verdict": "improved",
        "params": AFTER,
        "baseline_params": BEFORE,
        "difference": 0.125,
        "interval": (0.0625, 0.1875),
        "p_value": 0.0004,
        "winner_score": 0.75,
        "baseline_score": 0.625,
        "holdout_examples": 80,
        "trials": 40,
        "search_generations": 12345,
        "confirm_generations": 160,
        "tokens": 9876543,
        "wins": 30,
        "ties": 40,
        "losses": 10,
        "objective": "maximize right",
        "searched": ("temperature", "top_p"),
        "metrics": {"words": {"winner": 11.5, "baseline": 13.0}, "odd": {"winner": None, "baseline": 1.0}},
    }
    return Verdict(**(fields | changes)).to_json()


def trial(number: int, mean: float | None, **outcome: Any) -> TrialRecord:
    told = {"n": 14, "mean": mean, "se": 0.05, "stopped_early": False, "eligible": True} | outcome
    config = {"key": f"k{number}", "params": {"temperature": number / 10}, "worker": "w"}
    state = "failed" if mean is None else "complete"
    return TrialRecord(number, number + 100, state, {}, number, "w", config, told, None if mean is None else (mean,))


def archive(trials: list[TrialRecord], **changes: Any) -> Archive:
    fields: dict[str, Any] = {
        "url": "sqlite:///x.db",
        "name": "x",
        "description": {"seed": 1},
        "sampler": ["tpe", "the space has a switch"],
        "baseline": {"number": 0, "params": {"temperature": 1.2}},
        "verdict": None,
        "trials": trials,
        "spent": Spent(1000, 60, 12345),
        "workers": [],
    }
    return Archive(**(fields | changes))


def test_an_improvement_is_said_with_its_evidence_and_the_settings_that_changed() -> None:
    lines = verdict_text(verdict()).splitlines()
    text = "\n".join(lines)
    assert lines[0] == "Improved: the winner beats the baseline by +0.1250 on data the search never saw."
    assert "on 80 examples the search never saw, fresh seeds" in text and "look" not in text
    assert "difference  +0.1250   95 % interval [+0.0625, +0.1875]   p = 0.0004" in text
    assert "won 30, tied 40, lost 10" in text
    assert "words" in text and "13 -> 11.5" in text and "odd" not in text
    settings = lines[lines.index("Settings to use:") + 1 : -2]
    assert [line.split()[0] for line in settings] == ["temperature", "top_p"]
    assert "0.6   (was 1.2)" in settings[0] and "0.8   (was 1)" in settings[1]
    assert lines[-1] == ("Cost: 40 configurations, 12,345 generations to search and 160 to confirm, 9,876,543 tokens.")


@pytest.mark.parametrize(
    ("kind", "difference", "sentence"),
    [
        ("not shown", 0.01, "Not shown: no improvement could be shown"),
        ("worse", -0.2, "Worse: what looked best while searching loses to the baseline"),
    ],
)
def test_without_an_improvement_the_baseline_is_kept(kind: str, difference: float, sentence: str) -> None:
    lines = verdict_text(verdict(verdict=kind, difference=difference)).splitlines()
    assert lines[0].startswith(sentence)
    assert "Settings to use:" not in lines
    kept = lines[lines.index("Keep:") + 1 : -2]
    assert [line.split()[:2] for line in kept] == [["temperature", "1.2"], ["top_p", "1"]]
    assert "was" not in "".join(kept)
    assert any(f"{difference:+.4f}" in line for line in lines)


def test_a_second_look_at_the_holdout_and_its_level_are_said() -> None:
    text = verdict_text(verdict(look=2, level=0.025))
    assert "(look 2 at them)" in text and "97.5 % interval" in text


def test_nothing_to_confirm_is_said_without_numbers_that_do_not_exist() -> None:
    nothing = verdict(
        verdict="not shown",
        params=BEFORE,
        holdout_examples=0,
        winner_score=None,
        baseline_score=None,
        note="no configuration looked better than the baseline while searching",
        metrics=None,
    )
    text = verdict_text(nothing)
    assert text.startswith("Not shown: ") and "no configuration looked better" in text
    assert "interval" not in text and "None" not in text


def test_a_setting_of_many_lines_stays_on_its_line_and_is_shortened() -> None:
    long = "Be brief.\nUse no lists.\n" + "x" * 100
    lines = verdict_text(verdict(params={**AFTER, "style": long})).splitlines()
    (line,) = [line for line in lines if line.strip().startswith("style")]
    assert "Be brief.\\nUse no lists.\\n" in line and "..." in line and "(was plain)" in line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("red \x1b[31mtext\x1b[0m", "red \\u001b[31mtext\\u001b[0m"),
        ("a\rb\x08c\x07\x9b2J", "a\\u000db\\u0008c\\u0007\\u009b2J"),
        ("left \u202egnp.exe", "left \\u202egnp.exe"),
        ("zero\u200bwidth \u2066isolate", "zero\\u200bwidth \\u2066isolate"),
        ("half \ud83d", "half \\ud83d"),
        ("Grüße, 你好 🙂\n\tkept", "Grüße, 你好 🙂\n\tkept"),
    ],
)
def test_control_characters_become_visible_and_the_rest_stays(text: str, shown: str) -> None:
    assert safe(text) == shown
    assert safe(shown) == shown


def test_parameters_in_brief() -> None:
    params = {"temperature": 0.123456, "top_k": 40, "stop": ("\n", "."), "style": "a\x1bb", "on": True, "none": None}
    assert brief(params) == "temperature=0.1235 top_k=40 stop=['\\n', '.'] style=a\\u001bb on=True none=None"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (45, "45 s"), (89.6, "90 s"), (180, "3 min"), (5340, "89 min"), (7800, "2 h 10 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_score_that_the_data_cannot_tell_is_a_question_mark() -> None:
    assert score(0.5, 0.1).split() == ["0.5000", "±0.1960"]
    assert score(math.nan, math.nan).split() == score(None, None).split() == ["?", "±?"]
    assert score(0.5, math.inf).split() == ["0.5000", "±?"]


def test_trials_are_listed_best_first_with_what_became_of_them() -> None:
    found = archive(
        [
            trial(0, 0.5, baseline=True),
            trial(1, 0.9),
            trial(2, 0.3, stopped_early=True, n=5),
            trial(3, None, why="boom"),
            trial(4, 0.9, duplicate_of=1),
        ]
    )
    lines = trials_text(found).splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["1", "complete"],
        ["4", "known"],
        ["0*", "complete"],
        ["2", "stopped"],
        ["3", "failed"],
    ]
    assert lines[-1] == "* baseline"


def test_before_a_verdict_the_leader_is_the_best_that_finished_and_meets_the_constraints() -> None:
    found = archive(
        [
            trial(0, 0.5, baseline=True),
            trial(1, 0.8),
            trial(2, 0.95, eligible=False),
            trial(3, 0.9, stopped_early=True),
            trial(4, None),
        ]
    )
    best = best_json(found)
    assert best["verdict"] is None and best["params"] == {"temperature": 0.1}
    assert best["baseline_params"] == {"temperature": 0.0}
    assert (best["search_generations"], best["confirm_generations"], best["tokens"]) == (1000, 60, 12345)
    assert best_text(found).startswith("No verdict yet: the leading trial is mostly luck")
    assert set(verdict()) >= set(best)


def test_best_json_of_a_study_without_a_single_trial_is_empty_not_an_error() -> None:
    nothing = archive([], baseline={})
    assert best_json(nothing)["params"] == {}
    assert best_text(nothing) == "No verdict yet, and no trial that was measured to its end."


def test_best_json_is_the_stored_verdict_without_bookkeeping() -> None:
    stored = verdict() | {"budget": {"trials": 40}}
    assert best_json(archive([], verdict=stored)) == verdict()


def test_the_report_counts_what_was_stopped_and_what_failed() -> None:
    found = archive([trial(0, 0.5), trial(1, 0.3, stopped_early=True), trial(2, None)], verdict=verdict())
    text = report_text(found)
    assert text.startswith("Study x\n\nImproved: ")
    assert (
        "Search: tpe (the space has a switch); 3 trials, 1 stopped early, 1 failed or interrupted; "
        "1,060 generations, 12,345 tokens so far."
    ) in text


def test_the_report_of_several_objectives_shows_the_front_and_says_what_is_claimed() -> None:
    values = [(0.5, 20.0), (0.6, 30.0), (0.4, 25.0), (0.3, 5.0), (0.9, 1.0)]
    trials = [replace(trial(number, each[0]), values=each) for number, each in enumerate(values)]
    trials[4] = replace(trials[4], outcome={**trials[4].outcome, "eligible": False})
    goal = "maximize right, minimize words"
    text = report_text(archive(trials, description={"objectives": goal}, verdict=verdict(objective=goal)))
    assert "  maximize right   (searched together with: minimize words)\n" in text
    front = text[text.index("Front: ") : text.index("trial  state")].splitlines()
    assert front[2].split() == ["trial", "right", "words", "parameters"]
    assert [line.split()[0] for line in front[3:] if line] == ["1", "0", "3"]
    assert "Front" not in report_text(archive([trial(0, 0.5), trial(1, 0.3)], verdict=verdict()))


def test_inspect_is_plain_json_and_names_the_verdict() -> None:
    import json

    found = json.loads(json.dumps(inspect_json(archive([trial(0, 0.5)], verdict=verdict()))))
    assert found["verdict"] == "improved" and found["trials"] == 1 and found["study"] == {"seed": 1}
    assert inspect_json(archive([]))["verdict"] is None


def test_the_table_of_parameters_is_aligned() -> None:
    lines = params_text(PARAMETERS, DEFAULTS).splitlines()
    column = lines[0].index("legal")
    assert [line[column:].split("  ")[0].strip() for line in lines[1:]] == [d.bounds() for d in PARAMETERS.values()]
    assert lines[1].split()[-1] == "randomness" and "0.1 .. 1.5" in lines[1] and "1.2" in lines[1]
