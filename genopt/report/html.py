"""Owns what every page of genopt's is made with: templates that escape all they are given, the style, and a policy
under which only the page's own script runs and nothing is asked for."""

from __future__ import annotations

import base64
import hashlib
import json

import jinja2
from markupsafe import Markup

from genopt.words import safe


def environment() -> jinja2.Environment:
    """The templates beside this file. Every plain text is escaped, its control characters made visible."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("genopt.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: safe(value) if type(value) is str else value,
    )
    made.filters["tojson_plain"] = lambda value: json.dumps(value, ensure_ascii=False)
    return made


def inline(*, script: str) -> dict[str, Markup | str]:
    """The style and a script to put into a page, with the hashes that its policy names."""
    loader, templates = jinja2.PackageLoader("genopt.report"), environment()
    found: dict[str, Markup | str] = {}
    for role, name in (("style", "style.css"), ("script", script)):
        content = loader.get_source(templates, name)[0]
        found |= {role: Markup(content), f"{role}_hash": _hash(content)}
    return found


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
