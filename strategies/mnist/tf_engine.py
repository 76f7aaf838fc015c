"""The training's ``Engine`` in TensorFlow: a process a host, with all devices of the host."""

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
from strategies.mnist.order import largest_share, steps_per_epoch
from strategies.mnist.tf_devices import hardware_name, threads_of_device
from strategies.mnist.tf_evaluate import Evaluation
from strategies.mnist.tf_group import Group
from strategies.mnist.tf_mirror import Mirror
from strategies.mnist.tf_replica import Replica, Resident
from strategies.mnist.tf_scaling import MOST_STEPS, measure_scaling
from strategies.mnist.tf_window import Window
from strategies.mnist.tf_xla import use_xla


class TfEngine:
    """``Engine`` of one process of ``group``."""

    def __init__(self, config: TrainConfig, inputs: Inputs, group: Group) -> None:
        self._config, self._data, self._group = config, inputs.data, group
        self._model = MODELS[config.model]
        self._xla = use_xla(self._model, config.device, group.replicas)
        policy = "mixed_bfloat16" if config.precision == "bf16" else "float32"
        self._mirror = Mirror(group.strategy, self._model, inputs.state, policy)
        self._resident = [Resident(inputs.data.train, name) for name in group.devices]
        steps = steps_per_epoch(len(inputs.data.train), config.batch_size)
        self._replicas = self._make_replicas(self._mirror.momenta, steps)
        largest = largest_share(config.batch_size, group.processes)
        self._window = self._make_window(self._replicas, steps=steps, batch=largest)
        self._evaluations: dict[str, Evaluation] = {}
        self._started = self._done = self._share = 0
        self.exchange = _exchange(config, group)
        self.device_name = hardware_name(config)
        self.threads = threads_of_device(config, group.processes)

    def start(self, rows: NDArray[np.int64], batch: int, rates: NDArray[np.float32]) -> None:
        self._window.load(rows, batch, rates)
        self._started, self._done, self._share = len(rows), 0, rows.shape[1]

    def run(self, count: int) -> None:
        self._window.run(count)
        self._done += count

    def synchronize(self) -> None:
        if self._config.device == "cuda":  # on CPUs a function returns when all is done
            for replica in self._replicas:
                replica.wait()

    def loss(self) -> float:
        last = self._done - 1
        total = sum(float(replica.losses[last]) for replica in self._replicas)
        return total / max(self._share, 1)

    def losses(self) -> NDArray[np.float64]:
        sums = [replica.losses.numpy()[: self._started] for replica in self._replicas]
        return self._group.sum(np.sum(sums, axis=0, dtype=np.float64))

    def evaluate(self, split: str) -> tuple[float, float]:
        if split not in self._evaluations:
            held_out = {"validation": self._data.validation, "test": self._data.test}[split]
            self._evaluations[split] = Evaluation(self._group, self._replicas, held_out)
        return self._evaluations[split].run()

    def state(self) -> State:
        return self._mirror.state()

    def measure_scaling(self) -> list[ScalingSamples]:
        scratch = self._mirror.variables_like(map(np.zeros_like, self._mirror.momenta))
        replicas = self._make_replicas(scratch, MOST_STEPS)
        samples = len(self._data.train)
        return measure_scaling(
            self._config, samples, self._group, replicas, partial(self._make_window, replicas)
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
        return Window(self._group, replicas, steps=steps, batch=batch, parts=parts, xla=self._xla)


def _exchange(config: TrainConfig, group: Group) -> str:
    if group.replicas == 1:
        return "none"
    return "ring over gRPC" if config.exchange == "ring" else config.exchange
