"""What the references in TensorFlow share: the devices, the data, the models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tests.benchmarks.reference_common import read


def make_strategy(workers: int) -> tf.distribute.Strategy:
    """A strategy over ``workers`` logical CPU devices."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [logical] * workers)
    if workers == 1:
        return tf.distribute.OneDeviceStrategy("/cpu:0")
    return tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(workers)])


def load(
    folder: Path, split: str, model: str, validation: float = 0.0
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Images, float [n, 28, 28, 1], from 0 to 1 or, for LeNet, from -1 to 1; labels, int32 [n]."""
    images, labels = read(folder, split, validation)
    pixels = images[..., np.newaxis].astype(np.float32) / np.float32(255)
    if model == "lenet":
        pixels = pixels * np.float32(2) - np.float32(1)
    return pixels, labels.astype(np.int32)


def layers(model: str) -> list[tf.keras.layers.Layer]:
    """Of a model that ends in logits."""
    of = tf.keras.layers
    image = of.Input((28, 28, 1))
    if model == "mlp":
        return [image, of.Flatten(), of.Dense(128, activation="relu"), of.Dense(10)]
    convolutions = [
        layer
        for filters in (6, 16)
        for layer in (of.Conv2D(filters, 5, activation="relu"), of.MaxPool2D())
    ]
    return [image, *convolutions, of.Flatten(), of.Dense(120), of.Dense(84), of.Dense(10)]
