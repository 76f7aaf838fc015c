"""The models in Keras 3, and their parameters in torch's layout and in Keras's.

Images are channels last there, as TensorFlow's convolutions on CPUs want them. So the inputs of
the first dense layer behind a convolution come in another order: rows, columns, maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from strategies.mnist.data import SIDE
from strategies.mnist.models import Conv, Dense, Layer, Model
from strategies.mnist.weights import Weights

if TYPE_CHECKING:
    import keras

Floats = NDArray[np.float32]


def build(model: Model, weights: Weights, policy: str = "float32") -> keras.Sequential:
    """``model`` with a copy of ``weights``; maps float [n, 784] to logits [n, 10].

    ``policy`` is Keras's name of what it computes in, such as "mixed_bfloat16".
    """
    import keras

    convolves = isinstance(model.layers[0], Conv)
    image = keras.layers.Reshape((SIDE, SIDE, 1), name="image", dtype=policy)
    layers = [image] if convolves else []
    layers += [
        _layer(layer, policy) for layer in model.layers if convolves or layer.name != "flatten"
    ]
    module = keras.Sequential([keras.layers.Input((SIDE * SIDE,)), *layers], name=model.name)
    module.set_weights(list(to_keras(model, weights)))
    return module


def to_keras(model: Model, weights: Weights) -> Iterator[Floats]:
    """The arrays of ``weights`` in the layout and order of the Keras model's variables."""
    for layer, maps in _weighted(model):
        kernel = weights[f"{layer.name}.weight"]
        if isinstance(layer, Conv):
            yield kernel.transpose(2, 3, 1, 0)
        else:
            if maps:
                side = round((layer.inputs // maps) ** 0.5)
                kernel = kernel.reshape(-1, maps, side, side).transpose(0, 2, 3, 1)
            yield kernel.reshape(layer.outputs, layer.inputs).T
        yield weights[f"{layer.name}.bias"]


def from_keras(model: Model, arrays: list[Floats]) -> Weights:
    """The inverse of ``to_keras``: contiguous arrays in torch's layout, by name."""
    weights: Weights = {}
    values = iter(arrays)
    for layer, maps in _weighted(model):
        kernel = next(values)
        if isinstance(layer, Conv):
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            kernel = kernel.T
            if maps:
                side = round((layer.inputs // maps) ** 0.5)
                kernel = kernel.reshape(-1, side, side, maps).transpose(0, 3, 1, 2)
                kernel = kernel.reshape(layer.outputs, layer.inputs)
        weights[f"{layer.name}.weight"] = np.ascontiguousarray(kernel)
        weights[f"{layer.name}.bias"] = np.array(next(values))
    return weights


def _weighted(model: Model) -> Iterator[tuple[Dense | Conv, int]]:
    """The layers with weights, each with the number of maps that were flattened before it."""
    maps = 0
    for layer in model.layers:
        if isinstance(layer, Conv):
            maps = layer.outputs
            yield layer, 0
        elif isinstance(layer, Dense):
            yield layer, maps
            maps = 0


def _layer(layer: Layer, policy: str) -> keras.Layer:
    import keras

    # Zeros: the weights are set afterwards, drawing others first would only take time.
    same = {"name": layer.name, "dtype": policy}
    if isinstance(layer, Dense):
        return keras.layers.Dense(layer.outputs, kernel_initializer="zeros", **same)
    if isinstance(layer, Conv):
        return keras.layers.Conv2D(layer.outputs, layer.kernel, kernel_initializer="zeros", **same)
    if layer.kind == "relu":
        return keras.layers.ReLU(**same)
    if layer.kind == "pool":
        return keras.layers.MaxPooling2D(2, **same)
    return keras.layers.Flatten(**same)
