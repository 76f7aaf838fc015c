"""Where TensorFlow's compiler, XLA, pays."""

from __future__ import annotations

from strategies.mnist.models import Conv, Model


def use_xla(model: Model, device: str, replicas: int) -> bool:
    """Whether to compile a whole window of steps."""
    convolves = any(isinstance(layer, Conv) for layer in model.layers)
    return device == "cpu" and replicas == 1 and not convolves
