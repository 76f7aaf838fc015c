"""This machine: who gets which GPU and cores, and that no process outlives its worker."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from clusters.base import (
    Allocation,
    ClusterError,
    ClusterSpec,
    Ended,
    Gpu,
    Host,
    Slot,
    Worker,
    WorkerPlan,
)
from clusters.local import LocalCluster, allocate
from tests.command import wait_until

GPUS = tuple(
    Gpu(index=index, uuid=f"GPU-{index}", name=f"H200-{index}", memory_bytes=1, numa_node=index % 2)
    for index in range(4)
)
NODES = {0: (0, 1), 1: (2, 3)}
STUBBORN = "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done"
LEAVES_CHILD = "{} sh -c 'echo $$ > pid; sleep 60' & until [ -s pid ]; do sleep 0.01; done; exit 3"


def host(gpus: int = 0, *, cores: int = 8, hidden: int = 0, problem: str = "") -> Host:
    return Host(name="here", cores=cores, gpus=GPUS[:gpus], gpus_hidden=hidden, gpu_problem=problem)


@pytest.mark.parametrize("hidden", [0, 2])
def test_without_a_gpu_the_workers_are_cpu_workers_and_a_note_says_so(hidden: int) -> None:
    given = allocate(host(hidden=hidden), 2, "auto")
    beside = " (2 hidden by CUDA_VISIBLE_DEVICES)" if hidden else ""
    assert (given.device, given.notes) == ("cpu", (f"no GPU{beside}: 2 CPU workers",))


def test_workers_get_the_first_gpus_in_order() -> None:
    given = allocate(host(4), 3, "auto")
    assert given.device == "cuda"
    assert [slot.devices for slot in given.slots] == [(gpu,) for gpu in GPUS[:3]]
    assert [slot.local_rank for slot in given.slots] == [0, 1, 2]


def test_cpu_workers_asked_for_get_no_gpu_and_need_no_note() -> None:
    given = allocate(host(4, problem="NVML fails"), 2, "cpu")
    assert given == Allocation(
        slots=tuple(Slot(host="here", host_index=0, local_rank=rank) for rank in range(2)),
        device="cpu",
        cores_per_worker=4,
        linked=True,
    )


def test_one_process_a_host_gets_all_devices_and_the_processors_near_them() -> None:
    offered = Host(name="here", cores=4, gpus=GPUS, numa_cpus=NODES)
    (slot,) = allocate(offered, 3, "cuda", "host").slots
    assert (slot.devices, slot.host_devices) == (GPUS[:3], ("0", "1", "2"))
    assert slot.cpus == (*NODES[0], *NODES[1])


def test_without_a_gpu_one_process_a_host_has_logical_devices() -> None:
    given = allocate(host(), 3, "auto", "host")
    assert (len(given.slots), given.noun) == (1, "logical CPU device")
    assert given.notes == ("no GPU: 3 logical CPU devices",)


@pytest.mark.parametrize(("taken", "linked"), [(2, True), (3, False)])
def test_gpus_are_linked_if_each_reaches_all_others(taken: int, linked: bool) -> None:
    pairs = {0: (1,), 1: (0, 2), 2: (1,)}
    gpus = tuple(replace(GPUS[index], nvlinked=others) for index, others in pairs.items())
    assert allocate(Host(name="here", cores=4, gpus=gpus), taken, "cuda").linked is linked


@pytest.mark.parametrize(
    ("offered", "device", "text"),
    [
        (host(2), "auto", "3 GPUs asked for, here has 2: H200-0, H200-1; ask for fewer"),
        (host(2, hidden=1), "cuda", "here has 2 (1 hidden by CUDA_VISIBLE_DEVICES): H200-0"),
        (host(), "cuda", "here has no GPU; ask for --device cpu"),
        (host(hidden=4), "cuda", "here has no GPU (4 hidden by CUDA_VISIBLE_DEVICES)"),
        (host(problem="NVML fails"), "cuda", "NVML fails; ask for --device cpu"),
        (host(problem="NVML fails"), "auto", "NVML fails; ask for --device cpu"),
    ],
)
def test_what_cannot_be_given_is_refused_with_what_there_is(
    offered: Host, device: str, text: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        allocate(offered, 3, device)
    assert text in str(caught.value)


def test_a_worker_is_bound_to_the_node_of_its_gpu() -> None:
    offered = Host(name="here", cores=4, gpus=GPUS, numa_cpus=NODES)
    cpus = [slot.cpus for slot in allocate(offered, 4, "cuda").slots]
    assert cpus == [NODES[0], NODES[1], NODES[0], NODES[1]]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_workers_are_not_bound_without_gpus_or_nodes(device: str) -> None:
    offered = Host(name="here", cores=4, gpus=GPUS, numa_cpus=NODES if device == "cpu" else {})
    assert [slot.cpus for slot in allocate(offered, 2, device).slots] == [(), ()]


@pytest.mark.parametrize(
    ("cores", "notes"), [(2, ()), (1, ("oversubscribed: 2 CPU workers on 1 core",))]
)
def test_more_workers_than_cores_are_noted(cores: int, notes: tuple[str, ...]) -> None:
    assert allocate(host(cores=cores), 2, "cpu").notes == notes


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    local = LocalCluster()
    yield local
    local.close()


@pytest.fixture
def fake_gpus(monkeypatch: pytest.MonkeyPatch) -> tuple[Gpu, ...]:
    """A machine on which NVML finds GPUs."""
    monkeypatch.setattr("clusters.local.probe_gpus", lambda: (GPUS, ""))
    return GPUS


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shell(script: str, **env: str) -> WorkerPlan:
    return run("sh", "-c", script, **env)


def run(*argv: str, **env: str) -> WorkerPlan:
    return WorkerPlan(
        rank=0,
        slot=Slot(host="here", host_index=0, local_rank=0),
        argv=argv,
        env=env,
        log_path=Path("logs/rank-0.log"),
        events_path=Path("events"),
        result_path=Path("result"),
    )


def end_of(worker: Worker) -> Ended:
    wait_until(lambda: worker.poll() is not None, "the worker's end", timeout_s=10)
    ended = worker.poll()
    assert ended is not None
    return ended


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def written_pids(count: int = 1) -> list[int]:
    """The process numbers that a worker wrote to the file ``pid``, once all are there."""
    path = Path("pid")
    wait_until(lambda: path.exists() and path.read_text().count("\n") == count, "the file pid")
    return [int(line) for line in path.read_text().split()]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -15), ("kill -9 $$", -9)]
)
def test_the_end_of_a_worker_is_its_exit_code_or_signal(
    cluster: LocalCluster, script: str, code: int
) -> None:
    assert end_of(cluster.start(shell(script))).code == code


def test_a_program_that_is_missing_is_named(cluster: LocalCluster) -> None:
    ended = end_of(cluster.start(run("no-such-program")))
    assert ended.code == 127
    assert ended.evidence.startswith("no-such-program could not be started: No such file")


def test_output_and_errors_go_to_the_log(cluster: LocalCluster) -> None:
    plan = shell('echo "$WORD"; echo wrong >&2', WORD="right")
    end_of(cluster.start(plan))
    assert plan.log_path.read_text() == "right\nwrong\n"


def test_a_worker_is_bound_to_its_processors(cluster: LocalCluster) -> None:
    cpu = max(os.sched_getaffinity(0))
    plan = shell("grep Cpus_allowed_list /proc/self/status")
    slot = Slot(host="here", host_index=0, local_rank=0, cpus=(cpu,))
    end_of(cluster.start(replace(plan, slot=slot)))
    assert plan.log_path.read_text().split() == ["Cpus_allowed_list:", str(cpu)]


def test_a_worker_inherits_no_descriptor_but_the_standard_ones(cluster: LocalCluster) -> None:
    plan = shell("for fd in $(seq 0 99); do [ ! -e /proc/$$/fd/$fd ] || echo $fd; done")
    end_of(cluster.start(plan))
    assert plan.log_path.read_text().split() == ["0", "1", "2"]


def test_a_worker_can_be_terminated(cluster: LocalCluster) -> None:
    worker = cluster.start(shell("echo $$ > pid; sleep 60"))
    written_pids()
    worker.terminate()
    assert end_of(worker).code == -signal.SIGTERM


def test_a_worker_that_has_just_been_started_can_be_terminated(cluster: LocalCluster) -> None:
    workers = [cluster.start(run("sleep", "60")) for _ in range(5)]
    for worker in workers:
        worker.terminate()
    assert [end_of(worker).code for worker in workers] == [-signal.SIGTERM] * 5


def test_a_worker_that_ignores_sigterm_is_ended_by_kill(cluster: LocalCluster) -> None:
    worker = cluster.start(shell(STUBBORN))
    written_pids()
    worker.terminate()
    worker.kill()
    assert end_of(worker).code == -signal.SIGKILL


@pytest.mark.parametrize("prefix", ["", "setsid", "setsid nohup"])
def test_children_of_an_ended_worker_are_gone_with_it(cluster: LocalCluster, prefix: str) -> None:
    worker = cluster.start(shell(LEAVES_CHILD.format(prefix)))
    (child,) = written_pids()
    assert end_of(worker).code == 3
    assert not psutil.pid_exists(child)


@pytest.fixture
def orphans(cluster: LocalCluster) -> list[int]:
    """The child of a worker, and the worker, whose guard has been killed."""
    worker = cluster.start(shell("sleep 60 & echo $! > pid; echo $$ >> pid; wait"))
    pids = written_pids(2)
    os.kill(psutil.Process(pids[1]).ppid(), signal.SIGKILL)
    assert "its guard process was killed" in end_of(worker).evidence
    return pids


def test_a_worker_dies_with_its_guard(orphans: list[int]) -> None:
    wait_until(lambda: not is_running(orphans[1]), "the worker's end", timeout_s=10)


def test_close_ends_what_a_killed_guard_left(cluster: LocalCluster, orphans: list[int]) -> None:
    cluster.close()
    assert not any(is_running(pid) for pid in orphans)


def test_close_leaves_no_zombie_of_a_killed_guard(
    cluster: LocalCluster, orphans: list[int]
) -> None:
    cluster.close()
    assert not any(psutil.pid_exists(pid) for pid in orphans)


def test_close_ends_workers_that_still_run(cluster: LocalCluster) -> None:
    cluster.start(shell(STUBBORN))
    (worker,) = written_pids()
    cluster.close()
    assert not psutil.pid_exists(worker)


def test_each_claimed_slot_has_a_free_port_of_its_own(cluster: LocalCluster) -> None:
    claimed = cluster.claim(allocate(host(), 20, "cpu"))
    servers = [socket.create_server((slot.address, slot.port)) for slot in claimed.slots]
    for server in servers:
        server.close()


def test_a_released_cluster_starts_workers_again(cluster: LocalCluster) -> None:
    cluster.start(shell(STUBBORN))
    (first,) = written_pids()
    cluster.release()
    assert not psutil.pid_exists(first)
    assert end_of(cluster.start(shell("exit 3"))).code == 3


def test_a_cluster_offers_the_gpus_that_its_file_lists(fake_gpus: tuple[Gpu, ...]) -> None:
    spec = ClusterSpec(devices=("3", "GPU-1"))
    (offered,) = LocalCluster(spec, {"CUDA_VISIBLE_DEVICES": "1,2,3"}).probe()
    assert (offered.gpus, offered.gpus_hidden) == ((fake_gpus[3], fake_gpus[1]), 1)
