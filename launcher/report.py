"""The report of a run: one object, written as ``report.json`` and drawn by ``table.py``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any, Literal

from launcher.results import WorkerResult, describe_end, log_tail, traceback_of
from launcher.scaling import ScalingPoint, scaling_point, verdict
from strategies.base import EpochMetrics, TrainMetrics, write_atomically

SCHEMA = 1
"""Raised when a field changes its meaning or goes; new fields leave it as it is."""


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Samples/s over all workers in steady state: ``windows`` timed windows after the warm-up."""

    median: float
    min: float
    max: float
    windows: int


@dataclass(frozen=True, kw_only=True)
class FailureReport:
    rank: int
    host: str
    pid: int | None
    end: str
    evidence: str
    log: str
    traceback: str


@dataclass(frozen=True, kw_only=True)
class Restart:
    """A failure after which the job went on, with how many workers, where and from what."""

    failure: FailureReport
    workers_before: int
    workers: int
    hosts: list[str]
    resumed_from: str | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """``workers``, ``hosts`` and the speeds are those of the last attempt.

    ``conditions`` stands beside every figure, "" on GPUs: CPU workers, oversubscription.
    ``time_to_first_step_s``: from the start of the command's process to the first finished
    optimizer step. ``scaling``: the job's batch first, then a larger one.
    """

    schema: int = SCHEMA
    version: str
    status: Literal["completed", "failed", "interrupted"]
    strategy: str
    workers: int
    device: str
    device_name: str = ""
    conditions: str
    host: str
    hosts: list[str]
    cluster: dict[str, Any]
    settings: dict[str, Any]
    sources: dict[str, str]
    command: list[str]
    seconds: float
    time_to_first_step_s: float | None = None
    epochs: list[EpochMetrics] = field(default_factory=list)
    throughput: Throughput | None = None
    scaling: list[ScalingPoint] = field(default_factory=list)
    verdict: str = ""
    exchange: str = ""
    threads_per_worker: int | None = None
    checkpoint: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    failure: FailureReport | None = None
    restarts: list[Restart] = field(default_factory=list)

    def to_json(self) -> str:
        """JSON; a loss that is no number (a training that diverged) is null."""
        return json.dumps(finite(asdict(self)), indent=2, allow_nan=False)

    def write(self, path: Path) -> None:
        write_atomically(path, self.to_json() + "\n")


def finite(value: Any) -> Any:
    """Plain data in which a number that is none (nan, infinity) is None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def measured(metrics: TrainMetrics, command_started: float) -> dict[str, Any]:
    """The fields of a report that a finished built-in training fills.

    ``command_started``: seconds since 1970.
    """
    points = [scaling_point(samples) for samples in metrics.scaling]
    values = metrics.throughput
    return {
        "device_name": metrics.device_name,
        "time_to_first_step_s": metrics.first_step - command_started,
        "epochs": metrics.epochs,
        "throughput": Throughput(
            median=median(values), min=min(values), max=max(values), windows=len(values)
        )
        if values
        else None,
        "scaling": points,
        "verdict": verdict(points) if points else "",
        "exchange": metrics.exchange,
        "threads_per_worker": metrics.threads,
        "checkpoint": metrics.checkpoint,
        "versions": metrics.versions,
    }


def failure_report(result: WorkerResult) -> FailureReport:
    """What ``results.describe_failure`` says, as data."""
    return FailureReport(
        rank=result.plan.rank,
        host=result.plan.slot.host,
        pid=result.ended.pid,
        end=describe_end(result.ended),
        evidence=result.ended.evidence,
        log=str(result.plan.log_path),
        traceback=traceback_of(log_tail(result.plan.log_path)),
    )


def losses_csv(metrics: TrainMetrics) -> str:
    """The mean loss of every optimizer step, as CSV."""
    first = metrics.first_loss_step
    rows = (f"{first + index},{loss:.9g}\n" for index, loss in enumerate(metrics.losses))
    return "step,loss\n" + "".join(rows)
