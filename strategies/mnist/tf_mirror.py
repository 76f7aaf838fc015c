"""A model's variables on all devices of a strategy."""

from __future__ import annotations

from collections.abc import Iterable

import keras
import tensorflow as tf

from strategies.mnist.engine import State
from strategies.mnist.keras_model import Floats, build, from_keras, to_keras
from strategies.mnist.models import Model


class Mirror:
    """The model as ``net``, and the momentum of its parameters, the same on every device."""

    def __init__(
        self, strategy: tf.distribute.Strategy, model: Model, state: State, policy: str
    ) -> None:
        self.strategy, self.model = strategy, model
        with strategy.scope():
            self.net: keras.Model = build(model, state.weights, policy)
        self.momenta = self.variables_like(to_keras(model, state.momentum))

    def variables_like(self, arrays: Iterable[Floats]) -> list[tf.Variable]:
        """New variables on all devices."""
        with self.strategy.scope():
            return [tf.Variable(array, trainable=False) for array in arrays]

    def variables_on(self, replica: int) -> list[tf.Variable]:
        """The parameters of one device."""
        return self.on(replica, [variable.value for variable in self.net.trainable_variables])

    def state(self) -> State:
        """A copy; all devices hold the same, so the first one's."""
        weights = [variable.numpy() for variable in self.variables_on(0)]
        momentum = [variable.numpy() for variable in self.on(0, self.momenta)]
        return State(
            weights=from_keras(self.model, weights), momentum=from_keras(self.model, momentum)
        )

    def on(self, replica: int, variables: list[tf.Variable]) -> list[tf.Variable]:
        """The copies of mirrored ``variables`` on one device."""
        return [self.strategy.experimental_local_results(v)[replica] for v in variables]
