"""The training's ``Engine`` in PyTorch, whatever carries the gradients: a device a process."""

from __future__ import annotations

import warnings
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from strategies.base import Rank, ScalingSamples, TrainConfig
from strategies.mnist.data import Split
from strategies.mnist.engine import State
from strategies.mnist.inputs import Inputs
from strategies.mnist.models import MODELS
from strategies.mnist.order import largest_share
from strategies.mnist.torch_evaluate import evaluate, evaluation_step
from strategies.mnist.torch_model import build
from strategies.mnist.torch_runner import EagerRunner, GraphRunner, Runner
from strategies.mnist.torch_scaling import measure_scaling
from strategies.mnist.torch_step import Joined, Sgd, Step
from strategies.mnist.weights import Weights


class Peers(Protocol):
    """What joins the ranks. ``exchange`` names what carries the gradients."""

    exchange: str

    def join(self, module: nn.Module) -> Joined:
        """``module`` with its peers; all ranks' parameters are the same already."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Adds ``tensor`` up over the ranks, in place."""

    def gather(self, values: list[float]) -> list[list[float]]:
        """Every rank's ``values``, in rank order, on every rank."""

    def barrier(self) -> None:
        """Waits, without using a core, until every rank has come here."""


class TorchEngine:
    """``Engine`` of one rank, with one device."""

    def __init__(
        self, rank: Rank, config: TrainConfig, peers: Peers, device: torch.device, inputs: Inputs
    ) -> None:
        self._rank, self._config, self._peers, self._device = rank, config, peers, device
        self._module = build(MODELS[config.model], inputs.state.weights, device)
        self._names = [name for name, _ in self._module.named_parameters()]
        optimizer = Sgd(tuple(self._module.parameters()), config.momentum)
        for name, state in zip(self._names, optimizer.state, strict=True):
            state.copy_(torch.from_numpy(inputs.state.momentum[name]))
        self._step = Step(
            MODELS[config.model],
            peers.join(self._module),
            optimizer,
            *self._resident(inputs.data.train),
            largest_share(config.batch_size, rank.world_size),
            accumulate=config.accumulate,
            bf16=config.precision == "bf16",
        )
        self._held_out = {
            name: evaluation_step(self._step, *self._resident(split), self._module)
            for name, split in (("validation", inputs.data.validation), ("test", inputs.data.test))
            if len(split)
        }
        self._graphs = config.cuda_graphs and peers.exchange in ("nccl", "none")
        self._graph: GraphRunner | None = None
        self._runner: Runner | None = None
        self.threads = torch.get_num_threads()
        self.device_name = torch.cuda.get_device_name(device) if self._cuda else "cpu"

    @property
    def exchange(self) -> str:
        return self._peers.exchange

    @property
    def _cuda(self) -> bool:
        return self._device.type == "cuda"

    def start(self, rows: NDArray[np.int64], batch: int, rates: NDArray[np.float32]) -> None:
        # The ranks' gradients are averaged, so each scales its sum by the world size.
        scale = torch.tensor(self._rank.world_size / batch, device=self._device)
        if self._graphs and batch == self._config.batch_size:
            if self._graph is None:
                most = len(self._step.labels) // batch
                self._graph = GraphRunner(self._step, scale, most, rows.shape[1])
            self._runner = self._graph
        else:
            self._runner = EagerRunner(self._step, scale)
        self._runner.load(torch.from_numpy(rows).to(self._device), torch.from_numpy(rates))
        self._share, self._done = int(rows.shape[1]), 0

    def run(self, count: int) -> None:
        assert self._runner is not None
        self._runner.run(count)
        self._done += count

    def synchronize(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def loss(self) -> float:
        assert self._runner is not None
        loss: float = self._runner.losses[self._done - 1].item()
        return loss / max(self._share, 1)

    def losses(self) -> NDArray[np.float64]:
        assert self._runner is not None
        sums = self._runner.losses.double()
        self._peers.sum(sums)
        losses: NDArray[np.float64] = sums.cpu().numpy()
        return losses

    def evaluate(self, split: str) -> tuple[float, float]:
        rank = self._rank
        return evaluate(self._held_out[split], rank.rank, rank.world_size, self._peers.sum)

    def state(self) -> State:
        optimizer = self._step.optimizer
        return State(
            weights=self._arrays(optimizer.parameters), momentum=self._arrays(optimizer.state)
        )

    def measure_scaling(self) -> list[ScalingSamples]:
        return measure_scaling(self._step, self._module, self._rank, self._peers, self._graphs)

    def versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def _arrays(self, tensors: list[torch.Tensor]) -> Weights:
        arrays = [tensor.detach().cpu().numpy().copy() for tensor in tensors]
        return dict(zip(self._names, arrays, strict=True))

    def _resident(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings():
            # "not writable": nobody writes to the images, and a copy takes time and memory.
            warnings.simplefilter("ignore", UserWarning)
            images = torch.from_numpy(split.images.reshape(len(split), -1)).to(self._device)
        return images, torch.from_numpy(split.labels.astype(np.int64)).to(self._device)
