"""What a training starts from: the data, and the weights by seed or checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from strategies.base import TrainConfig
from strategies.mnist import checkpoint
from strategies.mnist.data import Mnist, load
from strategies.mnist.engine import State
from strategies.mnist.models import MODELS
from strategies.mnist.weights import initial_weights


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """``done``: optimizer steps that ``state`` has behind it."""

    data: Mnist
    state: State
    done: int


def read_inputs(config: TrainConfig) -> Inputs:
    """Reads data and checkpoint. Raises DataError, CheckpointError.

    Takes half a second, most of it in zlib without the interpreter's lock: a thread can do it
    while the framework is imported.
    """
    data = load(Path(config.data) if config.data else None, config.validation)
    if config.resume:
        saved = checkpoint.load(Path(config.resume))
        state = State(weights=saved.weights, momentum=saved.momentum)
        return Inputs(data=data, state=state, done=saved.header.step)
    weights = initial_weights(MODELS[config.model], config.seed)
    still = {name: np.zeros_like(value) for name, value in weights.items()}
    return Inputs(data=data, state=State(weights=weights, momentum=still), done=0)
