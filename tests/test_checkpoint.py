"""Checkpoints: what is written is read back, the newest is found, a bad one is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from strategies.mnist.checkpoint import (
    Checkpoint,
    CheckpointError,
    Header,
    latest,
    load,
    read_header,
    save,
)
from strategies.mnist.models import MODELS
from strategies.mnist.weights import initial_weights

HEADER = Header(
    model="lenet",
    seed=3,
    epoch=1,
    step=7,
    batch_size=100,
    lr=0.01,
    momentum=0.9,
    validation=0.2,
    data=None,
    strategy="ddp",
    world_size=2,
    versions={"python": "3.11"},
)


def checkpoint(header: Header = HEADER) -> Checkpoint:
    model = MODELS["lenet"]
    weights, momentum = initial_weights(model, seed=1), initial_weights(model, seed=2)
    return Checkpoint(header=header, weights=weights, momentum=momentum)


def saved_steps(folder: Path, *steps: int) -> list[Path]:
    return [save(checkpoint(replace(HEADER, step=step)), folder) for step in steps]


def test_load_returns_exactly_what_was_saved(tmp_path: Path) -> None:
    written = checkpoint()
    read = load(save(written, tmp_path))
    assert read.header == written.header
    for name in ("weights", "momentum"):
        before, after = getattr(written, name), getattr(read, name)
        assert before.keys() == after.keys()
        assert all(before[key].tobytes() == after[key].tobytes() for key in before)


def test_save_makes_the_folder_and_nothing_else_in_it(tmp_path: Path) -> None:
    path = save(checkpoint(), tmp_path / "run" / "checkpoints")
    assert path.name == "step-00000007.safetensors"
    assert list(path.parent.iterdir()) == [path]


def test_save_replaces_an_older_file_of_the_same_step(tmp_path: Path) -> None:
    saved_steps(tmp_path, 7)
    path = save(checkpoint(replace(HEADER, seed=4)), tmp_path)
    assert load(path).header.seed == 4


def test_a_save_that_fails_leaves_no_temporary_file(tmp_path: Path) -> None:
    obstacle = tmp_path / "step-00000007.safetensors"
    obstacle.mkdir()
    with pytest.raises(IsADirectoryError):
        save(checkpoint(), tmp_path)
    assert list(tmp_path.iterdir()) == [obstacle]


def test_the_header_is_json_that_safetensors_alone_can_read(tmp_path: Path) -> None:
    with safe_open(save(checkpoint(), tmp_path), framework="numpy") as file:
        assert json.loads(file.metadata()["header"]) == asdict(HEADER)
        assert "momentum/conv1.weight" in file.keys()  # noqa: SIM118


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_latest_is_the_highest_step_of_a_run_or_of_its_checkpoints(
    tmp_path: Path, inside: str
) -> None:
    _, highest, _ = saved_steps(tmp_path / inside, 9, 100, 20)
    assert latest(tmp_path) == highest


def test_latest_of_a_file_is_the_file(tmp_path: Path) -> None:
    first, _ = saved_steps(tmp_path, 1, 2)
    assert latest(first) == first


def test_latest_overlooks_a_file_that_is_being_written(tmp_path: Path) -> None:
    (path,) = saved_steps(tmp_path, 1)
    (tmp_path / "step-00000002.tmp-123").touch()
    assert latest(tmp_path) == path


@pytest.mark.parametrize("place", ["", "none"])
def test_latest_says_where_there_is_no_checkpoint(tmp_path: Path, place: str) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path / place} holds no checkpoint"):
        latest(tmp_path / place)


def header_text(**changes: object) -> str:
    return json.dumps(asdict(HEADER) | changes)


BAD_HEADERS = {
    "none at all": (None, "is not a checkpoint of this launcher"),
    "not JSON": ("epoch 3", "is not a checkpoint of this launcher"),
    "not an object": ("[1]", "is not a checkpoint of this launcher"),
    "no format": (json.dumps({"model": "lenet"}), "is not a checkpoint of this launcher"),
    "other fields": (header_text(colour=1), "is not a checkpoint of this launcher"),
    "other format": (header_text(format=2), "has checkpoint format 2, this version reads 1"),
    "other model": (header_text(model="vgg"), "holds the model 'vgg', which is not known here"),
}


@pytest.mark.parametrize("read", [load, read_header])
@pytest.mark.parametrize(("text", "fault"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_missing_or_bad_header_is_named_with_its_fault(
    tmp_path: Path, read: Callable[[Path], object], text: str | None, fault: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file(checkpoint().weights, path, None if text is None else {"header": text})
    with pytest.raises(CheckpointError, match=f"{path} {fault}"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"no tensors at all", None])
def test_a_file_without_tensors_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{path} cannot be read"):
        load(path)


def test_a_truncated_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    path = save(checkpoint(), tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=f"{path} cannot be read"):
        load(path)


@pytest.mark.parametrize("name", ["conv1.bias", "momentum/dense3.weight"])
@pytest.mark.parametrize(
    ("value", "said"), [(None, "missing"), (np.zeros(3, np.float32), r"\(3,\)")]
)
def test_a_missing_or_misshapen_tensor_is_named(
    tmp_path: Path, name: str, value: NDArray[np.float32] | None, said: str
) -> None:
    path = save(checkpoint(), tmp_path)
    tensors = load_file(path)
    del tensors[name]
    if value is not None:
        tensors[name] = value
    save_file(tensors, path, {"header": header_text()})
    with pytest.raises(CheckpointError, match=f"{path}: tensor {name} is {said}"):
        load(path)
