"""Asking a person: keys from a pipe; the pseudo-terminal is in the tests of the commands that ask."""

from __future__ import annotations

import io

import pytest

from genopt.cli import _ask


def piped(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_key_is_asked_for_until_it_is_one_of_those_offered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    piped(monkeypatch, "9\n\n S \n")
    assert _ask.key("grade", {"1": "bad", "s": "skip"}) == "s"
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("grade  [1 bad  s skip]") == 3
    assert "'9' is none of these: 1, s" in streams.err


def test_the_end_of_the_input_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, "")
    assert _ask.key("grade", {"1": ""}) is None
    assert _ask.line("why?") is None


def test_a_line_is_read_without_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, "it is short \r\nnext")
    assert _ask.line("why?") == "it is short "
    assert _ask.line("why?") == "next"


def test_nothing_that_is_shown_reaches_the_terminal_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    _ask.show("row \x1b[2J", "first\nsecond \x1b]0;title\x07 \u202egnp")
    shown = capsys.readouterr().err
    assert "\x1b[2J" not in shown and "\x1b]" not in shown and "\x07" not in shown and "\u202e" not in shown
    assert "  first\n  second \\u001b]0;title" in shown
