"""Hand-tuned training of MNIST with DistributedDataParallel on CPUs.

``python -m tests.benchmarks.reference_ddp --data FOLDER`` trains in one process, and ``torchrun
--standalone --nproc-per-node 2 -m tests.benchmarks.reference_ddp --data FOLDER`` in two.
"""

from __future__ import annotations

import os
from argparse import Namespace
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.benchmarks.reference_common import Figures, parser
from tests.benchmarks.reference_torch import Joined, train


def train_ddp(options: Namespace, rank: int, world: int) -> Figures:
    """Trains as ``rank`` of ``world``, in whose process group this process is."""

    def join(net: nn.Module) -> Joined:
        model = net
        if world > 1:
            model = DistributedDataParallel(net, gradient_as_bucket_view=True, static_graph=True)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=options.lr, momentum=options.momentum, fused=True
        )
        # The gradients are views of the bucket, which are to stay.
        clear = partial(optimizer.zero_grad, set_to_none=world == 1)
        return Joined(model=model, optimizer=optimizer, clear=clear)

    return train(options, rank, world, join)


def main() -> None:
    options = parser(__doc__).parse_args()
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if world > 1:
        dist.init_process_group("gloo")
    figures = train_ddp(options, rank, world)
    if rank == 0:
        figures.print()
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
