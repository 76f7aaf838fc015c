"""The four models: their sizes, their recipes, and that PyTorch computes what the layers say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from strategies.mnist.models import MODELS, Conv, Dense, Layer, Model
from strategies.mnist.torch_model import build
from strategies.mnist.weights import Weights

CPU = torch.device("cpu")
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)

Floats = NDArray[np.float32]


def random_weights(model: Model) -> Weights:
    """Weights of which none is zero, so that each matters."""
    random = np.random.default_rng(0)
    shapes = {f"{layer.name}.weight": layer.shape for layer in model.weighted}
    shapes |= {f"{layer.name}.bias": (layer.outputs,) for layer in model.weighted}
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def forward(model: Model, weights: Weights, pixels: Floats) -> Floats:
    """The logits of float [n, 784], by the definition of every layer."""
    values = pixels.reshape(-1, 1, 28, 28)
    for layer in model.layers:
        values = apply(layer, weights, values)
    return values


def apply(layer: Layer, weights: Weights, values: Floats) -> Floats:
    result: Floats
    if isinstance(layer, Dense):
        result = values @ weights[f"{layer.name}.weight"].T + weights[f"{layer.name}.bias"]
    elif isinstance(layer, Conv):
        patches = sliding_window_view(values, (layer.kernel, layer.kernel), (2, 3))
        sums = np.einsum("nirckl,oikl->norc", patches, weights[f"{layer.name}.weight"])
        result = sums + weights[f"{layer.name}.bias"][:, None, None]
    elif layer.kind == "relu":
        result = np.maximum(values, 0)
    elif layer.kind == "pool":
        count, maps, rows, columns = values.shape
        result = values.reshape(count, maps, rows // 2, 2, columns // 2, 2).max((3, 5))
    else:
        result = values.reshape(len(values), -1)
    return result


@pytest.mark.parametrize(
    ("name", "count"), [("lenet", 44426), ("mlp", 101770), ("mlp256", 203530), ("softmax", 7850)]
)
def test_number_of_parameters(name: str, count: int) -> None:
    assert MODELS[name].parameters == count


@pytest.mark.parametrize(
    ("name", "multiply_adds"),
    [
        ("softmax", 784 * 10),
        ("mlp", 784 * 128 + 128 * 10),
        ("lenet", 24**2 * 6 * 25 + 8**2 * 16 * 150 + 256 * 120 + 120 * 84 + 84 * 10),
    ],
)
def test_flops_are_six_per_multiply_add(name: str, multiply_adds: int) -> None:
    assert MODELS[name].flops == 6 * multiply_adds


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("lenet", {"lr": 0.001, "momentum": 0.9, "batch_size": 100, "epochs": 5}),
        ("mlp", {"lr": 0.1, "momentum": 0, "batch_size": 32, "epochs": 10, "validation": 0.2}),
        ("mlp256", {"lr": 0.01, "momentum": 0, "batch_size": 32}),
        ("softmax", {"lr": 0.5, "momentum": 0, "steps": 1000}),
    ],
)
def test_article_recipe_is_the_articles(name: str, given: dict[str, float]) -> None:
    recipe = MODELS[name].recipes["article"]
    assert {key: getattr(recipe, key) for key in given} == given


@every_model
def test_no_recipe_limits_its_steps_to_more_than_its_epochs_hold(model: Model) -> None:
    for recipe in model.recipes.values():
        held = recipe.epochs * 60_000 * (1 - recipe.validation) / recipe.batch_size
        assert (recipe.steps or 1) <= held


@pytest.mark.parametrize(
    ("name", "black", "white"),
    [("lenet", -1, 1), ("mlp", 0, 1), ("mlp256", 0, 1), ("softmax", 0, 1)],
)
def test_pixels_are_scaled_to_the_articles_range(name: str, black: float, white: float) -> None:
    model = MODELS[name]
    assert model.shift == black
    assert 255 * model.scale + model.shift == pytest.approx(white)


@every_model
def test_torch_computes_what_the_layers_say(model: Model) -> None:
    weights = random_weights(model)
    pixels = np.random.default_rng(1).uniform(-1, 1, (3, 784)).astype(np.float32)
    with torch.no_grad():
        logits = build(model, weights, CPU)(torch.from_numpy(pixels)).numpy()
    assert logits.shape == (3, 10)
    np.testing.assert_allclose(logits, forward(model, weights, pixels), rtol=1e-4, atol=1e-4)


def taken_from(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


@every_model
def test_torch_parameters_go_back_to_the_same_weights(model: Model) -> None:
    weights = random_weights(model)
    back = taken_from(build(model, weights, CPU))
    assert back.keys() == weights.keys()
    for name, value in weights.items():
        np.testing.assert_array_equal(back[name], value)


def test_training_does_not_change_the_weights_given() -> None:
    model = MODELS["softmax"]
    given, original = random_weights(model), random_weights(model)
    with torch.no_grad():
        for parameter in build(model, given, CPU).parameters():
            parameter.add_(1)
    for name, value in original.items():
        np.testing.assert_array_equal(given[name], value)
