"""Training, whatever the framework: epochs, evaluation, checkpoints, events, measurements."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strategies.base import EpochMetrics, Rank, ScalingSamples, TrainConfig, TrainMetrics
from strategies.events import emit
from strategies.mnist import checkpoint
from strategies.mnist.checkpoint import Checkpoint, Header
from strategies.mnist.engine import Engine
from strategies.mnist.event_files import Board
from strategies.mnist.inputs import Inputs
from strategies.mnist.order import EpochOrder, epoch_order, steps_per_epoch
from strategies.mnist.schedule import Schedule
from strategies.mnist.stopwatch import Stopwatch

Losses = NDArray[np.float64]


class Training:
    """One process's training: ``run`` does it all."""

    def __init__(self, rank: Rank, config: TrainConfig, engine: Engine, inputs: Inputs) -> None:
        self.rank, self.config, self.engine = rank, config, engine
        self.first = self.done = inputs.done
        data = inputs.data
        self.samples = len(data.train)
        self.validates = len(data.validation) > 0
        self.epoch_steps = steps_per_epoch(self.samples, config.batch_size)
        steps = config.epochs * self.epoch_steps
        self.steps = min(steps, config.steps or steps)
        self.schedule = Schedule(
            lr=config.lr, warmup_lr=config.warmup_lr, warmup_steps=config.warmup_steps
        )
        self.watch = Stopwatch(engine.synchronize)
        self.epochs: list[EpochMetrics] = []
        self.losses: list[float] = []
        self.saved_as = ""

    def run(self, keep: Callable[[TrainMetrics], None]) -> None:
        """Trains, evaluates and saves every epoch, then measures the scaling if asked to.

        ``keep`` gets what there is so far, on the first rank, with every checkpoint and at the end.
        """
        leads = self.rank.rank == 0
        with Board(self.config.tensorboard if leads else None) as board:
            while self.done < self.steps:
                begun = self.done
                metrics, losses = self._epoch()
                self.epochs.append(metrics)
                self.losses += losses.tolist()
                if leads:
                    self._save()
                    keep(self._metrics([]))
                    emit_epoch(metrics)
                    rates = self.schedule.rates(begun, len(losses))
                    board.epoch(metrics, begun, losses, rates, self.watch.rates)
        scaling = []
        if self.config.baseline and self.rank.world_size * self.config.devices > 1:
            emit("measuring")
            scaling = self.engine.measure_scaling()
        if leads:
            keep(self._metrics(scaling))

    def _metrics(self, scaling: list[ScalingSamples]) -> TrainMetrics:
        return TrainMetrics(
            epochs=self.epochs,
            losses=self.losses,
            first_loss_step=self.first + 1,
            throughput=self.watch.steady,
            first_step=self.watch.first_step,
            exchange=self.engine.exchange,
            device_name=self.engine.device_name,
            threads=self.engine.threads,
            checkpoint=self.saved_as,
            versions=self._versions(),
            scaling=scaling,
        )

    def _epoch(self) -> tuple[EpochMetrics, Losses]:
        """Trains to the end of the epoch, or to the last step; begins where it left off."""
        epoch, begun = divmod(self.done, self.epoch_steps)
        order = epoch_order(
            seed=self.config.seed,
            epoch=epoch,
            samples=self.samples,
            batch=self.config.batch_size,
            rank=self.rank.rank,
            world_size=self.rank.world_size,
        )
        end = min(self.epoch_steps, self.steps - epoch * self.epoch_steps)
        self.watch.start_epoch()
        sums, sizes = [], []
        for rows, batch in self._blocks(order, begun, end):
            sums.append(self._block(epoch, rows, batch))
            sizes += [batch] * len(rows)
        losses = np.concatenate(sums)
        return self._close_epoch(epoch, losses, sizes), losses / np.array(sizes)

    def _blocks(
        self, order: EpochOrder, begun: int, end: int
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """The steps from ``begun`` to ``end``: rows of one width, and what a step has in all."""
        rows = order.full[begun:end]
        if len(rows):
            yield rows, self.config.batch_size
        if order.rest is not None and end == self.epoch_steps:
            yield order.rest[np.newaxis], order.rest_batch

    def _block(self, epoch: int, rows: NDArray[np.int64], batch: int) -> Losses:
        """Trains on ``rows``; the sum of the losses of each over all processes."""
        self.engine.start(rows, batch, self.schedule.rates(self.done, len(rows)))
        for count in self.watch.cut(len(rows), self.epoch_steps):
            self.watch.window(count * batch, partial(self.engine.run, count))
            self.done += count
            self._progress(epoch)
        return self.engine.losses()

    def _close_epoch(self, epoch: int, losses: Losses, sizes: list[int]) -> EpochMetrics:
        """``losses``: all samples' sum of losses for every step; ``sizes``: the samples' number."""
        seconds = self.watch.epoch_s
        validation_loss, validation_accuracy = (
            self.engine.evaluate("validation") if self.validates else (None, None)
        )
        test_loss, test_accuracy = self.engine.evaluate("test")
        return EpochMetrics(
            epoch=epoch + 1,
            steps=self.done,
            train_loss=float(losses.sum()) / sum(sizes),
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            seconds=seconds,
        )

    def _progress(self, epoch: int) -> None:
        if self.rank.rank == 0 and self.watch.rates:
            emit(
                "progress",
                epoch=epoch + 1,
                epochs=self.config.epochs,
                step=self.done,
                first=self.first,
                steps=self.steps,
                seconds=self.watch.seconds,
                samples_per_s=self.watch.rates[-1],
                loss=self.engine.loss(),
            )

    def _save(self) -> None:
        """Writes a checkpoint into the run's folder."""
        config, state = self.config, self.engine.state()
        header = Header(
            model=config.model,
            seed=config.seed,
            epoch=self.done // self.epoch_steps,
            step=self.done,
            batch_size=config.batch_size,
            lr=config.lr,
            warmup_lr=config.warmup_lr,
            warmup_steps=config.warmup_steps,
            momentum=config.momentum,
            validation=config.validation,
            data=config.data,
            strategy=config.strategy,
            world_size=self.rank.world_size * config.devices,
            versions=self._versions(),
        )
        saved = Checkpoint(header=header, weights=state.weights, momentum=state.momentum)
        self.saved_as = checkpoint.save(saved, Path(config.checkpoints)).name

    def _versions(self) -> dict[str, str]:
        own = {"python": platform.python_version(), "numpy": np.__version__}
        return own | self.engine.versions()


def emit_epoch(metrics: EpochMetrics) -> None:
    """Tells of an epoch whose checkpoint and figures are safe."""
    emit(
        "epoch",
        epoch=metrics.epoch,
        train_loss=metrics.train_loss,
        test_loss=metrics.test_loss,
        test_accuracy=metrics.test_accuracy,
    )
