"""Initial weights by (seed, layer): the same bits under every strategy."""

from __future__ import annotations

from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from strategies.mnist import philox
from strategies.mnist.models import Model

Weights = dict[str, NDArray[np.float32]]


def initial_weights(model: Model, seed: int) -> Weights:
    """``{"<layer>.weight": ..., "<layer>.bias": ...}`` in torch's layout, by (seed, layer).

    Dense weights are [outputs, inputs], convolutions [outputs, inputs, rows, columns].
    """
    weights: Weights = {}
    for index, layer in enumerate(model.weighted):
        fan_in, fan_out = prod(layer.shape[1:]), layer.outputs * prod(layer.shape[2:])
        count = prod(layer.shape)
        draw = philox.uniform(seed, philox.WEIGHTS, index, count + layer.outputs) * 2 - 1
        bound = {"torch": sqrt(1 / fan_in), "keras": sqrt(6 / (fan_in + fan_out)), "zeros": 0.0}
        draw *= np.float32(bound[model.init])
        if model.init == "keras":
            draw[count:] = 0
        weights[f"{layer.name}.weight"] = draw[:count].reshape(layer.shape).copy()
        weights[f"{layer.name}.bias"] = draw[count:].copy()
    return weights
