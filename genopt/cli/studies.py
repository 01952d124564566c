"""Owns `genopt studies`: list, inspect, clone, delete."""

from __future__ import annotations

import click

from genopt.cli._json import json_text


@click.group()
def studies() -> None:
    """List, inspect, clone and delete studies.

    STORAGE is an SQLAlchemy URL (sqlite:///support.db); STUDY is a study file or STORAGE#name.

    \b
    genopt studies list sqlite:///support.db
    genopt studies inspect sqlite:///support.db#support-answers
    """


@studies.command("list")
@click.argument("storage", metavar="STORAGE|STUDY.toml")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def list_(storage: str, as_json: bool) -> None:
    """List the studies in a storage, with their trials and verdicts.

    \b
    genopt studies list sqlite:///support.db
    """
    from genopt.archive import as_url, locate
    from genopt.study import list_studies
    from genopt.words import safe

    storage = as_url(storage)
    url = storage if "://" in storage else locate(storage)[0]
    found = list_studies(url)
    if as_json:
        rows = [{"name": s.name, "trials": s.trials, "verdict": s.verdict, "genopt": s.ours} for s in found]
        click.echo(json_text(rows, indent=2))
        return
    for study in found:
        verdict = study.verdict or ("no verdict yet" if study.ours else "not made by genopt")
        click.echo(safe(f"{study.name}\t{study.trials} trials\t{verdict}"))


@studies.command()
@click.argument("study", metavar="STUDY")
def inspect(study: str) -> None:
    """Print what a study is about, as JSON: space, data, prompt, engine, sampler, workers, cost.

    \b
    genopt studies inspect study.toml
    """
    from genopt.archive import load
    from genopt.report import inspect_json

    click.echo(json_text(inspect_json(load(study)), indent=2))


@studies.command()
@click.argument("study", metavar="STUDY")
@click.argument("name")
def clone(study: str, name: str) -> None:
    """Copy a study, its generations and its trials, to a new NAME in the same storage.

    The copy can be gone on with by itself, and generates nothing again that the original has.

    \b
    genopt studies clone study.toml before-the-holiday
    """
    from genopt.archive import clone as copy

    trials, generations = copy(study, name)
    click.echo(f"cloned to {name}: {trials} trials, {generations} generations", err=True)


@studies.command()
@click.argument("study", metavar="STUDY")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(study: str, yes: bool) -> int:
    """Delete a study with everything it generated. There is no way back.

    \b
    genopt studies delete sqlite:///support.db#support-answers
    """
    from genopt.archive import delete as remove
    from genopt.archive import load

    archive = load(study)
    if not yes:
        spent = archive.spent
        what = f"delete {archive.name}: {len(archive.trials)} trials and {spent.generations:,} generations?"
        if not click.confirm(what, err=True):
            click.echo(f"kept {archive.name}", err=True)
            return 1
    remove(archive)
    click.echo(f"deleted {archive.name}", err=True)
    return 0
