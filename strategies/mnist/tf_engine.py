"""The training's ``Engine`` in TensorFlow: one process, all its devices under MirroredStrategy."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from strategies.base import ScalingSamples, TrainConfig
from strategies.mnist.engine import State
from strategies.mnist.inputs import Inputs
from strategies.mnist.models import MODELS
from strategies.mnist.order import steps_per_epoch
from strategies.mnist.tf_devices import device_names, hardware_name, make_strategy
from strategies.mnist.tf_evaluate import Evaluation
from strategies.mnist.tf_mirror import Mirror
from strategies.mnist.tf_replica import Replica, Resident
from strategies.mnist.tf_scaling import MOST_STEPS, measure_scaling
from strategies.mnist.tf_window import Window
from strategies.mnist.tf_xla import use_xla


class TfEngine:
    """``Engine`` of a process with ``config.devices`` devices; ``prepare`` has been called."""

    def __init__(self, config: TrainConfig, inputs: Inputs) -> None:
        self._config, self._data = config, inputs.data
        self._strategy = make_strategy(config)
        self._model = MODELS[config.model]
        self._xla = use_xla(self._model, config.device, config.devices)
        policy = "mixed_bfloat16" if config.precision == "bf16" else "float32"
        self._mirror = Mirror(self._strategy, self._model, inputs.state, policy)
        self._resident = [Resident(inputs.data.train, name) for name in device_names(config)]
        steps = steps_per_epoch(len(inputs.data.train), config.batch_size)
        self._replicas = self._make_replicas(self._mirror.momenta, steps)
        self._window = self._make_window(self._replicas, steps=steps, batch=config.batch_size)
        self._evaluations: dict[str, Evaluation] = {}
        self._started = self._done = self._batch = 0
        self.exchange = config.exchange if config.devices > 1 else "none"
        self.device_name = hardware_name(config)
        self.threads = config.threads

    def start(self, rows: NDArray[np.int64], batch: int, rates: NDArray[np.float32]) -> None:
        self._window.load(rows, batch, rates)
        self._started, self._done, self._batch = len(rows), 0, batch

    def run(self, count: int) -> None:
        self._window.run(count)
        self._done += count

    def synchronize(self) -> None:
        if self._config.device == "cuda":  # on CPUs a function returns when all is done
            for replica in self._replicas:
                replica.wait()

    def loss(self) -> float:
        last = self._done - 1
        return sum(float(replica.losses[last]) for replica in self._replicas) / self._batch

    def losses(self) -> NDArray[np.float64]:
        sums = [replica.losses.numpy()[: self._started] for replica in self._replicas]
        losses: NDArray[np.float64] = np.sum(sums, axis=0, dtype=np.float64)
        return losses

    def evaluate(self, split: str) -> tuple[float, float]:
        if split not in self._evaluations:
            held_out = {"validation": self._data.validation, "test": self._data.test}[split]
            self._evaluations[split] = Evaluation(self._strategy, self._replicas, held_out)
        return self._evaluations[split].run()

    def state(self) -> State:
        return self._mirror.state()

    def measure_scaling(self) -> list[ScalingSamples]:
        scratch = self._mirror.variables_like(map(np.zeros_like, self._mirror.momenta))
        replicas = self._make_replicas(scratch, MOST_STEPS)
        samples = len(self._data.train)
        return measure_scaling(
            self._config, samples, replicas, partial(self._make_window, replicas)
        )

    def versions(self) -> dict[str, str]:
        return {"tensorflow": tf.__version__, "keras": keras.__version__}

    def _make_replicas(self, momenta: list[tf.Variable], steps: int) -> list[Replica]:
        return [
            Replica(
                self._model,
                self._mirror.net,
                self._mirror.variables_on(index),
                self._mirror.on(index, momenta),
                data,
                momentum=self._config.momentum,
                steps=steps,
                xla=self._xla,
            )
            for index, data in enumerate(self._resident)
        ]

    def _make_window(self, replicas: list[Replica], *, steps: int, batch: int) -> Window:
        parts = self._config.accumulate
        return Window(
            self._strategy, replicas, steps=steps, batch=batch, parts=parts, xla=self._xla
        )
