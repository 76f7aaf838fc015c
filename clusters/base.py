"""What a cluster is, and the plain data that goes in and out of it. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Device = Literal["cuda", "cpu"]


class ClusterError(Exception):
    """The cluster cannot give what was asked for; the text says what it has."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of a host: ``index`` as NVML counts, ``numa_node`` None if unknown or only one.

    ``nvlinked``: the indices of the GPUs that it reaches through NVLink.
    """

    index: int
    uuid: str
    name: str
    memory_bytes: int
    numa_node: int | None = None
    nvlinked: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Host:
    """What a host offers to a job.

    ``cores``: how many the job may use (affinity and cgroup quota counted in); ``gpus``: those
    that CUDA_VISIBLE_DEVICES leaves; ``gpus_hidden``: how many it hides; ``gpu_problem``: why GPUs
    could not be looked up; ``numa_cpus``: processors of each NUMA node, empty if there is one.
    """

    name: str
    cores: int
    gpus: tuple[Gpu, ...] = ()
    gpus_hidden: int = 0
    gpu_problem: str = ""
    numa_cpus: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one process: ``devices`` are its GPUs, none for CPU workers.

    ``host_devices``: CUDA_VISIBLE_DEVICES' value for the host's devices of this job; ``cpus``: the
    processors to bind the worker to, empty for no binding.
    """

    host: str
    host_index: int
    local_rank: int
    devices: tuple[Gpu, ...] = ()
    host_devices: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The slots of a job, in rank order, and how many cores each of its devices has.

    ``noun``: what the job's devices are called, "CPU worker" for one; ``linked``: whether each of
    its GPUs reaches all others through NVLink.
    """

    slots: tuple[Slot, ...]
    device: Device
    cores_per_worker: float
    master_addr: str
    noun: str = "CPU worker"
    linked: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """All that is needed to start one worker; ``env`` is what is added to the environment."""

    rank: int
    slot: Slot
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    events_path: Path
    result_path: Path


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a worker ended.

    ``code``: its exit code, or minus the number of the signal that killed it; ``time``: when, in
    seconds since 1970; ``evidence``: what the host knows about the cause, "" if nothing.
    """

    code: int
    time: float
    pid: int | None
    evidence: str = ""


class Worker(Protocol):
    """A started worker. No call blocks."""

    plan: WorkerPlan

    @property
    def pid(self) -> int | None:
        """The process on its host; None until it is known."""

    def poll(self) -> Ended | None:
        """How it ended; None while it runs or leaves children to be cleared away."""

    def terminate(self) -> None:
        """Asks the worker and its children to end (SIGTERM)."""

    def kill(self) -> None:
        """Ends the worker and all its descendants (SIGKILL)."""


class Cluster(Protocol):
    """Hosts to run workers on."""

    def probe(self) -> Host:
        """What the cluster's host offers now."""

    def allocate(self, host: Host, workers: int, device: str, process_per: str) -> Allocation:
        """Decides the slots of ``workers`` devices. Pure. Raises ClusterError."""

    def free_port(self) -> int:
        """A TCP port that is free on the first host."""

    def start(self, plan: WorkerPlan) -> Worker:
        """Starts a worker and returns at once."""

    def close(self) -> None:
        """Clears away whatever is left of all workers."""
