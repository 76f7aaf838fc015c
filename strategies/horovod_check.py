"""``python -m strategies.horovod_check``: one rank of an all-reduce that shows that Horovod works.

Rank 0 writes a ``Checked`` as JSON to the file that TROIKA_RESULT names. A wrong sum, as any
exception, ends in a traceback and a non-zero exit code.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from strategies.base import RESULT_VARIABLE, Rank, write_atomically

_FLOATS = 101_770  # the gradients of the MLP 784-128-10
_ROUNDS = 100
_WARM_UP = 10


@dataclass(frozen=True, kw_only=True)
class Checked:
    """``seconds``: median of an all-reduce of ``floats`` float32 on ``device`` ("cpu", "cuda")."""

    horovod: str
    torch: str
    gloo: bool
    nccl: bool
    device: str
    floats: int
    seconds: float


def all_reduce(rank: Rank) -> Checked:
    """Sums vectors over the ranks and compares. Raises RuntimeError for a wrong sum."""
    import horovod
    import horovod.torch as hvd
    import torch

    torch.set_num_threads(1)
    hvd.init()
    # NCCL wants a GPU for every rank.
    cuda = hvd.nccl_built() and torch.cuda.device_count() >= rank.local_world_size
    device = torch.device("cuda", rank.local_rank) if cuda else torch.device("cpu")
    vector = torch.arange(_FLOATS, dtype=torch.float32, device=device)
    expected = vector * sum(range(1, rank.world_size + 1))
    mine = vector * (rank.rank + 1)
    seconds = []
    for _ in range(_WARM_UP + _ROUNDS):
        begin = time.perf_counter()
        total = hvd.allreduce(mine, op=hvd.Sum, name="check")
        seconds.append(time.perf_counter() - begin)
        if not torch.equal(total, expected):
            raise RuntimeError(f"rank {rank.rank}: the all-reduce gives a wrong sum on {device}")
    checked = Checked(
        horovod=horovod.__version__,
        torch=torch.__version__,
        gloo=hvd.gloo_built(),
        nccl=bool(hvd.nccl_built()),
        device=device.type,
        floats=_FLOATS,
        seconds=median(seconds[_WARM_UP:]),
    )
    hvd.shutdown()
    return checked


def main() -> None:
    rank = Rank.from_environ(os.environ)
    checked = all_reduce(rank)
    if rank.rank == 0:
        write_atomically(Path(os.environ[RESULT_VARIABLE]), json.dumps(asdict(checked)))


if __name__ == "__main__":
    main()
