"""Compares what a written file computes with what its checkpoint does."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from strategies.mnist import data
from strategies.mnist.checkpoint import load
from strategies.mnist.data import DataError, Split
from strategies.mnist.export import load_exporter
from strategies.mnist.export.base import Order, Verified
from strategies.mnist.export.reference import classify
from strategies.mnist.models import MODELS

# Single precision keeps 7 digits, and the sums of up to 784 terms lose one or two of them.
# A transposed kernel or a missing shift differ by about the logits themselves.
_TOLERANCE = 1e-4
_PART = 997  # images at a time: a prime, so that the last part has another size than the others


def verify(order: Order) -> Verified:
    """Loads the written file and compares it over a whole test set."""
    checkpoint = load(Path(order.checkpoint))
    model = MODELS[checkpoint.header.model]
    test, folder = _test_set(checkpoint.header.data)
    exporter = load_exporter(order.target)
    run = exporter.load(model, order.file)
    found, expected = [], []
    for low in range(0, len(test), _PART):
        pixels = test.images[low : low + _PART].astype(np.float32)
        found.append(run(pixels))
        expected.append(classify(model, checkpoint.weights, pixels))
    logits, reference = np.concatenate(found), np.concatenate(expected)
    if logits.shape != reference.shape:
        raise ValueError(f"{order.file} gives {logits.shape} logits, expected {reference.shape}")
    classes = logits.argmax(1)
    return Verified(
        images=len(test),
        accuracy=float((classes == test.labels).mean()),
        difference=float(np.abs(logits - reference).max()),
        tolerance=_TOLERANCE * max(1.0, float(np.abs(reference).max())),
        reclassified=int((classes != reference.argmax(1)).sum()),
        data=folder,
        usage=exporter.usage(model, Path(order.path)),
    )


def _test_set(folder: str | None) -> tuple[Split, str | None]:
    """The test set of the training; the packaged one where the training's has gone."""
    if folder is not None:
        try:
            return data.load(Path(folder)).test, folder
        except DataError as error:
            print(f"verifying with the packaged MNIST: {error}")
    return data.load().test, None
