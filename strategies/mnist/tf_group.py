"""The replicas of all the job's processes, and what joins the processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from strategies.base import Rank, TrainConfig
from strategies.mnist.tf_devices import join_hosts, make_strategy

_ABORTED = "Collective ops is aborted by: "
# What an exchange ends in when a peer has died, leaves, or is no longer heard of.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


class Group:
    """The replicas, numbered through all processes in rank order; each process has as many.

    ``devices``: this process's, one a replica; ``replicas``: how many there are in all; ``first``:
    the number of this process's first.
    """

    def __init__(self, strategy: tf.distribute.Strategy, rank: Rank) -> None:
        self.strategy, self.rank, self.processes = strategy, rank.rank, rank.world_size
        self.devices: tuple[str, ...] = strategy.extended.worker_devices
        self.replicas = len(self.devices) * self.processes
        self.first = len(self.devices) * self.rank

    def own(self) -> int:
        """Which of this process's replicas traces this. Inside ``strategy.run`` only."""
        context = tf.distribute.get_replica_context()
        number: int = tf.get_static_value(context.replica_id_in_sync_group)
        return number - self.first

    def spread(self, values: Sequence[NDArray[np.generic]]) -> tf.Tensor:
        """One value for each of this process's replicas, on its device."""

        def one(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
            index = context.replica_id_in_sync_group - self.first
            with tf.device(self.devices[index]):
                return tf.constant(values[index])

        return self.strategy.experimental_distribute_values_from_function(one)

    def sum(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """``values`` added up over the processes. As all below, a call of all of them."""
        if self.processes == 1:
            return values
        nothing = np.zeros_like(values)
        spread = self.spread([values] + [nothing] * (len(self.devices) - 1))
        total: NDArray[np.float64] = self.strategy.reduce("SUM", spread, axis=None).numpy()
        return total

    def gather(self, values: list[float]) -> list[list[float]]:
        """Every process's ``values``, equally many, in rank order."""
        rows = np.zeros((self.processes, len(values)))
        rows[self.rank] = values
        gathered: list[list[float]] = self.sum(rows).tolist()
        return gathered

    def barrier(self) -> None:
        """Waits, without using a core, until every process has come here."""
        self.sum(np.zeros(1))


@contextmanager
def join(rank: Rank, config: TrainConfig) -> Iterator[Group]:
    """This process among its peers, who have to come too; left only when all of them are done.

    ``prepare`` has been called. With peers, once a process. Raises ConnectionError when a peer is
    lost: mostly at once, as its connection breaks; at the latest when TensorFlow has heard nothing
    of it for 10 s.
    """
    if rank.world_size == 1:
        yield Group(make_strategy(config), rank)
        return
    try:
        strategy = join_hosts(config)
        # TensorFlow takes SIGTERM for a warning, and would have this process live on: as it does
        # while it waits for the peers.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        group = Group(strategy, rank)
        yield group
        # Who left now would be missed by those that are behind. Who is missed here is done too, or
        # has failed and says so itself.
        with suppress(*_LOST):
            group.barrier()
    except _LOST as error:
        raise ConnectionError(f"lost another process of the job: {cause(error.message)}") from error


def cause(message: str) -> str:
    """Of TensorFlow's message about a failed exchange, the lines that say why, and of whom."""
    return " ".join(message.rpartition(_ABORTED)[2].splitlines()[:2]).strip()
