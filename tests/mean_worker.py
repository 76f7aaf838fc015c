"""``python -m tests.mean_worker FOLDER``: one rank of test_shared_memory's jobs.

What it saw goes to FOLDER/<rank>, pickled.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from strategies.shared_memory import SharedMemoryMean

SIZES = [1, 2, 7, 1000, 44_426]
ROUNDS = 5

Means = dict[tuple[int, int], NDArray[np.float32]]


class Seen(TypedDict):
    """``means`` by size and round; ``named``: the process's mappings of files in /dev/shm;
    ``error``: what it is told in an exchange that the last rank does not come to.
    """

    means: Means
    named: list[str]
    error: str


def gradients(rank: int, size: int, turn: int) -> NDArray[np.float32]:
    """Other numbers for every rank, size and round."""
    return np.random.default_rng([rank, size, turn]).normal(size=size).astype(np.float32)


def exchange(mean: SharedMemoryMean, rank: int) -> Means:
    means = {}
    for turn in range(ROUNDS):
        for size in SIZES:
            vector = torch.from_numpy(gradients(rank, size, turn))
            mean(vector)
            means[size, turn] = vector.numpy()
    return means


def wait_in_vain(mean: SharedMemoryMean) -> str:
    try:
        mean(torch.ones(1))
    except TimeoutError as error:
        return str(error)
    return ""


def main() -> None:
    folder = Path(sys.argv[1])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = f"file://{folder / 'store'}"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    means = exchange(SharedMemoryMean(max(SIZES), rank, world_size, spin=False), rank)
    short = SharedMemoryMean(1, rank, world_size, spin=False, timeout_s=1.0)
    mappings = Path("/proc/self/maps").read_text().splitlines()
    seen: Seen = {
        "means": means,
        "named": [line for line in mappings if "/dev/shm" in line],
        "error": wait_in_vain(short) if rank < world_size - 1 else "",
    }
    (folder / str(rank)).write_bytes(pickle.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
