"""Hand-tuned data-parallel training of MNIST on CPUs: the script to compare the launcher with.

``python reference_ddp.py --data FOLDER`` trains in one process, and ``torchrun --standalone
--nproc-per-node 2 reference_ddp.py --data FOLDER`` in two. All data is in memory as floats, each
epoch is gathered at once. Rank 0 prints one JSON line: ``first_step``, when the first optimizer
step was done, in seconds since 1970; ``samples_per_s``, over all ranks and all steps after the
first one; ``test_accuracy``, as a share of 1.
"""

import argparse
import json
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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


def load(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images, float [n, 1, 28, 28] from -1 to 1, and labels, int64 [n].

    The temporaries matter: freeing those of the test set (31 MB) makes glibc keep freed memory
    for the activations of every step instead of giving it back (mallopt(3), M_MMAP_THRESHOLD).
    Without them LeNet with one worker trains a quarter slower.
    """
    images = np.fromfile(folder / f"{split}-images-idx3-ubyte", dtype=np.uint8, offset=16)
    labels = np.fromfile(folder / f"{split}-labels-idx1-ubyte", dtype=np.uint8, offset=8)
    pixels = torch.from_numpy(images).view(-1, 1, 28, 28)
    return (pixels.float() / 255 - 0.5) / 0.5, torch.from_numpy(labels).long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("lenet", "mlp"), default="lenet")
    parser.add_argument("--batch-size", type=int, default=100, help="samples, over all ranks")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--steps", type=int, help="end every epoch after so many steps")
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--data", type=Path, required=True, help="folder of the raw IDX files")
    options = parser.parse_args()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    torch.manual_seed(0)
    images, labels = load(options.data, "train")
    test_images, test_labels = load(options.data, "t10k")
    net = LeNet() if options.model == "lenet" else Mlp()
    model: nn.Module = net
    if world > 1:
        model = DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=options.lr, momentum=options.momentum, fused=True
    )
    local = options.batch_size // world
    used = len(labels) // options.batch_size * options.batch_size
    first, steps = 0.0, 0
    for epoch in range(options.epochs):
        shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        own = shuffled[:used].view(-1, world, local)[:, rank]
        xs, ys = images[own.reshape(-1)].view(-1, local, 1, 28, 28), labels[own]
        for x, y in islice(zip(xs.unbind(0), ys.unbind(0), strict=True), options.steps):
            loss = F.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=world == 1)
            first = first or time.time()
            steps += 1
    rate = (steps - 1) * options.batch_size / (time.time() - first)
    with torch.no_grad():
        accuracy = (net(test_images).argmax(1) == test_labels).float().mean().item()
    if rank == 0:
        report = {"first_step": first, "samples_per_s": rate, "test_accuracy": accuracy}
        print(json.dumps(report), flush=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
