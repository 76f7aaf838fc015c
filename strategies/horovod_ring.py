"""``horovod``: gradients exchanged by Horovod, PyTorch inside, one process a device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from strategies import gloo_store, horovod_build
from strategies.base import Peer, Rank, TrainConfig

if TYPE_CHECKING:
    from strategies.mnist.engine import Engine
    from strategies.mnist.inputs import Inputs

# How often Horovod looks for tensors to exchange. Its own 1 ms is most of a small model's step;
# from 0.2 ms down the looking takes the cores from the training (docs/measured.md).
_CYCLE_MS = "0.5"


class Horovod:
    name = "horovod"
    requires = ("torch",)
    install = "horovod"
    process_per: Literal["device", "host"] = "device"
    cluster = "ray"
    exchanges = ("auto",)

    def missing(self) -> str | None:
        return horovod_build.horovod_ready()

    def environ(self, rank: Rank, peers: tuple[Peer, ...], device: str) -> dict[str, str]:
        place = gloo_store.horovod_environ(rank, peers)
        return {**place, "HOROVOD_CYCLE_TIME": _CYCLE_MS}

    @contextmanager
    def serve(self, address: str, port: int) -> Iterator[None]:
        with gloo_store.serve(address, port):
            yield

    def beside(self, address: str, port: int) -> tuple[str, ...]:
        return ("strategies.gloo_store", address, str(port))

    def choose_exchange(
        self, asked: str, *, device: str, devices: int, linked: bool, hosts: int
    ) -> str:
        return asked  # Horovod knows what it was built with

    def warm_up(self, config: TrainConfig) -> None:
        from strategies.torch_startup import prepare_torch

        prepare_torch(config)
        import horovod.torch  # noqa: F401 - 0.3 s

    @contextmanager
    def engine(self, rank: Rank, config: TrainConfig, inputs: Inputs) -> Iterator[Engine]:
        from strategies.horovod_peers import HorovodPeers
        from strategies.mnist.torch_engine import TorchEngine
        from strategies.torch_startup import own_device

        device = own_device(rank, config)
        peers = HorovodPeers(device)
        try:
            yield TorchEngine(rank, config, peers, device, inputs)
        finally:
            peers.close()
