"""What a strategy is, and the plain data that goes in and out of a worker. Stdlib only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

EVENTS_VARIABLE = "TROIKA_EVENTS"
RESULT_VARIABLE = "TROIKA_RESULT"


@dataclass(frozen=True, kw_only=True)
class Rank:
    """A worker's place in the job, as in torchrun's environment."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    master_addr: str
    master_port: int

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Rank:
        """Reads RANK, LOCAL_RANK, WORLD_SIZE, ... Raises KeyError for one that is missing."""
        return cls(
            rank=int(environ["RANK"]),
            local_rank=int(environ["LOCAL_RANK"]),
            world_size=int(environ["WORLD_SIZE"]),
            local_world_size=int(environ["LOCAL_WORLD_SIZE"]),
            master_addr=environ["MASTER_ADDR"],
            master_port=int(environ["MASTER_PORT"]),
        )

    @property
    def one_host(self) -> bool:
        return self.local_world_size == self.world_size


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A built-in training job, the same for all its ranks.

    ``batch_size`` is the global batch; ``validation`` the share of the training set that is held
    out; ``steps`` (since the first step of all) ends the training early; ``threads`` is the number
    of compute threads of a rank; ``oversubscribed`` says that the ranks outnumber the cores;
    ``baseline`` says whether to measure the scaling afterwards; ``data`` is None for the packaged
    MNIST; ``resume`` is a checkpoint file.
    """

    strategy: str
    model: str
    epochs: int
    steps: int | None
    batch_size: int
    lr: float
    momentum: float
    validation: float
    seed: int
    device: Literal["cuda", "cpu"]
    precision: Literal["fp32", "tf32", "bf16"]
    exchange: Literal["auto", "gloo"]
    cuda_graphs: bool
    threads: int
    oversubscribed: bool
    baseline: bool
    data: str | None
    resume: str | None
    checkpoints: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class EpochMetrics:
    """One epoch: mean cross-entropy in nats, accuracies as shares of 1, ``seconds`` of training.

    ``steps`` counts from the first step of all to the end of this epoch.
    """

    epoch: int
    steps: int
    train_loss: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float
    test_accuracy: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ScalingSamples:
    """Seconds per optimizer step of ``batch`` samples a rank, a value for every round.

    ``alone``: one rank steps, the others wait. ``apart``: all ranks step at once without
    exchanging gradients, a list of one value per rank for every round. ``together``: all ranks
    step and exchange gradients.
    """

    batch: int
    alone: list[float]
    apart: list[list[float]]
    together: list[float]


@dataclass(frozen=True, kw_only=True)
class TrainMetrics:
    """What rank 0 reports of a finished training.

    ``throughput``: samples/s over all ranks, a value for each timed window after the warm-up;
    ``first_step``: when the first optimizer step was done, seconds since 1970;
    ``exchange``: what carried the gradients; ``losses``: the mean loss of every step of this run,
    the first one being step ``first_loss_step``; ``scaling``: for the job's own batch per rank
    and, behind it, for a larger one.
    """

    epochs: list[EpochMetrics]
    losses: list[float]
    first_loss_step: int
    throughput: list[float]
    first_step: float
    exchange: str
    device_name: str
    threads: int
    checkpoint: str
    versions: dict[str, str]
    scaling: list[ScalingSamples] = field(default_factory=list)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainMetrics:
        known = dict(values)
        known["epochs"] = [EpochMetrics(**epoch) for epoch in values["epochs"]]
        known["scaling"] = [ScalingSamples(**samples) for samples in values["scaling"]]
        return cls(**known)


class Strategy(Protocol):
    """A way to train on many devices.

    ``requires``: names to import, looked up without importing them; ``install``: the extra that
    provides them; ``process_per``: whether each device or each host gets a process.
    """

    name: str
    requires: tuple[str, ...]
    install: str
    process_per: Literal["device", "host"]

    def environ(self, device: str) -> dict[str, str]:
        """Variables that the framework of this strategy wants in every worker."""

    def train(self, rank: Rank, config: TrainConfig) -> TrainMetrics | None:
        """Trains; rank 0 returns the metrics, the others None. Imports its framework inside."""


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it, so that no reader sees a part."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
