"""Owns the experiments of ollama-grid-search (the JSON it downloads) as finished grid studies: its generations scored,
its configurations ranked, nothing generated again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genopt import dataset as data
from genopt.canonical import config_key, deterministic
from genopt.errors import SpecError, StudyError
from genopt.measures import metrics_of
from genopt.objectives import Goal, Objective
from genopt.outcomes import kept
from genopt.recall import Known
from genopt.runner import run
from genopt.schedule import gather
from genopt.scorers import make_scorer, scorer_key
from genopt.space import Choice, SearchSpace
from genopt.spec.scorers import ScorerSpec
from genopt.stats import mean_se
from genopt.store import Store
from genopt.study import list_studies, open_study
from genopt.tables import generation_row, score_row
from genopt.trial import Configuration, Evaluation, Observation
from genopt.types import Example, Generation, ParamValue, Score, Scorer

NOT_SETTINGS = ("experiment_uuid", "prompt", "seed", "generation")
SCORE = "score"


@dataclass(frozen=True)
class Experiment:
    """What an experiment holds: the answers of each configuration to each prompt, by (settings, prompt's number)."""

    name: str
    settings: tuple[Mapping[str, ParamValue], ...]
    prompts: tuple[str, ...]
    answers: Mapping[tuple[int, int], tuple[Generation, ...]]


def read_experiment(path: Path) -> Experiment:
    """The experiment in a downloaded file. Raises SpecError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        inferences = content["inferences"]
        pairs = [(dict(each["parameters"]), each["result"]) for each in inferences]
        rows = [(*_asked(parameters), _answer(result)) for parameters, result in pairs]
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SpecError(
            f"{path}: is no experiment of ollama-grid-search. Download one there: experiments, the arrow beside it"
        ) from None
    if not rows:
        raise SpecError(f"{path}: the experiment has no inferences")
    settings = list({json.dumps(each, sort_keys=True): each for each, _, _ in rows}.values())
    prompts = list(dict.fromkeys(prompt for _, prompt, _ in rows))
    answers: dict[tuple[int, int], tuple[Generation, ...]] = {}
    for each, prompt, generation in rows:
        cell = settings.index(each), prompts.index(prompt)
        answers[cell] = (*answers.get(cell, ()), generation)
    return Experiment(str(content.get("experiment_uuid", path.stem)), tuple(settings), tuple(prompts), answers)


def _asked(parameters: dict[str, Any]) -> tuple[dict[str, ParamValue], str]:
    settings = {name: value for name, value in parameters.items() if name not in NOT_SETTINGS}
    if not all(isinstance(value, (str, int, float, bool)) for value in settings.values()) or "model" not in settings:
        raise ValueError("parameters")
    return {n: round(v, 6) if isinstance(v, float) else v for n, v in settings.items()}, str(parameters["prompt"])


def _answer(result: Mapping[str, Any]) -> Generation:
    return Generation(
        text=str(result["response"]),
        finish="stop" if result.get("done", True) else "degenerate",
        prompt_tokens=int(result.get("prompt_eval_count") or 0),
        completion_tokens=int(result.get("eval_count") or 0),
        seconds=((result.get("prompt_eval_duration") or 0) + (result.get("eval_duration") or 0)) / 1e9,
    )


def import_experiment(path: Path, *, url: str, name: str, scorer: ScorerSpec, references: str | None = None) -> int:
    """Store an experiment as a finished study and give the number of its trials; the best is found as in any other.

    `references` is a data file whose rows hold a prompt (`prompt`) and its acceptable answers. Raises SpecError,
    StudyError (the storage has such a study) or ScorerError.
    """
    found = read_experiment(path)
    made = make_scorer(SCORE, scorer, Path.cwd())
    examples = _examples(found, references, needed="references" in made.needs)
    repeats = max(map(len, found.answers.values()))
    key = scorer_key(scorer, made, Path.cwd(), repeats=repeats)
    scores = run(_score(made, found, examples))
    store = Store(url)
    try:
        store.create()
        if name in {study.name for study in list_studies(url)}:
            raise StudyError(f"storage: there is a study {name!r} already", hint="choose another --name")
        _write(store, found, examples, scores, key, url=url, name=name, repeats=repeats, scorer=scorer)
    finally:
        store.close()
    return len(found.settings)


def _examples(found: Experiment, references: str | None, *, needed: bool) -> list[Example]:
    answers: dict[str, tuple[str, ...]] = {}
    if references is not None:
        rows = data.load(path=references, folder=Path.cwd()).examples
        answers = {str(example.fields.get("prompt", "")).strip(): example.references for example in rows}
    examples = [
        Example(str(number), {"prompt": prompt}, answers.get(prompt.strip(), ()))
        for number, prompt in enumerate(found.prompts, 1)
    ]
    missing = [example.fields["prompt"] for example in examples if not example.references]
    if needed and missing:
        raise SpecError(
            f"--references: {len(missing)} of {len(examples)} prompts have no reference, e.g."
            f" {str(missing[0])[:60]!r}. Give a file with rows of prompt and answer"
        )
    return examples


async def _score(scorer: Scorer, found: Experiment, examples: list[Example]) -> dict[tuple[int, int], list[Score]]:
    try:
        given = await gather([scorer.score(examples[cell[1]], answers) for cell, answers in found.answers.items()])
    finally:
        await scorer.aclose()
    return dict(zip(found.answers, given, strict=True))


def _write(
    store: Store,
    found: Experiment,
    examples: list[Example],
    scores: Mapping[tuple[int, int], list[Score]],
    key: str,
    *,
    url: str,
    name: str,
    repeats: int,
    scorer: ScorerSpec,
) -> None:
    goal = Goal((Objective(SCORE, "maximize"),))
    names = sorted({setting for settings in found.settings for setting in settings})
    choices = {
        setting: Choice.of(list(dict.fromkeys(each[setting] for each in found.settings if setting in each)))
        for setting in names
    }
    space = SearchSpace(choices)
    study = open_study(url, name, space, sampler="grid")
    try:
        identity = {"engine": "ollama", "imported": found.name}
        store.remember_examples(study.id, [(each, data.example_digest(each), "tune") for each in examples])
        for index, settings in enumerate(found.settings):
            config = config_key(identity, [], settings)
            rows, scored = [], []
            cells: dict[tuple[int, int], Observation] = {}
            for position, example in enumerate(examples):
                answers = found.answers.get((index, position), ())
                for sample, (answer, score) in enumerate(zip(answers, scores.get((index, position), ()), strict=True)):
                    row = generation_row(study.id, config, example.id, sample, "tune", sample, settings, answer)
                    rows.append(row)
                    scored.append(score_row(row["id"], key, score))
                if answers:
                    metrics = metrics_of(answers, {SCORE: scores[index, position]}, goal)
                    cells[position, 0] = Observation(metrics, goal.utility(metrics))
            asked = Configuration(settings, settings, {}, 0, config, deterministic(settings))
            evaluation = Evaluation(asked, examples, cells)
            mean, se = mean_se(evaluation.utility())
            known = Known(None, (mean,), mean, se, len(cells), False, math.isfinite(mean), {})
            store.write({"genopt_generations": rows, "genopt_scores": scored})
            _, trial_id = study.enter(
                {n: choices[n].labels[choices[n].values.index(value)] for n, value in settings.items()},
                (mean,),
                config={"key": config, "params": dict(settings)},
                outcome=kept(known, evaluation, mean, se),
                violations={},
            )
            store.write({"genopt_trial_rows": [{"trial_id": trial_id, "generation_id": row["id"]} for row in rows]})
        described = scorer.model_dump(mode="json", by_alias=True, exclude_unset=True)
        study.set_attribute("sampler", ["grid", "imported from ollama-grid-search"])
        study.set_attribute("spec", {"name": name, "scorers": {SCORE: described}, "search": {"repeats": repeats}})
        study.set_attribute(
            "study",
            {
                "dataset": found.name,
                "prompt": [],
                "backend": identity,
                "space": space.describe(),
                "baseline": {},
                "scorers": {SCORE: key},
                "objectives": goal.title,
                "constraints": [],
                "search.repeats": repeats,
            },
        )
    finally:
        study.close()
