"""Owns the command that brings other tools' results in."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("experiment", metavar="EXPERIMENT.json", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--scorer", required=True, metavar="SCORER", help='A kind, or e.g. \'{kind = "contains", values = ["x"]}\'.'
)
@click.option("--references", metavar="FILE", help="Rows of prompt and answer, for scorers that compare with one.")
@click.option("--storage", metavar="URL", help="Where it is kept (default: SQLite named like the file).")
@click.option("--name", help="The study's name (default: the file's).")
def import_(experiment: Path, scorer: str, references: str | None, storage: str | None, name: str | None) -> None:
    """Take an experiment of ollama-grid-search over as a finished study, scored.

    Its prompts are the examples, its settings the trials, its repeated generations the samples; nothing is generated.
    In ollama-grid-search an experiment is downloaded with the arrow beside it. Then look at it as at any other study.

    \b
    genopt import happy-blue-dog.json --scorer rouge_l --references answers.jsonl
    genopt import happy-blue-dog.json --scorer '{kind = "contains", values = ["Paris"]}'
    genopt report happy-blue-dog.db#happy-blue-dog
    """
    from genopt.imported import import_experiment
    from genopt.spec.read import read_scorer
    from genopt.spec.storage import as_written

    chosen = name or experiment.stem
    url = storage or f"sqlite:///{as_written(str(Path(f'{chosen}.db').resolve()))}"
    trials = import_experiment(
        experiment, url=url, name=chosen, scorer=read_scorer(scorer, "score"), references=references
    )
    where = f"{url}#{chosen}" if storage else f"{chosen}.db#{chosen}"
    click.echo(f"{trials} {'trial' if trials == 1 else 'trials'} imported. See: genopt report {where}")
