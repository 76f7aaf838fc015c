"""From what was given to all decisions of a run. Reads; starts and writes nothing."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from clusters import REQUIRES, load_cluster
from clusters.base import Allocation, Cluster, ClusterError, WorkerPlan
from launcher.errors import NotSetUp, UserError
from launcher.folder import RunFolder
from launcher.job import Given, JobSpec, choose_strategy, resolve
from launcher.output import Output
from launcher.place import Place, choose_place, read_file, script_there, with_file
from launcher.plan import make_config, make_plans
from launcher.room import Wait, find_room
from launcher.variables import own_environ
from strategies import load_strategy
from strategies.base import Strategy, TrainConfig
from strategies.mnist.data import DataError, check


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """All decisions of a run. ``config`` is what the built-in training is told.

    ``asked``: the job as it was asked for; ``job`` differs from it after a restart. ``started``:
    when the command was, in seconds since 1970. Whoever has one closes it.
    """

    asked: JobSpec
    job: JobSpec
    strategy: Strategy
    place: Place
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
        workers = self.allocation.workers
        text = f"{workers} {self.allocation.noun}{'' if workers == 1 else 's'}"
        return text + (", oversubscribed" if self.allocation.cores_per_worker < 1 else "")

    @property
    def sources(self) -> dict[str, str]:
        """Where each setting came from, those of the place included."""
        return {**self.job.sources, **self.place.sources}

    def close(self) -> None:
        self.cluster.close()

    def decided(self, **changes: Any) -> Prepared:
        """The same run with another job, allocation or folder: configuration and plans follow."""
        new = replace(self, **changes)
        config, plans = _follow(
            new.job, new.strategy, new.place, new.cluster, new.allocation, new.folder
        )
        return replace(new, config=config, plans=plans)


def prepare(given: Mapping[str, Given], out: Path | None, output: Output) -> Prepared:
    """Reads what the decisions need and decides; waits for room if asked to. Raises UserError."""
    file = read_file(given)
    values, checkpoint, samples = _read_inputs(with_file(given, file))
    strategy = load_strategy(choose_strategy(values, checkpoint))
    place = choose_place(given, os.environ, strategy.cluster, file)
    cluster = load_cluster(place.spec)
    if not cluster.remote:
        _require(strategy, place.spec.kind, values)
    elif "script" in values:
        words, source = tuple(values["script"].value), values["script"].source
        values["script"] = Given(script_there(words, source, Path.cwd()), source)
    try:
        hosts = cluster.probe()
        job = resolve(
            values,
            default_gpus=sum(host.gpu_count for host in hosts) or 1,
            samples=samples,
            checkpoint=checkpoint,
            exchanges=strategy.exchanges,
        )
        with closing(Wait(output)) as wait:
            allocation = find_room(cluster, hosts, job, strategy, wait)
        if job.precision == "tf32" and allocation.device == "cpu":
            raise UserError(f"{job.origin('precision')}: only GPUs have it; take fp32 or bf16")
        folder = RunFolder(path=_folder(out, job))
        config, plans = _follow(job, strategy, place, cluster, allocation, folder)
    except ClusterError as error:
        cluster.close()
        raise UserError(f"{place.title}: {error}") from None
    except BaseException:
        cluster.close()
        raise
    return Prepared(
        asked=job,
        job=job,
        strategy=strategy,
        place=place,
        cluster=cluster,
        allocation=allocation,
        folder=folder,
        config=config,
        plans=plans,
        started=psutil.Process().create_time(),
    )


def _follow(
    job: JobSpec,
    strategy: Strategy,
    place: Place,
    cluster: Cluster,
    allocation: Allocation,
    folder: RunFolder,
) -> tuple[TrainConfig, tuple[WorkerPlan, ...]]:
    """What follows from the rest."""
    remote, environ = cluster.remote, own_environ(os.environ)
    config = make_config(job, strategy, allocation, folder, environ, remote=remote)
    plans = make_plans(
        job, strategy, allocation, folder, environ, env=place.spec.env, remote=remote
    )
    return config, plans


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


def _require(strategy: Strategy, kind: str, values: Mapping[str, Given]) -> None:
    """Refuses what is not installed. A script brings its own framework, not its cluster's."""
    needed = REQUIRES.get(kind, ())
    if "script" not in values:
        needed = (*strategy.requires, *needed)
    if "tensorboard" in values and values["tensorboard"].value:
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
