"""Owns the command that takes a study's settings into other programs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from genopt.errors import writing


@click.command()
@click.argument("study", metavar="STUDY")
@click.option(
    "--to",
    "target",
    type=click.Choice(["ollama", "vllm", "transformers", "openai", "llama.cpp", "curl"]),
    help="Who is to read it (default: the study's own engine).",
)
@click.option("--trial", default="best", show_default=True, metavar="best|baseline|NUMBER", help="Whose settings.")
@click.option("--model", metavar="NAME", help="The model's name there, where it is another.")
@click.option("--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it here.")
@click.option("--create", "name", metavar="NAME", help="Make it a model of this name in an Ollama server.")
@click.option("--host", metavar="URL", help="That server (default: the study's, else OLLAMA_HOST).")
@click.option(
    "--data",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write every text of the study with its scores instead: .jsonl, .csv or .parquet.",
)
@click.option("--force", is_flag=True, help="Overwrite the file, or the model in the server.")
def export(
    study: str,
    target: str | None,
    trial: str,
    model: str | None,
    output: Path | None,
    name: str | None,
    host: str | None,
    data: Path | None,
    force: bool,
) -> None:
    """Write a study's settings as a Modelfile, SamplingParams, generation_config.json, request fields, flags or curl;
    or every text it holds as a table.

    What the target cannot say is named on stderr, and so is what the same numbers mean otherwise there. Without
    --trial the winner's settings are taken, which of several objectives are those of the front's knee, or the
    baseline's where nothing was shown to be better, or to meet constraints that it misses.

    \b
    genopt export study.toml --to ollama -o Modelfile
    genopt export study.toml --create support-tuned         straight into the server
    genopt export study.toml --to vllm --trial 12           any trial, such as another one of the front
    genopt export study.toml --to transformers -o generation_config.json
    genopt export study.toml --data rows.parquet            one row per text
    """
    from genopt.archive import load
    from genopt.export import WRITERS, notes, settings
    from genopt.export import export as write
    from genopt.words import safe

    if name is not None and (target not in (None, "ollama") or output is not None):
        raise click.UsageError("--create makes a model in Ollama. Drop --to and -o, or call export twice")
    if host is not None and name is None:
        raise click.UsageError("--host is for --create. Drop it, or add --create NAME")
    for option, path in (("-o", output), ("--data", data)):
        if path is not None and path.exists() and not force:
            raise click.UsageError(f"{option} {path} exists. Name another file, or overwrite it with --force")
    if data is not None:
        if (target, output, name, model) != (None, None, None, None) or trial != "best":
            raise click.UsageError(
                "--data writes every text of the study. Drop the other options, or call export twice"
            )
        from genopt.observations import write as write_rows

        rows = load(study).observations()
        write_rows(rows, data)
        click.echo(f"wrote {len(rows):,} texts to {data}", err=True)
        return
    found = settings(load(study), trial, model=model)
    if name is not None:
        from genopt.export.create import create

        where = asyncio.run(create(found, name, host=host, replace=force))
        click.echo(f"made {name} in {where}, from {found.model}", err=True)
        told = notes(found, "ollama", created=True)
    else:
        target = target or found.engine
        if target not in WRITERS:
            raise click.UsageError(f"--to: {target} reads no settings. Take one of {', '.join(WRITERS)}")
        made = write(found, target)
        told = made.notes
        if output is None:
            click.echo(made.text, nl=False)
        else:
            with writing(f"-o {output}"):
                output.write_text(made.text, encoding="utf-8")
    for note in told:
        click.echo(safe(f"note: {note}"), err=True)
