"""From a job and its slots to what each worker runs. Pure: nothing is read, nothing is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import strategies
from clusters.base import Allocation, Slot, WorkerPlan
from launcher.errors import UserError
from launcher.folder import RunFolder
from launcher.job import JobSpec
from launcher.variables import contract, defaults, thread_limit, wanted
from strategies.base import GO_VARIABLE, Peer, Rank, Strategy, TrainConfig
from strategies.mnist.models import MODELS
from strategies.mnist.order import largest_share

_FLOPS_A_THREAD = 20_000_000
RESUMED = "resume.safetensors"


def choose_exchange(job: JobSpec, strategy: Strategy, allocation: Allocation) -> str:
    """What carries the gradients. Raises UserError for what the devices cannot do."""
    try:
        return strategy.choose_exchange(
            job.exchange,
            device=allocation.device,
            devices=job.gpus // len(allocation.slots),
            linked=allocation.linked,
            hosts=allocation.hosts,
        )
    except ValueError as error:
        raise UserError(f"{job.origin('exchange')}: {error}") from None


def make_config(
    job: JobSpec,
    strategy: Strategy,
    allocation: Allocation,
    folder: RunFolder,
    environ: Mapping[str, str],
    *,
    remote: bool = False,
) -> TrainConfig:
    """What every process of the built-in training is told. Raises UserError.

    ``remote``: whether workers run where this host's files are not.
    """
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
        resume=RESUMED if job.resume and remote else job.resume,
        checkpoints=folder.checkpoints.name,
        tensorboard=folder.tensorboard.name if job.tensorboard else None,
    )


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
    environ: Mapping[str, str],
    *,
    env: Mapping[str, str] | None = None,
    remote: bool = False,
) -> tuple[WorkerPlan, ...]:
    """One plan a worker, in rank order.

    ``environ``: the launcher's environment, which workers on its host inherit; ``env``: the cluster
    file's variables; ``remote``: whether workers run where this host's files and servers are not.
    """
    slots = allocation.slots
    peers = tuple(
        Peer(host=slot.host_index, address=slot.address, port=slot.port, interface=slot.interface)
        for slot in slots
    )
    server = strategy.beside(slots[0].address, slots[0].port) if remote else ()
    argv, more = _command(job, folder, environ, remote=remote)
    plans = []
    for number, slot in enumerate(slots):
        rank = _rank(number, slots)
        given = contract(job, allocation, folder, rank) | defaults(allocation, slot, environ)
        given |= strategy.environ(rank, peers, allocation.device)
        given |= wanted(given, env or {}, environ, remote=remote)
        plans.append(
            WorkerPlan(
                rank=number,
                slot=slot,
                argv=argv,
                env=given | more,
                log_path=folder.log(number),
                events_path=folder.events(number),
                result_path=folder.result(number),
                folder=folder.path,
                inputs=_inputs(job, folder) if remote else {},
                beside=(sys.executable, "-m", *server) if server and number == 0 else (),
            )
        )
    return tuple(plans)


def _rank(number: int, slots: tuple[Slot, ...]) -> Rank:
    slot = slots[number]
    return Rank(
        rank=number,
        local_rank=slot.local_rank,
        world_size=len(slots),
        local_world_size=sum(other.host_index == slot.host_index for other in slots),
        master_addr=slots[0].address,
        master_port=slots[0].port,
    )


def _inputs(job: JobSpec, folder: RunFolder) -> dict[str, Path]:
    """The files that a built-in worker reads, by their names in its folder."""
    if job.script:
        return {}
    inputs = {folder.config.name: folder.config}
    if job.resume:
        inputs[RESUMED] = Path(job.resume)
    return inputs


def _command(
    job: JobSpec, folder: RunFolder, environ: Mapping[str, str], *, remote: bool
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
    if remote:  # the node has its own place for what it was sent
        return argv, {"PYTHONSAFEPATH": "1"}
    return argv, {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", GO_VARIABLE: ""}
