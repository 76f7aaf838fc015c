"""A replica's samples, cut into parts of one width, so that every step has the same shapes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strategies.mnist.order import share


@dataclass(frozen=True, kw_only=True)
class Parts:
    """``rows``: int64 [steps, parts, width], samples; sample 0 where a part has fewer.

    ``present``: float32 [parts, width], 1 for a sample and 0 for what only fills up.
    """

    rows: NDArray[np.int64]
    present: NDArray[np.float32]


def width(batch: int, replicas: int, parts: int) -> int:
    """The size of the largest part of ``batch`` samples over ``replicas``, each in ``parts``."""
    return -(-batch // (replicas * parts))


def cut(
    rows: NDArray[np.int64], replica: int, replicas: int, *, steps: int, parts: int, width: int
) -> Parts:
    """``replica``'s columns of ``rows`` [n, batch], filled up to ``steps`` steps.

    Its share is cut as numpy.array_split cuts; nothing may be wider than ``width``.
    """
    low, high = share(rows.shape[1], replica, replicas)
    filled = np.zeros((steps, parts, width), dtype=np.int64)
    present = np.zeros((parts, width), dtype=np.float32)
    for part, columns in enumerate(np.array_split(np.arange(low, high), parts)):
        filled[: len(rows), part, : len(columns)] = rows[:, columns]
        present[part, : len(columns)] = 1
    return Parts(rows=filled, present=present)
