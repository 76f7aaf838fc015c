"""What a strategy is, and the plain data that goes in and out of a worker. Stdlib only."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from strategies.mnist.engine import Engine
    from strategies.mnist.inputs import Inputs

EVENTS_VARIABLE = "TROIKA_EVENTS"
RESULT_VARIABLE = "TROIKA_RESULT"
GO_VARIABLE = "TROIKA_GO"
"""Says that a worker may be started before its place is ready, and names what it waits on then."""


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
class Peer:
    """A process of the job as the others reach it.

    ``host``: which of the job's hosts, from 0; ``port``: one at ``address`` that is free for this
    process; ``interface``: the network interface that has the address.
    """

    host: int
    address: str
    port: int
    interface: str


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A built-in training job, the same for all its ranks.

    ``batch_size`` is the global batch; each device's share of it is computed in ``accumulate``
    parts, one after the other. The learning rate rises from ``warmup_lr`` to ``lr`` in the first
    ``warmup_steps`` steps. ``validation`` is the share of the training set that is held out;
    ``steps`` (since the first step of all) ends the training early.

    ``devices`` is how many devices a process has; ``threads`` the number of compute threads a
    device; ``oversubscribed`` says that the devices outnumber the cores; ``exchange`` is one of
    the strategy's ``exchanges``; ``baseline`` says whether to measure the scaling afterwards.
    ``data`` is None for the packaged MNIST; ``resume`` is a checkpoint file; ``tensorboard`` is a
    folder for event files, None for none. ``checkpoints``, ``resume`` and ``tensorboard`` are
    relative to the folder of the file in which a worker finds this.
    """

    strategy: str
    model: str
    epochs: int
    steps: int | None
    batch_size: int
    accumulate: int
    lr: float
    warmup_lr: float
    warmup_steps: int
    momentum: float
    validation: float
    seed: int
    device: Literal["cuda", "cpu"]
    devices: int
    precision: Literal["fp32", "tf32", "bf16"]
    exchange: str
    cuda_graphs: bool
    threads: int
    oversubscribed: bool
    baseline: bool
    data: str | None
    resume: str | None
    checkpoints: str
    tensorboard: str | None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def read(cls, path: Path) -> TrainConfig:
        """What a file says, its paths made absolute."""
        values = json.loads(path.read_text())
        for name in ("checkpoints", "resume", "tensorboard"):
            if values[name] is not None:
                values[name] = str(path.parent.absolute() / values[name])
        return cls(**values)


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
    """What rank 0 reports of a training, finished or not.

    ``throughput``: samples/s over all ranks, a value for each timed window after the warm-up;
    ``first_step``: when the first optimizer step was done, seconds since 1970;
    ``checkpoint``: the name of the last one; ``exchange``: what carried the gradients;
    ``losses``: the mean loss of every step of this run, the first one being step
    ``first_loss_step``; ``scaling``: for the job's own batch per rank and, behind it, for a larger
    one.
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
    provides them; ``process_per``: whether each device or each host gets a process; ``cluster``:
    the kind of cluster that it runs on if the user names none; ``exchanges``: what may carry the
    gradients, the choice of --exchange.
    """

    name: str
    requires: tuple[str, ...]
    install: str
    process_per: Literal["device", "host"]
    cluster: str
    exchanges: tuple[str, ...]

    def missing(self) -> str | None:
        """What beyond ``requires`` is missing on this machine, and how to get it; None if ready."""

    def environ(self, rank: Rank, peers: tuple[Peer, ...], device: str) -> dict[str, str]:
        """Variables that the framework of this strategy wants in the worker of ``rank``.

        ``peers``: all processes of the job, in rank order.
        """

    def serve(self, address: str, port: int) -> AbstractContextManager[None]:
        """What has to be served at MASTER_ADDR and MASTER_PORT while the job runs."""

    def beside(self, address: str, port: int) -> tuple[str, ...]:
        """A module and its arguments, which serve the same from a process of their own; or ()."""

    def choose_exchange(
        self, asked: str, *, device: str, devices: int, linked: bool, hosts: int
    ) -> str:
        """One of ``exchanges`` for ``asked``, which may be "auto".

        ``devices``: how many a process has; ``linked``: whether each of the job's GPUs reaches all
        others through NVLink; ``hosts``: on how many the job runs. Raises ValueError for one that
        the devices cannot do.
        """

    def warm_up(self, config: TrainConfig) -> None:
        """Imports the framework; needs no peers, so it can be done before they are there."""

    def engine(
        self, rank: Rank, config: TrainConfig, inputs: Inputs
    ) -> AbstractContextManager[Engine]:
        """What trains in this process; joined to its peers inside the context."""


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it, so that no reader sees a part."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
