"""The random numbers that every strategy shares: numpy's Philox, and nothing else.

Only the raw 64-bit stream is used: numpy promises it for ever, while the methods of its
``Generator`` may change between versions (NEP 19). So a seed means the same weights and the
same sample order under any framework and any numpy.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WEIGHTS = 0
ORDER = 1


def raw(seed: int, purpose: int, index: int, count: int) -> NDArray[np.uint64]:
    """``count`` raw 64-bit numbers of the stream (seed, purpose, index).

    ``seed`` is 0 to 2**63 - 1, ``purpose`` is WEIGHTS or ORDER, ``index`` is the number of the
    layer or of the epoch, below 2**32. Streams with different arguments do not overlap: they are
    the keys of the cipher.
    """
    key = np.array([seed, (purpose << 32) | index], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def uniform(seed: int, purpose: int, index: int, count: int) -> NDArray[np.float32]:
    """``count`` float32 numbers, uniform in [0, 1), made of the upper 24 bits of the raw ones."""
    upper = (raw(seed, purpose, index, count) >> np.uint64(40)).astype(np.float32)
    return upper * np.float32(2.0**-24)


def permutation(seed: int, purpose: int, index: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0 .. count-1: the stable order of ``count`` raw numbers."""
    return np.argsort(raw(seed, purpose, index, count), kind="stable")
