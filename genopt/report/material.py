"""Owns what a report is made of: a study with every text and every example, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genopt.archive import Archive
from genopt.observations import paired_table
from genopt.stats import TIE
from genopt.store import Store
from genopt.types import Example

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Material:
    """A study as it is stored, its texts as a table, and its examples with the split each is on."""

    archive: Archive
    frame: pandas.DataFrame
    examples: Mapping[str, tuple[Example, str]]

    def units(self, split: str) -> dict[str, str]:
        """Example -> its group; itself where the data have no groups."""
        here = (split, "both")
        return {name: example.group or name for name, (example, side) in self.examples.items() if side in here}


def collect(archive: Archive) -> Material:
    """A study's rows and examples, read from its storage. Raises StudyError."""
    store = Store(archive.url, reading=True)
    try:
        examples = {example.id: (example, split) for example, split in store.examples(archive.id)}
    finally:
        store.close()
    return Material(archive, archive.observations(), examples)


def gain_table(material: Material) -> pandas.DataFrame:
    """Configurations against the examples of the tune split: utility minus the baseline's on the same example."""
    table = paired_table(material.frame)
    return untied(table - table.loc[material.archive.baseline["key"]])


def by_unit(table: pandas.DataFrame, units: Mapping[str, str]) -> pandas.DataFrame:
    """The same with examples of one group as one column, their mean; in the order of the first example."""
    named = [units.get(str(name), str(name)) for name in table.columns]
    return untied(table.T.groupby(named, sort=False).mean().T)


def untied(table: pandas.DataFrame) -> pandas.DataFrame:
    """Differences, those that are rounding made 0."""
    return table.mask(table.abs() <= TIE, 0.0)
