"""Owns a storage that shows more than it holds: notes, tables and figures that are made when somebody looks, in the
places where optuna-dashboard reads its own. Nothing of them is written; what people write there is kept and shown."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.study._frozen import FrozenStudy

from genopt.study.study import GRADE

_NAMESPACE = uuid.UUID("6f0a2c1e-43c7-5d0b-9a44-8c7f9c1f7a11")


class Annotated(_CachedStorage):
    """The storage beneath, where one study has these further system attributes (see `note`, `table`, `figure`)."""

    def __init__(self, backend: RDBStorage, study_id: int, attributes: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(backend)
        self._annotated, self._attributes = study_id, attributes

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """What is stored, over what is made."""
        stored: dict[str, Any] = super().get_study_system_attrs(study_id)
        return {**self._attributes(), **stored} if study_id == self._annotated else stored

    def get_all_studies(self) -> list[FrozenStudy]:
        """The same for every study at once."""
        studies = super().get_all_studies()
        for study in studies:
            if study._study_id == self._annotated:
                study.system_attrs = {**self._attributes(), **study.system_attrs}
        return studies


def note(body: str, trial_id: int | None = None) -> dict[str, Any]:
    """A note (markdown) of the study, or of one of its trials; one that somebody edits in the dashboard replaces it."""
    of = "" if trial_id is None else f"{trial_id}:"
    return {f"dashboard:{of}note_ver": 1, f"dashboard:{of}note_str:0": body}


def table(trial_id: int, name: str) -> dict[str, Any]:
    """A file of a trial; one whose name ends in .jsonl or .csv is drawn as a table."""
    identity = artifact_id(trial_id, name)
    meta = {"artifact_id": identity, "filename": name, "mimetype": "text/plain; charset=utf-8", "encoding": None}
    return {f"dashboard:artifacts:{trial_id}:{identity}": json.dumps(meta)}


def figure(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """A Plotly figure (its JSON form) of the study; `name` may hold letters, digits and - _ : ."""
    return {f"dashboard:plot_data:{name}:0": json.dumps(content)}


def form(choices: Mapping[str, tuple[str, Mapping[str, str]]]) -> dict[str, Any]:
    """A form beside every running trial: for each name a question and the grades that answer it (a digit -> what it
    means). What is chosen becomes a user attribute of the trial (see GRADE)."""
    widgets = [
        {
            "type": "choice",
            "description": question,
            "choices": [f"{label}: {meaning}" for label, meaning in levels.items()],
            "values": [float(label) for label in levels],
            "user_attr_key": GRADE + name,
        }
        for name, (question, levels) in choices.items()
    ]
    return {"dashboard:form_widgets:v2": {"output_type": "user_attr", "widgets": widgets}} if widgets else {}


def artifact_id(trial_id: int, name: str) -> str:
    """The id under which a trial's file is asked for."""
    return str(uuid.uuid5(_NAMESPACE, f"{trial_id}/{name}"))


class Files:
    """Optuna's artifact store for files that are made when they are asked for: read only."""

    def __init__(self, make: Callable[[str], bytes | None]) -> None:
        self._make = make

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """The file's content. Raises ArtifactNotFound."""
        content = self._make(artifact_id)
        if content is None:
            raise ArtifactNotFound(artifact_id)
        return io.BytesIO(content)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Files cannot be put here."""
        raise ArtifactNotFound("this store is read only")

    def remove(self, artifact_id: str) -> None:
        """What is made on demand cannot be removed."""
        raise ArtifactNotFound(artifact_id)
