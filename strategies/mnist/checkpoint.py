"""Checkpoints: one safetensors file each, the same for every strategy and worker count.

Tensors: ``<layer>.weight`` and ``<layer>.bias`` in torch's layout, and the optimizer's state as
``momentum/<parameter>``. The file's metadata has one entry, ``header``: a JSON object.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from strategies.mnist.models import MODELS
from strategies.mnist.weights import Weights

FORMAT = 1
_MOMENTUM = "momentum/"
_NAMES = "step-[0-9]*[0-9].safetensors"


class CheckpointError(Exception):
    """A checkpoint that is missing or unusable; the text names the file and says why."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a checkpoint says about its training: all that is needed to go on with it.

    ``epoch``: epochs trained in whole; ``step``: optimizer steps since the first one (in the
    middle of an epoch where a step limit ended the training); ``versions``: of the libraries that
    wrote it; ``data``: the folder of the data set, None for the packaged MNIST; ``world_size``:
    how many devices trained. The learning rate rises from ``warmup_lr`` to ``lr`` in the first
    ``warmup_steps`` steps.
    """

    model: str
    seed: int
    epoch: int
    step: int
    batch_size: int
    lr: float
    momentum: float
    validation: float
    data: str | None
    strategy: str
    world_size: int
    versions: dict[str, str]
    warmup_lr: float = 0.0
    warmup_steps: int = 0
    format: int = FORMAT


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    header: Header
    weights: Weights
    momentum: Weights


def save(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes ``folder/step-<step>.safetensors`` under a temporary name and renames it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.header.step:08d}.safetensors"
    temporary = path.with_suffix(f".tmp-{os.getpid()}")
    tensors = dict(checkpoint.weights)
    tensors |= {_MOMENTUM + name: value for name, value in checkpoint.momentum.items()}
    try:
        save_file(tensors, temporary, {"header": json.dumps(asdict(checkpoint.header))})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def latest(place: Path) -> Path:
    """The newest checkpoint of ``place``: a run's folder, its checkpoints' folder, or one file."""
    if place.is_file():
        return place
    names = [*place.glob(_NAMES), *place.glob(f"checkpoints/{_NAMES}")]
    found = sorted((path for path in names if path.is_file()), key=lambda path: int(path.stem[5:]))
    if not found:
        raise CheckpointError(f"{place} holds no checkpoint (step-*.safetensors)")
    return found[-1]


def read_header(path: Path) -> Header:
    """The header alone. Raises CheckpointError."""
    try:
        with safe_open(path, framework="numpy") as file:
            values: dict[str, Any] = json.loads((file.metadata() or {})["header"])
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{path} has checkpoint format {values['format']}, this version reads {FORMAT}"
            )
        header = Header(**values)
        known = header.model in MODELS
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this launcher: {error!r}") from None
    if not known:
        raise CheckpointError(f"{path} holds the model {header.model!r}, which is not known here")
    numbers = (header.seed, header.epoch, header.step, header.batch_size, header.world_size)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise CheckpointError(f"{path} has a header with impossible numbers: {header}")
    return header


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint and checks every tensor's name, shape and type against its model."""
    header = read_header(path)
    shapes = {
        f"{layer.name}.{part}": shape
        for layer in MODELS[header.model].weighted
        for part, shape in (("weight", layer.shape), ("bias", (layer.outputs,)))
    }
    tensors = {}
    with safe_open(path, framework="numpy") as file:
        stored = set(file.keys())
        for name, shape in shapes.items():
            for key in (name, _MOMENTUM + name):
                if key not in stored:
                    raise CheckpointError(f"{path}: tensor {key} is missing")
                view = file.get_slice(key)
                found = f"{tuple(view.get_shape())} {view.get_dtype()}"
                if found != f"{shape} F32":
                    raise CheckpointError(f"{path}: tensor {key} is {found}, expected {shape} F32")
                tensors[key] = file.get_tensor(key)
    return Checkpoint(
        header=header,
        weights={name: tensors[name] for name in shapes},
        momentum={name: tensors[_MOMENTUM + name] for name in shapes},
    )
