"""Samples/s of the launcher against its competitors, on CPUs.

Each run trains for 3 to 15 s. The reference's figure is the mean over all its steps but the first
one, with gathering every epoch (of tf.function: over all its epochs but the first one). The
launcher's is the mean over the training time of its epochs, less the first one where there are
several: in mirrored's first one TensorFlow traces and compiles. Neither has the evaluation in it.

A worker of the references in PyTorch computes with one thread, the launcher chooses. So one worker
of ddp is also measured with the launcher's OMP_NUM_THREADS set to 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.benchmarks.children import guarded
from tests.benchmarks.figures import Row, show
from tests.benchmarks.references import (
    HOROVODRUN,
    KERAS_FIT,
    SCRIPT,
    TORCHRUN,
    WHOLE_EPOCH,
    WHOLE_EPOCH_XLA,
    Reference,
)
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
    """The competitor trains ``epochs[0]`` of ``training``, the launcher ``epochs[1]``."""

    strategy: str
    competitor: Reference
    training: Training
    epochs: tuple[int, int] = (1, 1)
    target: float | None = None

    @property
    def name(self) -> str:
        return f"{self.strategy}, {self.training.name}, {self.competitor.name}"


_LENET_1 = Training(workers=1, model="lenet", batch_size=100)
_LENET_2 = replace(_LENET_1, workers=2)
_MLP_1 = Training(workers=1, model="mlp", batch_size=32)
_MLP_2 = replace(_MLP_1, workers=2)
_MLP_2_100 = replace(_MLP_2, batch_size=100)
_CASES = (
    Case(strategy="ddp", competitor=SCRIPT, training=_LENET_1, target=1.0),
    Case(strategy="ddp", competitor=SCRIPT, training=_MLP_1, epochs=(6, 9), target=1.0),
    Case(strategy="ddp", competitor=TORCHRUN, training=_LENET_2, target=1.25),
    Case(strategy="ddp", competitor=TORCHRUN, training=_MLP_2, epochs=(1, 6), target=1.5),
    Case(strategy="ddp", competitor=TORCHRUN, training=_MLP_2_100, epochs=(4, 13), target=1.5),
    Case(strategy="mirrored", competitor=KERAS_FIT, training=_MLP_2, epochs=(1, 9), target=10.0),
    Case(strategy="mirrored", competitor=WHOLE_EPOCH, training=_MLP_2, epochs=(7, 9)),
    Case(strategy="mirrored", competitor=WHOLE_EPOCH_XLA, training=_MLP_1, epochs=(21, 31)),
    Case(strategy="mirrored", competitor=WHOLE_EPOCH, training=_LENET_2, epochs=(3, 3), target=1.0),
    Case(strategy="horovod", competitor=HOROVODRUN, training=_LENET_2, target=1.1),
)


def main() -> None:
    options = parse(__doc__)
    with workspace() as folder:
        rows = [
            row
            for case in _CASES
            if case.strategy in options.strategy
            for row in compare(folder, case, options.repeats)
        ]
    show("Samples/s", ("competitor", "launcher"), rows, decimals=0, lower_is_better=False)


def compare(folder: Path, case: Case, repeats: int) -> Iterator[Row]:
    theirs, ours = (replace(case.training, epochs=epochs) for epochs in case.epochs)
    threads: dict[str, int] = {}

    def script() -> float:
        return reference(folder, case.competitor, theirs)["samples_per_s"]

    def launched(variant: str, **variables: str) -> float:
        report = launcher(folder, case.strategy, ours, **variables)
        threads[variant] = report["threads_per_worker"]
        return rate(report["epochs"], ours.batch_size)

    sides = {"script": script, "default": lambda: launched("default")}
    one_thread_too = case.strategy == "ddp" and ours.workers == 1
    if one_thread_too:
        sides["set"] = lambda: launched("set", OMP_NUM_THREADS="1")
    values = alternate(repeats, sides, case.name)
    for variant, count in threads.items():
        label = f", {count} thread{'s' * (count > 1)} ({variant})" if one_thread_too else ""
        yield Row(
            name=case.name + label,
            reference=values["script"],
            ours=values[variant],
            target=case.target if variant == "default" else None,
        )


def rate(epochs: list[dict[str, Any]], batch_size: int) -> float:
    """Samples/s over the training of ``epochs`` of a report, less the first of several."""
    timed = epochs[1:] or epochs
    begun = epochs[0]["steps"] if len(epochs) > 1 else 0
    steps: int = timed[-1]["steps"] - begun
    return steps * batch_size / float(sum(epoch["seconds"] for epoch in timed))


if __name__ == "__main__":
    guarded(main)
