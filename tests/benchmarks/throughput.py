"""Samples/s of the launcher against a hand-tuned script (under torchrun for two workers), on CPUs.

Each run trains for 5 to 10 s. The reference's figure is the mean over all its steps but the first
one, with gathering every epoch; the launcher's is the mean over the training time of its epochs.
Neither has the evaluation in it. A worker of the reference computes with one thread, the launcher
chooses. So one worker is also measured with the launcher's OMP_NUM_THREADS set to 1.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from tests.benchmarks.children import guarded
from tests.benchmarks.figures import Row, show
from tests.benchmarks.side_by_side import (
    Training,
    alternate,
    launcher,
    parse_repeats,
    reference,
    write_mnist,
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """``training`` is the reference's; the launcher, which is faster, trains ``epochs``."""

    training: Training
    epochs: int
    target: float


_CASES = (
    Case(training=Training(workers=1, model="lenet", batch_size=100), epochs=1, target=1.0),
    Case(training=Training(workers=1, model="mlp", batch_size=32, epochs=5), epochs=8, target=1.0),
    Case(training=Training(workers=2, model="lenet", batch_size=100), epochs=1, target=1.25),
    Case(training=Training(workers=2, model="mlp", batch_size=32), epochs=5, target=1.5),
    Case(
        training=Training(workers=2, model="mlp", batch_size=100, epochs=3), epochs=12, target=1.5
    ),
)


def main() -> None:
    repeats = parse_repeats(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mnist(folder)
        rows = [row for case in _CASES for row in compare(folder, case, repeats)]
    show("Samples/s", ("hand-tuned script", "launcher"), rows, decimals=0, lower_is_better=False)


def compare(folder: Path, case: Case, repeats: int) -> Iterator[Row]:
    training = case.training
    threads: dict[str, int] = {}

    def script() -> float:
        return reference(folder, training)["samples_per_s"]

    def launched(variant: str, **variables: str) -> float:
        report = launcher(folder, replace(training, epochs=case.epochs), **variables)
        threads[variant] = report["threads_per_worker"]
        steps = report["epochs"][-1]["steps"]
        seconds = sum(epoch["seconds"] for epoch in report["epochs"])
        return float(steps * training.batch_size / seconds)

    workers = "1 worker" if training.workers == 1 else f"{training.workers} workers"
    name = f"{training.model} {training.batch_size}, {workers}"
    sides = {"script": script, "default": lambda: launched("default")}
    if training.workers == 1:
        sides["set"] = lambda: launched("set", OMP_NUM_THREADS="1")
    values = alternate(repeats, sides, name)
    for variant, count in threads.items():
        yield Row(
            name=f"{name}, {count} thread{'s' * (count > 1)} ({variant})",
            reference=values["script"],
            ours=values[variant],
            target=case.target if variant == "default" else None,
        )


if __name__ == "__main__":
    guarded(main)
