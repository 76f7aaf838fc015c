"""What a job's settings have to be, whatever they come from. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING, Any

from launcher.errors import UserError

if TYPE_CHECKING:
    from launcher.job import JobSpec


def check_workers(job: JobSpec) -> None:
    """For a script too. Raises UserError."""
    for name, least in {"gpus": 1, "min_gpus": 1, "max_restarts": 0, "wait": 0}.items():
        _least(job, name, least)
    if job.min_gpus is not None and job.min_gpus > job.gpus:
        raise UserError(f"{job.origin('min_gpus')}: more than the {job.gpus} workers of the job")
    if job.min_gpus is not None and not job.max_restarts:
        raise UserError(
            f"{job.origin('min_gpus')}: says with how many workers to go on after a failure; "
            "nothing goes on without --max-restarts"
        )


def check_training(job: JobSpec, samples: int, checkpoint: Mapping[str, Any]) -> None:
    """For the built-in training on ``samples``. Raises UserError."""
    least = {"epochs": 1, "batch_size": 1, "steps": 1, "seed": 0, "accumulate": 1}
    for name, value in least.items():
        _least(job, name, value)
    if job.seed >= 2**63:
        raise UserError(f"{job.origin('seed')}: must be below 2**63")
    if not (job.lr > 0 and isfinite(job.lr)):
        raise UserError(f"{job.origin('lr')}: must be a number above 0")
    if not 0 <= job.momentum < 1:
        raise UserError(f"{job.origin('momentum')}: must be 0 or more, below 1")
    if job.batch_size < job.gpus:
        raise UserError(
            f"{job.origin('batch_size')}: the global batch must have a sample "
            f"for each of the {job.gpus} workers"
        )
    if job.batch_size < job.gpus * job.accumulate:
        raise UserError(
            f"{job.origin('accumulate')}: {job.gpus} workers cannot compute the global batch "
            f"{job.batch_size} in {job.accumulate} parts each; take "
            f"{job.batch_size // job.gpus} or fewer"
        )
    if job.batch_size > samples:
        raise UserError(f"{job.origin('batch_size')}: the training set has {samples} samples")
    done = checkpoint.get("step", 0)
    planned = job.epochs * -(-samples // job.batch_size)
    if done >= min(planned, job.steps or planned):
        raise UserError(
            f"{job.origin('resume')}: has been trained for {done} steps already; "
            f"ask for more --epochs than {job.epochs}"
            + (f" and more --steps than {job.steps}" if job.steps else "")
        )


def _least(job: JobSpec, name: str, least: int) -> None:
    value = getattr(job, name)
    if value is not None and value < least:
        raise UserError(f"{job.origin(name)}: must be {least} or more")
