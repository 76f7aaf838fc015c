"""The course of a training as TensorBoard event files.

Only TensorBoard's record writer and protocol buffers are used: its own event writer imports
TensorFlow where that is installed, which must not meet PyTorch in one process.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import TYPE_CHECKING, Any

from strategies.base import EpochMetrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_POINTS = 500  # an epoch at most: a record takes 0.1 ms of checksums in pure Python


class Board:
    """Writes scalars into ``folder``, for ``tensorboard --logdir``; None writes nothing.

    Tags: train/loss and train/lr by step (of every n-th step, 500 an epoch at most), and at every
    epoch's end train/samples_per_s, test/loss, test/accuracy, validation/loss and accuracy.
    """

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._writer: Any = None
        self._written_rates = 0

    def __enter__(self) -> Board:
        if self._folder is not None:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter

            self._event = Event
            folder = Path(self._folder)
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard knows its files by this name, and follows them while they grow.
            name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
            self._writer = RecordWriter((folder / name).open("xb"))
            self._put(Event(wall_time=time.time(), file_version="brain.Event:2"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def epoch(
        self,
        metrics: EpochMetrics,
        begun: int,
        losses: NDArray[np.float64],
        lrs: NDArray[np.float32],
        rates: list[float],
    ) -> None:
        """One epoch, or the part of it behind step ``begun``.

        ``losses`` and ``lrs`` [steps]: each step's mean loss and learning rate; ``rates``: the
        samples/s of all windows so far.
        """
        if self._writer is None:
            return
        stride = -(-len(losses) // _POINTS)
        for index in range(0, len(losses), stride):
            values = {"train/loss": float(losses[index]), "train/lr": float(lrs[index])}
            self._scalars(begun + index + 1, values)
        values = {"test/loss": metrics.test_loss, "test/accuracy": metrics.test_accuracy}
        if metrics.validation_loss is not None and metrics.validation_accuracy is not None:
            values["validation/loss"] = metrics.validation_loss
            values["validation/accuracy"] = metrics.validation_accuracy
        if new := rates[self._written_rates :]:
            values["train/samples_per_s"] = median(new)
        self._written_rates = len(rates)
        self._scalars(metrics.steps, values)
        self._writer.flush()

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        event = self._event(wall_time=time.time(), step=step)
        for tag, value in values.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._put(event)

    def _put(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
