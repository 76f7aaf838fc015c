"""``python -m tests.hvd_worker FOLDER``: one rank of test_gloo_store's jobs.

Joins twice, as a script may; what it saw goes to FOLDER/<rank>, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import horovod.torch as hvd
import torch


def seen() -> dict[str, int | float]:
    """The ranks and sizes that Horovod tells, and the sum of all ranks' numbers."""
    hvd.init()
    total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0]), op=hvd.Sum)
    found = {
        "rank": hvd.rank(),
        "size": hvd.size(),
        "local_rank": hvd.local_rank(),
        "local_size": hvd.local_size(),
        "cross_rank": hvd.cross_rank(),
        "cross_size": hvd.cross_size(),
        "sum": total.item(),
    }
    hvd.shutdown()
    return found


def main() -> None:
    torch.set_num_threads(1)
    first, second = seen(), seen()
    Path(sys.argv[1], str(first["rank"])).write_text(json.dumps([first, second]))


if __name__ == "__main__":
    main()
