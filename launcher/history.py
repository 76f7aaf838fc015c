"""From all attempts at a job to its one report."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from math import nan

from launcher import __version__
from launcher.attempt import Attempt
from launcher.report import Report, Restart, failure_report, losses_csv, measured
from strategies.base import TrainMetrics, write_atomically


def make_report(attempts: Sequence[Attempt]) -> Report:
    """Judges what the attempts left; writes the losses of every step beside the report."""
    last = attempts[-1]
    prepared, outcome = last.prepared, last.outcome
    job, folder = prepared.job, prepared.folder
    metrics = joined([one.metrics for one in attempts if one.metrics])
    if metrics is not None:
        write_atomically(folder.losses, losses_csv(metrics))
        metrics = replace(metrics, checkpoint=str(folder.checkpoints / metrics.checkpoint))
    slots = prepared.allocation.slots
    return Report(
        version=__version__,
        status=outcome.status,
        strategy=job.strategy,
        workers=job.gpus,
        device=prepared.allocation.device,
        conditions=prepared.conditions,
        host=slots[0].host,
        hosts=list(dict.fromkeys(slot.host for slot in slots)),
        cluster=asdict(prepared.place.spec),
        settings={name: value for name, value in asdict(job).items() if name != "sources"},
        sources=prepared.sources,
        command=sys.argv,
        seconds=time.time() - prepared.started,
        failure=failure_report(outcome.failure) if outcome.failure else None,
        restarts=[_restart(one, following) for one, following in pairwise(attempts)],
        **(measured(metrics, prepared.started) if metrics else {}),
    )


def joined(parts: Sequence[TrainMetrics]) -> TrainMetrics | None:
    """One training of its parts: of each, what comes before the next one's first step.

    A loss that its worker did not live to tell (the checkpoint is written first) is nan. Speed and
    scaling are the last part's that has measured them: workers may have become fewer.
    """
    if not parts:
        return None
    whole = parts[0]
    for part in parts[1:]:
        kept = part.first_loss_step - whole.first_loss_step
        whole = replace(
            part,
            epochs=[e for e in whole.epochs if e.steps < part.first_loss_step] + part.epochs,
            losses=whole.losses[:kept] + [nan] * (kept - len(whole.losses)) + part.losses,
            first_loss_step=whole.first_loss_step,
            first_step=whole.first_step or part.first_step,
            throughput=part.throughput or whole.throughput,
            checkpoint=part.checkpoint or whole.checkpoint,
        )
    return whole


def _restart(attempt: Attempt, following: Attempt) -> Restart:
    failure = attempt.outcome.failure
    assert failure is not None  # nothing else makes a job go on
    return Restart(
        failure=failure_report(failure),
        workers_before=attempt.prepared.job.gpus,
        workers=following.prepared.job.gpus,
        hosts=list(dict.fromkeys(slot.host for slot in following.prepared.allocation.slots)),
        resumed_from=following.prepared.job.resume,
    )
