"""``python -m tests.engine_worker FOLDER``: trainings in TensorFlow, one after the other.

FOLDER/<name>.json is a ``TrainConfig``; all have the same number of devices, since TensorFlow's can
be made only once in a process. What came out goes to FOLDER/<name>.out.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from strategies.base import Peer, Rank, TrainConfig, TrainMetrics
from strategies.mirrored import Mirrored
from strategies.mnist import checkpoint
from strategies.mnist.inputs import read_inputs
from strategies.mnist.training import Training
from strategies.mnist.weights import Weights

RANK = Rank(
    rank=0, local_rank=0, world_size=1, local_world_size=1, master_addr="127.0.0.1", master_port=0
)
PEERS = (Peer(host=0, address="127.0.0.1", port=0, interface="lo"),)


def same(left: Weights, right: Weights) -> bool:
    """Whether all bits are the same."""
    return left.keys() == right.keys() and all(
        np.array_equal(left[name].view(np.int32), right[name].view(np.int32)) for name in left
    )


def train(config: TrainConfig) -> dict[str, object]:
    """What the training measured, and whether its end is what it saved, scaling measured or not."""
    inputs = read_inputs(config)
    with Mirrored().engine(RANK, config, inputs) as engine:
        measured: list[TrainMetrics] = []
        Training(RANK, config, engine, inputs).run(measured.append)
        state = engine.state()
    metrics = measured[-1]
    last = Path(config.checkpoints, metrics.checkpoint) if metrics.checkpoint else config.resume
    saved = checkpoint.load(Path(str(last)))
    kept = same(state.weights, saved.weights) and same(state.momentum, saved.momentum)
    return {"metrics": asdict(metrics), "kept": kept}


def main() -> None:
    folder = Path(sys.argv[1])
    jobs = sorted(folder.glob("*.json"))
    configs = [TrainConfig.read(job) for job in jobs]
    strategy = Mirrored()
    os.environ |= strategy.environ(RANK, PEERS, "cpu")
    strategy.warm_up(configs[0])
    for job, config in zip(jobs, configs, strict=True):
        job.with_suffix(".out").write_text(json.dumps(train(config)))


if __name__ == "__main__":
    main()
