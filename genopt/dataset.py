"""Owns the dataset: loading it, its digests, its seeded orders and the split by group. Knows no prompt, no scorer.

Every order here is that of a keyed hash of each example's own name, never that of a shuffled list: a row that is added
or removed leaves the order of all others as it was, so that what was generated for them can still be used.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from genopt._examples import SHOWN, Reader
from genopt._rows import collect, read
from genopt.errors import SpecError
from genopt.types import Example

LARGE = 0.25  # of the rows: a group of more makes the sides of the split unlike each other


@dataclass(frozen=True)
class Dataset:
    """The examples of one source, with what is needed to name any of them to a person.

    `digest` is a sha256 over id, fields, references, group and images of the examples in the source's order, whatever
    order they are kept in. `lines` tells the line (`unit` "line") or the row counted from 1 (`unit` "row") of each id.
    """

    examples: tuple[Example, ...]
    source: str
    digest: str
    warnings: tuple[str, ...]
    lines: Mapping[str, int]
    unit: Literal["line", "row"] = "row"


def load(
    *,
    path: str | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    folder: Path,
    reference: str | None = None,
    id: str | None = None,
    group: str | None = None,
    map: Mapping[str, str] | None = None,
    limit: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    split: str | None = None,
    format: str | None = None,
    images: str | None = None,
    within: Path | None = None,
) -> Dataset:
    """The examples of a file, a hub data set or rows; whatever is wrong with them is raised as one SpecError.

    `map` renames (new name -> name in the file) before anything else is looked up. `reference`, `id`, `group`, `images`
    and the right sides of `map` may be paths into objects (`answers.text`). `images` names one image or a list of them
    by their paths from the file's folder; none of them may leave the folder `within`, if given. Without keys the first
    of the usual names counts, an id then defaults to the number of the row from 1, and a row's `messages` give up a
    last assistant turn as the reference. A null or NaN field becomes "". `limit` keeps the first
    rows, after a seeded shuffle if asked for.
    """
    if (path is None) == (rows is None):
        raise SpecError("dataset: needs a path or rows. Give exactly one of them")
    if limit is not None and limit < 1:
        raise SpecError(f"dataset.limit: {limit} leaves no rows. Use 1 or more, or remove it")
    raw = read(path, folder, format, split) if path is not None else collect("rows", "row", enumerate(rows or (), 1))
    file = folder / Path(path or "").expanduser()
    reader = Reader(
        raw, reference=reference, id=id, group=group, map=map or {}, images=images,
        folder=file.parent if file.is_file() else folder, within=within,
    )  # fmt: skip
    examples, lines = reader.examples()
    kept = list(range(len(examples)))
    if shuffle:
        kept.sort(key=lambda index: _rank(seed, "shuffle", examples[index].id))
    kept = kept[:limit]
    digest = hashlib.sha256("\n".join(_canonical(examples[index]) for index in sorted(kept)).encode()).hexdigest()
    chosen = tuple(examples[index] for index in kept)
    return Dataset(
        chosen,
        raw.source,
        digest,
        (*raw.warnings, *reader.warnings(chosen)),
        {example.id: lines[example.id] for example in chosen},
        raw.unit,
    )


def split(examples: Sequence[Example], *, holdout: float, seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Tune and holdout examples, each in one seeded order that does not depend on the order of `examples`.

    Groups stay whole; an example without one stands alone. Groups are visited in the order of a hash of seed and name,
    and one is put into the holdout when that brings its size closer to `holdout * len(examples)`, so that the size is
    too large by less than half the last group, or too small by at most half of any group left out. Rows that are added
    move the end of the holdout by a few examples and leave all others on their side, in their order. `holdout` is in
    [0, 1); with 0 everything is for tuning. How few examples are too few is for the caller to judge.
    """
    if not 0 <= holdout < 1:
        raise SpecError(f"dataset.holdout: {holdout} is not in [0, 1). Use a fraction such as 0.3")
    groups: dict[str, list[Example]] = {}
    for example in examples:
        name = f"id {example.id}" if example.group is None else f"group {example.group}"
        groups.setdefault(name, []).append(example)
    target = holdout * len(examples)
    held: set[str] = set()
    size = 0
    for name in sorted(groups, key=lambda name: _rank(seed, "holdout", name)):
        count = len(groups[name])
        if abs(size + count - target) < abs(size - target):
            held.add(name)
            size += count
    sides: tuple[list[Example], list[Example]] = ([], [])
    for name, members in groups.items():
        sides[name in held].extend(members)
    tune, kept = (tuple(sorted(side, key=lambda example: _rank(seed, "order", example.id))) for side in sides)
    return tune, kept


def one_sided(tune: Sequence[Example], holdout: Sequence[Example]) -> Iterator[str]:
    """What to warn of where one group is so many of the rows that the two sides of the split are not alike."""
    total = len(tune) + len(holdout)
    for examples, here, there in ((tune, "searched on", "held out"), (holdout, "held out", "searched on")):
        for group, count in Counter(example.group for example in examples).items():
            if group is not None and count > LARGE * total:
                yield (
                    f"dataset.group: {count / total:.0%} of the rows are of the group {group!r}, all of them {here}:"
                    f" the rows {there} may not be like them. Name a column with smaller groups"
                )


def example_digest(example: Example) -> str:
    """A sha256 of everything an example holds: its id, fields, references, group and the content of its images."""
    return hashlib.sha256(_canonical(example).encode()).hexdigest()


def require_references(dataset: Dataset, scorer_names: Iterable[str]) -> None:
    """Raises SpecError, naming the rows, when an example has no reference although these scorers compare with one."""
    names = ", ".join(scorer_names)
    missing = [dataset.lines[example.id] for example in dataset.examples if not example.references]
    if not names or not missing:
        return
    if len(missing) == len(dataset.examples):
        columns = ", ".join(dict.fromkeys(name for example in dataset.examples for name in example.fields))
        raise SpecError(
            f"{dataset.source}: no row has a reference, which {names} compares with. "
            f"Set dataset.reference to one of the columns: {columns}"
        )
    shown = ", ".join(str(number) for number in sorted(missing)[:SHOWN])
    more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
    unit = dataset.unit if len(missing) == 1 else dataset.unit + "s"
    raise SpecError(
        f"{dataset.source}: no reference, which {names} compares with, on {unit} {shown}{more}. "
        "Fill them in or remove the rows"
    )


def _canonical(example: Example) -> str:
    whole = [example.id, dict(example.fields), list(example.references), example.group]
    if example.images:
        whole.append([hashlib.sha256(Path(image).read_bytes()).hexdigest() for image in example.images])
    return json.dumps(whole, sort_keys=True, separators=(",", ":"))


def _rank(seed: int, purpose: str, name: str) -> bytes:
    """Where a name stands in a seeded order: its own hash, so that names that come or go do not move it.

    `purpose` makes orders independent, else a limit would pick the very rows that the split puts first.
    """
    return hashlib.blake2b(f"{seed} {purpose} {name}".encode(), digest_size=16).digest()
