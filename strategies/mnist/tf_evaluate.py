"""Loss and accuracy on a held-out set, split over all replicas; no image counts twice."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from strategies.mnist.data import Split
from strategies.mnist.order import share
from strategies.mnist.tf_group import Group
from strategies.mnist.tf_replica import Replica, Resident

_BATCH = 1000


class Evaluation:
    """One held-out set; this process's ``replicas`` have their shares of it."""

    def __init__(self, group: Group, replicas: list[Replica], split: Split) -> None:
        self._group, self._replicas, self._count = group, replicas, len(split)
        self._shares = [
            Resident(split.part(*share(len(split), number, group.replicas)), replica.device)
            for number, replica in enumerate(replicas, start=group.first)
        ]
        self._function = tf.function(lambda: group.strategy.run(self._evaluate), autograph=False)

    def run(self) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy over all images."""
        sums, hits = self._function()
        results = self._group.strategy.experimental_local_results
        loss = sum(float(value) for value in results(sums))
        correct = sum(int(value) for value in results(hits))
        loss, correct = self._group.sum(np.array([loss, correct], dtype=np.float64)).tolist()
        return loss / self._count, correct / self._count

    def _evaluate(self) -> tuple[tf.Tensor, tf.Tensor]:
        index = self._group.own()
        replica, data = self._replicas[index], self._shares[index]
        count = len(data.labels)
        values = [variable.read_value() for variable in replica.variables]

        def body(
            start: tf.Tensor, loss: tf.Tensor, hits: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            end = tf.minimum(start + _BATCH, count)
            labels = data.labels[start:end]
            logits = replica.logits(data.words[start:end], values)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            right = tf.equal(tf.argmax(logits, 1), labels)
            return (
                end,
                loss + tf.reduce_sum(tf.cast(losses, tf.float64)),
                hits + tf.math.count_nonzero(right),
            )

        zeros = (tf.constant(0), tf.constant(0.0, tf.float64), tf.constant(0, tf.int64))
        _, loss, hits = tf.while_loop(lambda start, *_: start < count, body, zeros)
        return loss, hits
