"""What a cluster is, and the plain data that goes in and out of it. Stdlib only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

Device = Literal["cuda", "cpu"]


class ClusterError(Exception):
    """The cluster cannot give what was asked for; the text says what it has."""


class NoRoom(ClusterError):
    """It cannot now, but may later: others use what it has, or it may grow."""


@dataclass(frozen=True, kw_only=True)
class ClusterSpec:
    """Where workers run. What only some kinds know is None or empty for the others.

    ``devices``: local, the GPUs that may be used, by NVML's index or UUID, empty for all;
    ``address``: ray, an existing cluster's, None for a Ray of the job's own on this machine;
    ``placement``: ray, how workers spread over nodes; ``gpus_per_node``: ray, exactly so many
    workers on each node that is used; ``cpus_per_worker``, ``resources_per_worker``: ray, what a
    worker holds beside its GPU; ``labels``: ray, a selector of nodes; ``exclude``: ray, patterns of
    files that are not sent with a script; ``ships_folder``: whether the job is a script, whose
    folder nodes have to get; ``price_per_gpu_hour``: in whatever currency; ``env``: variables for
    the workers.
    """

    kind: str = "local"
    name: str = ""
    devices: tuple[str, ...] = ()
    address: str | None = None
    placement: Literal["pack", "spread", "strict-pack", "strict-spread"] = "pack"
    gpus_per_node: int | None = None
    cpus_per_worker: float = 1
    resources_per_worker: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    ships_folder: bool = False
    price_per_gpu_hour: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)


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

    Of a Ray cluster's node: ``node``, Ray's id of it; ``total`` and ``free``, its resources as Ray
    counts them; ``labels``; ``problem``, why no worker may be placed on it now.
    """

    name: str
    cores: int
    address: str = "127.0.0.1"
    gpus: tuple[Gpu, ...] = ()
    gpus_hidden: int = 0
    gpu_problem: str = ""
    numa_cpus: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    node: str = ""
    total: Mapping[str, float] = field(default_factory=dict)
    free: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""

    @property
    def gpu_count(self) -> int:
        """Of those that this host offers, or that Ray says it has."""
        return len(self.gpus) or int(self.total.get("GPU", 0))


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one process: ``devices`` are its GPUs, none for CPU workers.

    ``host_devices``: CUDA_VISIBLE_DEVICES' value for the host's devices of this job; ``cpus``: the
    processors to bind the worker to, empty for no binding; ``port``: one at ``address`` that is
    free for this process, 0 until the slot is claimed, as ``interface`` (that of the address) and
    ``devices`` may be empty until then; ``count``: how many devices it has.
    """

    host: str
    host_index: int
    local_rank: int
    count: int = 1
    address: str = "127.0.0.1"
    interface: str = "lo"
    port: int = 0
    node: str = ""
    devices: tuple[Gpu, ...] = ()
    host_devices: tuple[str, ...] = ()
    cpus: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """The slots of a job, in rank order, and how many cores each of its devices has.

    ``noun``: what the job's devices are called, "CPU worker" for one; ``linked``: whether each of
    its GPUs reaches all others through NVLink; ``chosen_for_us``: whether nobody asked for just
    this ``device``.
    """

    slots: tuple[Slot, ...]
    device: Device
    cores_per_worker: float
    noun: str = "CPU worker"
    linked: bool = False
    notes: tuple[str, ...] = ()
    chosen_for_us: bool = False

    @property
    def workers(self) -> int:
        """The number of devices."""
        return sum(slot.count for slot in self.slots)

    @property
    def hosts(self) -> int:
        return len({slot.host_index for slot in self.slots})


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """All that is needed to start one worker; ``env`` is what is added to the environment.

    ``folder``: the run's, below which all its files lie. On another host the worker has a folder
    of its own instead, ``inputs`` are copied there (names in it, and where they come from), and
    what appears in it is copied back. ``beside``: a command that has to run next to the worker.
    """

    rank: int
    slot: Slot
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log_path: Path
    events_path: Path
    result_path: Path
    folder: Path = Path()
    inputs: Mapping[str, Path] = field(default_factory=dict)
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a worker ended.

    ``code``: its exit code, or minus the number of the signal that killed it; ``time``: when, in
    seconds since 1970; ``evidence``: what the host knows about the cause, "" if nothing;
    ``lost_host``: whether its host is gone with it.
    """

    code: int
    time: float
    pid: int | None
    evidence: str = ""
    lost_host: bool = False


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
    """Hosts to run workers on. ``close`` ends whatever the other calls have begun."""

    @property
    def remote(self) -> bool:
        """Whether workers may run where this process's files and servers are out of reach."""

    @property
    def settle_s(self) -> float:
        """How long it may take to see which worker failed first, after others have lost it."""

    def probe(self) -> tuple[Host, ...]:
        """What the cluster's hosts offer now. Raises ClusterError."""

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        """Decides the slots of ``workers`` devices. Pure. Raises ClusterError."""

    def claim(self, allocation: Allocation) -> Allocation:
        """Takes hold of the slots: their devices, addresses and ports. Raises ClusterError."""

    def ask(self, module: str, *arguments: str) -> dict[str, str]:
        """What ``python -m module`` prints on each claimed host, by the host's name."""

    def start(self, plan: WorkerPlan) -> Worker:
        """Starts a worker in its claimed slot, and returns at once."""

    def release(self) -> None:
        """Ends all workers and gives the slots back; another claim may follow."""

    def close(self) -> None:
        """Clears away whatever is left of all workers, and leaves the cluster."""
