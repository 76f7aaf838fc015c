"""Hand-tuned training of MNIST with Horovod's DistributedOptimizer on CPUs.

``horovodrun -np 2 --gloo python -m tests.benchmarks.reference_horovod --data FOLDER``.
"""

from __future__ import annotations

import horovod.torch as hvd
import torch
from torch import nn

from tests.benchmarks.reference_common import parser
from tests.benchmarks.reference_torch import Joined, train


def main() -> None:
    options = parser(__doc__).parse_args()
    hvd.init()

    def join(net: nn.Module) -> Joined:
        hvd.broadcast_parameters(net.state_dict(), root_rank=0)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=options.lr, momentum=options.momentum, fused=True
        )
        exchanging = hvd.DistributedOptimizer(optimizer, named_parameters=net.named_parameters())
        return Joined(model=net, optimizer=exchanging, clear=exchanging.zero_grad)

    figures = train(options, hvd.rank(), hvd.size(), join)
    if hvd.rank() == 0:
        figures.print()
    hvd.shutdown()


if __name__ == "__main__":
    main()
