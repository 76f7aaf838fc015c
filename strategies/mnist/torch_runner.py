"""Runs a ``Step`` over the rows of a matrix of samples: eagerly, or as one CUDA graph a step."""

from __future__ import annotations

from typing import Protocol

import torch

from strategies.mnist.torch_step import Step

_WARM_UP = 11  # DistributedDataParallel wants as many steps before one can be captured


class Runner(Protocol):
    """Steps through ``load``-ed samples, ``run`` by ``run``; ``losses`` is float [rows]."""

    losses: torch.Tensor

    def load(self, samples: torch.Tensor, rates: torch.Tensor) -> None:
        """Takes int64 [rows, batch], learning rates [rows], and starts at the first row."""

    def run(self, count: int) -> None:
        """Trains on the next ``count`` rows. On a GPU the steps may still be running."""


class EagerRunner:
    """One Python call a step."""

    def __init__(self, step: Step, scale: torch.Tensor) -> None:
        self._step, self._scale = step, scale
        self.losses = torch.empty(0)

    def load(self, samples: torch.Tensor, rates: torch.Tensor) -> None:
        self._rows = samples.unbind(0)
        self._rates = rates.tolist()
        self._next = 0
        self.losses = torch.zeros(len(samples), device=samples.device)

    def run(self, count: int) -> None:
        step, scale, optimizer = self._step, self._scale, self._step.optimizer
        end = self._next + count
        losses = []
        block = slice(self._next, end)
        for row, rate in zip(self._rows[block], self._rates[block], strict=True):
            optimizer.lr = rate
            losses.append(step(row, scale))
        self.losses[self._next : end] = torch.stack(losses)
        self._next = end


class GraphRunner:
    """A whole step as one CUDA graph, launched once a step: no Python and no host wait in it.

    A cursor on the device walks over the rows. Capturing runs the step a few times and then puts
    weights and optimizer state back.

    Source: PyTorch, "CUDA semantics", sections "Whole-network capture" and "Usage with
    DistributedDataParallel".
    """

    def __init__(self, step: Step, scale: torch.Tensor, rows: int, batch: int) -> None:
        device = step.images.device
        self._samples = torch.zeros(rows, batch, dtype=torch.int64, device=device)
        self._rates = torch.zeros(rows, device=device)
        self._losses = torch.zeros(rows, device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._capture(step, scale)
        self.losses = self._losses

    def load(self, samples: torch.Tensor, rates: torch.Tensor) -> None:
        self._samples[: len(samples)].copy_(samples)
        self._rates[: len(rates)].copy_(rates)
        self._cursor.zero_()
        self.losses = self._losses[: len(samples)]

    def run(self, count: int) -> None:
        for _ in range(count):
            self._graph.replay()

    def _capture(self, step: Step, scale: torch.Tensor) -> None:
        state = [*step.optimizer.parameters, *step.optimizer.state]
        saved = [tensor.detach().clone() for tensor in state]

        def body() -> None:
            row = self._samples.index_select(0, self._cursor).view(-1)
            step.optimizer.lr = self._rates.index_select(0, self._cursor).view(())
            self._losses.index_copy_(0, self._cursor, step(row, scale).view(1))
            self._cursor.add_(1)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                self._cursor.zero_()
                body()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: what other threads ask of CUDA meanwhile is no error of this capture.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            body()
        with torch.no_grad():
            for tensor, value in zip(state, saved, strict=True):
                tensor.copy_(value)
