"""Owns what is exported: from a stored study to one configuration, its parameters and its prompt. Opens no engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from genopt import dataset
from genopt.archive import Archive
from genopt.errors import SpecError
from genopt.prompt import Front, Prompt, choose_shots
from genopt.report.front import suggested
from genopt.spec import BackendSpec
from genopt.store import Store
from genopt.types import Example


@dataclass(frozen=True)
class Settings:
    """One configuration of a study as its requests carried it.

    title    the study and the configuration, for people
    kind     the study's backend.kind; engine is what it found itself to talk to ("vllm", "ollama", "openai" ...)
    options  the study's backend.options
    params   every generation parameter under genopt's name; own_stop says that the baseline has stop strings
    front    the turns that every row shares, and the template of the one that asks
    output   what answers are kept to: schema, regex or choices, or nothing
    answer   how samples become an answer, as the study describes it, with `n`: how many; nothing where each is one
    images   the column whose images were shown, "" for none
    renamed  `model` is the name that the target knows, not the study's engine
    """

    title: str
    kind: str
    engine: str
    model: str
    options: Mapping[str, Any]
    params: Mapping[str, Any]
    own_stop: bool
    front: Front
    output: Mapping[str, Any]
    images: str
    answer: Mapping[str, Any] = field(default_factory=dict)
    renamed: bool = False

    @property
    def system(self) -> str:
        """The system prompt that every row shares; "" for none."""
        messages = self.front.messages
        return messages[0].content if messages and messages[0].role == "system" else ""


def settings(archive: Archive, which: str = "best", *, model: str | None = None) -> Settings:
    """The settings of "best" (the winner's, which of several objectives is the front's knee, or the baseline's where
    nothing is shown to be better, or to meet constraints that it misses), "baseline" or a trial's number; `model` is
    its name at the target. Raises SpecError for what is not there."""
    key, own, name = _chosen(archive, which)
    before: Mapping[str, Any] = archive.baseline.get("params", {})
    store = Store(archive.url, reading=True)
    try:
        sent = store.sent(archive.id, key)
        examples = [example for example, side in store.examples(archive.id) if side == "tune"]
    finally:
        store.close()
    if sent is None:
        raise SpecError(f"{archive.name}: {name} has generated nothing yet, so there is nothing to export")
    backend = BackendSpec.model_validate(archive.spec["backend"])
    params = {name: own.get(name, value) for name, value in sent.items()}
    taken = {**before, **own}.get("n", 1) if "answer" in archive.description else 1
    apart = {*sent, *_switches(archive.description["space"]), *(("n",) if "answer" in archive.description else ())}
    variables = {name: value for name, value in {**before, **own}.items() if name not in apart}
    theirs = str(params.pop("model", None) or backend.model)
    engine = str(archive.description["backend"].get("engine", backend.kind))
    unsaid = "stop" not in archive.spec.get("baseline", {}) and params.get("stop") == before.get("stop")
    if engine == "ollama" and theirs != backend.model and unsaid:
        params.pop("stop", None)  # each model was asked with the stop strings of its own, which it brings along
    *sources, shots = archive.description["prompt"]
    turns = [dict(zip(("role", "content"), text.split("\n", 1), strict=True)) for text in sources]
    prompt = Prompt.from_parts(messages=turns, variables=variables.keys())
    tune, _ = dataset.split(examples, holdout=0, seed=archive.description["seed"])  # in the order of the study
    few = choose_shots(tune, Example("", {}), int(variables.get("shots", shots)))
    return Settings(
        title=f"{archive.name}, {name}",
        kind=backend.kind,
        engine=engine,
        model=theirs if model is None else model,
        options=backend.options,
        params=params,
        own_stop=bool(before.get("stop")),
        front=prompt.front(variables, few),
        output=archive.description.get("output", {}),
        answer={**archive.description["answer"], "n": taken} if taken > 1 else {},
        images=archive.spec.get("dataset", {}).get("images") or "",
        renamed=model is not None,
    )


def _chosen(archive: Archive, which: str) -> tuple[str, Mapping[str, Any], str]:
    """The config_key, the parameters as they are stored, and the name for people."""
    if not archive.spec:
        archive.goal  # noqa: B018 - says which studies keep no study file, and what to do
    if "backend" not in archive.spec:
        raise SpecError(
            f"{archive.name}: was imported and says nothing of an engine or a prompt, so it cannot be exported",
            hint="see its settings with: genopt trials --jsonl",
        )
    if which == "best":
        if archive.verdict is None:
            raise SpecError(f"{archive.name}: has no verdict yet. Name a trial (see: genopt trials), or run optimize")
        if not suggested(archive.verdict):
            which = "baseline"
        else:
            which = str(archive.verdict["trial"])
            title = f"the {'knee of the front' if archive.verdict.get('knee') else 'winner'} (trial {which})"
            return _trial(archive, which)[0], archive.verdict["params"], title
    if which == "baseline":
        if not archive.baseline.get("key"):
            raise SpecError(f"{archive.name}: its baseline was not measured yet. Run: genopt optimize")
        return archive.baseline["key"], archive.baseline["params"], "the baseline"
    return *_trial(archive, which), f"trial {which}"


def _trial(archive: Archive, number: str) -> tuple[str, Mapping[str, Any]]:
    for trial in archive.trials:
        if str(trial.number) == number and trial.config.get("key"):
            return trial.config["key"], trial.config["params"]
    raise SpecError(f"{archive.name}: there is no trial {number}. See: genopt trials")


def _switches(space: Mapping[str, Any]) -> Iterator[str]:
    """The names of the switches in a space as it is described: tables of nothing but tables."""
    for name, dimension in space.items():
        if isinstance(dimension, Mapping) and all(isinstance(branch, Mapping) for branch in dimension.values()):
            yield name
            for branch in dimension.values():
                yield from _switches(branch)
