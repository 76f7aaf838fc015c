"""Seconds from the command to the first optimizer step on an existing Ray cluster of two nodes.

The nodes are raylets on this machine, with a CPU each. The launcher decides where its workers run,
compares the nodes and has the files copied home; Ray Train does none of that.
"""

from __future__ import annotations

from dataclasses import replace

from tests.benchmarks.children import guarded
from tests.benchmarks.figures import Row, show
from tests.benchmarks.references import RAY_TRAIN
from tests.benchmarks.side_by_side import (
    Training,
    alternate,
    launcher,
    parse,
    reference,
    workspace,
)
from tests.raylets import Node, raylets

_TRAINING = Training(workers=2, model="lenet", batch_size=100, steps=20)
_TARGET = 0.75


def main() -> None:
    options = parse(__doc__)
    with workspace() as folder, raylets(Node(), Node()) as cluster:
        there = replace(
            RAY_TRAIN,
            command=f"{RAY_TRAIN.command} --address {cluster.address}",
            variables={**RAY_TRAIN.variables, **cluster.environ},
        )

        def ray_train() -> float:
            result = reference(folder, there, _TRAINING)
            return result["first_step"] - result["started"]

        def ours() -> float:
            variables = {**cluster.environ, "RAY_ADDRESS": cluster.address}
            report = launcher(folder, "ddp", _TRAINING, **variables)
            return float(report["time_to_first_step_s"])

        sides = {"Ray Train": ray_train, "ddp": ours}
        alternate(1, sides, "warm-up")
        values = alternate(options.repeats, sides, "start")
    row = Row(
        name=f"ddp, {_TRAINING.name}, Ray Train",
        reference=values["Ray Train"],
        ours=values["ddp"],
        target=_TARGET,
    )
    title = "Seconds from the command to the first optimizer step, on an existing Ray cluster"
    show(title, ("competitor", "launcher"), [row], decimals=2, lower_is_better=True)


if __name__ == "__main__":
    guarded(main)
