"""Runs to export, and exports in this process; shared by the tests of exports."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from launcher.export import export
from launcher.output import Output
from strategies.mnist.checkpoint import Checkpoint, Header, save
from strategies.mnist.models import MODELS
from strategies.mnist.weights import Weights

LR, MOMENTUM = 0.05, 0.9
HEADER = Header(
    model="softmax",
    seed=0,
    epoch=1,
    step=7,
    batch_size=100,
    lr=LR,
    momentum=MOMENTUM,
    validation=0.0,
    data=None,
    strategy="ddp",
    world_size=1,
    versions={},
)


@dataclass(frozen=True)
class Told:
    """An export that has ended: its exit code and what it said."""

    code: int
    text: str

    @property
    def usage(self) -> str:
        return self.text.partition("of 0 to 255:\n")[2]


def random_weights(model: str, seed: int) -> Weights:
    """Weights of which none is zero, so that each matters."""
    random = np.random.default_rng(seed)
    shapes = {f"{layer.name}.weight": layer.shape for layer in MODELS[model].weighted}
    shapes |= {f"{layer.name}.bias": (layer.outputs,) for layer in MODELS[model].weighted}
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def make_run(folder: Path, header: Header = HEADER) -> Checkpoint:
    """A run's folder with one checkpoint."""
    checkpoint = Checkpoint(
        header=header,
        weights=random_weights(header.model, 1),
        momentum=random_weights(header.model, 2),
    )
    save(checkpoint, folder / "checkpoints")
    return checkpoint


def exported(run: Path, to: str, out: Path | None = None) -> Told:
    said = io.StringIO()
    people = Console(file=said, width=120)
    code = export(run, to, out, Output(people=people, as_json=False, quiet=False))
    return Told(code, said.getvalue())
