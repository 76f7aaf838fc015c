"""The models in Keras: that it computes what the layers say, and that weights go both ways."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from strategies.mnist.keras_model import from_keras, to_keras
from strategies.mnist.models import MODELS, Conv, Model
from strategies.mnist.weights import Weights
from tests.test_models import forward, random_weights

ROOT = Path(__file__).parents[1]

every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@dataclass(frozen=True, kw_only=True)
class Output:
    """``names`` of the Keras model's variables, and ``tensors``: its weights and ``logits``."""

    names: list[str]
    tensors: Weights


Outputs = dict[str, Output]


def pixels() -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-1, 1, (3, 784)).astype(np.float32)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """What Keras makes of every model, in a process without PyTorch."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in MODELS.items():
        given = {"pixels": pixels(), **random_weights(model)}
        save_file(given, folder / f"{name}.safetensors")
    command = [sys.executable, "-m", "tests.keras_worker", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120)
    return {
        name: Output(
            names=(folder / f"{name}.names").read_text().splitlines(),
            tensors=load_file(folder / f"{name}.out"),
        )
        for name in MODELS
    }


@every_model
def test_keras_computes_what_the_layers_say(outputs: Outputs, model: Model) -> None:
    logits = outputs[model.name].tensors["logits"]
    assert logits.shape == (3, 10)
    expected = forward(model, random_weights(model), pixels())
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@every_model
def test_keras_gives_the_same_weights_back(outputs: Outputs, model: Model) -> None:
    for name, value in random_weights(model).items():
        np.testing.assert_array_equal(outputs[model.name].tensors[name], value)


@every_model
def test_keras_names_the_layers_as_the_model_does(outputs: Outputs, model: Model) -> None:
    layers = [name.split("/")[-2] for name in outputs[model.name].names]
    assert layers == [layer.name for layer in model.weighted for _ in ("kernel", "bias")]


@every_model
def test_layouts_are_each_others_inverse(model: Model) -> None:
    weights = random_weights(model)
    back = from_keras(model, list(to_keras(model, weights)))
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].flags.c_contiguous


@every_model
def test_keras_layout_has_the_inputs_first(model: Model) -> None:
    kernels = list(to_keras(model, random_weights(model)))[::2]
    for kernel, layer in zip(kernels, model.weighted, strict=True):
        window = (layer.kernel, layer.kernel) if isinstance(layer, Conv) else ()
        assert kernel.shape == (*window, layer.inputs, layer.outputs)
