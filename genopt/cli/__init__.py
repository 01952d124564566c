"""Owns the command line: its names, its exit codes and how an error looks. The work is done elsewhere, and loaded only
when it is asked for, so that --help is quick."""

from __future__ import annotations

import errno
import importlib
import os
import platform
import sys
from typing import Any

import click

from genopt.errors import GenoptError

COMMANDS = {
    "init": "genopt.cli.start:init",
    "check": "genopt.cli.work:check",
    "optimize": "genopt.cli.work:optimize",
    "evaluate": "genopt.cli.work:evaluate",
    "judge": "genopt.cli.judge:judge",
    "rescore": "genopt.cli.rescore:rescore",
    "grade": "genopt.cli.grade:grade",
    "label": "genopt.cli.label:label",
    "best": "genopt.cli.show:best",
    "trials": "genopt.cli.show:trials",
    "report": "genopt.cli.show:report",
    "compare": "genopt.cli.compare:compare",
    "export": "genopt.cli.export:export",
    "import": "genopt.cli.imports:import_",
    "studies": "genopt.cli.studies:studies",
    "dashboard": "genopt.cli.show:dashboard",
    "params": "genopt.cli.start:params",
    "schema": "genopt.cli.start:schema",
}
SHORT = {
    "init": "Write a commented study.toml from a few questions or flags.",
    "check": "Read everything, answer two rows, and show the bill. Spends two answers.",
    "optimize": "Run a study to its verdict, or go on with one that was stopped.",
    "evaluate": "Measure one configuration on the study's data or on other data.",
    "judge": "See what a judge is shown, and whether it can be trusted.",
    "rescore": "Score the texts of a study with another judge or scorer, generating nothing.",
    "grade": "Grade the texts that a study waits for, blind.",
    "label": "Grade texts of a study blind, to hold its judge against people.",
    "best": "Print the settings a study arrived at.",
    "trials": "List the trials of a study.",
    "report": "Say in words what a study found.",
    "export": "Write the settings as a Modelfile, SamplingParams, request fields, flags, curl.",
    "compare": "Hold two sets of outputs against each other, in the open or blind.",
    "import": "Take an experiment of ollama-grid-search over as a finished study.",
    "studies": "List, inspect, clone and delete studies.",
    "dashboard": "Browse a study in optuna-dashboard.",
    "params": "List the parameters an engine honours.",
    "schema": "Print the JSON Schema of the study file, for editors.",
}
INTERRUPTED = 130


class _Lazy(click.Group):
    """A group that knows the names of its commands and loads one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SHORT[name]) for name in COMMANDS])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"{error.message}{f' Did you mean {close[0]!r}?' if close else ''}", ctx) from None


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        try:
            click.echo(metadata.version("genopt"))
        except metadata.PackageNotFoundError:  # run from a checkout
            click.echo("unknown: genopt is not installed")
        ctx.exit()


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="STUDY is a study file (study.toml), or storage-URL#name such as sqlite:///support.db#support-answers. "
    "Exit codes: 0 done, 1 failure, 2 bad input, 75 stopped and resumable, 130 Ctrl-C.",
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Find the generation parameters that make a language model do your task best, and know whether the gain is real.

    \b
    Start:    genopt init                   writes study.toml
              genopt check study.toml       reads everything, shows the bill
              genopt optimize study.toml    searches, then judges on rows the search never saw
    """


def one_blas_thread() -> None:
    """Keep NumPy to one thread where the user says nothing: on matrices as small as the sampler's more of them cost
    several times the CPU (benchmarks/README.md), and take it from the engine. It reads this when it is loaded. Not on
    ARM, where PyTorch may go by the same variable."""
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> None:
    """Run the command line; every error of genopt's own becomes one message and its exit code."""
    from genopt.cli._title import blot_passwords

    one_blas_thread()

    debug = "--debug" in sys.argv
    blot_passwords()
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort:  # Ctrl-C, or Ctrl-D at a question
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except GenoptError as error:
        if debug:
            raise
        _tell(f"error: {error}", error.hint)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        fault = "this is a fault in genopt or in your own code; run again with --debug for the traceback"
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            fault = "make room where the output or the study goes; what was generated is kept"
        _tell(f"error: {type(error).__name__}: {error}", fault)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _tell(message: str, hint: str) -> None:
    from genopt.words import safe  # a message may quote data

    click.echo(safe(message), err=True)
    if hint:
        click.echo(f"  {safe(hint)}", err=True)
