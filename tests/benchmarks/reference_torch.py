"""Hand-tuned training of MNIST in PyTorch on CPUs: the loop of the references in PyTorch.

All data is in memory as floats, each epoch is gathered at once, a worker computes with one thread.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.reference_common import Figures, read


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.dense1, self.dense2 = nn.Linear(256, 120), nn.Linear(120, 84)
        self.dense3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        out: Tensor = self.dense3(self.dense2(self.dense1(x.flatten(1))))
        return out


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense1, self.dense2 = nn.Linear(784, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense2(F.relu(self.dense1(x.flatten(1))))
        return out


@dataclass(frozen=True, kw_only=True)
class Joined:
    """What exchanges the gradients, behind the backward pass or in it.

    ``clear`` makes the gradients ready for the next step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    clear: Callable[[], None]


def load(folder: Path, split: str, validation: float = 0.0) -> tuple[Tensor, Tensor]:
    """Images, float [n, 1, 28, 28] from -1 to 1, and labels, int64 [n].

    The temporaries matter: freeing those of the test set (31 MB) makes glibc keep freed memory
    for the activations of every step instead of giving it back (mallopt(3), M_MMAP_THRESHOLD).
    Without them LeNet with one worker trains a quarter slower.
    """
    images, labels = read(folder, split, validation)
    pixels = torch.from_numpy(images).unsqueeze(1)
    return (pixels.float() / 255 - 0.5) / 0.5, torch.from_numpy(labels).long()


def train(
    options: Namespace, rank: int, world: int, join: Callable[[nn.Module], Joined]
) -> Figures:
    """One worker's training, after the workers have found each other."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = load(options.data, "train", options.validation)
    test_images, test_labels = load(options.data, "t10k")
    net = LeNet() if options.model == "lenet" else Mlp()
    joined = join(net)
    local = options.batch_size // world
    used = len(labels) // options.batch_size * options.batch_size
    first, steps = 0.0, 0
    for epoch in range(options.epochs):
        shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        own = shuffled[:used].view(-1, world, local)[:, rank]
        xs, ys = images[own.reshape(-1)].view(-1, local, 1, 28, 28), labels[own]
        for x, y in islice(zip(xs.unbind(0), ys.unbind(0), strict=True), options.steps):
            loss = F.cross_entropy(joined.model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            joined.optimizer.step()
            joined.clear()
            first = first or time.time()
            steps += 1
    rate = (steps - 1) * options.batch_size / (time.time() - first)
    with torch.no_grad():
        accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
    return Figures(first_step=first, samples_per_s=rate, test_accuracy=accuracy)
