"""Owns turns: a template written for a row, few-shot examples as turns, the conversation that a row brings. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from genopt._templates import Compiled
from genopt.errors import SpecError
from genopt.types import Example, Message


def written(role: str, part: Compiled, example: Example, context: Mapping[str, Any]) -> str:
    """The template of that role for one example. Raises SpecError, naming both, when it fails."""
    try:
        return part(context)
    except Exception as error:  # a template can fail in any way that Python can
        raise SpecError(
            f'example "{example.id}": the {role} template fails: {_reason(error)}',
            hint=f"Correct the template or the row. {fields_of(example.fields)}.",
        ) from error


def pairs(part: Compiled, shots: Sequence[Example], values: Mapping[str, Any]) -> list[Message]:
    """Few-shot examples as questions and answers."""
    found: list[Message] = []
    for shot in shots:
        found.append(Message("user", written("user", part, shot, {**shot.fields, **values}), shot.images))
        found.append(Message("assistant", answer(shot)))
    return found


def from_row(front: list[Message], example: Example, shots: Sequence[Example]) -> tuple[Message, ...]:
    """The row's own conversation after the shots' own, all of it under the system template if there is one."""
    turns = _turns(example)
    asked = [turn.content for turn in turns if turn.role == "user"]
    if not asked or not asked[-1].strip():
        raise SpecError(f'example "{example.id}": the user prompt in its messages is empty. Fill in the row')
    if not front:
        front = [turn for turn in turns if turn.role == "system"]
    for shot in shots:
        front += [turn for turn in _turns(shot) if turn.role != "system"]
        front.append(Message("assistant", answer(shot)))
    return without_blank_system([*front, *(turn for turn in turns if turn.role != "system")])


def without_blank_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """A blank system text means none: a chat template would otherwise write an empty system turn."""
    return tuple(message for message in messages if message.role != "system" or message.content.strip())


def _turns(example: Example) -> list[Message]:
    turns: Any = example.fields.get("messages")
    if not isinstance(turns, (list, tuple)) or not turns:
        raise SpecError(f'example "{example.id}": no messages and no user template. Set prompt.user')
    try:
        last = max((n for n, turn in enumerate(turns) if turn["role"] == "user"), default=None)
        return [
            Message(str(turn["role"]), str(turn["content"]), example.images if n == last else ())
            for n, turn in enumerate(turns)
        ]
    except (KeyError, TypeError) as error:
        raise SpecError(f'example "{example.id}": messages is not a list of {{role, content}}. Correct it') from error


def answer(shot: Example) -> str:
    """What a few-shot example answers. Raises SpecError when it has no reference."""
    if not shot.references:
        raise SpecError(f'example "{shot.id}" has no reference, so it cannot be a few-shot example')
    return shot.references[0]


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.rstrip(".")


def fields_of(names: Iterable[str]) -> str:
    """A sentence that lists the fields of the rows."""
    listed = ", ".join(names)
    return f"The rows have {listed}" if listed else "The rows have no fields"
