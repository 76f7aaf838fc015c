"""Hand-tuned TensorFlow on logical CPU devices: an epoch is one tf.function.

``python -m tests.benchmarks.reference_whole_epoch --workers 2 --data FOLDER``. All data is in
memory as floats. ``--jit`` compiles the epoch with XLA, for one worker.
"""

from __future__ import annotations

import time

import numpy as np
import tensorflow as tf

from tests.benchmarks.reference_common import Figures, parser
from tests.benchmarks.reference_tf import layers, load, make_strategy

_THREADS = 2  # within an operation, and between operations


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--workers", type=int, required=True)
    options.add_argument("--jit", action="store_true")
    chosen = options.parse_args()
    workers, batch = chosen.workers, chosen.batch_size
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS)
    strategy = make_strategy(workers)
    images, labels = map(tf.constant, load(chosen.data, "train", chosen.model, chosen.validation))
    with strategy.scope():
        model = tf.keras.Sequential(layers(chosen.model))
        optimizer = tf.keras.optimizers.SGD(chosen.lr, momentum=chosen.momentum)
        optimizer.build(model.trainable_variables)  # not while the epoch is traced

    def step(rows: tf.Tensor) -> None:
        own = rows[tf.distribute.get_replica_context().replica_id_in_sync_group]
        with tf.GradientTape() as tape:
            logits = model(tf.gather(images, own), training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.gather(labels, own), logits)
            loss = tf.reduce_sum(losses) / batch
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    @tf.function(jit_compile=True if chosen.jit else None)  # type: ignore[untyped-decorator]
    def run(order: tf.Tensor) -> None:
        for index in tf.range(tf.shape(order)[0]):
            strategy.run(step, args=(order[index],))

    steps = min(len(labels) // batch, chosen.steps or len(labels))
    first = seconds = 0.0
    for epoch in range(chosen.epochs):
        shuffled = np.random.default_rng(epoch).permutation(len(labels)).astype(np.int32)
        order = tf.constant(shuffled[: steps * batch].reshape(steps, workers, batch // workers))
        started = time.perf_counter()
        run(order)
        if first:
            seconds += time.perf_counter() - started
        first = first or time.time()
    test_images, test_labels = load(chosen.data, "t10k", chosen.model)
    accuracy = float(np.mean(np.argmax(model(test_images), 1) == test_labels))
    rate = (chosen.epochs - 1) * steps * batch / seconds
    Figures(first_step=first, samples_per_s=rate, test_accuracy=accuracy).print()


if __name__ == "__main__":
    main()
