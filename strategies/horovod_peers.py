"""The ranks of a job as Horovod's."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import horovod.torch as hvd
import torch

from strategies.mnist.torch_step import Alone, Joined


class HorovodPeers:
    """``Peers`` of the PyTorch engine: everything goes through Horovod.

    ``exchange`` says what Horovod hands the gradients to: NCCL for GPU tensors if it was built
    with it, Gloo otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        hvd.init()
        carrier = "NCCL" if device.type == "cuda" and hvd.nccl_built() else "Gloo"
        self.exchange = f"Horovod over {carrier}" if hvd.size() > 1 else "none"

    def join(self, module: torch.nn.Module) -> Joined:
        return _Averaging(module) if hvd.size() > 1 else Alone(module)

    def sum(self, tensor: torch.Tensor) -> None:
        if hvd.size() > 1:
            hvd.allreduce_(tensor, op=hvd.Sum)

    def gather(self, values: list[float]) -> list[list[float]]:
        everyone = hvd.allgather(torch.tensor([values], dtype=torch.float64))
        rows: list[list[float]] = everyone.tolist()
        return rows

    def barrier(self) -> None:
        self.gather([0.0])

    def close(self) -> None:
        hvd.shutdown()


class _Averaging:
    """``Joined``: all gradients as one vector behind the backward pass, in one all-reduce.

    For a small model the negotiation of a tensor costs more than its transport, and there is
    nothing to hide it behind: one tensor instead of hvd.DistributedOptimizer's one a parameter.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._parameters = list(module.parameters())
        numbers = [parameter.numel() for parameter in self._parameters]
        self._vector = torch.empty(sum(numbers), device=self._parameters[0].device)
        self._parts = [
            part.view_as(parameter)
            for part, parameter in zip(self._vector.split(numbers), self._parameters, strict=True)
        ]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._module(pixels)
        return logits

    def apart(self) -> AbstractContextManager[None]:
        return nullcontext()

    def exchange(self) -> None:
        gradients = [p.grad.reshape(-1) for p in self._parameters if p.grad is not None]
        torch.cat(gradients, out=self._vector)
        hvd.allreduce_(self._vector, name="gradients", op=hvd.Average)
        for parameter, part in zip(self._parameters, self._parts, strict=True):
            parameter.grad = part
