"""Loss and accuracy on a held-out set, split over the devices; no image counts twice."""

from __future__ import annotations

import tensorflow as tf

from strategies.mnist.data import Split
from strategies.mnist.order import share
from strategies.mnist.tf_replica import Replica, Resident

_BATCH = 1000


class Evaluation:
    """One held-out set, each device with its share of it."""

    def __init__(
        self, strategy: tf.distribute.MirroredStrategy, replicas: list[Replica], split: Split
    ) -> None:
        self._strategy, self._replicas, self._count = strategy, replicas, len(split)
        self._shares = [
            Resident(split.part(*share(len(split), r, len(replicas))), replica.device)
            for r, replica in enumerate(replicas)
        ]
        self._function = tf.function(lambda: strategy.run(self._evaluate), autograph=False)

    def run(self) -> tuple[float, float]:
        """Mean cross-entropy (nats) and accuracy over all images."""
        sums, hits = self._function()
        results = self._strategy.experimental_local_results
        loss = sum(float(value) for value in results(sums))
        correct = sum(int(value) for value in results(hits))
        return loss / self._count, correct / self._count

    def _evaluate(self) -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        index = int(tf.get_static_value(context.replica_id_in_sync_group))
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
