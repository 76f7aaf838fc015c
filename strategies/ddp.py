"""``ddp``: torch.distributed's DistributedDataParallel, one process a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

from strategies.base import Peer, Rank, TrainConfig

if TYPE_CHECKING:
    from strategies.mnist.engine import Engine
    from strategies.mnist.inputs import Inputs


class Ddp:
    name = "ddp"
    requires = ("torch",)
    install = "ddp"
    process_per: Literal["device", "host"] = "device"
    cluster = "local"
    exchanges = ("auto", "gloo")

    def missing(self) -> str | None:
        return None

    def environ(self, rank: Rank, peers: tuple[Peer, ...], device: str) -> dict[str, str]:
        return {}

    def serve(self, address: str, port: int) -> AbstractContextManager[None]:
        return nullcontext()  # rank 0 serves the store

    def beside(self, address: str, port: int) -> tuple[str, ...]:
        return ()

    def choose_exchange(
        self, asked: str, *, device: str, devices: int, linked: bool, hosts: int
    ) -> str:
        return asked  # "auto" is decided when the model's gradients are known

    def warm_up(self, config: TrainConfig) -> None:
        from strategies.torch_startup import prepare_torch

        prepare_torch(config)

    @contextmanager
    def engine(self, rank: Rank, config: TrainConfig, inputs: Inputs) -> Iterator[Engine]:
        from strategies.mnist.torch_engine import TorchEngine
        from strategies.torch_peers import TorchPeers
        from strategies.torch_startup import own_device

        device = own_device(rank, config)
        peers = TorchPeers(rank, config, device)
        try:
            yield TorchEngine(rank, config, peers, device, inputs)
        finally:
            peers.close()
