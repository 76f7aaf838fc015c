"""Which sample is trained on when, and by which rank: the same for every strategy.

numpy is imported on use: the launching process counts steps and shares without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def share(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """The half-open range of ``count`` things that is this rank's; the sizes differ by one at most.

    The ranges of all ranks, in order, cover 0 .. count exactly once, whatever divides what.
    """
    return count * rank // world_size, count * (rank + 1) // world_size


def largest_share(count: int, world_size: int) -> int:
    """How many of ``count`` things the fullest rank gets."""
    return -(-count // world_size)


@dataclass(frozen=True, kw_only=True)
class EpochOrder:
    """One rank's samples in one epoch.

    ``full``: int64 [steps, this rank's share of a global batch], the indices of the samples;
    ``rest``: int64 [this rank's share of the last, smaller batch], or None where the global
    batch divides the data set. The last batch is trained on, not dropped.
    ``rest_batch``: how many samples the last, smaller batch has over all ranks.
    """

    full: NDArray[np.int64]
    rest: NDArray[np.int64] | None
    rest_batch: int

    @property
    def steps(self) -> int:
        return len(self.full) + (self.rest is not None)


def epoch_order(
    *, seed: int, epoch: int, samples: int, batch: int, rank: int, world_size: int
) -> EpochOrder:
    """The order of ``samples`` samples in ``epoch`` (from 0), cut into global batches of ``batch``.

    Each global batch is split over the ranks in rank order, so that the samples of a step do not
    depend on the number of ranks.
    """
    import numpy as np

    from strategies.mnist import philox

    order = philox.permutation(seed, philox.ORDER, epoch, samples)
    whole = samples // batch
    low, high = share(batch, rank, world_size)
    full = np.ascontiguousarray(order[: whole * batch].reshape(whole, batch)[:, low:high])
    tail = order[whole * batch :]
    low, high = share(len(tail), rank, world_size)
    rest = np.ascontiguousarray(tail[low:high]) if len(tail) else None
    return EpochOrder(full=full, rest=rest, rest_batch=len(tail))


def steps_per_epoch(samples: int, batch: int) -> int:
    """Optimizer steps in an epoch, the last, smaller batch included."""
    return -(-samples // batch)
