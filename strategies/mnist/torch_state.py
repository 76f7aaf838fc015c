"""A training's state in PyTorch: made from a seed or a checkpoint, and saved as one."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import torch
from torch import nn

from strategies.base import TrainConfig
from strategies.mnist import checkpoint
from strategies.mnist.checkpoint import Checkpoint, Header
from strategies.mnist.models import MODELS
from strategies.mnist.torch_model import build
from strategies.mnist.torch_step import Sgd
from strategies.mnist.weights import Weights, initial_weights


class TorchState:
    """``done``: optimizer steps since the first of all; ``saved_as``: the last file, "" if none."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        saved = checkpoint.load(Path(config.resume)) if config.resume else None
        model = MODELS[config.model]
        weights = saved.weights if saved else initial_weights(model, config.seed)
        self._config = config
        self.module: nn.Sequential = build(model, weights, device)
        self._names = [name for name, _ in self.module.named_parameters()]
        self.optimizer = Sgd(tuple(self.module.parameters()), config.lr, config.momentum)
        self.done = saved.header.step if saved else 0
        self.saved_as = ""
        if saved:
            for name, state in zip(self._names, self.optimizer.state, strict=True):
                state.copy_(torch.from_numpy(saved.momentum[name]))

    def save(self, steps_per_epoch: int, world_size: int) -> None:
        """Writes a checkpoint into the run's folder."""
        config = self._config
        header = Header(
            model=config.model,
            seed=config.seed,
            epoch=self.done // steps_per_epoch,
            step=self.done,
            batch_size=config.batch_size,
            lr=config.lr,
            momentum=config.momentum,
            validation=config.validation,
            data=config.data,
            strategy=config.strategy,
            world_size=world_size,
            versions=versions(),
        )
        state = Checkpoint(
            header=header,
            weights=self._arrays(self.optimizer.parameters),
            momentum=self._arrays(self.optimizer.state),
        )
        self.saved_as = str(checkpoint.save(state, Path(config.checkpoints)))

    def _arrays(self, tensors: list[torch.Tensor]) -> Weights:
        arrays = [tensor.detach().cpu().numpy().copy() for tensor in tensors]
        return dict(zip(self._names, arrays, strict=True))


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
