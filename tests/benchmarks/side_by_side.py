"""Both sides of a comparison, a competitor and the launcher, taking turns."""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies import STRATEGIES
from strategies.mnist.data import FILES, PACKAGED
from strategies.mnist.models import MODELS
from tests.benchmarks.children import ChildFailed, run
from tests.benchmarks.figures import console
from tests.benchmarks.references import Reference


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both sides train. ``batch_size`` is over all workers; ``steps`` ends it early."""

    workers: int
    model: str
    batch_size: int
    epochs: int = 1
    steps: int | None = None

    @property
    def name(self) -> str:
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        return f"{self.model} {self.batch_size}, {workers}"

    def options(self) -> list[str]:
        words = f"--model {self.model} --batch-size {self.batch_size} --epochs {self.epochs}"
        return words.split() + ([] if self.steps is None else ["--steps", str(self.steps)])


def parse(description: str | None) -> Namespace:
    """``repeats``: how many rounds; ``strategy``: a list of those to measure."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default %(default)s)")
    parser.add_argument(
        "--strategy",
        nargs="+",
        choices=tuple(STRATEGIES),
        default=list(STRATEGIES),
        help="those to measure (default: all)",
    )
    return parser.parse_args()


@contextmanager
def workspace() -> Iterator[Path]:
    """A folder for a while, with the packaged MNIST as raw IDX files, for the references.

    Its name is short: Ray's sockets lie below it, and a socket's path has 107 bytes at most.
    """
    with tempfile.TemporaryDirectory(prefix="b") as name:
        folder = Path(name)
        for file in FILES.values():
            (folder / file).write_bytes(gzip.decompress((PACKAGED / f"{file}.gz").read_bytes()))
        yield folder


def reference(folder: Path, competitor: Reference, training: Training) -> dict[str, float]:
    """Trains with ``competitor``, with the launcher's recipe.

    ``folder`` is the ``workspace``. Returns the script's JSON (see ``reference_common.Figures``)
    and ``started``, when the command was started, in seconds since 1970. Raises ChildFailed.
    """
    recipe = MODELS[training.model].recipes["article"]
    options = ["--data", str(folder), *training.options(), "--lr", str(recipe.lr)]
    options += ["--momentum", str(recipe.momentum), "--validation", str(recipe.validation)]
    command = competitor.words(training.workers, options)
    started, output = run(command, folder, **competitor.environ(folder))
    # horovodrun puts the rank before a worker's line.
    found = [line[line.index("{") :] for line in output.splitlines() if '{"first_step"' in line]
    if not found:
        raise ChildFailed(f"{command} printed no JSON line but:\n{output}")
    return {"started": started, **json.loads(found[-1])}


def launcher(folder: Path, strategy: str, training: Training, **variables: str) -> dict[str, Any]:
    """Trains with the launcher, with ``variables`` in its environment; returns its report.

    Raises ChildFailed.
    """
    out = Path(tempfile.mkdtemp(dir=folder))
    command = [sys.executable, "-m", "launcher", "--gpus", str(training.workers)]
    command += ["--strategy", strategy, "--device", "cpu", "--no-baseline", "--quiet", "--out"]
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
