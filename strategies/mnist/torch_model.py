"""The models in PyTorch, with the framework-free names of their parameters."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from strategies.mnist.data import SIDE
from strategies.mnist.models import Conv, Dense, Layer, Model
from strategies.mnist.weights import Weights


def build(model: Model, weights: Weights, device: torch.device) -> nn.Sequential:
    """``model`` with a copy of ``weights``; maps float [n, 784] to logits [n, 10]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if isinstance(model.layers[0], Conv):
        layers["image"] = nn.Unflatten(1, (1, SIDE, SIDE))
    for layer in model.layers:
        layers[layer.name] = _module(layer)
    module = nn.Sequential(layers)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(weights[name]))
    return module.to(device)


def _module(layer: Layer) -> nn.Module:
    # skip_init: the weights are set afterwards, drawing others first would only take time.
    module: nn.Module
    if isinstance(layer, Dense):
        module = nn.utils.skip_init(nn.Linear, layer.inputs, layer.outputs)
    elif isinstance(layer, Conv):
        module = nn.utils.skip_init(nn.Conv2d, layer.inputs, layer.outputs, layer.kernel)
    else:
        module = {"relu": nn.ReLU(), "pool": nn.MaxPool2d(2), "flatten": nn.Flatten()}[layer.kind]
    return module
