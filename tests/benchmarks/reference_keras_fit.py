"""Keras's ``fit`` under MirroredStrategy on logical CPU devices, all data in memory as floats.

``python -m tests.benchmarks.reference_keras_fit --workers 2 --data FOLDER``. Nothing is evaluated
before the training ends.
"""

from __future__ import annotations

import time
from typing import Any

import tensorflow as tf

from tests.benchmarks.reference_common import Figures, parser
from tests.benchmarks.reference_tf import layers, load, make_strategy


class Times(tf.keras.callbacks.Callback):  # type: ignore[misc]
    """When the first and the last of ``steps`` steps were done, in seconds since 1970."""

    async_safe = True  # else Keras waits for it at every step

    def __init__(self) -> None:
        super().__init__()
        self.first = self.last = 0.0
        self.steps = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.last = time.time()
        self.first = self.first or self.last
        self.steps += 1


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--workers", type=int, required=True)
    chosen = options.parse_args()
    strategy = make_strategy(chosen.workers)
    images, labels = load(chosen.data, "train", chosen.model, chosen.validation)
    with strategy.scope():
        model = tf.keras.Sequential(layers(chosen.model))
        model.compile(
            optimizer=tf.keras.optimizers.SGD(chosen.lr, momentum=chosen.momentum),
            loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    times = Times()
    model.fit(
        images,
        labels,
        epochs=chosen.epochs,
        batch_size=chosen.batch_size,
        steps_per_epoch=chosen.steps,
        callbacks=[times],
        verbose=0,
    )
    rate = (times.steps - 1) * chosen.batch_size / (times.last - times.first)
    _, accuracy = model.evaluate(*load(chosen.data, "t10k", chosen.model), verbose=0)
    Figures(first_step=times.first, samples_per_s=rate, test_accuracy=accuracy).print()


if __name__ == "__main__":
    main()
