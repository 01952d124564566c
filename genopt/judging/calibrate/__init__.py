"""Owns holding a judge against people: which labels and scores belong together, and how far they agree."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from genopt.agreement import Estimate, Floats, Rows, bootstrap, kappa, kendall, members, numbered, spearman
from genopt.archive import Archive
from genopt.errors import SpecError
from genopt.judging.labels import Label, Labels
from genopt.store import Store
from genopt.words import finite

ENOUGH = 3  # labels of an annotator, below which a rank correlation says nothing


@dataclass(frozen=True)
class Judged:
    """A judge's scores by (example id, text), None where it could not tell, and the configurations that wrote a text.

    A stored generation is also known by "#" and its id in the place of its text.
    """

    scores: Mapping[tuple[str, str], float | None]
    configs: Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Ceiling:
    """How far people agree among themselves, on the texts that several of them labelled.

    `people` is the mean over annotators of the rank correlation with the mean of the others; `judge` is the judge's
    with the same means, so that a judge as good as one more annotator reaches `people`. `kappa` is that of two people,
    None where labels are no grades.
    """

    texts: int
    people: Estimate
    judge: Estimate
    kappa: Estimate | None


@dataclass(frozen=True, slots=True)
class Config:
    """The mean grades, in [0, 1], of what one configuration wrote."""

    config: str
    texts: int
    people: float
    judge: float


@dataclass(frozen=True, slots=True)
class Third:
    """A third of the texts by their length in characters: mean grades in [0, 1], and the judge's minus the people's."""

    shortest: int
    longest: int
    texts: int
    people: float
    judge: float
    gap: Estimate


@dataclass(frozen=True, slots=True)
class Calibration:
    """What labels say about a judge, with intervals that resample whole inputs.

    `spearman` and `kendall` (tau-b) are between the judge's score and the mean label of each text, `kappa` (quadratic
    weights; None where labels are no grades) between the judge's level and each label. `bias` is the judge's mean minus
    the people's, in [0, 1]. `order` is tau-b of the configurations' means. `length` is how much more the judge's grades
    exceed the people's among the longest texts than among the shortest. Labels of a text that the judge never saw are
    `unmatched`, those of one it could not score `unscored`: both are left out.
    """

    labels: int
    texts: int
    inputs: int
    annotators: int
    scale: tuple[float, float]
    unmatched: int
    unscored: int
    spearman: Estimate
    kendall: Estimate
    kappa: Estimate | None
    bias: Estimate
    ceiling: Ceiling | None
    configs: tuple[Config, ...]
    order: Estimate | None
    thirds: tuple[Third, ...]
    length: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON; what is unknown is null."""
        return finite(asdict(self))


def scores_in(labels: Labels) -> Judged:
    """The judge's scores in a file: of scores, or of labels that hold them too."""
    scored = [row for row in labels.rows if row.score is not None]
    return Judged({(r.id, r.output): r.score for r in scored}, {(r.id, r.output): r.configs for r in scored})


def scores_of(archive: Archive, scorer: str) -> Judged:
    """The scores that a study has stored of one of its scorers."""
    store = Store(archive.url, reading=True)
    try:
        rows = store.all_rows(archive.id)
    finally:
        store.close()
    key = archive.description["scorers"][scorer]
    scores: dict[tuple[str, str], float | None] = {}
    configs: dict[tuple[str, str], dict[str, None]] = {}
    for config, _, _, row in rows:
        for text in (row.generation.text, f"#{row.id}"):
            if key in row.scores:
                scores[row.example_id, text] = row.scores[key].value
            configs.setdefault((row.example_id, text), {})[config] = None
    return Judged(scores, {text: tuple(written) for text, written in configs.items()})


def choose_scorer(archive: Archive, wanted: str | None = None) -> str:
    """The scorer that is meant: the one named, else the only judge, else the only one. Raises SpecError."""
    names = list(archive.description["scorers"])
    if wanted is not None and wanted not in names:
        raise SpecError(f"--scorer {wanted}: the study has no such scorer. It has {', '.join(names)}")
    judges = [name for name in names if archive.spec.get("scorers", {}).get(name, {}).get("kind") == "judge"]
    found = [wanted] if wanted is not None else judges or names
    if len(found) > 1:
        raise SpecError(f"--scorer: the study has several. Choose one of {', '.join(found)}")
    return found[0]


def calibrate(labels: Labels, judged: Judged, *, resamples: int = 1000, seed: int = 0) -> Calibration:
    """How far the judge agrees with the people. Raises SpecError when no label is of a text with a score."""
    known: list[tuple[Label, float, tuple[str, ...]]] = []
    unmatched = unscored = 0
    for row in labels.rows:
        text = (row.id, row.output)
        score = judged.scores.get(text)
        if score is not None:
            known.append((row, score, row.configs or judged.configs.get(text, ())))
        elif text in judged.scores:
            unscored += 1
        else:
            unmatched += 1
    if not known:
        raise SpecError(
            f"none of the {len(labels.rows)} labels has a score of the judge: {unmatched} are of texts it never saw,"
            f" {unscored} of texts it could not score. Label what the study wrote, or give scores: --judge-scores FILE"
        )
    table = _Table(labels, known)
    found = bootstrap(table.statistics, table.inputs, resamples=resamples, seed=seed)
    several, ordered = len(table.several) >= ENOUGH, len(table.names) > 1
    graded = labels.levels is not None
    thirds = [_third(table, third, found[f"gap {third}"]) for third in np.unique(table.third)]
    return Calibration(
        labels=len(known),
        texts=len(table.texts),
        inputs=table.inputs,
        annotators=len({row.annotator for row, _, _ in known}),
        scale=(labels.low, labels.high),
        unmatched=unmatched,
        unscored=unscored,
        spearman=found["spearman"],
        kendall=found["kendall"],
        kappa=found["kappa"] if graded else None,
        bias=found["bias"],
        ceiling=Ceiling(
            len(table.several), found["people"], found["judge"], found["between"] if graded else None
        ) if several else None,
        configs=tuple(sorted(table.configs(), key=lambda config: -config.people)),
        order=found["order"] if ordered else None,
        thirds=tuple(thirds),
        length=found["length"] if len(thirds) == 3 else None,
    )  # fmt: skip


class _Table:
    """The labels as columns, one row each, from which every statistic can be had for any choice of inputs."""

    def __init__(self, labels: Labels, known: Sequence[tuple[Label, float, tuple[str, ...]]]) -> None:
        rows = [row for row, _, _ in known]
        text = numbered([(row.id, row.output) for row in rows])
        self.input = numbered([row.id for row in rows])
        self.inputs = int(self.input.max()) + 1
        self.rows_of = members(self.input, self.inputs)
        self.annotator = numbered([row.annotator for row in rows])
        self.judge = np.array([score for _, score, _ in known])
        self.levels = labels.levels or 2
        raw = np.array([row.label for row in rows])
        self.graded = np.floor(raw - labels.low + 0.5).astype(np.intp)
        self.rated = np.floor(self.judge * (self.levels - 1) + 0.5).astype(np.intp)
        self.own = (raw - labels.low) / (labels.high - labels.low)
        count, total = np.bincount(text), np.bincount(text, weights=self.own)
        self.people = (total / count)[text]
        self.several = np.flatnonzero(count > 1)
        with np.errstate(invalid="ignore"):
            self.others = (total[text] - self.own) / (count[text] - 1)  # NaN where nobody else labelled the text
        self.texts = np.unique(text, return_index=True)[1]
        self.first = np.zeros(len(rows), dtype=bool)
        self.first[self.texts] = True
        self.length = np.array([len(row.output) for row in rows])
        self.third = np.digitize(self.length, np.quantile(self.length[self.texts], (1 / 3, 2 / 3)), right=True)
        pairs = [(i, j) for same in members(text, count.size) for i in same for j in same if i != j]
        self.pairs = np.array(pairs, dtype=np.intp).reshape(-1, 2)
        self.pairs_of = members(self.input[self.pairs[:, 0]], self.inputs)
        written = [(row, config) for row in self.texts for config in known[row][2]]
        self.names = sorted({config for _, config in written})
        self.by = np.array([self.names.index(config) for _, config in written], dtype=np.intp)
        self.written = np.array([row for row, _ in written], dtype=np.intp)
        self.written_of = members(self.input[self.written], self.inputs)

    def statistics(self, inputs: Rows) -> dict[str, float]:
        """Every statistic of these inputs, which may repeat; NaN where they cannot tell."""
        rows = _of(self.rows_of, inputs)
        texts = rows[self.first[rows]]
        people, judge, gap = self.people[texts], self.judge[texts], self.judge[texts] - self.people[texts]
        found = {
            "spearman": spearman(people, judge),
            "kendall": kendall(people, judge),
            "kappa": kappa(self.graded[rows], self.rated[rows], self.levels),
            "bias": _mean(gap),
            "people": self._left_out(rows, self.own),
            "judge": self._left_out(rows, self.judge),
        }
        one, other = self.pairs[_of(self.pairs_of, inputs)].T
        found["between"] = kappa(self.graded[one], self.graded[other], self.levels)
        means = self.means(_of(self.written_of, inputs))
        found["order"] = kendall(*means) if not np.isnan(means).any() else math.nan
        for third in range(3):
            found[f"gap {third}"] = _mean(gap[self.third[texts] == third])
        found["length"] = found["gap 2"] - found["gap 0"]
        return found

    def means(self, written: Rows) -> Floats:
        """The mean grades of each configuration: a row of the people's, a row of the judge's."""
        by, rows = self.by[written], self.written[written]
        count = np.bincount(by, minlength=len(self.names))
        totals = [np.bincount(by, weights=x[rows], minlength=len(self.names)) for x in (self.people, self.judge)]
        with np.errstate(invalid="ignore"):
            means: Floats = np.array(totals) / count
        return means

    def _left_out(self, rows: Rows, values: Floats) -> float:
        """The mean over annotators of the rank correlation of `values` with the mean grade of the others."""
        rows = rows[~np.isnan(self.others[rows])]
        of = [rows[self.annotator[rows] == annotator] for annotator in np.unique(self.annotator[rows])]
        found = [(spearman(values[own], self.others[own]), own.size) for own in of if own.size >= ENOUGH]
        known = [(value, weight) for value, weight in found if not math.isnan(value)]
        return math.fsum(v * w for v, w in known) / sum(w for _, w in known) if known else math.nan

    def configs(self) -> list[Config]:
        people, judge = self.means(np.arange(self.by.size)).tolist()
        count = np.bincount(self.by, minlength=len(self.names)).tolist()
        return [Config(*each) for each in zip(self.names, count, people, judge, strict=True)]


def _third(table: _Table, third: int, gap: Estimate) -> Third:
    rows = table.texts[table.third[table.texts] == third]
    lengths = table.length[rows]
    people, judge = _mean(table.people[rows]), _mean(table.judge[rows])
    return Third(int(lengths.min()), int(lengths.max()), rows.size, people, judge, gap)


def _of(groups: Sequence[Rows], chosen: Rows) -> Rows:
    return np.concatenate([groups[number] for number in chosen]).astype(np.intp)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan
