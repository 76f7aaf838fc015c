"""The strategy ``mirrored``: who carries its gradients, and how samples are cut for its devices."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.mirrored import Mirrored, resolve_exchange
from strategies.mnist.models import MODELS
from strategies.mnist.order import share
from strategies.mnist.tf_parts import cut, width
from strategies.mnist.tf_xla import use_xla


@pytest.mark.parametrize(
    ("device", "replicas", "linked", "expected"),
    [
        ("cpu", 1, False, "one-device"),
        ("cpu", 2, False, "one-device"),
        ("cuda", 1, False, "nccl"),
        ("cuda", 8, True, "nccl"),
        ("cuda", 3, True, "nccl"),
        ("cuda", 8, False, "hierarchical"),
        ("cuda", 3, False, "one-device"),
    ],
)
def test_exchange_is_chosen_by_topology(
    device: str, replicas: int, linked: bool, expected: str
) -> None:
    assert resolve_exchange("auto", device, replicas, linked) == expected


@pytest.mark.parametrize("asked", ["nccl", "hierarchical", "one-device"])
@pytest.mark.parametrize("linked", [True, False])
def test_the_exchange_asked_for_is_taken(asked: str, linked: bool) -> None:
    chosen = Mirrored().choose_exchange(asked, device="cuda", devices=4, linked=linked, hosts=1)
    assert chosen == asked


def test_nccl_without_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="needs GPUs, this job has logical CPU devices"):
        resolve_exchange("nccl", "cpu", 2, False)


def test_hierarchical_copies_between_an_odd_number_of_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="even number of devices, this job has 3"):
        resolve_exchange("hierarchical", "cuda", 3, False)


def test_one_device_may_be_asked_to_copy_hierarchically() -> None:
    assert resolve_exchange("hierarchical", "cpu", 1, False) == "hierarchical"


@pytest.mark.parametrize(
    ("model", "device", "replicas", "expected"),
    [
        ("mlp", "cpu", 1, True),
        ("softmax", "cpu", 1, True),
        ("lenet", "cpu", 1, False),
        ("mlp", "cpu", 2, False),
        ("mlp", "cuda", 1, False),
    ],
)
def test_xla_compiles_dense_models_on_one_cpu(
    model: str, device: str, replicas: int, expected: bool
) -> None:
    assert use_xla(MODELS[model], device, replicas) == expected


@pytest.mark.parametrize("batch", [1, 2, 7, 32])
@pytest.mark.parametrize("replicas", [1, 2, 3])
@pytest.mark.parametrize("parts", [1, 3])
def test_samples_are_cut_as_array_split_cuts_each_share(
    batch: int, replicas: int, parts: int
) -> None:
    rows = np.arange(2 * batch).reshape(2, batch) + 1
    widest = width(batch, replicas, parts)
    for replica in range(replicas):
        found = cut(rows, replica, replicas, steps=4, parts=parts, width=widest)
        low, high = share(batch, replica, replicas)
        assert found.rows.shape == (4, parts, widest)
        for step in range(2):
            taken = [
                row[mask == 1].tolist()
                for row, mask in zip(found.rows[step], found.present, strict=True)
            ]
            expected = np.array_split(rows[step, low:high], parts)
            assert taken == [part.tolist() for part in expected]


@pytest.mark.parametrize("batch", [1, 2, 31, 32])
def test_what_fills_a_part_up_is_sample_0_and_does_not_count(batch: int) -> None:
    rows = np.arange(batch).reshape(1, batch) + 1
    found = cut(rows, 2, 3, steps=1, parts=2, width=width(32, 3, 2))
    assert not found.rows[0][found.present == 0].any()
    low, high = share(batch, 2, 3)
    assert found.present.sum() == high - low
