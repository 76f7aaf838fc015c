"""The four MNIST models: layers and recipes. Stdlib only: the launching process reads it too.

The models come from a comparison of TensorFlow, PyTorch and Keras. Its PyTorch listing does not
run as printed (two 5x5 convolutions with 2x2 pools turn 28x28 into 16x4x4, not 16x5x5), and its
chapter 4 models apply a softmax before a cross-entropy that applies it again; both are mended
here. Where the article gives no figure, the recipe says so in ``docs/models.md``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Literal


@dataclass(frozen=True)
class Dense:
    name: str
    inputs: int
    outputs: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs)


@dataclass(frozen=True)
class Conv:
    """A square convolution without padding; ``pixels`` is the number of output positions."""

    name: str
    inputs: int
    outputs: int
    kernel: int
    pixels: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs, self.kernel, self.kernel)


@dataclass(frozen=True)
class Simple:
    """A layer without weights."""

    name: str
    kind: Literal["relu", "pool", "flatten"]


Layer = Dense | Conv | Simple


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained: SGD at a constant ``lr``; ``batch_size`` is the global batch.

    ``steps`` ends the training before the epochs do; ``validation`` is the share of the training
    set, taken from its end, that is held out and evaluated after every epoch.
    """

    batch_size: int
    lr: float
    momentum: float
    epochs: int
    steps: int | None = None
    validation: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """``scale`` and ``shift`` turn a pixel of 0 to 255 into the model's input: x * scale + shift.

    ``init``: "torch" draws weights and biases from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), the
    default of torch.nn.Linear and Conv2d; "keras" is Glorot uniform with zero biases, the default
    of keras.layers.Dense; "zeros" is zeros.
    """

    name: str
    layers: tuple[Layer, ...]
    init: Literal["torch", "keras", "zeros"]
    scale: float
    shift: float
    recipes: dict[str, Recipe]

    @property
    def weighted(self) -> Iterator[Dense | Conv]:
        return (layer for layer in self.layers if not isinstance(layer, Simple))

    @property
    def parameters(self) -> int:
        return sum(prod(layer.shape) + layer.outputs for layer in self.weighted)

    @property
    def flops(self) -> int:
        """Floating-point operations of one sample's training step.

        A multiply-add counts as two, and the backward pass as two forward ones (Kaplan et al.,
        "Scaling laws for neural language models", 2020, section 2.1).
        """
        forward = sum(
            2 * prod(layer.shape) * (layer.pixels if isinstance(layer, Conv) else 1)
            for layer in self.weighted
        )
        return 3 * forward


_UNIT = {"scale": 1 / 255, "shift": 0.0}
_CENTRED = {"scale": 2 / 255, "shift": -1.0}
_FLATTEN = Simple("flatten", "flatten")

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Model(
            name="lenet",
            layers=(
                Conv("conv1", 1, 6, 5, 24 * 24),
                Simple("relu1", "relu"),
                Simple("pool1", "pool"),
                Conv("conv2", 6, 16, 5, 8 * 8),
                Simple("relu2", "relu"),
                Simple("pool2", "pool"),
                _FLATTEN,
                Dense("dense1", 256, 120),
                Dense("dense2", 120, 84),
                Dense("dense3", 84, 10),
            ),
            init="torch",
            **_CENTRED,
            recipes={
                "article": Recipe(batch_size=100, lr=0.001, momentum=0.9, epochs=5),
                "tuned": Recipe(batch_size=100, lr=0.01, momentum=0.9, epochs=5),
            },
        ),
        Model(
            name="mlp",
            layers=(
                _FLATTEN,
                Dense("dense1", 784, 128),
                Simple("relu1", "relu"),
                Dense("dense2", 128, 10),
            ),
            init="keras",
            **_UNIT,
            recipes={
                "article": Recipe(batch_size=32, lr=0.1, momentum=0, epochs=10, validation=0.2),
                "tuned": Recipe(batch_size=128, lr=0.2, momentum=0.5, epochs=10),
            },
        ),
        Model(
            name="mlp256",
            layers=(
                _FLATTEN,
                Dense("dense1", 784, 256),
                Simple("relu1", "relu"),
                Dense("dense2", 256, 10),
            ),
            init="torch",
            **_UNIT,
            recipes={
                "article": Recipe(batch_size=32, lr=0.01, momentum=0, epochs=5),
                "tuned": Recipe(batch_size=32, lr=0.1, momentum=0.5, epochs=10),
            },
        ),
        Model(
            name="softmax",
            layers=(_FLATTEN, Dense("dense1", 784, 10)),
            init="zeros",
            **_UNIT,
            recipes={
                "article": Recipe(batch_size=100, lr=0.5, momentum=0, epochs=2, steps=1000),
                "tuned": Recipe(batch_size=100, lr=0.2, momentum=0, epochs=10),
            },
        ),
    )
}
