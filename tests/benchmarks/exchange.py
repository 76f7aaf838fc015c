"""Microseconds for a mean of gradients between two processes: shared memory against gloo.

Both take turns in the same two processes, a block of exchanges at a time, without computing in
between. The sizes are those of softmax regression, LeNet, the MLP, and a million floats.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.children import child, finish, guarded
from tests.benchmarks.figures import Row, show

_SIZES = (7_850, 44_426, 101_770, 1_000_000)
_WORLD = 2
_FLOATS = 20_000_000  # a block moves about as many, in at most _CALLS exchanges
_CALLS = 200
_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default %(default)s)")
    parser.add_argument("--rank", type=int, help="be this process of the two")
    parser.add_argument("--store", type=Path, help="the file where they meet")
    options = parser.parse_args()
    if options.rank is not None:
        exchange(options.rank, options.store, options.repeats)
        return
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        command = [sys.executable, "-m", "tests.benchmarks.exchange"]
        command += ["--repeats", str(options.repeats), "--store", str(folder / "store"), "--rank"]
        logs = [folder / f"rank-{rank}.txt" for rank in range(_WORLD)]
        processes = [
            stack.enter_context(child([*command, str(rank)], log)) for rank, log in enumerate(logs)
        ]
        output, _ = (finish(*both) for both in zip(processes, logs, strict=True))
    measured = json.loads(output.splitlines()[-1])
    rows = [
        Row(name=f"{size:,} floats", reference=values["gloo"], ours=values["shared memory"])
        for size, values in zip(_SIZES, measured, strict=True)
    ]
    title = "Microseconds for a mean between two processes"
    show(title, ("gloo", "shared memory"), rows, decimals=0, lower_is_better=True)


def exchange(rank: int, store: Path, repeats: int) -> None:
    """One of the two processes; rank 0 prints the microseconds of all blocks as JSON."""
    import torch
    import torch.distributed as dist

    from strategies.shared_memory import SharedMemoryMean

    Mean = Callable[[torch.Tensor], None]
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=_WORLD,
        timeout=datetime.timedelta(seconds=_TIMEOUT_S),
    )
    spin = len(os.sched_getaffinity(0)) >= _WORLD

    def gloo(vector: torch.Tensor) -> None:
        dist.all_reduce(vector)
        vector.mul_(1 / _WORLD)

    def block(mean: Mean, vector: torch.Tensor, calls: int) -> float:
        dist.barrier()
        started = time.perf_counter()
        for _ in range(calls):
            mean(vector)
        return (time.perf_counter() - started) / calls * 1e6

    measured = []
    for size in _SIZES:
        shared = SharedMemoryMean(size, rank, _WORLD, spin=spin, timeout_s=_TIMEOUT_S)
        sides: dict[str, Mean] = {"gloo": gloo, "shared memory": shared}
        vector = torch.empty(size)
        for mean in sides.values():
            mean(vector.fill_(rank))
            assert bool((vector == (_WORLD - 1) / 2).all()), "not the mean of the ranks"
        calls = min(_CALLS, _FLOATS // size)
        values: dict[str, list[float]] = {name: [] for name in sides}
        for index in range(repeats + 1):
            for name, mean in sides.items():
                microseconds = block(mean, vector, calls)
                if index:  # the first round warms up
                    values[name].append(microseconds)
        measured.append(values)
    if rank == 0:
        print(json.dumps(measured))
    dist.destroy_process_group()


if __name__ == "__main__":
    guarded(main)
