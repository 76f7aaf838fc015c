"""The supervisor: the first failure stops the others, and nobody is waited for without end."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from clusters.base import Ended, Slot, WorkerPlan
from clusters.local import LocalCluster
from launcher.supervise import GRACE_S, Outcome, Supervisor, supervise

LONG_S = 100.0
LOST_PEER = (
    "Traceback (most recent call last):\n  File x\nRuntimeError: Connection closed by peer\n"
)


def plan_of(rank: int, folder: Path, *argv: str) -> WorkerPlan:
    log = folder / f"rank-{rank}.log"
    return WorkerPlan(
        rank=rank,
        slot=Slot(host="here", host_index=0, local_rank=rank),
        argv=argv,
        env={},
        log_path=log,
        events_path=log,
        result_path=log,
    )


class FakeWorker:
    """A worker that ends when the test says so; ``orders`` is what it was told."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.plan = plan_of(rank, folder)
        self.pid: int | None = 100 + rank
        self.ended: Ended | None = None
        self.orders: list[str] = []

    def end(self, code: int, *, time: float = 0.0, log: str = "") -> None:
        self.plan.log_path.write_text(log)
        self.ended = Ended(code=code, time=time, pid=self.pid)

    def poll(self) -> Ended | None:
        return self.ended

    def terminate(self) -> None:
        self.orders.append("terminate")

    def kill(self) -> None:
        self.orders.append("kill")


class Job:
    """Three fake workers under a supervisor whose clock the test moves."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.workers = [FakeWorker(rank, folder) for rank in range(3)]
        self.supervisor = Supervisor(self.workers, clock=lambda: self.now)

    def step(self, after_s: float = 0.0) -> None:
        self.now += after_s
        self.supervisor.step()

    @property
    def orders(self) -> list[list[str]]:
        return [worker.orders for worker in self.workers]

    def outcome(self) -> Outcome:
        assert self.supervisor.done
        return self.supervisor.outcome()


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_workers_that_all_succeed_complete_the_job(job: Job) -> None:
    for worker in reversed(job.workers):
        worker.end(0)
        job.step()
    outcome = job.outcome()
    assert (outcome.status, outcome.exit_code, outcome.failure) == ("completed", 0, None)
    assert [result.plan.rank for result in outcome.results] == [0, 1, 2]


def test_running_workers_are_left_alone_however_long_they_take(job: Job) -> None:
    job.workers[0].end(0)
    job.step()
    job.step(after_s=LONG_S)
    assert not job.supervisor.done
    assert job.orders == [[], [], []]


def test_the_first_failure_terminates_the_others_at_once(job: Job) -> None:
    job.workers[1].end(1)
    job.step()
    assert job.orders == [["terminate"], [], ["terminate"]]


def test_who_does_not_end_in_time_is_killed_once(job: Job) -> None:
    job.workers[1].end(1)
    job.step()
    job.workers[0].end(-15)
    job.step(after_s=GRACE_S - 0.1)
    assert job.orders == [["terminate"], [], ["terminate"]]
    job.step(after_s=0.2)
    job.step(after_s=0.2)
    assert job.orders == [["terminate"], [], ["terminate", "kill"]]


@pytest.mark.parametrize("code", [-15, -9, 1])
def test_who_ends_after_the_stop_is_no_failure(job: Job, code: int) -> None:
    job.workers[1].end(1, time=5.0)
    job.step()
    for rank in (0, 2):
        job.workers[rank].end(code, time=4.0)
    job.step()
    outcome = job.outcome()
    assert (outcome.status, outcome.exit_code) == ("failed", 1)
    assert [result.stopped_by_us for result in outcome.results] == [True, False, True]
    assert outcome.failure == outcome.results[1]


def test_after_a_lost_peer_the_cause_is_waited_for(job: Job) -> None:
    job.workers[0].end(1, time=1.0, log=LOST_PEER)
    job.step()
    assert job.orders == [[], [], []]
    job.workers[1].end(7, time=2.0)
    job.step(after_s=0.1)
    assert job.orders == [[], [], ["terminate"]]
    job.workers[2].end(-15)
    job.step()
    failure = job.outcome().failure
    assert failure is not None
    assert failure.ended.code == 7


def test_a_lost_peer_without_a_cause_stops_the_job_in_the_end(job: Job) -> None:
    job.workers[0].end(1, log=LOST_PEER)
    job.step()
    job.step(after_s=GRACE_S)
    assert job.orders == [[], ["terminate"], ["terminate"]]


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_terminates_all_and_is_the_exit_code(job: Job, number: int) -> None:
    job.step()
    job.supervisor.interrupt(number)
    assert job.orders == [["terminate"]] * 3
    for worker in job.workers:
        worker.end(-15)
    job.step()
    outcome = job.outcome()
    assert (outcome.status, outcome.exit_code) == ("interrupted", 128 + number)
    assert outcome.failure is None


def test_a_second_signal_kills_all_at_once(job: Job) -> None:
    job.supervisor.interrupt(2)
    job.supervisor.interrupt(15)
    assert job.orders == [["terminate", "kill"]] * 3
    for worker in job.workers:
        worker.end(-9)
    job.step()
    assert job.outcome().exit_code == 128 + 2


def test_who_does_not_end_after_a_signal_is_killed(job: Job) -> None:
    job.supervisor.interrupt(2)
    job.step(after_s=GRACE_S)
    assert job.orders == [["terminate", "kill"]] * 3


def test_workers_that_survive_the_kill_are_given_up_and_listed(job: Job) -> None:
    job.workers[1].end(1)
    job.step()
    job.step(after_s=GRACE_S)
    assert not job.supervisor.done
    job.step(after_s=LONG_S)
    outcome = job.outcome()
    assert [plan.rank for plan in outcome.unkillable] == [0, 2]
    assert outcome.exit_code == 1


def test_no_process_is_left_when_a_start_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plans = [plan_of(0, tmp_path, "sleep", "60"), plan_of(1, tmp_path / "file" / "folder")]
    with pytest.raises(OSError, match="file/folder"):
        supervise(LocalCluster(), plans, interrupts=list, watch=lambda: None)
    children = psutil.Process().children(recursive=True)
    assert [child for child in children if child.status() != psutil.STATUS_ZOMBIE] == []
