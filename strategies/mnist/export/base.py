"""What a format has to do, and what is told to and by the process that exports. Stdlib only."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from strategies.mnist.export import TARGETS
from strategies.mnist.models import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.mnist.checkpoint import Checkpoint

    Floats = NDArray[np.float32]
    Classify = Callable[[Floats], Floats]
    """From pixels, float32 [n, 28, 28] of 0 to 255, to logits, float32 [n, 10]."""


class Exporter(Protocol):
    """Writes and reads one format. Imports its framework inside."""

    def write(self, checkpoint: Checkpoint, path: Path) -> None:
        """Writes a checkpoint's model as the file ``path``."""

    def load(self, model: Model, path: Path) -> Classify:
        """What the file ``path`` computes, run by the runtime that users of the format have."""

    def usage(self, model: Model, path: Path) -> str:
        """Python that loads the file ``path`` and makes ``logits`` of ``pixels``."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to export: ``checkpoint``, a file, to ``target``.

    ``folder`` is where to work, removed by the process that exports if the launcher goes away;
    ``path`` is the name that the file will have in the end.
    """

    target: str
    checkpoint: str
    folder: str
    path: str

    @property
    def file(self) -> Path:
        return Path(self.folder) / f"model{TARGETS[self.target].suffix}"

    @property
    def result(self) -> Path:
        return Path(self.folder) / "verified.json"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Order:
        return cls(**json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a file computes beside what its checkpoint does, over a test set.

    ``accuracy``: the file's, as a share of 1; ``difference``: the largest one of two logits;
    ``tolerance``: what rounding may make of it; ``reclassified``: images whose class differs;
    ``data``: the folder of the test set, None for the packaged MNIST; ``usage``: how to load it.
    """

    images: int
    accuracy: float
    difference: float
    tolerance: float
    reclassified: int
    data: str | None
    usage: str

    @property
    def same(self) -> bool:
        """Whether the file computes the checkpoint's model; a difference of NaN says no.

        Another class then needs two logits closer to each other than twice the tolerance.
        """
        return self.difference <= self.tolerance

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Verified:
        return cls(**json.loads(text))
