"""``python -m tests.keras_worker FOLDER``: every model in Keras, for test_keras_model.

Reads FOLDER/<model>.safetensors, weights by name and ``pixels``; writes FOLDER/<model>.out, the
``logits`` and the weights as the model gives them back, and FOLDER/<model>.names, its variables'.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from strategies.mnist.keras_model import build, from_keras
from strategies.mnist.models import MODELS


def main() -> None:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    folder = Path(sys.argv[1])
    for name, model in MODELS.items():
        given = load_file(folder / f"{name}.safetensors")
        pixels = given.pop("pixels")
        module = build(model, given)
        logits = np.asarray(module(pixels))
        weights = from_keras(model, module.get_weights())
        save_file({"logits": logits, **weights}, folder / f"{name}.out")
        names = "\n".join(weight.path for weight in module.weights)
        (folder / f"{name}.names").write_text(names)


if __name__ == "__main__":
    main()
