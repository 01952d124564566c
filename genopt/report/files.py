"""Owns the forms a report can take, and writing one to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from genopt.archive import Archive
from genopt.errors import SpecError, writing

Form = Literal["html", "md", "json"]
SUFFIXES: dict[str, Form] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}


def render(archive: Archive, form: Form) -> str:
    """The report in this form. Raises StudyError."""
    from genopt.report.material import collect
    from genopt.report.reckoning import facts_of

    material = collect(archive)
    if form == "json":
        return json.dumps(facts_of(material).to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    if form == "md":
        from genopt.report.markdown import markdown_report

        return markdown_report(material)
    from genopt.report.page import html_report

    return html_report(material)


def form_of(path: Path) -> Form:
    """The form that a file's suffix asks for. Raises SpecError for another suffix."""
    found = SUFFIXES.get(path.suffix.lower())
    if found is None:
        raise SpecError(f"-o {path}: {path.suffix or 'no suffix'} is no form of a report. Use .html, .md or .json")
    return found


def save(archive: Archive, path: Path, form: Form) -> None:
    """Write the report to a file. Raises SpecError when it cannot be written, StudyError."""
    text = render(archive, form)
    with writing(f"-o {path}"):
        path.write_text(text, encoding="utf-8")
