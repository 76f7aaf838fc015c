"""Both sides of a comparison, the hand-tuned script and the launcher, taking turns."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.mnist.data import FILES, PACKAGED
from strategies.mnist.models import MODELS
from tests.benchmarks.children import ChildFailed, run
from tests.benchmarks.figures import console

_REFERENCE = Path(__file__).with_name("reference_ddp.py")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both sides train. ``batch_size`` is over all workers; ``steps`` ends it early."""

    workers: int
    model: str
    batch_size: int
    epochs: int = 1
    steps: int | None = None

    def options(self) -> list[str]:
        words = f"--model {self.model} --batch-size {self.batch_size} --epochs {self.epochs}"
        return words.split() + ([] if self.steps is None else ["--steps", str(self.steps)])


def parse_repeats(description: str | None, default: int = 3) -> int:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=default, help="rounds (default %(default)s)")
    repeats: int = parser.parse_args().repeats
    return repeats


def write_mnist(folder: Path) -> None:
    """Writes the packaged MNIST into ``folder`` as raw IDX files, for the reference."""
    for name in FILES.values():
        (folder / name).write_bytes(gzip.decompress((PACKAGED / f"{name}.gz").read_bytes()))


def reference(folder: Path, training: Training) -> dict[str, float]:
    """Trains with the hand-tuned script, under torchrun if there are several workers.

    ``folder`` has the raw MNIST. Returns the script's JSON and ``started``, when the command was
    started, in seconds since 1970. Raises ChildFailed.
    """
    recipe = MODELS[training.model].recipes["article"]
    torchrun = f"-m torch.distributed.run --standalone --nproc-per-node {training.workers}"
    command = [sys.executable, *(torchrun.split() if training.workers > 1 else [])]
    command += [str(_REFERENCE), "--data", str(folder), *training.options()]
    command += ["--lr", str(recipe.lr), "--momentum", str(recipe.momentum)]
    started, output = run(command, folder)
    found = [line for line in output.splitlines() if line.startswith("{")]
    if not found:
        raise ChildFailed(f"{command} printed no JSON line but:\n{output}")
    return {"started": started, **json.loads(found[-1])}


def launcher(folder: Path, training: Training, **variables: str) -> dict[str, Any]:
    """Trains with the launcher, with ``variables`` in its environment; returns its report.

    Raises ChildFailed.
    """
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "launcher", "--gpus", str(training.workers)]
    command += ["--strategy", "ddp", "--device", "cpu", "--no-baseline", "--quiet", "--out"]
    run([*command, str(out), *training.options()], folder, **variables)
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def alternate(
    repeats: int, sides: Mapping[str, Callable[[], float]], what: str
) -> dict[str, list[float]]:
    """Lets the ``sides`` take turns, ``repeats`` times; their values, round by round."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(repeats):
        for name, measure in sides.items():
            with console.status(f"{what}: {name}, round {index + 1} of {repeats}"):
                values[name].append(measure())
    return values
