"""Follows started workers to their end: first failure, stop of the others, no endless wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from clusters.base import Cluster, Worker, WorkerPlan
from launcher.results import WorkerResult, first_failure, lost_a_peer

POLL_S = 0.05
GRACE_S = 3.0  # between asking the workers to end and killing them
_GIVE_UP_S = 5.0  # after the kill: a process in the kernel's hands may never end


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``results``: of all workers that ended, by rank; ``failure``: the first one's, if any failed.

    ``signal``: the number of the signal that ended the job, if one did; ``unkillable``: workers
    that did not end though killed.
    """

    results: tuple[WorkerResult, ...]
    failure: WorkerResult | None
    signal: int | None
    unkillable: tuple[WorkerPlan, ...]

    @property
    def status(self) -> Literal["completed", "failed", "interrupted"]:
        if self.signal is not None:
            return "interrupted"
        return "failed" if self.exit_code else "completed"

    @property
    def exit_code(self) -> int:
        """128 + n after signal n, 1 after a failure, else 0."""
        if self.signal is not None:
            return 128 + self.signal
        return 1 if self.failure or self.unkillable else 0


class Supervisor:
    """A state machine over polled workers; ``step`` never blocks.

    ``settle_s``: how long the cause may take to show, when the first to fail has lost a peer.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        clock: Callable[[], float] = time.monotonic,
        settle_s: float = 1.0,
    ) -> None:
        self._settle_s = settle_s
        self._running = list(workers)
        self._clock = clock
        self._results: list[WorkerResult] = []
        self._unkillable: tuple[WorkerPlan, ...] = ()
        self._signal: int | None = None
        self._stop_at: float | None = None
        self._kill_at: float | None = None
        self._give_up_at: float | None = None

    @property
    def done(self) -> bool:
        return not self._running

    def step(self) -> None:
        """Looks at every worker once, and does what has become due."""
        now = self._clock()
        for worker in list(self._running):
            ended = worker.poll()
            if ended is not None:
                self._running.remove(worker)
                stopped = self._kill_at is not None or self._give_up_at is not None
                result = WorkerResult(plan=worker.plan, ended=ended, stopped_by_us=stopped)
                self._results.append(result)
                if result.failed and self._stop_at is None:
                    self._stop_at = now + (self._settle_s if lost_a_peer(result) else 0.0)
        self._act(now)

    def interrupt(self, number: int) -> None:
        """Signal ``number`` came: the first stops the workers, the second kills them at once."""
        if self._signal is None:
            self._signal = number
            self._stop(self._clock())
        else:
            self._kill(self._clock())

    def outcome(self) -> Outcome:
        """How it ended; to be asked when ``done``."""
        results = sorted(self._results, key=lambda result: result.plan.rank)
        return Outcome(
            results=tuple(results),
            failure=None if self._signal is not None else first_failure(results),
            signal=self._signal,
            unkillable=self._unkillable,
        )

    def _act(self, now: float) -> None:
        causes = [r for r in self._results if r.failed and not lost_a_peer(r)]
        if self._stop_at is not None and (causes or now >= self._stop_at):
            self._stop(now)
        if self._kill_at is not None and now >= self._kill_at:
            self._kill(now)
        if self._give_up_at is not None and now >= self._give_up_at:
            self._unkillable = tuple(worker.plan for worker in self._running)
            self._running.clear()

    def _stop(self, now: float) -> None:
        if self._kill_at is None and self._give_up_at is None:
            self._kill_at = now + GRACE_S
            for worker in self._running:
                worker.terminate()

    def _kill(self, now: float) -> None:
        if self._give_up_at is None:
            self._kill_at, self._give_up_at = None, now + _GIVE_UP_S
            for worker in self._running:
                worker.kill()


def supervise(
    cluster: Cluster,
    plans: Sequence[WorkerPlan],
    *,
    interrupts: Callable[[], list[int]],
    watch: Callable[[], None],
) -> Outcome:
    """Starts all workers and follows them to their end.

    ``interrupts`` gives the signals that came since it was last asked; ``watch`` is called at
    every look, to read events and draw. Whatever happens, no worker is left running.
    """
    workers: list[Worker] = []
    try:
        for plan in plans:
            workers.append(cluster.start(plan))
        supervisor = Supervisor(workers, settle_s=cluster.settle_s)
        while True:
            supervisor.step()
            for number in interrupts():
                supervisor.interrupt(number)
            watch()
            if supervisor.done:
                return supervisor.outcome()
            time.sleep(POLL_S)
    finally:
        cluster.release()
