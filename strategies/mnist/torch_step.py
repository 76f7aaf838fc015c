"""One optimizer step in PyTorch: gather, forward, backward, exchange, update."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from strategies.mnist.models import Model


class Joined(Protocol):
    """A module and its peers of other ranks, with which it averages gradients."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The module's forward function."""

    def apart(self) -> AbstractContextManager[None]:
        """Backward passes inside only add to this rank's gradients."""

    def exchange(self) -> None:
        """Called behind a step's last backward pass, which is outside of ``apart``."""


class Alone:
    """``Joined`` for a module without peers."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._module(pixels)
        return logits

    def apart(self) -> AbstractContextManager[None]:
        return nullcontext()

    def exchange(self) -> None:
        pass


class Sgd:
    """SGD with momentum in place: v = momentum * v + g; w = w - lr * v (torch.optim.SGD's).

    Calls the kernel that ``torch.optim.SGD(fused=True)`` calls. That class imports torch._dynamo,
    1.4 s at every start, and costs 0.06 ms a step: a tenth of a small model's. ``lr`` may change
    between steps; a tensor is read when the step runs, as a CUDA graph needs it.
    """

    def __init__(self, parameters: Sequence[torch.Tensor], momentum: float) -> None:
        self.parameters: list[torch.Tensor] = list(parameters)
        self.momentum = momentum
        self.lr: float | torch.Tensor = 0.0
        self.state = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        torch._fused_sgd_(
            self.parameters,
            gradients,
            self.state if self.momentum else [],
            weight_decay=0.0,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,
        )
        for parameter in self.parameters:
            parameter.grad = None


class Step:
    """Steps of at most ``batch`` samples of this rank, on data that is resident on its device.

    ``images``: uint8 [n, 784]; ``labels``: int64 [n]. ``joined`` maps float [b, 784] to logits.
    The samples of a step go through it in ``accumulate`` parts. ``bf16`` computes in bfloat16
    where autocast does.
    """

    def __init__(
        self,
        model: Model,
        joined: Joined,
        optimizer: Sgd,
        images: torch.Tensor,
        labels: torch.Tensor,
        batch: int,
        *,
        accumulate: int = 1,
        bf16: bool = False,
    ) -> None:
        self.model, self.joined, self.optimizer, self.bf16 = model, joined, optimizer, bf16
        self.images, self.labels, self.batch = images, labels, batch
        self.accumulate = accumulate
        part = -(-batch // accumulate)
        self._bytes = torch.empty(part, images.shape[1], dtype=torch.uint8, device=images.device)
        self._pixels = torch.empty(part, images.shape[1], device=images.device)

    def __call__(self, samples: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """Trains on ``samples`` (int64 [b], may be empty); returns the sum of their losses.

        ``scale`` (float, no dimensions) is what the gradient of that sum is multiplied by.
        """
        if self.accumulate == 1:
            loss = self._backward(samples, scale)
        else:
            loss = self._backward_in_parts(samples, scale)
        self.joined.exchange()
        self.optimizer.step()
        return loss

    def _backward(self, samples: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        labels = self.labels.index_select(0, samples)
        loss = F.cross_entropy(self.logits(samples), labels, reduction="sum")
        loss.backward(scale)
        return loss.detach()

    def _backward_in_parts(self, samples: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        *parts, last = samples.tensor_split(max(1, min(self.accumulate, len(samples))))
        with self.joined.apart():
            losses = [self._backward(part, scale) for part in parts]
        losses.append(self._backward(last, scale))
        return torch.stack(losses).sum()

    def logits(self, samples: torch.Tensor) -> torch.Tensor:
        pixels = self.gather(samples)
        if not self.bf16:
            return self.joined(pixels)
        with torch.autocast(pixels.device.type, torch.bfloat16, cache_enabled=False):
            logits = self.joined(pixels)
        return logits.float()

    def gather(self, samples: torch.Tensor) -> torch.Tensor:
        """The pixels of ``samples``, normalised, in a buffer that the next call overwrites.

        Bytes are gathered and converted a batch at a time: as fast as gathering floats, a quarter
        of the memory, and no conversion of the whole data set before the first step.
        """
        raw, pixels = self._bytes, self._pixels
        if len(samples) != len(raw):
            raw, pixels = raw[: len(samples)], pixels[: len(samples)]
        torch.index_select(self.images, 0, samples, out=raw)
        pixels.copy_(raw).mul_(self.model.scale)
        return pixels.add_(self.model.shift) if self.model.shift else pixels
