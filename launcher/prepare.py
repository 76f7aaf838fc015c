"""From what was given to all decisions of a run. Reads; starts and writes nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from clusters import REQUIRES, load_cluster
from clusters.base import Allocation, Cluster, ClusterError, WorkerPlan
from launcher.job import Given, JobSpec, NotSetUp, UserError, choose_strategy, resolve
from launcher.plan import RunFolder, make_config, make_plans
from strategies import load_strategy
from strategies.base import Strategy, TrainConfig
from strategies.mnist.data import DataError, check


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All decisions of a run. ``config`` is what the built-in training is told.

    ``started``: when the command was, in seconds since 1970.
    """

    job: JobSpec
    strategy: Strategy
    cluster: Cluster
    allocation: Allocation
    folder: RunFolder
    config: TrainConfig
    plans: tuple[WorkerPlan, ...]
    started: float

    @property
    def conditions(self) -> str:
        """What must stand beside every figure; "" for GPUs."""
        if self.allocation.device == "cuda":
            return ""
        workers = self.job.gpus
        text = f"{workers} {self.allocation.noun}{'' if workers == 1 else 's'}"
        return text + (", oversubscribed" if self.allocation.cores_per_worker < 1 else "")


def prepare(given: Mapping[str, Given], out: Path | None) -> Prepared:
    """Reads what the decisions need and decides. Raises UserError."""
    values, checkpoint, samples = _read_inputs(given)
    strategy = load_strategy(choose_strategy(values, checkpoint))
    cluster = load_cluster(strategy.cluster)
    host = cluster.probe()
    job = resolve(
        values,
        default_gpus=len(host.gpus) or 1,
        samples=samples,
        checkpoint=checkpoint,
        exchanges=strategy.exchanges,
    )
    _require(strategy, job)
    try:
        allocation = cluster.allocate(host, job.gpus, job.device, strategy.process_per)
        port = cluster.free_port()
    except ClusterError as error:
        raise UserError(f"{job.origin('gpus')}: {error}") from None
    if job.precision == "tf32" and allocation.device == "cpu":
        raise UserError(f"{job.origin('precision')}: only GPUs have it; take fp32 or bf16")
    folder = RunFolder(path=_folder(out, job))
    return Prepared(
        job=job,
        strategy=strategy,
        cluster=cluster,
        allocation=allocation,
        folder=folder,
        config=make_config(job, strategy, allocation, folder, os.environ),
        plans=make_plans(job, strategy, allocation, folder, port, os.environ),
        started=psutil.Process().create_time(),
    )


def _read_inputs(
    given: Mapping[str, Given],
) -> tuple[dict[str, Given], dict[str, Any] | None, int]:
    """What was given with absolute paths, the checkpoint's header, the number of samples."""
    values = dict(given)
    checkpoint = None
    if "resume" in values:
        from strategies.mnist.checkpoint import CheckpointError, latest, read_header

        place = values["resume"]
        try:
            path = latest(Path(place.value))
            header = read_header(path)
        except CheckpointError as error:
            raise UserError(f"{place.source} {place.value}: {error}") from None
        values["resume"] = Given(str(path.absolute()), place.source)
        checkpoint = asdict(header) | {"data_dir": header.data}
    if "data_dir" in values:
        folder = values["data_dir"]
        values["data_dir"] = Given(str(Path(folder.value).absolute()), folder.source)
    data = values.get("data_dir", Given((checkpoint or {}).get("data_dir"), "the checkpoint"))
    try:
        return values, checkpoint, check(Path(data.value) if data.value else None)
    except DataError as error:
        raise UserError(f"{data.source} {data.value}: {error}") from None


def _require(strategy: Strategy, job: JobSpec) -> None:
    """Refuses what is not installed. A script brings its own framework, not its cluster's."""
    needed = REQUIRES.get(strategy.cluster, ())
    if not job.script:
        needed = (*strategy.requires, *needed)
    if job.tensorboard:
        needed = (*needed, "tensorboard")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        extras = sorted(
            {"tensorboard" if n == "tensorboard" else strategy.install for n in missing}
        )
        raise UserError(
            f"strategy {strategy.name} needs {', '.join(missing)}, not installed in "
            f"{sys.prefix}: pip install 'troika-launcher[{','.join(extras)}]'"
        )
    if problem := strategy.missing():
        raise NotSetUp(f"strategy {strategy.name}: {problem}", what=strategy.name)


def _folder(out: Path | None, job: JobSpec) -> Path:
    what = Path(job.script[0]).stem if job.script else f"{job.strategy}-{job.model}"
    return choose_folder(out, what)


def choose_folder(out: Path | None, what: str) -> Path:
    """A folder for what is done now: ``out``, else runs/TIME-``what``. Raises UserError."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"--out {out}: is not an empty folder; name another one")
        return out.absolute()
    base = Path("runs").absolute() / f"{datetime.now():%Y%m%d-%H%M%S}-{what}"
    number = 1
    path = base
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path
