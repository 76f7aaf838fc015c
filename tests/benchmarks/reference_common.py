"""What the reference scripts share: their options, the data, the figures that they print."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Figures:
    """``first_step``: when the first optimizer step was done, in seconds since 1970.

    ``samples_per_s``: trained samples over all workers, from that step on (``whole_epoch``: from
    the end of the first epoch on); ``test_accuracy``: a share of 1.
    """

    first_step: float
    samples_per_s: float
    test_accuracy: float

    def print(self) -> None:
        """As the one JSON line that the benchmark looks for."""
        print(json.dumps(asdict(self)), flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--model", choices=("lenet", "mlp"), default="lenet")
    options.add_argument("--batch-size", type=int, default=100, help="samples, over all workers")
    options.add_argument("--epochs", type=int, default=5)
    options.add_argument("--steps", type=int, help="end every epoch after so many steps")
    options.add_argument("--lr", type=float, default=0.001)
    options.add_argument("--momentum", type=float, default=0.9)
    options.add_argument("--validation", type=float, default=0.0, help="the share held out")
    options.add_argument("--data", type=Path, required=True, help="folder of the raw IDX files")
    return options


def read(
    folder: Path, split: str, validation: float = 0.0
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images, uint8 [n, 28, 28], and labels, uint8 [n], less the last ``validation`` share."""
    images = np.fromfile(folder / f"{split}-images-idx3-ubyte", dtype=np.uint8, offset=16)
    labels = np.fromfile(folder / f"{split}-labels-idx1-ubyte", dtype=np.uint8, offset=8)
    kept = len(labels) - round(len(labels) * validation)
    return images.reshape(-1, 28, 28)[:kept], labels[:kept]
