"""Runs the launcher as a user does: a command of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.mnist.checkpoint import Checkpoint, latest, load

TIMEOUT_S = 180.0
COMMAND = (sys.executable, "-m", "launcher")


@dataclass(frozen=True)
class Finished:
    """A launcher that has ended. ``folder`` is its run's."""

    code: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return loaded

    @property
    def losses(self) -> list[float]:
        lines = (self.folder / "losses.csv").read_text().splitlines()[1:]
        return [float(line.split(",")[1]) for line in lines]

    @property
    def checkpoint(self) -> Checkpoint:
        return load(latest(self.folder))


def launch(folder: Path, *arguments: str, command: str = "", **variables: str) -> Finished:
    """``python -m launcher [command] --out folder/run arguments``, started in ``folder``."""
    process = start(folder, *arguments, command=command, **variables)
    return finish(process, folder)


def train(folder: Path, *arguments: str, **variables: str) -> Finished:
    """``launch`` of a training that must succeed."""
    finished = launch(folder, *arguments, **variables)
    assert finished.code == 0, finished.stdout + finished.stderr
    return finished


def start(
    folder: Path, *arguments: str, command: str = "", **variables: str
) -> subprocess.Popen[str]:
    """The launcher, running."""
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*COMMAND, *command.split(), "--out", str(folder / "run"), *arguments],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120", **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], folder: Path) -> Finished:
    """Waits for the launcher's end; kills one that does not come to it."""
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, stdout, stderr, folder / "run")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Returns once ``condition`` holds; fails naming ``what`` if that takes too long."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
