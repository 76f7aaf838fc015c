"""Where a run keeps its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A run's folder; the workers' own files in it are kept apart for each of its ``restarts``."""

    path: Path
    restarts: int = 0

    @property
    def config(self) -> Path:
        return self.path / "job.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def losses(self) -> Path:
        return self.path / "losses.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"{self._worker(rank)}.log"

    def events(self, rank: int) -> Path:
        return self.path / "events" / f"{self._worker(rank)}.jsonl"

    def result(self, rank: int) -> Path:
        return self.path / "results" / f"{self._worker(rank)}.json"

    def _worker(self, rank: int) -> str:
        return f"rank-{rank}" + (f"-restart-{self.restarts}" if self.restarts else "")
