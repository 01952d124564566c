"""Owns what a recorded table is: its files, its arrays, its truth. Knows no engine, no policy, no study.

`NAME.json` says what was recorded (task, model, engine, date, command, space, configurations, examples); `NAME.parquet`
holds a row for every (configuration, example, sample) in that order: the metrics as float32 of four decimals, and the
tokens. A configuration that leaves nothing to chance has one sample. Where `pooled` is true all configurations are
equal in distribution: there is one set of rows, and every configuration draws its own from them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOLDER = Path(__file__).resolve().parent / "tables"
DIGITS = 4  # decimals of a metric


@dataclass(frozen=True)
class Table:
    """One recorded table.

    `metrics[name]`, `completion_tokens` and `prompt_tokens` have the shape (configurations, examples, samples); where a
    configuration has one sample it stands in every place, and `samples[c]` says how many are different draws.
    """

    about: Mapping[str, Any]
    metrics: Mapping[str, Floats]
    completion_tokens: Floats
    prompt_tokens: Floats
    samples: NDArray[np.intp]

    @property
    def name(self) -> str:
        return str(self.about["name"])

    @property
    def configurations(self) -> Sequence[Mapping[str, Any]]:
        """The flat parameters of every configuration, switches included."""
        return list(self.about["configurations"])

    @property
    def examples(self) -> Sequence[str]:
        return list(self.about["examples"])

    @property
    def pooled(self) -> bool:
        return bool(self.about["pooled"])

    @cached_property
    def utility(self) -> Floats:
        """The objective, higher is better: the weighted sum of the metrics."""
        total = np.zeros_like(self.completion_tokens)
        weights = [float(objective.get("weight", 1.0)) for objective in self.about["objectives"]]
        for objective, weight in zip(self.about["objectives"], weights, strict=True):
            total = total + weight / sum(weights) * self.metrics[objective["maximize"]]
        return total

    @cached_property
    def truth(self) -> Floats:
        """The mean over all examples and samples, by configuration."""
        return self.utility.mean(axis=(1, 2))

    @cached_property
    def tokens(self) -> Floats:
        """Tokens read and written of every generation."""
        return self.completion_tokens + self.prompt_tokens

    @cached_property
    def baseline(self) -> int:
        """Which configuration is the baseline."""
        return self.configurations.index(self.about["baseline"])

    @property
    def digest(self) -> str:
        """What the numbers are, as sixteen hexadecimal digits."""
        found = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode())
        for values in (*self.metrics.values(), self.completion_tokens, self.prompt_tokens):
            found.update(np.ascontiguousarray(values, dtype=np.float32).tobytes())
        return found.hexdigest()[:16]


def names() -> list[str]:
    """The tables that are there."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str | Path) -> Table:
    """A table by its name, or by the path of its JSON. ValueError when the two files do not fit together."""
    path = Path(name) if str(name).endswith(".json") else FOLDER / f"{name}.json"
    import pyarrow.parquet

    about = json.loads(path.read_text(encoding="utf-8"))
    columns = pyarrow.parquet.read_table(path.with_suffix(".parquet"))
    configurations, examples, samples = len(about["configurations"]), len(about["examples"]), int(about["samples"])
    if about["pooled"]:
        drawn = np.full(configurations, samples)
        shape = (1, examples, samples)
    else:
        drawn = np.array(about["drawn"])
        shape = (configurations, examples, samples)
    # One row for each different draw: spread a single one over all places.
    kept = np.broadcast_to(np.arange(samples) < drawn[: shape[0], None, None], shape)
    if int(kept.sum()) != columns.num_rows:
        raise ValueError(f"{path}: names {int(kept.sum())} rows, its Parquet file has {columns.num_rows}")

    def spread(column: str) -> Floats:
        full = np.zeros(shape)
        full[kept] = np.asarray(columns[column], dtype=np.float64)
        full = np.where(kept, full, full[:, :, :1])
        return np.broadcast_to(full, (configurations, examples, samples))

    return Table(
        about,
        {metric: np.round(spread(metric), DIGITS) for metric in about["metrics"]},
        spread("completion_tokens"),
        spread("prompt_tokens"),
        drawn,
    )


def save(about: Mapping[str, Any], rows: Mapping[str, Sequence[float]], folder: Path = FOLDER) -> tuple[Path, int]:
    """Write both files; the rows are columns in the order (configuration, example, sample). The path and its bytes."""
    import pyarrow
    import pyarrow.parquet

    columns: dict[str, Any] = {}
    for name, values in rows.items():
        if name in about["metrics"]:
            columns[name] = pyarrow.array(np.round(np.asarray(values), DIGITS).astype(np.float32))
        else:
            columns[name] = pyarrow.array(np.asarray(values, dtype=np.uint16))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{about['name']}.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd", compression_level=19)
    text = json.dumps(about, indent=1, ensure_ascii=False)
    path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    return path, path.stat().st_size + path.with_suffix(".json").stat().st_size
