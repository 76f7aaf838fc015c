"""Room on a cluster for a job: now, or after a wait."""

from __future__ import annotations

import time

from rich.status import Status

from clusters.base import Allocation, Cluster, ClusterError, Host, NoRoom
from launcher.errors import UserError
from launcher.job import JobSpec
from launcher.output import Output
from strategies.base import Strategy

_LOOK_S = 1.0


class Wait:
    """What a person sees of the wait: a live line on a terminal, every new reason elsewhere."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._begun = time.monotonic()
        self._status: Status | None = None
        self._said = ""

    def once_more(self, why: str) -> None:
        """Shows ``why`` there is no room and waits until it is time to look again."""
        if self._output.people.is_terminal and not self._output.quiet:
            if self._status is None:
                self._status = self._output.people.status("")
                self._status.start()
            waited = time.monotonic() - self._begun
            self._status.update(f"waiting for room, {waited:.0f} s: {why}")
        elif why != self._said and not self._output.quiet:
            self._output.say(f"waiting for room: {why}")
        self._said = why
        time.sleep(_LOOK_S)

    def close(self) -> None:
        if self._status is not None:
            self._status.stop()


def find_room(
    cluster: Cluster,
    hosts: tuple[Host, ...],
    job: JobSpec,
    strategy: Strategy,
    wait: Wait,
) -> Allocation:
    """Slots for the job; looks again until ``job.wait`` seconds have passed. Raises UserError."""
    deadline = time.monotonic() + (job.wait or 0)
    while True:
        try:
            return cluster.allocate(hosts, job.gpus, job.device, strategy.process_per)
        except NoRoom as error:
            if job.wait is None:
                raise UserError(
                    f"{job.origin('gpus')}: {error}; ask for fewer, or wait for room with --wait"
                ) from None
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{job.origin('gpus')}: {error}; waited for {job.wait:g} s "
                    f"({job.sources['wait']})"
                ) from None
            wait.once_more(str(error))
        except ClusterError as error:
            raise UserError(f"{job.origin('gpus')}: {error}") from None
        hosts = cluster.probe()
