"""Owns the study file behind `genopt optimize --model M --data FILE`: written once, found again by the same command."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click


def names_are_known(scorer: str, backend: str | None) -> None:
    """Raises UsageError for a scorer or an engine that there is not; "module:name" may be anybody's."""
    from genopt.backends import KINDS as ENGINES
    from genopt.spec.mistakes import hint
    from genopt.spec.scorers import KINDS

    if scorer not in KINDS and ":" not in scorer:
        raise click.UsageError(f"--scorer: {scorer!r} is not a scorer genopt knows.{hint(scorer, KINDS)}")
    if backend is not None and backend not in ENGINES and ":" not in backend:
        raise click.UsageError(f"--backend: there is no engine {backend!r}.{hint(backend, ENGINES)}")


def study_file(
    model: str,
    data: str,
    *,
    backend: str | None,
    scorer: str | None,
    reference: str | None,
    prompt: str | None,
    trials: int | None,
    output: Path | None,
) -> Path:
    """The path of the study file that these flags describe, written if it was not there. Raises UsageError where it is
    there and says something else, apart from its budget."""
    from genopt.errors import SpecError, writing
    from genopt.template import NEEDS_MORE, beside, guess_backend, guess_fields
    from genopt.template import study_file as written

    fields, found = guess_fields(data, reference)
    if scorer is None and not found:
        raise SpecError(
            f"{data}: no row has a reference to score by. Name its key with --reference, or a scorer without one"
        )
    scorer = scorer or "rouge_l"
    names_are_known(scorer, backend)
    if scorer in NEEDS_MORE:
        raise click.UsageError(
            f"--scorer {scorer}: needs more than its name. Write a study file: genopt init --scorer {scorer}"
        )
    if not fields and prompt is None and not found:
        raise click.UsageError('--prompt: no column can be the question. Write it, e.g. --prompt "{{ question }}"')
    path = output or Path(f"{_name(model)}-{_name(Path(data).stem)}.toml")
    text = written(
        path.stem,
        beside(data, path.parent),
        beside(model, path.parent),
        scorer,
        backend or guess_backend(model),
        fields,
        reference or found,
        prompt=prompt,
        trials=trials or 40,
    )
    if not path.exists():
        with writing(f"-o {path}"):
            path.write_text(text, encoding="utf-8")
        click.echo(f"wrote {path}: the study that these flags describe", err=True)
        return path
    try:
        old = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        old = {}
    new = tomllib.loads(text)
    if changed := [key for key in sorted(old.keys() | new.keys()) if key != "budget" and old.get(key) != new.get(key)]:
        raise click.UsageError(
            f"{path} is there and differs in {', '.join(changed)}. Run it as it is (genopt optimize {path}), or name"
            " another file with -o"
        )
    click.echo(f"{path} is the study that these flags describe", err=True)
    return path


def _name(text: str) -> str:
    """The last part of a name or a path, in characters that every file system takes."""
    return re.sub(r"[^\w.-]+", "-", text.rstrip("/").rsplit("/", 1)[-1]).strip("-.") or "study"
