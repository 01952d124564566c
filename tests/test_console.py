"""Progress: live on a terminal, plain lines elsewhere, silence when asked for, and never on stdout."""

from __future__ import annotations

import io
from typing import Any

import pytest

from genopt.console import Console
from genopt.events import Decided, Event, Note, Progress, StageStarted, TrialDone


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def trial(**changes: Any) -> TrialDone:
    fields: dict[str, Any] = {
        "number": 3,
        "params": {"temperature": 0.61234},
        "mean": 0.75,
        "se": 0.05,
        "n": 14,
        "of": 14,
        "outcome": "complete",
        "best": False,
    }
    return TrialDone(**(fields | changes))


def progress(**changes: Any) -> Progress:
    fields: dict[str, Any] = {
        "stage": "search",
        "trials": 7,
        "trial_budget": 40,
        "best": (0.8, 0.7, 0.9),
        "generations": 12345,
        "tokens": 678901,
        "generations_per_second": 250.0,
        "tokens_per_second": 3000.0,
        "fraction": 0.25,
        "seconds_left": 600.0,
    }
    return Progress(**(fields | changes))


EVENTS: list[Event] = [
    StageStarted("opening"),
    StageStarted("baseline", "what you run today", 14),
    Note("a note"),
    Note("careful", "warning"),
    trial(number=None, baseline=True),
    trial(),
    trial(number=4, best=True),
    trial(number=5, outcome="stopped early", n=5),
    trial(number=6, outcome="duplicate"),
    trial(number=7, outcome="failed", why="boom"),
    progress(),
    Decided({}),
]


def shown(stream: io.StringIO, *events: Event, quiet: bool = False) -> list[str]:
    with Console(stream, quiet=quiet) as console:
        for event in events:
            console(event)
    return stream.getvalue().splitlines()


def test_without_a_terminal_each_event_is_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(io.StringIO(), *EVENTS)
    assert lines[0] == "Baseline: what you run today (at most 14 generations)"
    assert lines[1:3] == ["a note", "warning: careful"]
    assert lines[3].startswith("baseline") and "0.7500 ±0.0980" in lines[3] and "temperature=0.6123" in lines[3]
    assert lines[4].startswith("trial   3") and lines[4].endswith("temperature=0.6123")
    assert lines[5].endswith("best")
    assert lines[6].endswith("stopped at 5/14")
    assert lines[7].endswith("known already")
    assert lines[8].startswith("trial   7  failed") and lines[8].endswith("temperature=0.6123")
    assert "\x1b" not in "".join(lines)
    assert capsys.readouterr() == ("", "")


def test_a_progress_line_is_complete_where_nothing_wraps_it() -> None:
    (line,) = shown(io.StringIO(), progress())
    assert line == (
        "Search  25% | trials 7/40 | best 0.8000 [0.7000, 0.9000] | 12,345 generations (250/s)"
        " | 678,901 tokens (3,000/s) | 10 min left"
    )


def test_progress_without_a_terminal_comes_at_a_calm_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("genopt.console.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    console = Console(stream)
    for _ in range(100):  # one every second
        now[0] += 1
        console(progress())
    assert 5 <= len(stream.getvalue().splitlines()) <= 8


def test_progress_that_knows_little_says_only_that() -> None:
    (line,) = shown(io.StringIO(), progress(best=None, seconds_left=None, trial_budget=None))
    assert "best" not in line and "left" not in line and "trials 7 |" in line


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_quiet_is_silent(stream: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(stream, *EVENTS, quiet=True) == []
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_one_live_line_and_the_events_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    with Console(stream) as console:
        for event in EVENTS:
            console(event)
        for _ in range(50):
            console(progress())
    text = stream.getvalue()
    assert "\x1b[" in text and "a note" in text and "stopped at 5/14" in text
    assert text.count("a note") == 1


def test_a_failed_study_leaves_the_terminal_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = Terminal()
    with pytest.raises(ZeroDivisionError), Console(stream) as console:
        console(progress())
        raise ZeroDivisionError
    assert stream.getvalue().rfind("\x1b[?25h") > stream.getvalue().rfind("\x1b[?25l")  # the cursor is back


def test_text_from_data_or_models_cannot_write_to_the_terminal_by_itself() -> None:
    text = "\n".join(
        shown(
            io.StringIO(),
            Note("the model said \x1b[2J\x9b1A [red]gone[/red]", "warning"),
            trial(params={"style": "\x1b]0;title\x07"}, why="bad \x1b[31m"),
        )
    )
    assert "\x1b" not in text and "\x9b" not in text and "\x07" not in text
    assert "\\u001b[2J" in text and "[red]gone[/red]" in text


def test_unknown_numbers_are_question_marks() -> None:
    (line,) = shown(io.StringIO(), trial(mean=float("nan"), se=float("nan")))
    assert "nan" not in line and "?" in line


def test_of_many_proposals_in_a_row_that_were_known_the_first_are_shown() -> None:
    stream = io.StringIO()
    console = Console(stream)
    for number in range(40):
        console(trial(number=number, outcome="duplicate"))
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["0", "1", "2"]
    console(trial(number=40))
    console(trial(number=41, outcome="duplicate"))
    assert [line.split()[1] for line in stream.getvalue().splitlines()[3:]] == ["40", "41"]
