"""Training in PyTorch, whatever carries the gradients."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from strategies.base import EpochMetrics, Rank, TrainConfig, TrainMetrics
from strategies.events import emit
from strategies.mnist.data import Split, load
from strategies.mnist.models import MODELS
from strategies.mnist.order import epoch_order, largest_share, share, steps_per_epoch
from strategies.mnist.stopwatch import Stopwatch
from strategies.mnist.torch_evaluate import evaluate, evaluation_step
from strategies.mnist.torch_runner import EagerRunner, GraphRunner, Runner
from strategies.mnist.torch_scaling import measure_scaling
from strategies.mnist.torch_state import TorchState, versions
from strategies.mnist.torch_step import Forward, Step


class Peers(Protocol):
    """What joins the ranks. ``exchange`` names what carries the gradients."""

    exchange: str

    def wrap(self, module: nn.Module) -> Forward:
        """``module``'s forward function; its backward pass averages gradients over the ranks."""

    def sum(self, tensor: torch.Tensor) -> None:
        """Adds ``tensor`` up over the ranks, in place."""

    def gather(self, values: list[float]) -> list[list[float]]:
        """Every rank's ``values``, in rank order, on every rank."""

    def barrier(self) -> None:
        """Waits, without using a core, until every rank has come here."""


class Training:
    """One rank's training: ``run`` does it all."""

    def __init__(self, rank: Rank, config: TrainConfig, peers: Peers, device: torch.device):
        self.rank, self.config, self.peers, self.device = rank, config, peers, device
        data = load(Path(config.data) if config.data else None, config.validation)
        self.state = TorchState(config, device)
        self.first = self.state.done
        self.step = Step(
            MODELS[config.model],
            peers.wrap(self.state.module),
            self.state.optimizer,
            *self._resident(data.train),
            largest_share(config.batch_size, rank.world_size),
            bf16=config.precision == "bf16",
        )
        self.held_out = {
            name: evaluation_step(self.step, *self._resident(split), self.state.module)
            for name, split in (("validation", data.validation), ("test", data.test))
            if len(split)
        }
        self.epoch_steps = steps_per_epoch(len(data.train), config.batch_size)
        self.steps = config.epochs * self.epoch_steps
        self.steps = min(self.steps, config.steps or self.steps)
        self.graphs = config.cuda_graphs and peers.exchange in ("nccl", "none")
        self.losses: list[float] = []

    def run(self) -> TrainMetrics | None:
        """Trains, evaluates and saves every epoch, then measures the scaling if asked to."""
        runner = self._runner()
        self.watch = Stopwatch(self._synchronize)
        epochs = []
        while self.state.done < self.steps:
            epochs.append(self._epoch(runner))
            if self.rank.rank == 0:
                self.state.save(self.epoch_steps, self.rank.world_size)
        scaling = []
        if self.config.baseline and self.rank.world_size > 1:
            emit("measuring")
            module = self.state.module
            scaling = measure_scaling(self.step, module, self.rank, self.peers, self.graphs)
        if self.rank.rank != 0:
            return None
        return TrainMetrics(
            epochs=epochs,
            losses=self.losses,
            first_loss_step=self.first + 1,
            throughput=self.watch.steady,
            first_step=self.watch.first_step,
            exchange=self.peers.exchange,
            device_name=_device_name(self.device),
            threads=torch.get_num_threads(),
            checkpoint=self.state.saved_as,
            versions=versions(),
            scaling=scaling,
        )

    def _epoch(self, runner: Runner) -> EpochMetrics:
        """Trains to the end of the epoch, or to the last step; begins where it left off."""
        batch = self.config.batch_size
        epoch, begun = divmod(self.state.done, self.epoch_steps)
        order = epoch_order(
            seed=self.config.seed,
            epoch=epoch,
            samples=len(self.step.labels),
            batch=batch,
            rank=self.rank.rank,
            world_size=self.rank.world_size,
        )
        end = min(self.epoch_steps, self.steps - epoch * self.epoch_steps)
        rows = torch.from_numpy(order.full[begun:end]).to(self.device)
        runner.load(rows)
        self.watch.start_epoch()
        for count in self.watch.cut(len(rows), self.epoch_steps):
            self.watch.window(count * batch, partial(runner.run, count))
            self.state.done += count
            done = self.state.done - epoch * self.epoch_steps - begun
            self._progress(epoch, runner.losses[done - 1])
        losses, sizes = runner.losses.clone(), [batch] * len(rows)
        if order.rest is not None and end == self.epoch_steps:
            rest = torch.from_numpy(order.rest).to(self.device)
            last: list[torch.Tensor] = []
            self.watch.window(
                order.rest_batch,
                lambda: last.append(self.step(rest, self._scale(order.rest_batch))),
            )
            self.state.done += 1
            losses, sizes = torch.cat([losses, last[0].view(1)]), [*sizes, order.rest_batch]
        return self._close_epoch(epoch, losses, sizes)

    def _close_epoch(self, epoch: int, losses: torch.Tensor, sizes: list[int]) -> EpochMetrics:
        """``losses``: this rank's sum of losses for every step; ``sizes``: all ranks' samples."""
        seconds = self.watch.epoch_s
        self.peers.sum(losses)
        self.losses += (losses.cpu() / torch.tensor(sizes)).tolist()
        results = {
            name: evaluate(held_out, self.rank.rank, self.rank.world_size, self.peers.sum)
            for name, held_out in self.held_out.items()
        }
        validation_loss, validation_accuracy = results.get("validation", (None, None))
        metrics = EpochMetrics(
            epoch=epoch + 1,
            steps=self.state.done,
            train_loss=float(losses.double().sum()) / sum(sizes),
            validation_loss=validation_loss,
            validation_accuracy=validation_accuracy,
            test_loss=results["test"][0],
            test_accuracy=results["test"][1],
            seconds=seconds,
        )
        if self.rank.rank == 0:
            emit(
                "epoch",
                epoch=metrics.epoch,
                train_loss=metrics.train_loss,
                test_loss=metrics.test_loss,
                test_accuracy=metrics.test_accuracy,
            )
        return metrics

    def _progress(self, epoch: int, loss: torch.Tensor) -> None:
        """``loss``: this rank's sum of the last step's; its mean stands for that of all ranks."""
        if self.rank.rank == 0 and self.watch.rates:
            emit(
                "progress",
                epoch=epoch + 1,
                epochs=self.config.epochs,
                step=self.state.done,
                first=self.first,
                steps=self.steps,
                seconds=self.watch.seconds,
                samples_per_s=self.watch.rates[-1],
                loss=float(loss) / self._own_share(),
            )

    def _own_share(self) -> int:
        low, high = share(self.config.batch_size, self.rank.rank, self.rank.world_size)
        return high - low

    def _runner(self) -> Runner:
        scale = self._scale(self.config.batch_size)
        if self.graphs:
            rows = len(self.step.labels) // self.config.batch_size
            return GraphRunner(self.step, scale, rows, self._own_share())
        return EagerRunner(self.step, scale)

    def _scale(self, batch: int) -> torch.Tensor:
        """The ranks' gradients are averaged, so each scales its sum by the world size."""
        return torch.tensor(self.rank.world_size / batch, device=self.device)

    def _resident(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings():
            # "not writable": nobody writes to the images, and a copy takes time and memory.
            warnings.simplefilter("ignore", UserWarning)
            images = torch.from_numpy(split.images.reshape(len(split), -1)).to(self.device)
        return images, torch.from_numpy(split.labels.astype(np.int64)).to(self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
