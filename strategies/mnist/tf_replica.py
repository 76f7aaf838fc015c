"""One device's part of a training: its copy of the variables, its data, its step."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from strategies.mnist.data import SIDE, Split
from strategies.mnist.models import Model

AllReduce = Callable[[list[tf.Tensor]], list[tf.Tensor]]


def alone(gradients: list[tf.Tensor]) -> list[tf.Tensor]:
    """The exchange of a replica that has nobody to exchange with."""
    return gradients


class Resident:
    """A split on one device: ``words``, int64 [n, 98], and ``labels``, int64 [n].

    A word is 8 pixels of a byte each: TensorFlow has no GPU kernel that gathers bytes.
    """

    def __init__(self, split: Split, device: str) -> None:
        self.device = device
        pixels = np.ascontiguousarray(split.images.reshape(len(split), -1))
        with tf.device(device):
            self.words = tf.constant(pixels.view(np.int64))
            self.labels = tf.constant(split.labels.astype(np.int64))


class Replica:
    """``variables`` and ``momenta`` are this device's own, in the order of ``net``'s.

    ``losses``: float32 [steps], the sum of the losses of this device's samples in each step;
    ``xla``: whether XLA compiles what is made of ``step``.
    """

    def __init__(
        self,
        model: Model,
        net: keras.Model,
        variables: list[tf.Variable],
        momenta: list[tf.Variable],
        data: Resident,
        *,
        momentum: float,
        steps: int,
        xla: bool,
    ) -> None:
        self.data, self.variables, self.momenta = data, variables, momenta
        self._model, self._net, self._momentum, self._xla = model, net, momentum, xla
        self.device = data.device
        with tf.device(data.device):
            self.losses = tf.Variable(tf.zeros([steps]), trainable=False)

    def step(
        self,
        index: tf.Tensor,
        rows: tf.Tensor,
        present: tf.Tensor,
        rates: tf.Tensor,
        scale: tf.Tensor,
        all_reduce: AllReduce,
    ) -> None:
        """Trains on step ``index`` of ``rows`` [steps, parts, width] (see ``Parts``).

        ``scale`` is what the gradient of the sum of the losses is multiplied by; ``all_reduce``
        adds gradients up over the replicas.
        """
        loss, gradients = self._gradients(rows[index], present, scale)
        gradients = all_reduce(gradients)
        rate = rates[index]
        for variable, velocity, gradient in zip(
            self.variables, self.momenta, gradients, strict=True
        ):
            self._update(variable, velocity, gradient, rate)
        self._record(index, loss)

    def wait(self) -> None:
        """Waits until this device has done what it was given."""
        float(self.losses[0])

    def logits(self, words: tf.Tensor, variables: list[tf.Tensor]) -> tf.Tensor:
        """float32 [n, 10] of int64 [n, 98] (see ``Resident``)."""
        images = tf.reshape(tf.bitcast(words, tf.uint8), [-1, SIDE * SIDE])
        pixels = tf.cast(images, tf.float32) * self._model.scale
        if self._model.shift:
            pixels += self._model.shift
        logits, _ = self._net.stateless_call(variables, [], pixels)
        return tf.cast(logits, tf.float32)

    def _gradients(
        self, rows: tf.Tensor, present: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """The loss and the gradients of all parts, added up."""
        values = [variable.read_value() for variable in self.variables]
        parts = rows.shape[0]
        if parts == 1:
            return self._part(values, rows[0], present[0], scale)

        def body(part: tf.Tensor, loss: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            more, gradients = self._part(values, rows[part], present[part], scale)
            added = [old + new for old, new in zip(sums, gradients, strict=True)]
            return part + 1, loss + more, *added

        zeros = [tf.zeros_like(value) for value in values]
        start = (tf.constant(0, tf.int64), tf.constant(0.0), *zeros)
        _, loss, *sums = tf.while_loop(
            lambda part, *_: part < parts, body, start, parallel_iterations=1
        )
        return loss, sums

    def _part(
        self, values: list[tf.Tensor], samples: tf.Tensor, present: tf.Tensor, scale: tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        words, labels = tf.gather(self.data.words, samples), tf.gather(self.data.labels, samples)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
                labels, self.logits(words, values)
            )
            loss = tf.reduce_sum(losses * present)
        return loss, tape.gradient(loss, values, output_gradients=scale)

    def _record(self, index: tf.Tensor, loss: tf.Tensor) -> None:
        if self._xla:  # it cannot assign to a slice whose place it does not know beforehand
            handle = self.losses.handle
            tf.raw_ops.ResourceScatterUpdate(resource=handle, indices=index, updates=loss)
        else:  # a scatter that has to be deterministic goes through the host, on a GPU
            self.losses[index].assign(loss)

    def _update(
        self, variable: tf.Variable, velocity: tf.Variable, gradient: tf.Tensor, rate: tf.Tensor
    ) -> None:
        if self._momentum:
            # accum = momentum * accum + grad; var -= lr * accum: torch's form, and unlike Keras's
            # free of the learning rate, so that nothing is to be mended when that changes.
            tf.raw_ops.ResourceApplyMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=rate,
                grad=gradient,
                momentum=self._momentum,
            )
        else:
            tf.raw_ops.ResourceApplyGradientDescent(var=variable.handle, alpha=rate, delta=gradient)
