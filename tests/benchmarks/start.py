"""Seconds from the command to the first optimizer step: the launcher against its competitors.

Two workers train on CPUs. Both sides' programs and data are in the page cache: an unmeasured
round comes first. The reference holds the data as raw files, the launcher unpacks its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.children import guarded
from tests.benchmarks.figures import Row, show
from tests.benchmarks.references import KERAS_FIT, RAY_TRAIN, TORCHRUN, Reference
from tests.benchmarks.side_by_side import (
    Training,
    alternate,
    launcher,
    parse,
    reference,
    workspace,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    competitor: Reference
    training: Training
    target: float


_LENET = Training(workers=2, model="lenet", batch_size=100, steps=20)
_MLP = Training(workers=2, model="mlp", batch_size=32, steps=20)
_CASES = {
    "ddp": Case(competitor=TORCHRUN, training=_LENET, target=0.75),
    "mirrored": Case(competitor=KERAS_FIT, training=_MLP, target=0.8),
    "horovod": Case(competitor=RAY_TRAIN, training=_LENET, target=0.5),
}


def main() -> None:
    options = parse(__doc__)
    with workspace() as folder:
        rows = [
            compare(folder, strategy, _CASES[strategy], options.repeats)
            for strategy in options.strategy
        ]
    title = "Seconds from the command to the first optimizer step"
    show(title, ("competitor", "launcher"), rows, decimals=2, lower_is_better=True)


def compare(folder: Path, strategy: str, case: Case, repeats: int) -> Row:
    def competitor_start() -> float:
        result = reference(folder, case.competitor, case.training)
        return result["first_step"] - result["started"]

    def launcher_start() -> float:
        return float(launcher(folder, strategy, case.training)["time_to_first_step_s"])

    sides = {case.competitor.name: competitor_start, strategy: launcher_start}
    alternate(1, sides, "warm-up")
    values = alternate(repeats, sides, "start")
    return Row(
        name=f"{strategy}, {case.training.name}, {case.competitor.name}",
        reference=values[case.competitor.name],
        ours=values[strategy],
        target=case.target,
    )


if __name__ == "__main__":
    guarded(main)
