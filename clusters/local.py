"""``local``: the workers are processes of this machine."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from clusters.base import (
    Allocation,
    ClusterError,
    ClusterSpec,
    Device,
    Gpu,
    Host,
    Slot,
    Worker,
    WorkerPlan,
)
from clusters.cores import numa_cpus, usable_cores
from clusters.gpus import chosen, probe_gpus, visible
from clusters.guard import PR_SET_CHILD_SUBREAPER, descendants, prctl, send_all
from clusters.process import MARK, GuardedProcess

LOOPBACK = "127.0.0.1"
# Below Linux's range of outgoing connections (32768 and up), so that no connection takes a port
# between our look and the worker's use of it; above Ray's worker ports (10002 to 19999).
_PORTS = range(20_000, 32_768)
_TRIES = 100
_CLOSE_S = 3.0
_POLL_S = 0.02


class LocalCluster:
    """This machine. ``environ`` is what the workers inherit."""

    remote = False
    settle_s = 1.0

    def __init__(
        self, spec: ClusterSpec | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        self._spec = spec or ClusterSpec()
        self._environ = dict(os.environ if environ is None else environ)
        self._processes: list[GuardedProcess] = []

    def probe(self) -> tuple[Host, ...]:
        gpus, problem = probe_gpus()
        seen = visible(gpus, self._environ.get("CUDA_VISIBLE_DEVICES"))
        host = Host(
            name=socket.gethostname(),
            cores=usable_cores(),
            gpus=chosen(seen, self._spec.devices),
            gpus_hidden=len(gpus) - len(seen),
            gpu_problem=problem,
            numa_cpus=numa_cpus(),
        )
        return (host,)

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        return allocate(hosts[0], workers, device, process_per)

    def claim(self, allocation: Allocation) -> Allocation:
        """Gives every slot a free port."""
        ports = _free_ports(len(allocation.slots))
        slots = zip(allocation.slots, ports, strict=True)
        return replace(allocation, slots=tuple(replace(slot, port=port) for slot, port in slots))

    def ask(self, module: str, *arguments: str) -> dict[str, str]:
        """Nothing: there is one host, and it runs this very code."""
        return {}

    def start(self, plan: WorkerPlan) -> Worker:
        if not self._processes:
            # What a killed guard leaves behind comes to this process, not to init.
            prctl(PR_SET_CHILD_SUBREAPER, 1)
        process = GuardedProcess(plan, self._environ)
        self._processes.append(process)
        return process

    def release(self) -> None:
        if not self._processes:
            return
        for process in self._processes:
            process.kill()
        adopted: set[int] = set()
        deadline = time.monotonic() + _CLOSE_S
        while time.monotonic() < deadline:
            if all(process.poll() is not None for process in self._processes):
                adopted |= self._orphans()
                adopted = {pid for pid in adopted if not _collected(pid)}
                if not adopted:
                    break
            time.sleep(_POLL_S)
        self._processes.clear()
        prctl(PR_SET_CHILD_SUBREAPER, 0)

    def close(self) -> None:
        self.release()

    def _orphans(self) -> set[int]:
        """Kills and lists what killed guards have left to this process."""
        lost = [process for process in self._processes if process.guard_killed]
        if not lost:
            return set()
        marks = [f"{MARK}={process.mark}".encode() for process in lost]
        left = [pid for pid in descendants(os.getpid()) if _has(pid, marks)]
        send_all(left, signal.SIGKILL)
        return {*left, *(process.pid for process in lost if process.pid is not None)}


def _has(pid: int, marks: list[bytes]) -> bool:
    """Whether one of the variables ``marks`` is in a process's environment."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(mark in variables for mark in marks)


def _collected(pid: int) -> bool:
    """Whether an adopted process has ended; takes its zombie away."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return not Path(f"/proc/{pid}").exists()


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that are free now. Raises ClusterError."""
    ports: list[int] = []
    for port in random.sample(_PORTS, count * _TRIES):
        if len(ports) == count:
            return ports
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            ports.append(port)
    raise ClusterError(f"no {count} free ports found in {_PORTS.start} to {_PORTS.stop - 1}")


def allocate(host: Host, workers: int, device: str, process_per: str = "device") -> Allocation:
    """The slots of ``workers`` workers on ``host``, for ``device`` auto, cuda or cpu. Pure.

    "auto" takes GPUs where there is one, and CPU workers on a machine without: never a few
    workers on GPUs and others not, and never fewer than asked for. With ``process_per`` "host"
    all devices are one process's. Raises ClusterError.
    """
    chosen = _device(host, workers, device)
    noun = "CPU worker" if process_per == "device" else "logical CPU device"
    taken = host.gpus[:workers] if chosen == "cuda" else ()
    each: list[tuple[Gpu, ...]] = [(gpu,) for gpu in taken] or [()] * workers
    places = [taken] if process_per == "host" else each
    notes = []
    if chosen == "cpu" and device == "auto":
        notes.append(f"no GPU{_hidden(host)}: {_count(workers, noun)}")
    cores = host.cores / workers
    if cores < 1:
        notes.append(f"oversubscribed: {_count(workers, noun)} on {_count(host.cores, 'core')}")
    return Allocation(
        slots=tuple(
            Slot(
                host=host.name,
                host_index=0,
                local_rank=local_rank,
                devices=gpus,
                count=workers if process_per == "host" else 1,
                host_devices=tuple(str(gpu.index) for gpu in taken),
                cpus=_near(host, gpus),
            )
            for local_rank, gpus in enumerate(places)
        ),
        device=chosen,
        cores_per_worker=cores,
        noun=noun,
        linked=linked(taken),
        notes=tuple(notes),
    )


def linked(gpus: tuple[Gpu, ...]) -> bool:
    """Whether each of a host's GPUs reaches all others through NVLink."""
    return all(other.index in gpu.nvlinked for gpu in gpus for other in gpus if other != gpu)


def _near(host: Host, gpus: tuple[Gpu, ...]) -> tuple[int, ...]:
    """The processors of the GPUs' NUMA nodes; none where a node is unknown or there are no GPUs."""
    nodes = sorted({-1 if gpu.numa_node is None else gpu.numa_node for gpu in gpus})
    if any(node not in host.numa_cpus for node in nodes):
        return ()
    return tuple(cpu for node in nodes for cpu in host.numa_cpus[node])


def _device(host: Host, workers: int, device: str) -> Device:
    if device == "cpu" or (device == "auto" and not host.gpus and not host.gpu_problem):
        return "cpu"
    if not host.gpus:
        why = host.gpu_problem or f"{host.name} has no GPU{_hidden(host)}"
        raise ClusterError(f"{why}; ask for --device cpu to train on CPU workers")
    if len(host.gpus) < workers:
        raise ClusterError(
            f"{_count(workers, 'GPU')} asked for, {host.name} has {len(host.gpus)}{_hidden(host)}: "
            f"{', '.join(gpu.name for gpu in host.gpus)}; ask for fewer, or for --device cpu"
        )
    return "cuda"


def _hidden(host: Host) -> str:
    return f" ({host.gpus_hidden} hidden by CUDA_VISIBLE_DEVICES)" if host.gpus_hidden else ""


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
