"""Owns the keys of the judge's table. What a judge does lives in genopt/scorers/judge.py."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from genopt.spec._base import Table, TextFile
from genopt.spec.backend import Engines


class JudgeBackend(Engines):
    """The engine that judges, where it is not the study's own."""

    kind: str
    """As backend.kind."""
    model: str
    """As backend.model."""


class Question(Table):
    """One item of a checklist: a question about the answer that yes or no answers."""

    question: Annotated[str, Field(min_length=1)]
    """The question; yes earns the weight."""
    weight: float = 1.0
    """What yes is worth; a negative weight is what yes costs."""


class JudgeTemplates(Table):
    """Jinja2 templates that stand in for the judge's own."""

    system: str | TextFile | None = None
    """The system prompt; "" sends none."""
    user: str | TextFile | None = None
    """The user prompt; it has to use {{ output }} and {{ answer }}."""


class Judge(Table):
    """A language model grades every text by one criterion, or answers a checklist of yes/no questions about it."""

    INERT: ClassVar[dict[str, Any]] = {
        "retries": True,
        "check": True,
        "strict": True,
        "backend": {"concurrency", "engine", "replicas"},
    }
    """Keys that change no score."""

    kind: Literal["judge"]
    rubric: str | None = None
    """The criterion, e.g. "Would this answer resolve the ticket?"."""
    checklist: list[Question] = []
    """Yes/no questions instead of a rubric; the score is the weight answered yes, over all positive weights."""
    levels: dict[str, str] | None = None
    """What each grade means; the names are single digits (default 1 to 5)."""
    reference: bool = True
    """Show the row's references to the judge where there are any."""
    show: list[str] | None = None
    """Fields of the row shown as the input (default: all but those that hold the references)."""
    backend: JudgeBackend | None = None
    """The engine that judges (default: the study's own)."""
    mode: Literal["auto", "logprobs", "json", "regex", "samples"] = "auto"
    """How the grade is read; auto = the first of these that works, which is recorded and never changes in a study."""
    samples: Annotated[int, Field(ge=1, le=64)] = 5
    """Replies that are averaged in the last mode."""
    templates: JudgeTemplates = JudgeTemplates()
    """Prompts of your own."""
    params: dict[str, Any] = {}
    """The judge's own generation parameters (default: temperature 0, everything else neutral)."""
    check: bool = True
    """Examine the judge before a study spends anything on it (some 200 requests, once); its faults are warnings."""
    strict: bool = False
    """Refuse to optimize with a judge that fails its check, instead of warning."""
    retries: Annotated[int, Field(ge=0, le=8)] = 2
    """How often a reply that cannot be read is asked for again before the score is missing."""

    @model_validator(mode="after")
    def _one_task(self) -> Judge:
        if (self.rubric is None or not self.rubric.strip()) == (not self.checklist):
            raise ValueError("needs a rubric or a checklist. Give exactly one of them")
        if self.checklist and self.levels is not None:
            raise ValueError("levels belong to a rubric; a checklist is answered yes or no. Drop them")
        if self.checklist and not any(item.weight > 0 for item in self.checklist):
            raise ValueError("checklist: no weight is positive, so nothing can be earned. Give one a weight above 0")
        names = [] if self.levels is None else list(self.levels)
        if self.levels is not None and (
            len(names) < 2 or not all(n.isascii() and n.isdigit() and len(n) == 1 for n in names)
        ):
            raise ValueError('levels: at least two single digits name the grades, e.g. { 1 = "wrong", 2 = "right" }')
        return self
