"""Owns the commands that generate: check, optimize, evaluate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import click

from genopt.cli._json import json_text

T = TypeVar("T")
SET = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key, e.g. --set budget.trials=10."
)
OUTSIDE = click.option(
    "--allow-outside",
    is_flag=True,
    help="Let the study file read data, texts and images outside its folder.",
)
PULL = click.option("--pull", is_flag=True, help="Have Ollama pull the models that its server lacks.")
STORAGE = click.option(
    "--storage", metavar="URL", envvar="GENOPT_STORAGE", help="Where the study is kept; or GENOPT_STORAGE."
)
PULLED = "backend.options.pull=true"
STUDY_FILE = click.argument("study", metavar="STUDY.toml", type=click.Path(path_type=Path))


def _say(text: str) -> None:
    """A line for people, on stderr."""
    from genopt.words import safe

    click.echo(safe(text), err=True)


class Stopped(click.exceptions.Exit):
    """The work was cancelled by a signal; what nobody catches ends the command with the exit code that says so."""


def run_until_signal(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Ctrl-C or SIGTERM stops it cleanly and raises Stopped; a second signal quits at once. What
    anybody's code prints meanwhile goes to stderr: stdout is data."""

    from genopt.database import StorageAway

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        stopped: list[int] = []

        def stop(code: int) -> None:
            if stopped:
                os._exit(code)
            stopped.append(code)
            click.echo("\nstopping: committing what is done (once more quits at once)", err=True)
            task.cancel()

        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
            try:
                loop.add_signal_handler(number, stop, code)
            except (NotImplementedError, RuntimeError):  # Windows, or not the main thread
                signal.signal(number, lambda *_, code=code: loop.call_soon_threadsafe(stop, code))
        try:
            return await task
        except (asyncio.CancelledError, StorageAway):
            if stopped:
                raise Stopped(stopped[0]) from None
            raise

    with contextlib.redirect_stdout(sys.stderr):
        return asyncio.run(guarded())


@click.command()
@click.argument("study", metavar="[STUDY.toml]", type=click.Path(path_type=Path), required=False)
@SET
@OUTSIDE
@PULL
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
@STORAGE
@click.option("--storage-proxy", metavar="HOST:PORT", help="A `genopt studies proxy` before it, for many workers.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, metavar="N", help="Processes, each on a GPU if any.")
@click.option("--lease", type=click.FloatRange(1), default=60.0, metavar="SECONDS", help="Silent so long = dead. [60]")
@click.option("--wait", type=click.FloatRange(0), default=900.0, metavar="SECONDS", help="For a lost database. [900]")
@click.option("--fork", metavar="NAME", help="Go on in a new study that reuses what still holds of this one.")
@click.option("--quiet", "-q", is_flag=True, help="No progress, only the result.")
@click.option("--model", metavar="MODEL", help="Without a study file: a name in Ollama, a folder or a hub id.")
@click.option("--data", metavar="FILE", help="Its rows (JSONL, JSON, CSV, TSV, Parquet, or a hub id).")
@click.option("--backend", metavar="ENGINE", help="Its engine (default: guessed from the model's name).")
@click.option("--scorer", metavar="KIND", help="How an answer is scored (default: rouge_l).")
@click.option("--reference", metavar="KEY", help="Key of the acceptable answers (default: a usual name).")
@click.option("--prompt", metavar="TEMPLATE", help='The question, e.g. "{{ question }}" (default: the likeliest key).')
@click.option("--trials", type=click.IntRange(1), metavar="N", help="How many configurations to try (default: 40).")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="The study file it becomes.")
def optimize(
    study: Path | None,
    overrides: tuple[str, ...],
    allow_outside: bool,
    pull: bool,
    as_json: bool,
    storage: str | None,
    storage_proxy: str | None,
    workers: int,
    lease: float,
    wait: float,
    fork: str | None,
    quiet: bool,
    model: str | None,
    data: str | None,
    trials: int | None,
    **described: Any,
) -> int:
    """Run a study to its verdict, or go on with one that was stopped.

    The verdict says whether the winner beats the baseline on rows that the search never saw: improved, not shown or
    worse; or admissible, where the baseline is shown to miss a constraint and the winner meets them all.

    Progress goes to stderr, the result to stdout. Ctrl-C stops cleanly; the same command goes on where it was, and
    nothing that was generated is generated again.

    The same command on any number of machines joins the study where they share a storage: they share the budget, the
    trials and every text, and what one that dies had in hand the others take over. --workers starts several here.
    budget.hours is time in which anybody works: eight workers for two hours are two hours.

    Without a study file, --model and --data are enough: the file that they describe is written here, and the same
    command goes on with it.

    \b
    genopt optimize --model llama3.2 --data questions.jsonl --pull
    genopt optimize study.toml
    genopt optimize study.toml --set budget.trials=200      search on
    genopt optimize study.toml --json > verdict.json
    genopt optimize study.toml --storage postgresql://me@host/genopt --workers 4
    """
    from genopt.cli._fleet import end_with_parent, run_fleet, study_arguments
    from genopt.console import Console
    from genopt.judging.grading import waiting
    from genopt.report import verdict_text
    from genopt.runner import optimize_async
    from genopt.spec.read import Option, read_study

    if study is None:
        if model is None or data is None:
            raise click.UsageError("name a study file, or --model and --data. A file is begun with: genopt init")
        from genopt.cli._quick import study_file

        study = study_file(model, data, trials=trials, **described)
        overrides = (*([f"budget.trials={trials}"] if trials else []), *overrides)
    elif given := [f"--{n}" for n, v in {"model": model, "data": data, "trials": trials, **described}.items() if v]:
        raise click.UsageError(f"{', '.join(given)}: only without a study file. Change {study}, or use --set KEY=VALUE")
    proxied = [Option.of("--storage-proxy", "storage_proxy", storage_proxy)] if storage_proxy else []
    overrides = (*overrides, *[PULLED] * pull, *proxied)
    allow_outside = allow_outside or data is not None
    spec = read_study(study, overrides=(*overrides, *_stored(storage)), allow_outside=allow_outside)
    if workers > 1:
        leases = {"lease": lease, "wait": wait}
        arguments = study_arguments(study, overrides, fork=fork, quiet=quiet, allow_outside=allow_outside, **leases)
        code, verdict = run_fleet(arguments, workers, storage=spec.storage and spec.url, say=_say)
        if verdict is not None:
            click.echo(json_text(verdict, indent=2) if as_json else verdict_text(verdict))
        return code
    end_with_parent()
    console = Console(sys.stderr, quiet=quiet)
    try:
        with console:
            result = run_until_signal(optimize_async(spec, on_event=console, fork=fork, lease=lease, wait=wait))
    except Stopped:
        click.echo(f"stopped. Go on with: genopt optimize {study}", err=True)
        if left := waiting(spec):
            click.echo(
                f"{left} {'text waits' if left == 1 else 'texts wait'} for a grade: genopt grade {study}", err=True
            )
            return 75  # however it was stopped: it waits for a person, and goes on afterwards
        raise
    if as_json:
        click.echo(json_text(result.verdict.to_json(), indent=2))
    else:
        click.echo(verdict_text(result.verdict.to_json()))
    return 0


@click.command()
@STUDY_FILE
@SET
@OUTSIDE
@PULL
@STORAGE
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def check(
    study: Path, overrides: tuple[str, ...], allow_outside: bool, pull: bool, storage: str | None, as_json: bool
) -> int:
    """Read everything, answer two rows, and show the bill.

    Every mistake in the study file, the data and the prompt is told at once; then the engine is opened, every name in
    the space is held against what it honours, and two rows are answered and scored. Nothing is stored.

    \b
    genopt check study.toml
    genopt check study.toml --set budget.trials=200         what would that cost?
    """
    from genopt.evaluation import check_async
    from genopt.report.measured import check_json, check_text
    from genopt.spec.read import read_study

    spec = read_study(study, overrides=(*overrides, *[PULLED] * pull, *_stored(storage)), allow_outside=allow_outside)
    checked = run_until_signal(check_async(spec, tell=_say))
    click.echo(json_text(check_json(checked), indent=2) if as_json else check_text(checked))
    return 0


@click.command()
@STUDY_FILE
@SET
@OUTSIDE
@click.option(
    "--params",
    default="baseline",
    show_default=True,
    metavar="baseline|best|NUMBER|JSON",
    help="The settings: the baseline's, the winner's, a trial's, or your own as JSON.",
)
@click.option("--data", type=click.Path(), metavar="FILE", help="Other data with the same fields.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE.jsonl", help="Append every row here.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def evaluate(
    study: Path,
    overrides: tuple[str, ...],
    allow_outside: bool,
    params: str,
    data: str | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Measure one configuration on all rows of the study's data, or on other data.

    \b
    genopt evaluate study.toml --params best --data new.jsonl -o answers.jsonl
    genopt evaluate study.toml --params '{"temperature": 0.2}'
    """
    from genopt.evaluation import evaluate_async
    from genopt.report.measured import measured_json, measured_text
    from genopt.spec.read import read_study

    spec = read_study(study, overrides=overrides, allow_outside=allow_outside)
    measured = run_until_signal(evaluate_async(spec, _settings(params, study), data=data, output=output, tell=_say))
    click.echo(json_text(measured_json(measured), indent=2) if as_json else measured_text(measured))
    return 0


def _stored(storage: str | None) -> list[str]:
    """--storage as the override of a study file that it is."""
    return [f"storage={json.dumps(storage)}"] if storage else []


def _settings(params: str, study: Path) -> dict[str, Any] | None:
    """The settings that --params names; None for the baseline."""
    if params == "baseline":
        return None
    if params.lstrip().startswith("{"):
        try:
            return dict(json.loads(params))
        except json.JSONDecodeError as error:
            raise click.UsageError(f"--params: is not valid JSON ({error})") from None
    if params != "best" and not params.isdecimal():
        raise click.UsageError(f"--params: {params!r} is neither baseline, best, a trial's number nor JSON")
    from genopt.archive import load
    from genopt.report.front import to_use

    archive = load(str(study))
    if params == "best":
        if archive.verdict is None:
            raise click.UsageError("--params best: the study has no verdict yet. Run: genopt optimize")
        return dict(to_use(archive.verdict))
    for trial in archive.trials:
        if str(trial.number) == params:
            return dict(trial.config.get("params", {}))
    raise click.UsageError(f"--params: there is no trial {params}. See: genopt trials {study}")
