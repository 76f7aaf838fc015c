"""A training that gets a cluster of its own: how many nodes, what they have, what runs. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from launcher.errors import UserError
from launcher.job import Given

RAY_VERSION = "2.60.0"
OF_A_READY_RAY = ("address", "labels", "placement", "resources_per_worker")
"""Keys of a cluster file that choose among the nodes of a Ray that is there already."""
_MOST_PER_NODE = 8
_CORES_PER_GPU = 4
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class ClusterJob:
    """What a cluster is made for: ``workers`` on ``nodes`` nodes, ``per_node`` on each.

    ``on_gpus``: whether each worker gets a GPU; ``cores``: of a node; ``extra``: what the nodes
    need of this package, as in ``pip install 'troika-launcher[EXTRA]'``; ``script``: the user's,
    "" for the built-in training; ``arguments``: the launcher's own, but for its --address;
    ``variables``: those that set its options too.
    """

    name: str
    workers: int
    per_node: int
    on_gpus: bool
    cores: float
    extra: str
    script: str
    arguments: tuple[str, ...]
    variables: Mapping[str, str]

    @property
    def nodes(self) -> int:
        return self.workers // self.per_node

    @property
    def whole_cores(self) -> int:
        """``cores`` where only whole ones can be asked for."""
        return ceil(self.cores)

    def summary(self) -> str:
        """What the cluster is, in a few words for a comment."""
        one = "GPU" if self.on_gpus else "CPU worker"
        return (
            f"{self.workers} {one}{'s' * (self.workers > 1)}: "
            f"{self.nodes} node{'s' * (self.nodes > 1)} with {self.per_node}"
        )


def cluster_job(
    values: Mapping[str, Any],
    training: Mapping[str, Given],
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    name: Given | None,
    extra: str,
    origin: Callable[[str], str],
) -> ClusterJob:
    """Decides the cluster of a training. Raises UserError.

    ``values`` are the cluster file's, ``origin`` says where in it a key stands; ``training`` are
    the training's settings: from its ``arguments``, from ``environ``, or from the file; ``name``
    is what the user calls the job.
    """
    for key in ("address", "cluster"):
        if key in training and _flag(training[key]):
            raise UserError(
                f"{training[key].source} {training[key].value} behind --: the training runs on "
                "the cluster that the manifest makes; leave it out"
            )
    gpus = _gpus(training)
    on_gpus = "device" not in training or training["device"].value != "cpu"
    per_node = _per_node(gpus, values, origin)
    each = values.get("cpus_per_worker", _CORES_PER_GPU if on_gpus else 1)
    if name is None and "name" in values:
        name = Given(values["name"], origin("name"))
    return ClusterJob(
        name=_checked(name) if name else f"troika-{extra}",
        workers=gpus.value,
        per_node=per_node,
        on_gpus=on_gpus,
        cores=each * per_node,
        extra=extra,
        script=training["script"].value[0] if "script" in training else "",
        arguments=(*_from_file(training, values, origin), *arguments),
        variables={
            setting.source: environ[setting.source]
            for key, setting in training.items()
            if setting.source.startswith("TROIKA_") and key not in ("address", "cluster")
        },
    )


def _from_file(
    training: Mapping[str, Given], values: Mapping[str, Any], origin: Callable[[str], str]
) -> Iterator[str]:
    """The cluster file's settings as arguments, since the nodes do not have the file."""
    for key in ("gpus", "device", "max_restarts", "min_gpus"):
        if key in values and training[key].source == origin(key):
            yield from (f"--{key.replace('_', '-')}", str(values[key]))


def _flag(setting: Given) -> bool:
    return setting.source.startswith("--")


def _gpus(training: Mapping[str, Given]) -> Given:
    if "gpus" not in training:
        raise UserError(
            "--gpus: missing; a manifest needs the number of workers, behind -- or as gpus in the "
            "cluster file"
        )
    return training["gpus"]


def _per_node(gpus: Given, values: Mapping[str, Any], origin: Callable[[str], str]) -> int:
    workers, asked = gpus.value, values.get("gpus_per_node")
    per_node: int = asked or min(workers, _MOST_PER_NODE)
    if workers % per_node:
        where = f"gpus_per_node, {origin('gpus_per_node')}" if asked else "gpus_per_node's default"
        fitting = max(n for n in range(1, per_node) if workers % n == 0)
        more = (workers // per_node + 1) * per_node
        raise UserError(
            f"gpus {workers} ({gpus.source}): does not fill nodes of {per_node} ({where}); with "
            f"gpus_per_node: {fitting} it would, as would {more} workers"
        )
    return per_node


def _checked(name: Given) -> str:
    """The name, if Kubernetes can have it for a RayJob; Slurm takes any."""
    if not _NAME.fullmatch(name.value):
        raise UserError(
            f"name {name.value} ({name.source}): must begin with a letter, have at most 47 of "
            "a to z, 0 to 9 and -, and not end with -"
        )
    value: str = name.value
    return value
