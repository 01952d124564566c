"""Owns `genopt grade`: a person grades the texts that a study waits for, without knowing what wrote them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from genopt.judging.grading import Grading, Question

LOOK_EVERY = 1.0  # seconds, while waiting for more texts


@click.command()
@click.argument("study", metavar="STUDY")
def grade(study: str) -> None:
    """Grade the texts that a study with a scorer of kind "human" waits for.

    Texts come in an order that says nothing, and what configuration wrote one is not shown. One key gives the grade;
    u takes the last one back, s leaves a text for later, q ends. A running `genopt optimize` goes on as grades come.

    \b
    genopt grade study.toml
    genopt grade sqlite:///support.db#support-answers
    """
    from genopt.judging.grading import Grading

    grading = Grading(study)
    try:
        _Sitting(grading).run()
    finally:
        grading.close()


class _Sitting:
    """One person's turn. The last grade is held back until the next key, so that it can be taken back before the study
    has used it."""

    def __init__(self, grading: Grading) -> None:
        self._grading = grading
        self._last: tuple[Question, str] | None = None
        self._skipped: set[str] = set()

    def run(self) -> None:
        try:
            question = self._next()
            if question is None:
                click.echo("no text waits for a grade", err=True)
            while question is not None or self._last is not None or self._skipped:
                pressed = self._ask(question)
                if pressed in (None, "q"):
                    break
                question = self._after(str(pressed), question)
        finally:
            self._keep()

    def _ask(self, question: Question | None) -> str | None:
        from genopt.cli import _ask

        if question is None:
            return _ask.key("nothing else waits", {"u": "undo", "w": "wait for more", "q": "quit"})
        click.echo(f"{self._grading.done()} graded, {len(self._grading.waiting())} wait", err=True)
        for name, text in question.asked.items():
            _ask.show(name, text)
        for reference in question.references:
            _ask.show("a good answer", reference)
        _ask.show("the text", question.text)
        return _ask.key(question.question, {**question.levels, "u": "undo", "s": "skip", "q": "quit"})

    def _after(self, pressed: str, question: Question | None) -> Question | None:
        """What is asked next; None when nothing is left."""
        if pressed == "u":
            if self._last is None:
                click.echo("there is nothing to take back", err=True)
                return question
            (taken, _), self._last = self._last, None
            return taken
        if question is None:  # w
            self._keep()
            self._skipped.clear()
            while (more := self._next()) is None:
                time.sleep(LOOK_EVERY)
            return more
        self._keep()
        if pressed == "s":
            self._skipped.add(question.key)
        else:
            self._last = question, pressed
        return self._next()

    def _next(self) -> Question | None:
        held = self._last[0].key if self._last is not None else None
        return next((q for q in self._grading.waiting() if q.key not in self._skipped and q.key != held), None)

    def _keep(self) -> None:
        """Give the grade that was held back to the study."""
        if self._last is not None:
            self._grading.grade(*self._last)
            self._last = None
