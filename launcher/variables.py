"""The variables in a worker's environment: ours, the field's, the user's. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from clusters.base import Allocation, Slot
from launcher.folder import RunFolder
from launcher.job import JobSpec
from strategies.base import EVENTS_VARIABLE, RESULT_VARIABLE, Rank

# glibc may give freed memory back to the kernel and fault it in again at every step, depending on
# what was allocated before (mallopt(3), M_MMAP_THRESHOLD). With these it keeps what a step needs.
_ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# What the user's environment or the cluster file may set otherwise.
_YIELDING = {
    *_ALLOCATOR,
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    "HOROVOD_CYCLE_TIME",
    "NCCL_SOCKET_IFNAME",
    "PYTHONUNBUFFERED",
}
# Of the launcher's environment, what a worker on another host gets: settings of the frameworks.
_SENT = (
    *("GLOO_", "HOROVOD_", "KMP_", "MKL_", "NCCL_", "OMP_", "TORCH_", "XLA_"),
    *("TF_CPP_", "TF_DETERMINISTIC_", "TF_ENABLE_", "TF_FORCE_", "TF_GPU_", "TF_XLA_"),
)

_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def own_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the OMP_NUM_THREADS=1 that Ray gives to every job's driver.

    One that the user has set for the job is in its runtime environment, and stays.
    """
    job = json.loads(environ.get(_RAY_JOB, "{}")).get("runtime_env") or {}
    rays = _RAY_JOB in environ and "OMP_NUM_THREADS" not in job.get("env_vars", {})
    return {n: v for n, v in environ.items() if not (rays and n == "OMP_NUM_THREADS")}


def thread_limit(allocation: Allocation, environ: Mapping[str, str]) -> int:
    """Compute threads a worker may use: OMP_NUM_THREADS if the user set it, else its cores."""
    setting = environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = max(1, int(allocation.cores_per_worker))
    return int(setting) if setting.isdigit() and int(setting) else cores


def contract(job: JobSpec, allocation: Allocation, folder: RunFolder, rank: Rank) -> dict[str, str]:
    """torchrun's variables, and ours: nobody may set them otherwise."""
    slot = allocation.slots[rank.rank]
    return {
        "RANK": str(rank.rank),
        "LOCAL_RANK": str(rank.local_rank),
        "WORLD_SIZE": str(rank.world_size),
        "LOCAL_WORLD_SIZE": str(rank.local_world_size),
        "GROUP_RANK": str(slot.host_index),
        "GROUP_WORLD_SIZE": str(allocation.hosts),
        "ROLE_RANK": str(rank.rank),
        "ROLE_WORLD_SIZE": str(rank.world_size),
        "MASTER_ADDR": rank.master_addr,
        "MASTER_PORT": str(rank.master_port),
        "TORCHELASTIC_RUN_ID": folder.path.name,
        "TORCHELASTIC_RESTART_COUNT": str(folder.restarts),
        "TORCHELASTIC_MAX_RESTARTS": str(job.max_restarts),
        "CUDA_VISIBLE_DEVICES": ",".join(slot.host_devices),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        EVENTS_VARIABLE: str(folder.events(rank.rank)),
        RESULT_VARIABLE: str(folder.result(rank.rank)),
    }


def defaults(allocation: Allocation, slot: Slot, environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker gets unless the user sets it otherwise."""
    return {
        "OMP_NUM_THREADS": str(thread_limit(allocation, environ)),
        "PYTHONUNBUFFERED": "1",
        # On one host nothing has to leave it, and a name that does not resolve can do no harm.
        "GLOO_SOCKET_IFNAME": slot.interface,
        "NCCL_SOCKET_IFNAME": slot.interface,
        **_ALLOCATOR,
    }


def wanted(
    given: Mapping[str, str], env: Mapping[str, str], environ: Mapping[str, str], *, remote: bool
) -> dict[str, str]:
    """What the user sets: in the cluster file, or in the environment, which wins."""
    wanted = dict(env)
    for name, value in environ.items():
        if name in _YIELDING or name in env or (remote and name.startswith(_SENT)):
            wanted[name] = value
    return {n: v for n, v in wanted.items() if n in _YIELDING or n not in given}
