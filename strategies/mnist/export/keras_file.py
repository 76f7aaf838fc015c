"""``keras``: a ``.keras`` file, compiled, with which training can go on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from strategies.mnist.checkpoint import Checkpoint
from strategies.mnist.data import SIDE
from strategies.mnist.models import MODELS, Model

if TYPE_CHECKING:
    import keras

    from strategies.mnist.export.base import Classify, Floats


class KerasFile:
    """The model with its loss and its SGD: learning rate, momentum and the momentum's state."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        import keras

        header = checkpoint.header
        module = build_from_pixels(checkpoint)
        module.compile(
            optimizer=keras.optimizers.SGD(header.lr, momentum=header.momentum),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        _carry_over(module, checkpoint)
        module.save(path)

    def load(self, model: Model, path: Path) -> Classify:
        import keras

        module = keras.models.load_model(path)

        def run(pixels: Floats) -> Floats:
            logits: Floats = module(pixels, training=False).numpy()
            return logits

        return run

    def usage(self, model: Model, path: Path) -> str:
        return (
            "import keras\n"
            f"module = keras.models.load_model({str(path)!r})\n"
            "logits = module(pixels)  # module.fit(pixels, labels) goes on with the training"
        )


def build_from_pixels(checkpoint: Checkpoint) -> keras.Sequential:
    """The checkpoint's model with its scale and shift before it: pixels to logits."""
    import keras

    from strategies.mnist.keras_model import build

    model = MODELS[checkpoint.header.model]
    return keras.Sequential(
        [
            keras.layers.Input((SIDE, SIDE), name="pixels"),
            keras.layers.Rescaling(model.scale, model.shift, name="scale"),
            keras.layers.Reshape((SIDE * SIDE,), name="rows"),
            *build(model, checkpoint.weights).layers,
        ],
        name=model.name,
    )


def _carry_over(module: keras.Sequential, checkpoint: Checkpoint) -> None:
    """Gives the optimizer of ``module`` the state of the checkpoint's.

    torch: v = momentum * v + g; w = w - lr * v. Keras: u = momentum * u - lr * g; w = w + u.
    They are the same for u = -lr * v.
    """
    from strategies.mnist.keras_model import to_keras

    header, optimizer = checkpoint.header, module.optimizer
    optimizer.build(module.trainable_variables)
    optimizer.iterations.assign(header.step)
    if header.momentum:
        velocities = to_keras(MODELS[header.model], checkpoint.momentum)
        for variable, velocity in zip(optimizer.momentums, velocities, strict=True):
            variable.assign(-header.lr * velocity)
