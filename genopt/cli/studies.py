"""Owns `genopt studies`: list, inspect, clone, delete."""

from __future__ import annotations

import click

from genopt.cli._json import json_text


@click.group(invoke_without_command=True)
@click.option("--live", metavar="STORAGE|STUDY.toml", help="Show who works on its studies right now.")
@click.option("--json", "as_json", is_flag=True, help="With --live: print as JSON.")
@click.pass_context
def studies(context: click.Context, live: str | None, as_json: bool) -> None:
    """List, inspect, clone and delete studies; see who works on them.

    STORAGE is an SQLAlchemy URL (sqlite:///support.db); STUDY is a study file or STORAGE#name.

    \b
    genopt studies list sqlite:///support.db
    genopt studies --live postgresql://me@host/genopt        workers, hosts, rates, failed calls
    genopt studies inspect sqlite:///support.db#support-answers
    """
    if context.invoked_subcommand is None:
        if live is None:
            click.echo(context.get_help())
        else:
            _live(live, as_json)
    elif live is not None:
        raise click.UsageError("--live stands alone: genopt studies --live STORAGE")


def _live(where: str, as_json: bool) -> None:
    from genopt.liveness import shown
    from genopt.study import at_work
    from genopt.words import duration, safe

    url, name = _storage(where)
    found = at_work(url, name)
    if as_json:
        rows = [
            {
                "study": each.study,
                "host": each.worker.host,
                "process": each.worker.process.partition(":")[0],
                "alive": each.alive,
                "stage": each.worker.stage,
                "trials": each.trials,
                "generations": each.worker.paid.generations,
                "generations_per_second": each.worker.rate,
                "calls_failed": each.worker.paid.failed,
                "seconds": max(0.0, each.worker.heartbeat - each.worker.started),
                "silent_seconds": each.worker.age,
                "lease": each.worker.lease,
            }
            for each in found
        ]
        click.echo(json_text(rows, indent=2))
        return
    if not any(each.alive for each in found):
        click.echo("nobody is at work")
    for each in found:
        worker = each.worker
        state = worker.stage or "starting" if each.alive else "gone: who works on the study next takes its work over"
        line = [each.study, shown(worker), state, f"{each.trials} trials in flight"]
        failed = f", {worker.paid.failed:,} calls failed" if worker.paid.failed else ""
        line += [f"{worker.paid.generations:,} generations ({worker.rate:.1f}/s){failed}"]
        line += [f"for {duration(max(0.0, worker.heartbeat - worker.started))}", f"heard of {worker.age:.0f} s ago"]
        click.echo(safe("\t".join(line)))


def _storage(where: str) -> tuple[str, str | None]:
    """The storage's URL, and the study's name where one is named."""
    from genopt.archive import as_url, locate

    where = as_url(where)
    return (where, None) if "://" in where and "#" not in where.rpartition("/")[2] else locate(where)


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
@click.argument("storage", metavar="STORAGE|STUDY.toml")
def upgrade(storage: str) -> None:
    """Bring the tables of an older genopt up to date, with everything in them.

    All workers have to have ended; older versions of genopt cannot use the storage afterwards. Optuna's own tables are
    left alone.

    \b
    genopt studies upgrade sqlite:///support.db
    """
    from genopt.database import masked
    from genopt.migrations import upgrade as bring_up

    url, _ = _storage(storage)
    before, after = bring_up(url)
    done = "is up to date already" if before == after else f"brought up to date from schema {before}"
    click.echo(f"{masked(url)}: {done} (schema {after})", err=True)


@studies.command()
@click.argument("storage", metavar="STORAGE|STUDY.toml", envvar="GENOPT_STORAGE")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. There is no password.")
@click.option("--port", type=click.IntRange(0, 65535), default=13000, show_default=True, help="0 takes a free one.")
def proxy(storage: str, host: str, port: int) -> int:
    """Stand before a storage, for workers in the hundreds (Optuna's gRPC proxy). Ctrl-C or SIGTERM ends it.

    What Optuna keeps then goes over this server's few connections instead of one more of each worker; the workers wait
    while it is away. There is no password and no encryption: whoever reaches the address can change studies, so it
    listens on this machine alone unless --host says otherwise. STORAGE may come from GENOPT_STORAGE.

    \b
    GENOPT_STORAGE=postgresql://me:...@host/genopt genopt studies proxy --host 10.0.0.5
    genopt optimize study.toml --storage-proxy 10.0.0.5:13000      on every machine, with the same GENOPT_STORAGE
    """
    import signal
    import threading

    from genopt.database import masked
    from genopt.study.proxy import serve

    url, _ = _storage(storage)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server, taken = serve(url, host, port)
    click.echo(f"proxy of {masked(url)} at {host}:{taken} (Ctrl-C ends it)", err=True)
    ended.wait()
    server.stop(grace=5).wait()
    return 0


@studies.command()
@click.argument("study", metavar="STUDY")
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(study: str, yes: bool) -> int:
    """Delete a study with everything it generated. There is no way back.

    While somebody works on it, it is not deleted.

    \b
    genopt studies delete sqlite:///support.db#support-answers
    """
    from genopt.archive import delete as remove
    from genopt.archive import load, refuse_at_work

    archive = load(study)
    refuse_at_work(archive)
    if not yes:
        spent = archive.spent
        what = f"delete {archive.name}: {len(archive.trials)} trials and {spent.generations:,} generations?"
        if not click.confirm(what, err=True):
            click.echo(f"kept {archive.name}", err=True)
            return 1
    remove(archive)
    click.echo(f"deleted {archive.name}", err=True)
    return 0
