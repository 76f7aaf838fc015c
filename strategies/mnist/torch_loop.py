"""Training in PyTorch, whatever carries the gradients: epochs, timing, evaluation, checkpoints."""

from __future__ import annotations

import platform
import time
import warnings
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from strategies.base import EpochMetrics, Rank, ScalingSamples, TrainConfig, TrainMetrics
from strategies.events import emit
from strategies.mnist import checkpoint, torch_model
from strategies.mnist.checkpoint import Checkpoint, Header
from strategies.mnist.data import Split, load
from strategies.mnist.models import MODELS
from strategies.mnist.order import epoch_order, largest_share, steps_per_epoch
from strategies.mnist.torch_evaluate import evaluate, evaluation_step
from strategies.mnist.torch_runner import EagerRunner, GraphRunner, Runner
from strategies.mnist.torch_scaling import measure_scaling
from strategies.mnist.torch_step import Forward, Sgd, Step
from strategies.mnist.weights import initial_weights

_WINDOWS = 20  # timed windows an epoch


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
        self.model = MODELS[config.model]
        data = load(Path(config.data) if config.data else None, config.validation)
        saved = checkpoint.load(Path(config.resume)) if config.resume else None
        weights = saved.weights if saved else initial_weights(self.model, config.seed)
        self.module = torch_model.build(self.model, weights, device)
        self.optimizer = Sgd(tuple(self.module.parameters()), config.lr, config.momentum)
        if saved:
            names = [name for name, _ in self.module.named_parameters()]
            for name, state in zip(names, self.optimizer.state, strict=True):
                state.copy_(torch.from_numpy(saved.momentum[name]))
        self.forward = peers.wrap(self.module)
        self.batch = largest_share(config.batch_size, rank.world_size)
        self.step = self._step(self.forward, self.optimizer, data.train, self.batch)
        self.held_out = {
            name: evaluation_step(self.step, *self._resident(split), self.module)
            for name, split in (("validation", data.validation), ("test", data.test))
            if len(split)
        }
        self.steps_per_epoch = steps_per_epoch(len(data.train), config.batch_size)
        self.steps = config.epochs * self.steps_per_epoch
        self.steps = min(self.steps, config.steps or self.steps)
        self.done = self.first = saved.header.step if saved else 0
        self.first_step = 0.0
        self.windows: list[float] = []
        self.losses: list[float] = []
        self.saved_as = ""

    def run(self) -> TrainMetrics | None:
        """Trains, evaluates and saves every epoch, then measures the scaling if asked to."""
        runner = self._runner()
        self.started = time.perf_counter()
        epochs = []
        while self.done < self.steps:
            epochs.append(self._epoch(runner))
            self._save()
        scaling = self._scaling() if self.config.baseline and self.rank.world_size > 1 else []
        if self.rank.rank != 0:
            return None
        return TrainMetrics(
            epochs=epochs,
            losses=self.losses,
            first_loss_step=self.first + 1,
            throughput=self.windows[1:] or self.windows,
            first_step=self.first_step,
            exchange=self.peers.exchange,
            device_name=_device_name(self.device),
            threads=torch.get_num_threads(),
            checkpoint=self.saved_as,
            versions=versions(),
            scaling=scaling,
        )

    def _epoch(self, runner: Runner) -> EpochMetrics:
        config, world = self.config, self.rank.world_size
        epoch, begun = divmod(self.done, self.steps_per_epoch)
        order = epoch_order(
            seed=config.seed,
            epoch=epoch,
            samples=len(self.step.labels),
            batch=config.batch_size,
            rank=self.rank.rank,
            world_size=world,
        )
        end = min(order.steps, self.steps - epoch * self.steps_per_epoch)
        full = torch.from_numpy(order.full[begun:end]).to(self.device)
        runner.load(full)
        started = time.perf_counter()
        seconds = 0.0
        window = -(-len(order.full) // _WINDOWS)
        for low in range(0, len(full), window):
            count = min(window, len(full) - low)
            if not self.first_step:
                seconds += self._first(runner)
                count -= 1
                if not count:
                    continue
            started = time.perf_counter()
            runner.run(count)
            self._synchronize()
            elapsed = time.perf_counter() - started
            seconds += elapsed
            self.windows.append(count * config.batch_size / elapsed)
            self._progress(epoch, begun + low + count, runner.losses[low + count - 1])
        losses, sizes = runner.losses, [config.batch_size] * len(full)
        if order.rest is not None and end == order.steps:
            started = time.perf_counter()
            rest = torch.from_numpy(order.rest).to(self.device)
            last = self.step(rest, self._scale(order.rest_batch))
            self._synchronize()
            seconds += time.perf_counter() - started
            self.first_step = self.first_step or time.time()
            losses, sizes = torch.cat([losses, last.view(1)]), [*sizes, order.rest_batch]
        self.done = epoch * self.steps_per_epoch + end
        return self._close_epoch(epoch, losses.clone(), sizes, seconds)

    def _first(self, runner: Runner) -> float:
        """The very first step, timed apart: it allocates and compiles."""
        started = time.perf_counter()
        runner.run(1)
        self._synchronize()
        self.first_step = time.time()
        emit("first_step")
        return time.perf_counter() - started

    def _close_epoch(
        self, epoch: int, losses: torch.Tensor, sizes: list[int], seconds: float
    ) -> EpochMetrics:
        self.peers.sum(losses)
        total = float(losses.double().sum()) / sum(sizes)
        self.losses += (losses.cpu() / torch.tensor(sizes)).tolist()
        world = self.rank.world_size
        results = {
            name: evaluate(held_out, self.rank.rank, world, self.peers.sum)
            for name, held_out in self.held_out.items()
        }
        validation_loss, validation_accuracy = results.get("validation", (None, None))
        metrics = EpochMetrics(
            epoch=epoch + 1,
            steps=self.done,
            train_loss=total,
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
                train_loss=total,
                test_loss=metrics.test_loss,
                test_accuracy=metrics.test_accuracy,
            )
        return metrics

    def _progress(self, epoch: int, step: int, loss: torch.Tensor) -> None:
        if self.rank.rank == 0:
            emit(
                "progress",
                epoch=epoch + 1,
                epochs=self.config.epochs,
                step=epoch * self.steps_per_epoch + step,
                first=self.first,
                steps=self.steps,
                seconds=time.perf_counter() - self.started,
                samples_per_s=self.windows[-1],
                loss=float(loss) / max(self._own_share(), 1),
            )

    def _own_share(self) -> int:
        batch, rank, world = self.config.batch_size, self.rank.rank, self.rank.world_size
        return batch * (rank + 1) // world - batch * rank // world

    def _save(self) -> None:
        if self.rank.rank != 0:
            return
        config = self.config
        parameters = [name for name, _ in self.module.named_parameters()]
        states = [state.cpu().numpy().copy() for state in self.optimizer.state]
        header = Header(
            model=config.model,
            seed=config.seed,
            epoch=self.done // self.steps_per_epoch,
            step=self.done,
            batch_size=config.batch_size,
            lr=config.lr,
            momentum=config.momentum,
            validation=config.validation,
            data=config.data,
            strategy=config.strategy,
            world_size=self.rank.world_size,
            versions=versions(),
        )
        written = checkpoint.save(
            Checkpoint(
                header=header,
                weights=torch_model.to_weights(self.module),
                momentum=dict(zip(parameters, states, strict=True)),
            ),
            Path(config.checkpoints),
        )
        self.saved_as = str(written)

    def _scaling(self) -> list[ScalingSamples]:
        emit("measuring")
        return measure_scaling(
            self.step, self.module, self.rank, self.peers, self.batch, self._use_graphs()
        )

    def _runner(self) -> Runner:
        scale = self._scale(self.config.batch_size)
        if self._use_graphs():
            rows = len(self.step.labels) // self.config.batch_size
            return GraphRunner(self.step, scale, rows, self._own_share())
        return EagerRunner(self.step, scale)

    def _use_graphs(self) -> bool:
        return self.config.cuda_graphs and self.peers.exchange in ("nccl", "none")

    def _scale(self, batch: int) -> torch.Tensor:
        """The ranks' gradients are averaged, so each scales its sum by the world size."""
        return torch.tensor(self.rank.world_size / batch, device=self.device)

    def _step(self, forward: Forward, optimizer: Sgd, split: Split, batch: int) -> Step:
        bf16 = self.config.precision == "bf16"
        return Step(self.model, forward, optimizer, *self._resident(split), batch, bf16=bf16)

    def _resident(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        with warnings.catch_warnings():
            # "not writable": nobody writes to the images, and a copy takes time and memory.
            warnings.simplefilter("ignore", UserWarning)
            images = torch.from_numpy(split.images.reshape(len(split), -1)).to(self.device)
        return images, torch.from_numpy(split.labels.astype(np.int64)).to(self.device)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
