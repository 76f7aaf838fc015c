"""How a job goes on after a failure: from its last checkpoint, on what is left of the cluster."""

from __future__ import annotations

import time
from dataclasses import replace

from clusters.base import Allocation, Cluster, ClusterError, Host
from launcher import signals
from launcher.attempt import Attempt, claimed
from launcher.errors import UserError
from launcher.folder import RunFolder
from launcher.job import JobSpec
from launcher.output import Output
from launcher.prepare import Prepared
from launcher.results import describe_failure

_PATIENCE_S = 60.0  # a cluster may take half a minute to see that a node is gone
_FEWER_AFTER_S = 5.0  # till then, it waits for all workers that were asked for
_LOOK_S = 0.5


def go_on(attempt: Attempt, output: Output) -> tuple[Attempt, Prepared | None]:
    """The next attempt, claimed; None if the job is done, or cannot or shall not go on.

    Also the attempt itself: a signal that comes meanwhile is its end.
    """
    prepared, outcome = attempt.prepared, attempt.outcome
    failure, number = outcome.failure, prepared.folder.restarts + 1
    if failure is None or outcome.unkillable or number > prepared.asked.max_restarts:
        return attempt, None
    output.say(describe_failure(failure))
    attempt = replace(attempt, told=True)
    lost = frozenset(r.plan.slot.node for r in outcome.results if r.ended.lost_host)
    begun, why = time.monotonic(), ""
    with signals.noted() as interrupts:
        while (passed := time.monotonic() - begun) < _PATIENCE_S:
            if numbers := interrupts():
                return replace(attempt, outcome=replace(outcome, signal=numbers[0])), None
            try:
                following = _again(prepared, number, lost, fewer=passed > _FEWER_AFTER_S)
            except (ClusterError, UserError) as error:
                why = str(error)
                time.sleep(_LOOK_S)
            else:
                if numbers := interrupts():
                    following.cluster.release()
                    return replace(attempt, outcome=replace(outcome, signal=numbers[0])), None
                output.say(_announce(following))
                return attempt, following
    output.say(f"no restart, after {_PATIENCE_S:.0f} s: {why}")
    return attempt, None


def _again(prepared: Prepared, number: int, lost: frozenset[str], *, fewer: bool) -> Prepared:
    """Restart ``number``, claimed. Raises ClusterError or UserError where there is no room now."""
    cluster, asked = prepared.cluster, prepared.asked
    hosts = tuple(host for host in cluster.probe() if host.node not in lost)
    least = asked.min_gpus if fewer and asked.min_gpus else asked.gpus
    # A job that had GPUs waits for GPUs, whatever "auto" would take now.
    device = "cuda" if prepared.allocation.device == "cuda" else asked.device
    allocation = most_of(
        cluster, hosts, replace(asked, device=device), least, prepared.strategy.process_per
    )
    folder = replace(prepared.folder, restarts=number)
    job = resumed(asked, folder, allocation.workers)
    return claimed(prepared.decided(job=job, allocation=allocation, folder=folder))


def most_of(
    cluster: Cluster, hosts: tuple[Host, ...], asked: JobSpec, least: int, process_per: str
) -> Allocation:
    """Slots for as many of the asked workers as there is room for. Pure.

    Raises ClusterError where that is not for ``least`` of them.
    """
    for workers in range(asked.gpus, least, -1):
        try:
            return cluster.allocate(hosts, workers, asked.device, process_per)
        except ClusterError:  # no room, or a number that its nodes cannot be given
            continue
    return cluster.allocate(hosts, least, asked.device, process_per)


def resumed(asked: JobSpec, folder: RunFolder, workers: int) -> JobSpec:
    """The job that goes on with ``workers`` from the run's last checkpoint, its batch unchanged."""
    from strategies.mnist.checkpoint import CheckpointError, latest  # imports numpy: 0.1 s

    origin = f"restart {folder.restarts}"
    sources = dict(asked.sources)
    if workers != asked.gpus:
        sources["gpus"] = f"{origin}, of {asked.gpus} by {sources['gpus']}"
    resume = asked.resume
    if not asked.script:
        try:
            resume = str(latest(folder.path))
            sources["resume"] = origin
        except CheckpointError:
            pass  # it failed before its first epoch was done: it starts where it started
    return replace(asked, gpus=workers, resume=resume, sources=sources)


def _announce(prepared: Prepared) -> str:
    job, number = prepared.job, prepared.folder.restarts
    text = f"restart {number} of {job.max_restarts}"
    if not job.script:
        text += f", from {job.resume}" if job.resume else ", from the beginning"
    if job.gpus != prepared.asked.gpus:
        text += f", with {job.gpus} of {prepared.asked.gpus} workers and the same global batch"
    return text
