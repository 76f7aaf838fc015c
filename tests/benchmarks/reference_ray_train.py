"""Hand-tuned training of MNIST with DistributedDataParallel on CPUs, under Ray Train.

``python -m tests.benchmarks.reference_ray_train --workers 2 --data FOLDER`` starts a Ray of its
own, without the dashboard; with ``--address`` it runs on an existing cluster of this machine. All
of Ray's own files go below TMPDIR, whose path is to be short: a socket's has 107 bytes at most, and
Ray appends 71.
"""

from __future__ import annotations

import os
import tempfile
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from tests.benchmarks.reference_common import Figures, parser


def work(options: dict[str, Any]) -> dict[str, float]:
    """One worker's part, in the process group that Ray Train has made; its figures."""
    from tests.benchmarks.reference_ddp import train_ddp

    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    return asdict(train_ddp(Namespace(**options), rank, world))


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--workers", type=int, required=True)
    options.add_argument("--address")
    chosen = options.parse_args()
    folder = Path(tempfile.gettempdir())
    if chosen.address:
        path = {"PYTHONPATH": os.pathsep.join((str(Path.cwd()), os.environ["PYTHONPATH"]))}
        ray.init(chosen.address, logging_level="ERROR", runtime_env={"env_vars": path})
    else:
        ray.init(
            num_cpus=chosen.workers,
            include_dashboard=False,
            logging_level="ERROR",
            _temp_dir=str(folder / "ray"),
        )
    trainer = TorchTrainer(
        work,
        train_loop_config=vars(chosen),
        scaling_config=ScalingConfig(num_workers=chosen.workers),
        torch_config=TorchConfig(backend="gloo"),
        run_config=RunConfig(storage_path=str(folder / "results")),
    )
    Figures(**trainer.fit().return_value).print()
    ray.shutdown()


if __name__ == "__main__":
    main()
