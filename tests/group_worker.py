"""``python -m tests.group_worker FOLDER``: one of several processes that train together.

FOLDER/<name>.json is a ``TrainConfig``; they are trained one after the other, all on the same
devices, since a process can join its peers only once. The first process writes what came out to
FOLDER/<name>.out.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from strategies.base import Rank, TrainConfig, TrainMetrics
from strategies.mirrored import Mirrored
from strategies.mnist import checkpoint
from strategies.mnist.inputs import read_inputs
from strategies.mnist.training import Training
from tests.engine_worker import same


def main() -> None:
    jobs = sorted(Path(sys.argv[1]).glob("*.json"))
    configs = [TrainConfig.read(job) for job in jobs]
    rank = Rank.from_environ(os.environ)
    Mirrored().warm_up(configs[0])

    from strategies.mnist.tf_devices import prepare
    from strategies.mnist.tf_engine import TfEngine
    from strategies.mnist.tf_group import join

    prepare(configs[0], rank.world_size)
    with join(rank, configs[0]) as group:
        for job, config in zip(jobs, configs, strict=True):
            inputs = read_inputs(config)
            engine = TfEngine(config, inputs, group)
            measured: list[TrainMetrics] = []
            Training(rank, config, engine, inputs).run(measured.append)
            if measured:
                metrics, state = measured[-1], engine.state()
                saved = checkpoint.load(Path(config.checkpoints, metrics.checkpoint))
                kept = same(state.weights, saved.weights) and same(state.momentum, saved.momentum)
                out = {"metrics": asdict(metrics), "kept": kept}
                job.with_suffix(".out").write_text(json.dumps(out))
            group.barrier()  # the next job may resume from what the first process has saved


if __name__ == "__main__":
    main()
