"""What a checkpoint computes, by the definition of every layer: what exports are compared with."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from strategies.mnist.models import Conv, Dense, Layer, Model
from strategies.mnist.weights import Weights

Doubles = NDArray[np.float64]


def classify(model: Model, weights: Weights, pixels: NDArray[np.float32]) -> Doubles:
    """Logits [n, 10] of pixels [n, 28, 28] of 0 to 255, in double precision."""
    values = pixels[:, None].astype(np.float64) * model.scale + model.shift
    for layer in model.layers:
        values = _apply(layer, weights, values)
    return values


def _apply(layer: Layer, weights: Weights, values: Doubles) -> Doubles:
    result: Doubles
    if isinstance(layer, Dense):
        result = values @ weights[f"{layer.name}.weight"].T + weights[f"{layer.name}.bias"]
    elif isinstance(layer, Conv):
        patches = sliding_window_view(values, (layer.kernel, layer.kernel), (2, 3))
        kernel = weights[f"{layer.name}.weight"]
        sums = np.tensordot(patches, kernel, ([1, 4, 5], [1, 2, 3]))
        result = (sums + weights[f"{layer.name}.bias"]).transpose(0, 3, 1, 2)
    elif layer.kind == "relu":
        result = np.maximum(values, 0)
    elif layer.kind == "pool":
        count, maps, rows, columns = values.shape
        result = values.reshape(count, maps, rows // 2, 2, columns // 2, 2).max((3, 5))
    else:
        result = values.reshape(len(values), -1)
    return result
