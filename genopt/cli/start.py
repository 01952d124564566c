"""Owns the commands one begins with: init, params, schema."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from genopt.cli._json import json_text
from genopt.errors import writing


@click.command()
@click.option("--data", metavar="FILE", help="Your rows (JSONL, JSON, CSV, TSV, Parquet, or a hub id).")
@click.option("--model", metavar="MODEL", help="Name in Ollama, folder or hub id of the model.")
@click.option("--scorer", metavar="KIND", help="exact_match, rouge_l, embedding, ... (see the README).")
@click.option("--backend", metavar="ENGINE", help="The engine (default: guessed from the model's name).")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("study.toml"),
    show_default=True,
    help="The file to write; its name is the study's.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def init(
    data: str | None, model: str | None, scorer: str | None, backend: str | None, output: Path, force: bool
) -> None:
    """Write a commented study.toml from a few questions, or from flags alone.

    \b
    genopt init
    genopt init --data tickets.jsonl --model llama3.2 --scorer rouge_l
    genopt init --data tickets.jsonl --model ./my-model --backend vllm
    """
    from genopt.cli._quick import names_are_known
    from genopt.template import beside, guess_backend, guess_fields, study_file

    if output.exists() and not force:
        raise click.UsageError(f"{output} exists. Name another file with -o, or overwrite it with --force")
    if not output.parent.is_dir():
        raise click.UsageError(f"-o {output}: there is no folder {output.parent}. Make it first")
    asking = data is None or model is None
    data = data or click.prompt("Your data (JSONL, JSON, CSV, TSV, Parquet or a hub id)", err=True)
    model = model or click.prompt("Your model (a name in Ollama, a folder or a hub id)", err=True)
    fields, reference = guess_fields(str(data))
    if scorer is None:
        scorer = "rouge_l" if reference else "length"
        if asking:  # with flags alone nothing is asked
            scorer = click.prompt("How is an answer scored", default=scorer, err=True)
    names_are_known(str(scorer), backend)
    text = study_file(
        output.stem,
        beside(str(data), output.parent),
        beside(str(model), output.parent),
        str(scorer),
        backend or guess_backend(str(model)),
        fields,
        reference,
    )
    with writing(f"-o {output}"):
        output.write_text(text, encoding="utf-8")
    away = Path(str(data)).exists() and not Path(str(data)).resolve().is_relative_to(output.resolve().parent)
    click.echo(f"wrote {output}. Next: genopt check {output}{' --allow-outside' * away}", err=True)


@click.command()
@click.argument("backend")
@click.option("--model", metavar="MODEL", help="Ask this model, not just the engine: its defaults are shown too.")
@click.option("--presets", is_flag=True, help="List the starting points of [search] start that it can take instead.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def params(backend: str, model: str | None, presets: bool, as_json: bool) -> None:
    """List the generation parameters an engine honours, with their legal ranges.

    \b
    genopt params transformers
    genopt params transformers --model ./my-model
    genopt params transformers --presets      greedy, creative ...: [search] start = ["greedy"] tries them first
    """
    from genopt.backends import declared
    from genopt.presets import PRESETS, presets_text
    from genopt.report.measured import params_text

    domains, defaults = declared(backend, model, Path.cwd())
    if presets and not as_json:
        click.echo(presets_text(domains))
    elif presets:
        taken = {name: preset for name, preset in PRESETS.items() if preset.params.keys() <= domains.keys()}
        click.echo(json.dumps({name: asdict(preset) for name, preset in taken.items()}, indent=2))
    elif as_json:
        rows: dict[str, Any] = {
            name: {
                "kind": d.kind,
                "legal": d.bounds(),
                "off": list(d.neutral),
                "doc": d.doc,
                "default": defaults.get(name),
            }
            for name, d in domains.items()
        }
        click.echo(json_text(rows, indent=2))
    else:
        click.echo(params_text(domains, defaults))


@click.command()
def schema() -> None:
    """Print the JSON Schema of the study file.

    Editors complete and check study.toml with it: save it as study.schema.json and begin the file with
    `#:schema study.schema.json` (Even Better TOML, taplo).

    \b
    genopt schema > study.schema.json
    """
    from genopt.spec import StudySpec

    click.echo(json_text(StudySpec.model_json_schema(), indent=2))
