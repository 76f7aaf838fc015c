"""Whole windows of steps in one tf.function: traced once, no Python and no wait between steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from strategies.mnist.tf_group import Group
from strategies.mnist.tf_parts import cut, width
from strategies.mnist.tf_replica import Replica, alone


def while_steps(step: Callable[[tf.Tensor], None], first: tf.Tensor, count: tf.Tensor) -> None:
    """Does ``step`` for ``first``, first + 1, ..., ``count`` times."""
    end = first + count

    def body(index: tf.Tensor) -> tuple[tf.Tensor]:
        step(index)
        return (index + 1,)

    tf.while_loop(lambda index: index < end, body, [first], parallel_iterations=1)


class Window:
    """Steps of all replicas together, through ``load``-ed samples, ``run`` by ``run``.

    ``replicas`` are this process's. ``steps`` and ``batch`` are the most that is ever loaded: less
    is filled up, so that all has one shape and is traced once.
    """

    def __init__(
        self,
        group: Group,
        replicas: list[Replica],
        *,
        steps: int,
        batch: int,
        parts: int,
        xla: bool,
    ) -> None:
        self._group, self._replicas = group, replicas
        self._steps, self._parts = steps, parts
        self._width = width(batch, len(replicas), parts)
        self._next = 0
        self._arguments: tuple[tf.Tensor, ...] = ()
        self._function = tf.function(
            self._window, autograph=False, jit_compile=True if xla else None
        )

    def load(self, rows: NDArray[np.int64], batch: int, rates: NDArray[np.float32]) -> None:
        """Takes ``rows`` [steps, share] and ``rates`` [steps], and starts at the first.

        ``batch`` is how many samples a step has over all processes.
        """
        count = len(self._replicas)
        parts = [
            cut(rows, r, count, steps=self._steps, parts=self._parts, width=self._width)
            for r in range(count)
        ]
        filled = np.zeros(self._steps, dtype=np.float32)
        filled[: len(rates)] = rates
        scale = np.array(1 / batch, dtype=np.float32)
        self._arguments = (
            self._group.spread([part.rows for part in parts]),
            self._group.spread([part.present for part in parts]),
            self._group.spread([filled] * count),
            self._group.spread([scale] * count),
        )
        self.rewind()

    def rewind(self) -> None:
        """Starts at the first step again."""
        self._next = 0

    def run(self, count: int) -> None:
        """Trains on the next ``count`` steps. GPUs may still be at work behind it."""
        self._function(*self._arguments, tf.constant(self._next), tf.constant(count))
        self._next += count

    def _window(
        self,
        rows: tf.Tensor,
        present: tf.Tensor,
        rates: tf.Tensor,
        scale: tf.Tensor,
        first: tf.Tensor,
        count: tf.Tensor,
    ) -> None:
        def step(index: tf.Tensor) -> None:
            self._group.strategy.run(self._step, args=(index, rows, present, rates, scale))

        while_steps(step, first, count)

    def _step(
        self,
        index: tf.Tensor,
        rows: tf.Tensor,
        present: tf.Tensor,
        rates: tf.Tensor,
        scale: tf.Tensor,
    ) -> None:
        """One replica's part of a step."""
        context = tf.distribute.get_replica_context()
        together = partial(context.all_reduce, tf.distribute.ReduceOp.SUM)
        exchange = together if self._group.replicas > 1 else alone
        own = self._replicas[self._group.own()]
        own.step(index, rows, present, rates, scale, exchange)


class Solo:
    """Steps of one replica for itself, without exchange, over the same rows again and again."""

    def __init__(
        self, replica: Replica, rows: NDArray[np.int64], rates: NDArray[np.float32], parts: int
    ) -> None:
        steps, batch = rows.shape
        own = cut(rows, 0, 1, steps=steps, parts=parts, width=width(batch, 1, parts))
        self._replica = replica
        with tf.device(replica.device):
            self._arguments = [
                tf.constant(value)
                for value in (own.rows, own.present, rates, np.float32(1 / batch))
            ]
        self._function = tf.function(self._steps, autograph=False)

    def run(self, count: int) -> None:
        """Does the first ``count`` steps."""
        self._function(*self._arguments, tf.constant(count))

    def _steps(
        self,
        rows: tf.Tensor,
        present: tf.Tensor,
        rates: tf.Tensor,
        scale: tf.Tensor,
        count: tf.Tensor,
    ) -> None:
        def step(index: tf.Tensor) -> None:
            self._replica.step(index, rows, present, rates, scale, alone)

        with tf.device(self._replica.device):
            while_steps(step, tf.constant(0), count)
