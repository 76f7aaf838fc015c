"""Event files: what TensorBoard's own reader finds in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from strategies.base import EpochMetrics
from strategies.mnist.event_files import Board

# In a process of its own: reading imports TensorFlow where that is installed.
READER = """
import sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0}).Reload()
for tag in read.Tags()["scalars"]:
    print(tag, *(f"{point.step}:{point.value:.4f}" for point in read.Scalars(tag)))
"""


def metrics(**given: float) -> EpochMetrics:
    held_out = {"validation_loss": None, "validation_accuracy": None}
    numbers = {"train_loss": 2.0, "test_loss": 0.5, "test_accuracy": 0.75, "seconds": 1.0}
    return EpochMetrics(epoch=1, steps=4, **{**held_out, **numbers, **given})  # type: ignore[arg-type]


def scalars(folder: Path) -> dict[str, list[str]]:
    command = [sys.executable, "-W", "ignore", "-c", READER, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    return {tag: points for tag, *points in rows}


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    losses, rates = np.array([3.0, 2.0]), np.array([0.1, 0.2], np.float32)
    with Board(str(tmp_path / "new" / "folder")) as board:
        held_out = {"validation_loss": 0.25, "validation_accuracy": 0.5}
        board.epoch(metrics(**held_out), 2, losses, rates, [100.0, 300.0])
        board.epoch(metrics(), 4, losses, rates, [100.0, 300.0, 900.0])
    assert scalars(tmp_path / "new" / "folder") == {
        "train/loss": ["3:3.0000", "4:2.0000", "5:3.0000", "6:2.0000"],
        "train/lr": ["3:0.1000", "4:0.2000", "5:0.1000", "6:0.2000"],
        "test/loss": ["4:0.5000", "4:0.5000"],
        "test/accuracy": ["4:0.7500", "4:0.7500"],
        "validation/loss": ["4:0.2500"],
        "validation/accuracy": ["4:0.5000"],
        "train/samples_per_s": ["4:200.0000", "4:900.0000"],
    }


def test_a_long_epoch_is_thinned_out(tmp_path: Path) -> None:
    with Board(str(tmp_path)) as board:
        board.epoch(metrics(), 0, np.arange(1001.0), np.ones(1001, np.float32), [])
    points = scalars(tmp_path)["train/loss"]
    assert points[:2] == ["1:0.0000", "4:3.0000"]
    assert len(points) == 334


@pytest.mark.parametrize("folder", [None])
def test_nothing_is_written_unasked(tmp_path: Path, folder: str | None) -> None:
    with Board(folder) as board:
        board.epoch(metrics(), 0, np.ones(2), np.ones(2, np.float32), [])
    assert not list(tmp_path.iterdir())
