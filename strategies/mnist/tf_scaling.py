"""What a step costs alone, at once without exchange, and with it; measured after the training.

The three are interleaved and repeated, so that a machine whose speed drifts does so for all.
Learning rate 0: the weights stay what they are, and the work is the same. The momentum that
changes meanwhile is not the training's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
from numpy.typing import NDArray

from strategies.base import ScalingSamples, TrainConfig
from strategies.mnist import philox
from strategies.mnist.order import largest_share
from strategies.mnist.tf_group import Group
from strategies.mnist.tf_replica import Replica
from strategies.mnist.tf_window import Solo, Window

ROUNDS = 7
LARGER = 4  # the second measurement's batch, in batches of the job
_BLOCK_S = 0.1
MOST_STEPS = 200
_FEWEST_STEPS = 3
_WARM_UP = 5


def measure_scaling(
    config: TrainConfig,
    samples: int,
    group: Group,
    replicas: list[Replica],
    window: Callable[..., Window],
) -> list[ScalingSamples]:
    """Scaling at the job's batch a replica and at LARGER times as many, if there are ``samples``.

    ``replicas``, this process's, train the job's weights with a momentum of their own; ``window``
    makes their steps together from ``steps`` and ``batch``.
    """
    batch = largest_share(config.batch_size, group.replicas)
    batches = [batch]
    if LARGER * batch * _FEWEST_STEPS <= samples:
        batches.append(LARGER * batch)
    parts = config.accumulate
    blocks = [_Block(size, samples, group, replicas, parts, window) for size in batches]
    for turn in range(ROUNDS):
        for block in blocks:
            block.measure(turn)
    return [block.result for block in blocks]


class _Block:
    """One batch size: the same steps by each replica for itself, and by all together."""

    def __init__(
        self,
        size: int,
        samples: int,
        group: Group,
        replicas: list[Replica],
        parts: int,
        window: Callable[..., Window],
    ) -> None:
        self.result = ScalingSamples(batch=size, alone=[], apart=[], together=[])
        self._group, self._replicas = group, replicas
        shares = [
            _rows(size, samples, number, group.replicas)
            for number in range(group.first, group.first + len(replicas))
        ]
        rows = np.concatenate(shares, axis=1)
        rates = np.zeros(len(rows), dtype=np.float32)
        self._together = window(steps=len(rows), batch=rows.shape[1])
        self._together.load(rows, size * group.replicas, rates)
        self._solos = [
            Solo(replica, share, rates, parts)
            for replica, share in zip(replicas, shares, strict=True)
        ]
        self._count = self._calibrate(len(rows))

    def measure(self, turn: int) -> None:
        """One round; another replica's turn to be alone in each."""
        count, gather = self._count, self._group.gather
        own = turn % self._group.replicas - self._group.first
        self._group.barrier()
        alone = self._seconds_alone(own, count) if 0 <= own < len(self._solos) else 0.0
        self.result.alone.append(sum(values[0] for values in gather([alone])))
        self._group.barrier()
        apart = self._seconds_apart(count)
        self.result.apart.append([value for values in gather(apart) for value in values])
        self._group.barrier()
        together = self._seconds_together(count)
        self.result.together.append(max(values[0] for values in gather([together])))

    def _seconds_alone(self, index: int, count: int) -> float:
        started = time.perf_counter()
        self._solos[index].run(count)
        self._replicas[index].wait()
        return (time.perf_counter() - started) / count

    def _seconds_apart(self, count: int) -> list[float]:
        """For every replica of this process, each driven by a thread of its own."""
        start = Barrier(len(self._solos))

        def one(index: int) -> float:
            start.wait()
            return self._seconds_alone(index, count)

        with ThreadPoolExecutor(len(self._solos)) as pool:
            return list(pool.map(one, range(len(self._solos))))

    def _seconds_together(self, count: int) -> float:
        started = time.perf_counter()
        self._together.rewind()
        self._together.run(count)
        for replica in self._replicas:
            replica.wait()
        return (time.perf_counter() - started) / count

    def _calibrate(self, steps: int) -> int:
        """Steps that take about _BLOCK_S, of at most ``steps``; everything is warm behind it.

        The same number in every process.
        """
        warm_up = min(_WARM_UP, steps)
        self._seconds_together(warm_up)
        self._seconds_apart(warm_up)
        slowest = max(map(max, self._group.gather(self._seconds_apart(warm_up))))
        return max(min(_FEWEST_STEPS, steps), min(steps, round(_BLOCK_S / slowest)))


def _rows(size: int, samples: int, number: int, replicas: int) -> NDArray[np.int64]:
    """[steps, size]: shuffled samples for replica ``number``, other ones for every replica."""
    order = philox.permutation(0, philox.ORDER, 0, samples)
    steps = min(samples // size, MOST_STEPS)
    return np.roll(order, -(number * samples // replicas))[: steps * size].reshape(steps, size)
