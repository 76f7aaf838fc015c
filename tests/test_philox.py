"""The numbers every strategy shares: the Philox stream, the order of samples, initial weights."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from strategies.mnist import philox
from strategies.mnist.models import MODELS, Model
from strategies.mnist.order import EpochOrder, epoch_order, largest_share, share, steps_per_epoch
from strategies.mnist.weights import initial_weights

WORLDS = [1, 2, 3, 4, 7]

RAW = {
    (0, 0, 0): [213000021201967259, 4455796210202625458, 2055444239878205049],
    (42, 1, 3): [5507278285027359487, 13875248011684942785, 13538796313110295035],
}
PERMUTATIONS = {
    (0, 1, 0): [3, 8, 5, 9, 6, 0, 7, 1, 4, 2],
    (42, 1, 3): [8, 9, 0, 6, 3, 5, 7, 2, 1, 4],
}
FIRST_WEIGHTS = {  # of seed 1
    ("lenet", "conv1.weight"): [-0.07857280224561691, 0.1394834965467453],
    ("lenet", "conv1.bias"): [-0.09673960506916046, 0.00829706247895956],
    ("mlp", "dense2.weight"): [-0.17717421054840088, 0.20175650715827942],
    ("mlp256", "dense1.weight"): [-0.014030857011675835, 0.02490776963531971],
}
BOUNDS = {
    ("lenet", "conv1"): 1 / sqrt(25),
    ("lenet", "conv2"): 1 / sqrt(150),
    ("lenet", "dense1"): 1 / sqrt(256),
    ("lenet", "dense2"): 1 / sqrt(120),
    ("mlp", "dense1"): sqrt(6 / (784 + 128)),
    ("mlp", "dense2"): sqrt(6 / (128 + 10)),
    ("mlp256", "dense1"): 1 / sqrt(784),
    ("mlp256", "dense2"): 1 / sqrt(256),
}


@pytest.mark.parametrize("key", RAW)
def test_the_raw_stream_never_changes(key: tuple[int, int, int]) -> None:
    assert philox.raw(*key, 3).tolist() == RAW[key]


@pytest.mark.parametrize("key", PERMUTATIONS)
def test_the_permutation_never_changes(key: tuple[int, int, int]) -> None:
    assert philox.permutation(*key, 10).tolist() == PERMUTATIONS[key]


def test_uniform_numbers_are_the_upper_24_bits_of_the_raw_ones() -> None:
    expected = [(value >> 40) / 2**24 for value in RAW[0, 0, 0]]
    assert philox.uniform(0, 0, 0, 3).tolist() == expected


@pytest.mark.parametrize("key", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 0, 0)])
def test_streams_differ_by_seed_purpose_and_index(key: tuple[int, int, int]) -> None:
    assert not set(philox.raw(*key, 100).tolist()) & set(philox.raw(0, 0, 0, 100).tolist())


def test_a_longer_stream_begins_like_a_shorter_one() -> None:
    np.testing.assert_array_equal(philox.raw(3, 1, 2, 1000)[:7], philox.raw(3, 1, 2, 7))


@pytest.mark.parametrize("count", [0, 1, 2, 1000, 60_000])
def test_a_permutation_holds_every_number_once(count: int) -> None:
    order = philox.permutation(5, philox.ORDER, 1, count)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("count", [0, 1, 2, 5, 32, 100, 10_000])
def test_shares_cover_everything_once_and_evenly(count: int, world: int) -> None:
    shares = [range(*share(count, rank, world)) for rank in range(world)]
    sizes = [len(part) for part in shares]
    assert [i for part in shares for i in part] == list(range(count))
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) == largest_share(count, world)


def orders(samples: int, batch: int, world: int, epoch: int = 0, seed: int = 0) -> list[EpochOrder]:
    """Every rank's order."""
    return [
        epoch_order(
            seed=seed, epoch=epoch, samples=samples, batch=batch, rank=rank, world_size=world
        )
        for rank in range(world)
    ]


def steps(ranks: list[EpochOrder]) -> list[list[int]]:
    """The samples of every step, over all ranks in rank order."""
    joined = np.concatenate([order.full for order in ranks], axis=1).tolist()
    rests = [order.rest for order in ranks if order.rest is not None]
    return [*joined, np.concatenate(rests).tolist()] if rests else joined


# (samples, batch): with and without a rest, fewer samples than a batch, fewer than ranks.
@pytest.mark.parametrize(("samples", "batch"), [(120, 12), (103, 10), (101, 100), (7, 32), (9, 2)])
@pytest.mark.parametrize("world", WORLDS)
def test_the_samples_of_a_step_do_not_depend_on_the_ranks(
    samples: int, batch: int, world: int
) -> None:
    order = philox.permutation(0, philox.ORDER, 0, samples).tolist()
    expected = [order[low : low + batch] for low in range(0, samples, batch)]
    ranks = orders(samples, batch, world)
    assert steps(ranks) == expected
    assert {rank.steps for rank in ranks} == {steps_per_epoch(samples, batch)} == {len(expected)}


@pytest.mark.parametrize(("samples", "sizes"), [(109, {4, 5}), (1, {0, 1}), (100, set())])
def test_the_last_smaller_batch_is_shared_out_where_there_is_one(
    samples: int, sizes: set[int]
) -> None:
    ranks = orders(samples, batch=10, world=2)
    assert {len(order.rest) for order in ranks if order.rest is not None} == sizes
    assert {order.rest_batch for order in ranks} == {samples % 10}


@pytest.mark.parametrize(("epoch", "seed"), [(1, 0), (0, 1)])
def test_the_order_differs_by_epoch_and_seed(epoch: int, seed: int) -> None:
    assert steps(orders(100, 10, 1, epoch, seed)) != steps(orders(100, 10, 1))


@pytest.mark.parametrize(("model", "name"), FIRST_WEIGHTS)
def test_initial_weights_never_change(model: str, name: str) -> None:
    first = initial_weights(MODELS[model], seed=1)[name].ravel()[:2]
    np.testing.assert_allclose(first, FIRST_WEIGHTS[model, name], rtol=1e-6)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_initial_weights_are_one_float32_array_a_parameter(model: Model) -> None:
    weights = initial_weights(model, seed=0)
    shapes = {f"{layer.name}.weight": layer.shape for layer in model.weighted}
    shapes |= {f"{layer.name}.bias": (layer.outputs,) for layer in model.weighted}
    assert {name: value.shape for name, value in weights.items()} == shapes
    assert {value.dtype for value in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("model", "layer"), BOUNDS)
def test_initial_weights_fill_the_range_of_their_kind(model: str, layer: str) -> None:
    weight = initial_weights(MODELS[model], seed=0)[f"{layer}.weight"]
    bound = BOUNDS[model, layer]
    assert 0.9 * bound < np.abs(weight).max() <= bound * (1 + 1e-6)
    assert abs(weight.mean()) < 3 * bound / sqrt(3 * weight.size)  # three standard errors


@pytest.mark.parametrize("name", ["dense1", "dense2"])
def test_keras_biases_are_zero_and_torch_ones_are_not(name: str) -> None:
    assert not initial_weights(MODELS["mlp"], seed=0)[f"{name}.bias"].any()
    assert initial_weights(MODELS["mlp256"], seed=0)[f"{name}.bias"].all()


def test_softmax_begins_with_zeros() -> None:
    assert not any(value.any() for value in initial_weights(MODELS["softmax"], seed=3).values())


def test_every_layer_has_a_stream_of_its_own() -> None:
    weights = initial_weights(MODELS["lenet"], seed=0)
    bounds = {layer: bound for (model, layer), bound in BOUNDS.items() if model == "lenet"}
    starts = {round(weights[f"{name}.weight"].flat[0] / bound, 3) for name, bound in bounds.items()}
    assert len(starts) == len(bounds)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    first, again, other = (initial_weights(MODELS["mlp"], seed) for seed in (0, 0, 1))
    for layer in ("dense1.weight", "dense2.weight"):
        np.testing.assert_array_equal(first[layer], again[layer])
        assert (first[layer] != other[layer]).any()
