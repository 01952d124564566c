"""Owns Jinja: templates that can reach nothing but their values, compiled once each. Knows no role and no example."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST = 10_000_000  # characters that a template may make of one text
_WIDE = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")
_OTHERWISE = frozenset(("true", "false", "none", "True", "False", "None", "self", "not"))
"""Words that Jinja never looks up among the values."""
Compiled = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Parsed:
    """What one template needs: the names it uses, those of them it guards itself, and what is wrong with it."""

    names: frozenset[str] = frozenset()
    guarded: frozenset[str] = frozenset()
    mistake: str = ""


class Templates:
    """Parses and compiles template texts, each text once in its lifetime."""

    def __init__(self, variables: Iterable[str] = ()) -> None:
        """`variables` are names that mean a value even where Jinja has a function of that name (`range`, `dict`)."""
        self._environment = _environment()
        for name in variables:
            self._environment.globals.pop(name, None)
        self._parsed: dict[str, Parsed] = {}

    def parse(self, source: str) -> Parsed:
        """What the template needs; its `mistake` is "" when it can be compiled."""
        if source not in self._parsed:
            self._parsed[source] = self._read(source)
        return self._parsed[source]

    def compile(self, source: str) -> Compiled:
        """A function from values to text; ValueError with the mistake when the template is broken.

        The function raises whatever a template can raise: an undefined name, a sandbox violation, a division by zero.
        """
        if mistake := self.parse(source).mistake:
            raise ValueError(mistake)
        template = self._environment.from_string(source)
        template.globals = dict(template.globals)  # Jinja's own chain of maps is copied, slowly, by every rendering
        return template.render

    def _read(self, source: str) -> Parsed:
        try:
            tree = self._environment.parse(source)
            names = frozenset(meta.find_undeclared_variables(tree))
            others = list(meta.find_referenced_templates(tree))
            guarded = frozenset(_guarded(tree))
            self._environment.compile(tree)
        except TemplateSyntaxError as error:
            return Parsed(mistake=f"line {error.lineno}: {(error.message or 'malformed').rstrip('.')}")
        except (TemplateError, RecursionError) as error:
            return Parsed(mistake=str(error) or type(error).__name__)
        return Parsed(names, guarded, "a template cannot include or import another" if others else "")


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox, in which a template cannot ask for gigabytes either: no text is repeated or padded without end."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(side) for side in (left, right) if hasattr(side, "__len__")]
        if operator == "*" and sizes and sizes[0] * abs(right if hasattr(left, "__len__") else left) > LONGEST:
            raise SecurityError(f"a template may repeat a text to at most {LONGEST:,} characters")
        if operator == "**" and abs(right) > 64:
            raise SecurityError("a template may raise to at most the 64th power")
        if operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise SecurityError("a template may pad a text to at most 999 characters")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        padding = isinstance(obj, str) and attr in ("center", "ljust", "rjust", "zfill", "expandtabs", "format_map")
        return not padding and super().is_safe_attribute(obj, attr, value)


def misnamed(source: str, fields: Iterable[str], *, broken: bool) -> tuple[dict[str, str], str]:
    """Fields that a template writes and cannot name (`{{ first name }}`, `{{ none }}`), each with a name that it can;
    and the template without them.

    In one that is not `broken` what is no name is taken for what it is otherwise: `{{ a-b }}` is a difference.
    """
    found: dict[str, str] = {}
    for field in fields:
        if field in _OTHERWISE or (broken and not field.isidentifier()):
            written = re.compile(r"\{\{[-+]?\s*" + re.escape(field) + r"\s*(?:[|.\[][^{}]*)?[-+]?\}\}")
            source, times = written.subn("", source)
            found |= {field: a_name(field)} if times else {}
    return found, source


def a_name(field: str) -> str:
    """A name by which a template can call the field: its own where it can."""
    name = re.sub(r"\W+", "_", field).strip("_")
    return name if name.isidentifier() and name not in _OTHERWISE else f"field_{name}".rstrip("_")


def _environment() -> ImmutableSandboxedEnvironment:
    environment = _Bounded(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
    del environment.globals["lipsum"]  # both would give the same configuration another prompt each time
    del environment.filters["random"]
    for name in ("center", "format", "indent"):  # each pads with as many characters as it is told
        del environment.filters[name]
    return environment


def _guarded(tree: nodes.Template) -> Iterable[str]:
    """Names whose absence the template itself provides for: `x is defined`, `x | default(...)`."""
    for node in tree.find_all((nodes.Test, nodes.Filter)):
        if node.name in ("defined", "undefined", "default", "d") and isinstance(node.node, nodes.Name):
            yield node.node.name
