"""``ddp``: torch.distributed's DistributedDataParallel, one process a device."""

from __future__ import annotations

from typing import Literal

from strategies.base import Rank, TrainConfig, TrainMetrics


class Ddp:
    name = "ddp"
    requires = ("torch",)
    install = "ddp"
    process_per: Literal["device", "host"] = "device"

    def environ(self, device: str) -> dict[str, str]:
        return {}

    def train(self, rank: Rank, config: TrainConfig) -> TrainMetrics | None:
        import torch

        from strategies.mnist.torch_loop import Training
        from strategies.torch_peers import TorchPeers
        from strategies.torch_startup import defer_compiler

        torch.set_num_threads(config.threads)
        torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
        device = torch.device("cpu")
        if config.device == "cuda":
            device = torch.device("cuda", rank.local_rank)
            torch.cuda.set_device(device)
        else:
            defer_compiler()
        peers = TorchPeers(rank, config, device)
        try:
            return Training(rank, config, peers, device).run()
        finally:
            peers.close()
