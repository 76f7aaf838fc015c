"""The ranks of a job as a torch.distributed process group."""

from __future__ import annotations

import datetime
import socket
from contextlib import AbstractContextManager

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from strategies.base import Rank, TrainConfig
from strategies.mnist.torch_step import Alone, Joined
from strategies.shared_memory import SharedMemoryMean, unsupported_reason

_TIMEOUT = datetime.timedelta(minutes=30)
_ONE_BUCKET_MIB = 25  # DistributedDataParallel's own default; the MNIST models fit in one


class _Parallel:
    """``Joined`` by DistributedDataParallel, which exchanges in the backward pass."""

    def __init__(self, parallel: DistributedDataParallel) -> None:
        self._parallel = parallel

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._parallel(pixels)
        return logits

    def apart(self) -> AbstractContextManager[None]:
        return self._parallel.no_sync()

    def exchange(self) -> None:
        pass


class TorchPeers:
    """``Peers`` of the PyTorch engine.

    Gradients go through NCCL on GPUs, through shared memory between CPU workers of one host and
    through gloo otherwise; everything else goes through gloo on CPUs and NCCL on GPUs.
    """

    def __init__(self, rank: Rank, config: TrainConfig, device: torch.device) -> None:
        self._rank, self._config, self._device = rank, config, device
        self.exchange = "none"
        if rank.world_size > 1:
            join(rank, device)
            self.exchange = "nccl" if device.type == "cuda" else "gloo"

    def join(self, module: torch.nn.Module) -> Joined:
        if self._rank.world_size == 1:
            return Alone(module)
        cuda = self._device.type == "cuda"
        side = torch.cuda.Stream() if cuda else None
        # A side stream: DistributedDataParallel must not be made on the one that is captured.
        with torch.cuda.stream(side):
            parallel = DistributedDataParallel(
                module,
                device_ids=[self._device.index] if cuda else None,
                bucket_cap_mb=_ONE_BUCKET_MIB,
                gradient_as_bucket_view=True,
                # A static graph has the same passes in every step: none without the exchange.
                static_graph=self._config.accumulate == 1,
            )
        if side is not None:
            torch.cuda.current_stream().wait_stream(side)
        reason = unsupported_reason(self._rank.world_size, one_host=self._rank.one_host, cuda=cuda)
        if reason is None and self._config.exchange == "auto":
            size = sum(parameter.numel() for parameter in module.parameters())
            spin = not self._config.oversubscribed
            mean = SharedMemoryMean(size, self._rank.rank, self._rank.world_size, spin=spin)
            parallel.register_comm_hook(None, mean.hook)
            self.exchange = "shared memory"
        return _Parallel(parallel)

    def sum(self, tensor: torch.Tensor) -> None:
        if self._rank.world_size > 1:
            dist.all_reduce(tensor)

    def gather(self, values: list[float]) -> list[list[float]]:
        if self._rank.world_size == 1:
            return [values]
        own = torch.tensor(values, dtype=torch.float64)
        everyone = [torch.empty_like(own) for _ in range(self._rank.world_size)]
        dist.all_gather(everyone, own)
        return [tensor.tolist() for tensor in everyone]

    def barrier(self) -> None:
        self.gather([0.0])

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def join(rank: Rank, device: torch.device) -> None:
    """Joins the default process group: gloo for CPU tensors and, on GPUs, NCCL for theirs.

    Rank 0 serves the store on MASTER_ADDR alone, not on every interface as env:// does.
    """
    listener = None
    if rank.rank == 0:
        listener = socket.create_server((rank.master_addr, rank.master_port), backlog=1024)
    store = dist.TCPStore(
        rank.master_addr,
        rank.master_port,
        rank.world_size,
        is_master=rank.rank == 0,
        timeout=_TIMEOUT,
        wait_for_workers=False,
        master_listen_fd=listener.detach() if listener else None,
        use_libuv=False,  # with it, torch 2.6 takes no descriptor
    )
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank.rank,
        world_size=rank.world_size,
        timeout=_TIMEOUT,
    )
