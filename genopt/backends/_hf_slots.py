"""Owns the memory of keys and values of a running batch: rows leave and join without the others being copied.

It knows tensors and the cache interface of `transformers`, no tokens, parameters or requests. All rows share one
newest column; a row with a shorter past simply starts further right (left padding), and a mask hides what lies before.
This is the place a paged cache would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_COLUMN_STEP = 128


@dataclass(slots=True)
class Frame:
    """The window of the store in use: rows [0, rows) and columns [low, high), shared by all layers."""

    rows: int = 0
    low: int = 0
    high: int = 0

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.high - self.low


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's keys and values, [rows, heads, columns, size] with room to grow in rows and columns."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.frame = frame
        self.store: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: `adopt` makes the store."""

    def adopt(self, keys: Tensor, values: Tensor, rows: int, columns: int, shift: int) -> None:
        """Make room for `rows` x `columns`; what is there moves `shift` columns to the right."""
        old, frame = self.store, self.frame
        if old is not None and shift == 0 and old[0].shape[0] >= rows and old[0].shape[2] >= columns:
            return
        have = old[0].shape if old is not None else (0, 0, 0, 0)
        grown = [max(have[0], _next_power(rows)), max(have[2], -(-columns // _COLUMN_STEP) * _COLUMN_STEP)]
        fresh = []
        for n, like in enumerate((keys, values)):
            new = like.new_zeros((grown[0], like.shape[1], grown[1], like.shape[3]))
            if old is not None:
                used = old[n][: frame.rows, :, frame.low : frame.high]
                new[: frame.rows, :, frame.low + shift : frame.high + shift] = used
            fresh.append(new)
        self.store = (fresh[0], fresh[1])
        self.is_initialized = True
        self.dtype, self.device = keys.dtype, keys.device

    def write(self, keys: Tensor, values: Tensor, at: int) -> None:
        """Put new rows [n, heads, columns, size] behind the ones in use, at column `at`."""
        assert self.store is not None
        rows = slice(self.frame.rows, self.frame.rows + keys.shape[0])
        for store, new in zip(self.store, (keys, values), strict=True):
            store[rows, :, at : at + new.shape[2]] = new

    def move(self, source: Tensor, target: Tensor) -> None:
        """Copy rows `source` over rows `target`."""
        assert self.store is not None
        columns = slice(self.frame.low, self.frame.high)
        for store in self.store:
            store[target, :, columns] = store[source, :, columns]

    def refresh(self) -> None:
        """Show the window in use as `keys` and `values` (cross-attention reads them directly)."""
        if self.store is not None:
            frame = self.frame
            self.keys, self.values = (s[: frame.rows, :, frame.low : frame.high] for s in self.store)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """The newest column's keys and values are written, the whole window with them is returned (views)."""
        assert self.store is not None
        frame, keys, values = self.frame, *self.store
        end = frame.high + key_states.shape[2]
        keys[: frame.rows, :, frame.high : end] = key_states
        values[: frame.rows, :, frame.high : end] = value_states
        return keys[: frame.rows, :, frame.low : end], values[: frame.rows, :, frame.low : end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Width and offset of the keys that the next query sees."""
        return self.frame.width + query_length, 0

    def get_seq_length(self) -> int:
        """Columns in use."""
        return self.frame.width

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class Slots:
    """The keys and values of all rows of a batch for one kind of attention.

    `right_aligned` rows share their newest column (self-attention); the others their first one (cross-attention).
    """

    def __init__(self, *, right_aligned: bool = True) -> None:
        self.frame = Frame()
        self.right_aligned = right_aligned
        self.layers: list[SlotLayer] = []
        self.cache: Any = None

    def join(self, source: Any, pick: Tensor) -> None:
        """Append rows `pick` (repeats allowed) of a freshly filled cache."""
        new = [(layer.keys, layer.values) for layer in source.layers]
        frame = self.frame
        if not self.layers:
            self.layers = [SlotLayer(frame) for _ in new]
            self.cache = Cache(layers=list(self.layers))
        columns, count = new[0][0].shape[2], len(pick)
        if frame.rows == 0:
            frame.low = frame.high = columns if self.right_aligned else 0
        shift = max(0, columns - frame.high) if self.right_aligned else 0
        high = max(frame.high + shift, columns)
        for layer, (keys, values) in zip(self.layers, new, strict=True):
            layer.adopt(keys, values, frame.rows + count, high + 1, shift)
            layer.write(keys[pick], values[pick], high - columns if self.right_aligned else 0)
        low = frame.low + shift
        frame.low, frame.high = (min(low, high - columns) if self.right_aligned else 0), high
        frame.rows += count
        self._refresh()

    def keep(self, rows: Sequence[int]) -> None:
        """Row i becomes what row rows[i] was; only rows that change place are copied."""
        frame = self.frame
        moved = [(old, new) for new, old in enumerate(rows) if old != new]
        if moved:
            device = self.layers[0].store[0].device  # type: ignore[index]
            source, target = torch.tensor(moved, device=device).T
            for layer in self.layers:
                layer.move(source, target)
        frame.rows = len(rows)
        self._refresh()

    def narrow(self, width: int) -> None:
        """Only the `width` columns nearest the aligned side stay in use."""
        frame = self.frame
        if self.right_aligned:
            frame.low = frame.high - width
        else:
            frame.high = frame.low + width
        self._refresh()

    def erase(self, rows: Sequence[int]) -> None:
        """Overwrite rows whose numbers overflowed: a mask does not stop what is not a number."""
        for layer in self.layers:
            for store in layer.store or ():
                store[list(rows)] = 0

    def reserve(self) -> None:
        """Make sure that one more column fits: unused columns on the left are reclaimed before memory is."""
        frame = self.frame
        if not self.layers or self.layers[0].store is None or frame.high < self.layers[0].store[0].shape[2]:
            return
        reclaimed = frame.low >= frame.width and frame.low > 0
        for layer in self.layers:
            assert layer.store is not None
            if reclaimed:
                for store in layer.store:
                    store[: frame.rows, :, : frame.width] = store[: frame.rows, :, frame.low : frame.high]
            else:
                layer.adopt(*layer.store, frame.rows, frame.high + 1 + frame.high // 2, 0)
        if reclaimed:
            frame.low, frame.high = 0, frame.width
        self._refresh()

    def advance(self) -> None:
        """Count the column that the last forward pass wrote."""
        self.frame.high += 1

    def _refresh(self) -> None:
        if not self.right_aligned:
            for layer in self.layers:
                layer.refresh()


class Solo:
    """The same interface over the model's own cache, for a single row at a time: models with recurrent states."""

    def __init__(self) -> None:
        self.cache: Any = None

    def join(self, source: Any, pick: Tensor) -> None:
        """Take over the cache of the only row."""
        if len(pick) != 1:
            raise ValueError("this model's cache holds one row")
        self.cache = source

    def keep(self, rows: Sequence[int]) -> None:
        """Drop the cache when its row has left."""
        if not rows:
            self.cache = None

    def narrow(self, width: int) -> None:
        """Nothing to do: a single row has no padding."""

    def erase(self, rows: Sequence[int]) -> None:
        """Nothing to do: the cache is dropped with its row."""

    def reserve(self) -> None:
        """The model's own cache grows by itself."""

    def advance(self) -> None:
        """The model's own cache counts by itself."""


def _next_power(rows: int) -> int:
    return 1 << max(0, rows - 1).bit_length()
