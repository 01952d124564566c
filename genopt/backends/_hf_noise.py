"""Owns the random numbers of the draw: noise that is a pure function of seed, step and token id.

It knows no parameter, batch or model; there is no generator and no state.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ODD = np.uint64(0x9E3779B97F4A7C15)


def token_salt(vocabulary: int, device: torch.device) -> Tensor:
    """[V] int32, what tells the token ids apart in the noise."""
    ids = np.arange(vocabulary, dtype=np.uint32) * np.uint32(0x9E3779B1)
    return torch.from_numpy(ids.view(np.int32)).to(device)


def gumbel(seeds: NDArray[np.uint64], steps: NDArray[np.int64], salt: Tensor) -> Tensor:
    """[n, V] standard Gumbel noise; entry (r, v) is a pure function of (seeds[r], steps[r], v).

    The row key is a 64-bit splitmix hash of seed and step; the entry a 32-bit avalanche hash of key and id.
    """
    keys = row_keys(seeds, steps)
    low = torch.from_numpy((keys & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)).to(salt.device)[:, None]
    high = torch.from_numpy((keys >> np.uint64(32)).astype(np.uint32).view(np.int32)).to(salt.device)[:, None]
    bits = salt ^ low
    for shift, factor, add in ((16, 0x21F0AAAD, high), (15, 0x735A2D97, None)):
        # int32 shifts keep the sign: the mask makes them logical ones.
        bits ^= (bits >> shift) & ((1 << (32 - shift)) - 1)
        bits *= factor
        if add is not None:
            bits += add
    bits ^= (bits >> 15) & 0x1FFFF
    uniform = (bits & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31).clamp_(max=1.0 - 2.0**-24)
    return uniform.neg_().log1p_().neg_().log_().neg_()


def row_keys(seeds: NDArray[np.uint64], steps: NDArray[np.int64]) -> NDArray[np.uint64]:
    """splitmix64 of (seed, step), one 64-bit key a row."""
    with np.errstate(over="ignore"):
        return _splitmix(_splitmix(seeds.astype(np.uint64)) + steps.astype(np.uint64) * _ODD)


def _splitmix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _ODD
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
