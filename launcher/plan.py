"""From a job and its slots to what each worker runs. Pure: nothing is read, nothing is started."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import strategies
from clusters.base import Allocation, WorkerPlan
from launcher.job import JobSpec, UserError
from strategies.base import (
    EVENTS_VARIABLE,
    GO_VARIABLE,
    RESULT_VARIABLE,
    Rank,
    Strategy,
    TrainConfig,
)
from strategies.mnist.models import MODELS
from strategies.mnist.order import largest_share

_FLOPS_A_THREAD = 20_000_000
# glibc may give freed memory back to the kernel and fault it in again at every step, depending on
# what was allocated before (mallopt(3), M_MMAP_THRESHOLD). With these it keeps what a step needs.
_ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}
# What the user's environment may set otherwise.
_YIELDING = {
    *_ALLOCATOR,
    "OMP_NUM_THREADS",
    "GLOO_SOCKET_IFNAME",
    "HOROVOD_CYCLE_TIME",
    "NCCL_SOCKET_IFNAME",
    "PYTHONUNBUFFERED",
}


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Where a run keeps its files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "job.json"

    @property
    def report(self) -> Path:
        return self.path / "report.json"

    @property
    def losses(self) -> Path:
        return self.path / "losses.csv"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    def log(self, rank: int) -> Path:
        return self.path / "logs" / f"rank-{rank}.log"

    def events(self, rank: int) -> Path:
        return self.path / "events" / f"rank-{rank}.jsonl"

    def result(self, rank: int) -> Path:
        return self.path / "results" / f"rank-{rank}.json"


def choose_exchange(job: JobSpec, strategy: Strategy, allocation: Allocation) -> str:
    """What carries the gradients. Raises UserError for what the devices cannot do."""
    try:
        return strategy.choose_exchange(
            job.exchange,
            device=allocation.device,
            devices=job.gpus // len(allocation.slots),
            linked=allocation.linked,
        )
    except ValueError as error:
        raise UserError(f"{job.origin('exchange')}: {error}") from None


def make_config(
    job: JobSpec,
    strategy: Strategy,
    allocation: Allocation,
    folder: RunFolder,
    environ: Mapping[str, str],
) -> TrainConfig:
    """What every process of the built-in training is told. Raises UserError."""
    return TrainConfig(
        strategy=job.strategy,
        model=job.model,
        epochs=job.epochs,
        steps=job.steps,
        batch_size=job.batch_size,
        accumulate=job.accumulate,
        lr=job.lr,
        warmup_lr=job.warmup_lr,
        warmup_steps=job.warmup_steps,
        momentum=job.momentum,
        validation=job.validation,
        seed=job.seed,
        device=allocation.device,
        devices=job.gpus // len(allocation.slots),
        precision=job.precision,
        exchange=choose_exchange(job, strategy, allocation),
        cuda_graphs=job.cuda_graphs and allocation.device == "cuda",
        threads=threads_for(job, allocation, environ),
        oversubscribed=allocation.cores_per_worker < 1,
        baseline=job.baseline,
        data=job.data_dir,
        resume=job.resume,
        checkpoints=str(folder.checkpoints),
        tensorboard=str(folder.tensorboard) if job.tensorboard else None,
    )


def thread_limit(allocation: Allocation, environ: Mapping[str, str]) -> int:
    """Compute threads a worker may use: OMP_NUM_THREADS if the user set it, else its cores."""
    setting = environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = max(1, int(allocation.cores_per_worker))
    return int(setting) if setting.isdigit() and int(setting) else cores


def threads_for(job: JobSpec, allocation: Allocation, environ: Mapping[str, str]) -> int:
    """Compute threads of a worker of the built-in training.

    On a CPU a second thread pays from some 20 million floating-point operations a step
    (``docs/measured.md``); below, waiting for each other costs the threads more than they gain.
    What the user set in OMP_NUM_THREADS stands.
    """
    limit = thread_limit(allocation, environ)
    if "OMP_NUM_THREADS" in environ or allocation.device == "cuda":
        return limit
    work = MODELS[job.model].flops * largest_share(job.batch_size, job.gpus)
    return max(1, min(limit, work // _FLOPS_A_THREAD))


def make_plans(
    job: JobSpec,
    strategy: Strategy,
    allocation: Allocation,
    folder: RunFolder,
    port: int,
    environ: Mapping[str, str],
) -> tuple[WorkerPlan, ...]:
    """One plan a worker, in rank order. ``environ`` is what the workers inherit."""
    world = len(allocation.slots)
    limit = thread_limit(allocation, environ)
    shared = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_WORLD_SIZE": str(world),
        "MASTER_ADDR": allocation.master_addr,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": folder.path.name,
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "OMP_NUM_THREADS": str(limit),
        "PYTHONUNBUFFERED": "1",
        # One host: nothing has to leave it, and a host name that does not resolve can do no harm.
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        **_ALLOCATOR,
    }
    plans = []
    for rank, slot in enumerate(allocation.slots):
        place = Rank(
            rank=rank,
            local_rank=slot.local_rank,
            world_size=world,
            local_world_size=world,
            master_addr=allocation.master_addr,
            master_port=port,
        )
        given = shared | strategy.environ(place, allocation.device)
        given |= {name: environ[name] for name in _YIELDING if name in environ}
        own = {
            "RANK": str(rank),
            "ROLE_RANK": str(rank),
            "LOCAL_RANK": str(slot.local_rank),
            "CUDA_VISIBLE_DEVICES": ",".join(slot.host_devices),
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            EVENTS_VARIABLE: str(folder.events(rank)),
            RESULT_VARIABLE: str(folder.result(rank)),
        }
        argv, more = _command(job, folder, environ)
        plans.append(
            WorkerPlan(
                rank=rank,
                slot=slot,
                argv=argv,
                env=given | own | more,
                log_path=folder.log(rank),
                events_path=folder.events(rank),
                result_path=folder.result(rank),
            )
        )
    return tuple(plans)


def _command(
    job: JobSpec, folder: RunFolder, environ: Mapping[str, str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The worker's command and the variables that only it needs."""
    if job.script:
        program = (sys.executable,) if job.script[0].endswith(".py") else ()
        return (*program, *job.script), {}
    root = str(Path(strategies.__file__).parent.parent)
    inherited = environ.get("PYTHONPATH")
    # The user's folder may have a "strategies" of its own: keep it out of the built-in worker.
    path = f"{root}:{inherited}" if inherited else root
    argv = (sys.executable, "-m", "strategies.worker", str(folder.config))
    return argv, {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", GO_VARIABLE: ""}


def describe(
    job: JobSpec, allocation: Allocation, config: TrainConfig, plans: tuple[WorkerPlan, ...]
) -> str:
    """What a dry run prints: each setting with its origin, then each worker with its variables."""
    lines = ["Settings"]
    for name, source in job.sources.items():
        lines.append(f"  {name:<13} {_show(getattr(job, name))}  ({source})")
    lines.append(
        f"Decided: {allocation.device}, {config.threads} compute threads a worker, "
        f"gradients by {config.exchange}"
    )
    lines += [f"  {note}" for note in allocation.notes]
    for plan in plans:
        gpus = ", ".join(str(gpu.index) for gpu in plan.slot.devices)
        where = f"GPU {gpus}" if gpus else "CPU"
        lines.append(f"Worker {plan.rank} on {plan.slot.host}, {where}")
        lines.append(f"  {' '.join(plan.argv)}")
        if plan.slot.cpus:
            lines.append(f"  bound to processors {json.dumps(list(plan.slot.cpus))}")
        lines += [f"  {name}={value}" for name, value in sorted(plan.env.items())]
    return "\n".join(lines)


def _show(value: object) -> str:
    return "-" if value is None else str(value)
