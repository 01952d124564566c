"""Owns the way from a row and the prompt variables to the messages of a request. Pure: reads no file, knows no engine.

Only what the study file calls a template is one: the system and user prompts, the messages of a conversation, and the
texts of the space variables named `system` and `user`. Data and all other variables are values: whatever braces they
hold, they are written into the prompt as they are.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from genopt._templates import Compiled, Templates, misnamed
from genopt._turns import answer, fields_of, from_row, pairs, without_blank_system, written
from genopt.errors import SpecError
from genopt.types import Example, Message

ROLES = ("system", "user", "assistant")
REPLACED = ("system", "user")
"""Space variables of these names are templates themselves and stand in for the template of that role."""
_NOBODY = Example("", {"messages": [{"role": "user", "content": "-"}]})


@dataclass(frozen=True)
class _Plan:
    """The compiled templates of one choice of system and user."""

    parts: tuple[tuple[str, Compiled], ...]
    writes_shots: bool

    @property
    def user(self) -> int | None:
        """Where the last user template is."""
        return max((index for index, (role, _) in enumerate(self.parts) if role == "user"), default=None)


@dataclass(frozen=True, slots=True)
class Front:
    """The messages before the last user message (no turns at all where one differs from row to row), that message's
    template ("" where rows bring their own messages), and what had to be left out."""

    messages: tuple[Message, ...]
    user: str
    loose: tuple[str, ...]


@dataclass(frozen=True)
class Prompt:
    """The templates of a study. Make one with `from_parts`; one instance compiles each template once.

    `templates` are (role, source) in order; without a user template the rows' own `messages` are the conversation.
    """

    templates: tuple[tuple[str, str], ...]
    variables: frozenset[str] = frozenset()
    variants: tuple[tuple[str, tuple[str, ...]], ...] = ()
    _templates: Templates = field(init=False, repr=False, compare=False)
    _plans: dict[tuple[Any, Any], _Plan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_templates", Templates(self.variables))

    @classmethod
    def from_parts(
        cls,
        system: str | None = None,
        user: str | None = None,
        messages: Sequence[Mapping[str, str]] | None = None,
        variables: Collection[str] = frozenset(),
        variants: Mapping[str, Sequence[str]] | None = None,
    ) -> Prompt:
        """A prompt from a system and a user template, or from a whole conversation of {role, content}.

        `variables` are the prompt variables that the space defines; `variants` the texts it may put in the place of
        `system` and `user`, so that `names` and `problems` look into them too. Raises SpecError for a message that is
        not {role, content}; broken templates are left for `problems`.
        """
        templates: list[tuple[str, str]] = [] if system is None else [("system", system)]
        for number, message in enumerate(messages or (), start=1):
            role, content = message.get("role"), message.get("content")
            if role not in ROLES or not isinstance(content, str) or len(message) != 2:
                what = f"prompt.messages: message {number} is not {{role, content}} with role {', '.join(ROLES)}"
                raise SpecError(f"{what}. Correct it")
            templates.append((role, content))
        if user is not None:
            templates.append(("user", user))
        given = tuple((role, tuple(texts)) for role, texts in (variants or {}).items() if role in REPLACED)
        return cls(tuple(templates), frozenset(variables), given)

    def sources(self) -> tuple[tuple[str, str], ...]:
        """All template texts with a name for each, the variants of the space included."""
        count = {role: sum(known == role for known, _ in self.templates) for role in ROLES}
        seen = dict.fromkeys(ROLES, 0)
        found: list[tuple[str, str]] = []
        for role, text in self.templates:
            seen[role] += 1
            number = f" {seen[role]}" if count[role] > 1 else ""
            found.append((f"the {role} template{number}", text))
        for role, texts in self.variants:
            found += [(f"choice {number} of space.{role}", text) for number, text in enumerate(texts, start=1)]
        return tuple(found)

    def names(self) -> frozenset[str]:
        """The names that the templates use and do not define themselves; a broken template gives none."""
        return frozenset().union(*(self._templates.parse(text).names for _, text in self.sources()))

    def render(
        self, example: Example, variables: Mapping[str, Any], shots: Sequence[Example] = ()
    ) -> tuple[Message, ...]:
        """The messages for one example, the last user message never blank and with the example's images; a blank system
        message is left out.

        Shots are put before the last user message as pairs of user and assistant, unless a template writes `shots`
        itself. Raises SpecError, naming template and example, when a template fails or the user prompt is blank.
        """
        plan = self._plan(variables)
        values = self._values(variables)
        context = {**example.fields, **values}
        if plan.writes_shots:
            context["shots"] = [{**shot.fields, "answer": answer(shot)} for shot in shots]
            shots = ()
        rendered = [Message(role, written(role, part, example, context)) for role, part in plan.parts]
        if plan.user is None:
            return from_row(rendered, example, shots)
        for message in rendered:
            if message.role == "user" and not message.content.strip():
                raise SpecError(f'example "{example.id}": the user prompt is empty. Fill in the row or its template')
        rendered[plan.user] = replace(rendered[plan.user], images=example.images)
        rendered[plan.user : plan.user] = pairs(plan.parts[plan.user][1], shots, values)
        return without_blank_system(rendered)

    def front(self, variables: Mapping[str, Any], shots: Sequence[Example] = ()) -> Front:
        """What of the conversation is the same for every row, and the rest in words."""
        plan, chosen, values = self._plan(variables), self._chosen(variables), self._values(variables)
        fixed: list[Message] = []
        loose: list[str] = []
        for (role, source), (_, part) in zip(chosen[: plan.user], plan.parts, strict=False):
            if rowwise := sorted(self._templates.parse(source).names - values.keys()):
                loose.append(f"the {role} message, which differs from row to row ({', '.join(rowwise)})")
            else:
                fixed.append(Message(role, written(role, part, _NOBODY, values)))
        if plan.user is None:
            return Front(from_row(fixed, _NOBODY, shots)[:-1], "", tuple(loose))
        if plan.writes_shots and shots:
            loose.append("the few-shot examples, which a template writes itself")
        elif shots:
            fixed += pairs(plan.parts[plan.user][1], shots, values)
        if len(chosen) > plan.user + 1:
            loose.append("the message after the user's")
        turns = all(reason.startswith("the system message") for reason in loose)
        kept = [message for message in fixed if message.role == "system" or turns]
        return Front(without_blank_system(kept), chosen[plan.user][1], tuple(loose))

    def texts(self, variables: Mapping[str, Any]) -> tuple[str, ...]:
        """What of the prompt tells two configurations apart: equal texts and equal rows give equal messages.

        One text per template in force ("role", newline, source), then one per other variable that these templates use
        (`name=` and its value as JSON), by name; `shots` counts as used when it is not 0.
        """
        chosen = self._chosen(variables)
        used = frozenset[str]().union(*(self._templates.parse(source).names for _, source in chosen))
        values = {n: v for n, v in variables.items() if n in used and n not in REPLACED and n != "shots"}
        if variables.get("shots"):
            values["shots"] = variables["shots"]
        return (
            *(f"{role}\n{source}" for role, source in chosen),
            *(f"{name}={json.dumps(values[name], default=str)}" for name in sorted(values)),
        )

    def _values(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The variables that are no templates themselves."""
        return {n: v for n, v in variables.items() if v is not None and n not in REPLACED and n != "shots"}

    def _chosen(self, variables: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """The templates once the variables `system` and `user` have taken the place of theirs (the last of a role)."""
        chosen = list(self.templates)
        for role in REPLACED:
            text = variables.get(role)
            if text is None:
                continue
            if not isinstance(text, str):
                raise SpecError(f"space.{role}: {text!r} is not a text, but it replaces the {role} prompt. Use texts")
            places = [index for index, (known, _) in enumerate(chosen) if known == role]
            if places:
                chosen[places[-1]] = (role, text)
            else:
                chosen.insert(0 if role == "system" else len(chosen), (role, text))
        return tuple(chosen)

    def _plan(self, variables: Mapping[str, Any]) -> _Plan:
        key = (variables.get("system"), variables.get("user"))
        try:
            return self._plans[key]
        except (KeyError, TypeError):
            chosen = self._chosen(variables)
        parts = tuple((role, self._compile(role, source)) for role, source in chosen)
        plan = self._plans[key] = _Plan(parts, any("shots" in self._templates.parse(s).names for _, s in chosen))
        return plan

    def _compile(self, role: str, source: str) -> Compiled:
        try:
            return self._templates.compile(source)
        except ValueError as error:
            raise SpecError(f"the {role} template, {error}. Correct it") from None


def problems(
    prompt: Prompt,
    example_fields: Iterable[str],
    variables: Collection[str],
    lacking: Mapping[str, Sequence[str]] | None = None,
) -> list[str]:
    """Everything wrong between templates, rows and prompt variables, one sentence each; empty when all is well.

    `example_fields` are the fields that every row has (or those of the first), `variables` the names that the space
    defines for the prompt, `lacking` the fields that only some rows have, each with the ids of the others. A name that
    a template itself guards (`is defined`, `default`) may be missing.
    """
    fields, defined = list(dict.fromkeys(example_fields)), frozenset(variables)
    known = frozenset(fields) | defined | {"shots"}
    found: list[str] = []
    roles = {role for role, _ in prompt.templates}
    has_user = "user" in roles or "user" in defined
    if not has_user and "messages" not in fields:
        found.append(f"there is no user prompt. Set prompt.user, or give rows with messages. {fields_of(fields)}")
    elif not has_user and "assistant" in roles:
        found.append("prompt.messages has no user message. Add one")
    if sum(role == "system" for role, _ in prompt.templates) > 1:
        found.append("there are two system prompts. Keep one of prompt.system and the system message")
    used: set[str] = set()
    for label, source in prompt.sources():
        parsed = prompt._templates.parse(source)
        broken = bool(parsed.mistake or parsed.names - parsed.guarded - known)
        named, rest = misnamed(source, [*fields, *(lacking or ())], broken=broken)
        for name, better in named.items():
            what = f'{label} writes the field "{name}", which Jinja reads otherwise. Write {{{{ {better} }}}} and set'
            key = better if better.isascii() else json.dumps(better, ensure_ascii=False)  # as TOML takes it
            found.append(f"{what} dataset.map = {{ {key} = {json.dumps(name, ensure_ascii=False)} }}")
        parsed = prompt._templates.parse(rest)
        if parsed.mistake:
            found.append(f"{label}, {parsed.mistake}. Correct it")
        used |= parsed.names
        for name in sorted(parsed.names - parsed.guarded - known):
            if without := (lacking or {}).get(name):
                rows = f"{len(without):,} of the rows (the first: {without[0]})"
                instead = f'{{{{ {name} | default("") }}}}'
                found.append(f'{label} uses "{name}", which is missing in {rows}. Fill it in, or write {instead}')
                continue
            what = f'{label} uses "{name}", which is neither a field of the rows nor a variable of the space.'
            found.append(f"{what}{_guess(name, known)} {fields_of(fields)}")
    plain = defined - {*REPLACED, "shots"}
    for name in sorted(plain & frozenset(fields)):
        found.append(f'"{name}" is both a field of the rows and a variable of the space. Rename one (dataset.map)')
    for name in sorted(plain - used - frozenset(fields)):
        found.append(
            f'no template uses the variable "{name}".{_guess(name, used - frozenset(fields))} Use or remove it'
        )
    if "shots" in used and "shots" in fields:
        found.append(
            '"shots" is a field of the rows, but in templates it means the few-shot examples. Rename the field'
        )
    return found


def choose_shots(pool: Sequence[Example], example: Example, count: int) -> tuple[Example, ...]:
    """The first `count` of the pool that have a reference and are neither the example nor of its group.

    The shots for one count begin with those for any smaller count. Fewer come back when the pool is too small.
    """
    chosen: list[Example] = []
    for other in pool:
        if len(chosen) >= count:
            break
        related = example.group is not None and other.group == example.group
        if other.references and other.id != example.id and not related:
            chosen.append(other)
    return tuple(chosen)


def _guess(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""
