"""``manifest``: what starts a training on a cluster of its own, as text; it starts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.cluster_file import clusters_given, read_cluster
from launcher.errors import UserError
from launcher.job import Given, choose_strategy, resolve
from launcher.kuberay import kuberay_yaml
from launcher.nodes import ClusterJob, cluster_job
from launcher.slurm import slurm_script
from strategies import load_strategy
from strategies.base import write_atomically
from strategies.mnist.data import check

_KINDS = ("kuberay", "slurm")


def manifest(
    kind: str,
    given: Mapping[str, Given],
    arguments: Sequence[str],
    *,
    cluster: str | None,
    name: str | None,
    out: Path | None,
) -> None:
    """Prints the manifest of ``kind``, or writes it to the new file ``out``. Raises UserError.

    ``given`` are the settings of the training, from its ``arguments`` or from variables;
    ``cluster`` names the cluster's file, ``name`` the job.
    """
    if kind not in _KINDS:
        raise UserError(f"manifest {kind}: not known; there are {', '.join(_KINDS)}")
    values, from_file, origin = _read(cluster)
    training = {**from_file, **given}
    job = cluster_job(
        values,
        training,
        arguments,
        os.environ,
        name=Given(name, "--name") if name else None,
        extra=_checked(training),
        origin=origin,
    )
    text = _render(kind, values, job, origin)
    if out is None:
        print(text, end="")
    else:
        _write(out, text)


def _read(
    cluster: str | None,
) -> tuple[Mapping[str, Any], Mapping[str, Given], Callable[[str], str]]:
    """The file's values, those that are settings of the job, and where a key stands."""
    if cluster is None:
        return {}, {}, str
    spec = read_cluster(cluster)
    if spec.kind != "ray":
        raise UserError(
            f"--cluster {cluster}: is of kind {spec.kind} ({spec.origin('kind')}); a manifest "
            "starts a Ray cluster, take kind: ray"
        )
    return spec.values, clusters_given(spec), spec.origin


def _checked(training: Mapping[str, Given]) -> str:
    """Refuses settings that would be refused on the cluster; what its nodes have to install."""
    strategy = load_strategy(choose_strategy(training, None))
    if not training.keys() & {"resume", "data_dir"}:  # what these name may be there, not here
        resolve(
            training,
            default_gpus=1,
            samples=check(None),
            checkpoint=None,
            exchanges=strategy.exchanges,
        )
    return strategy.install


def _render(
    kind: str, values: Mapping[str, Any], job: ClusterJob, origin: Callable[[str], str]
) -> str:
    if kind == "kuberay":
        return kuberay_yaml(values, job)
    return slurm_script(values, job, origin=origin)


def _write(out: Path, text: str) -> None:
    if out.exists():
        raise UserError(f"--out {out}: is there already; name another file, or remove it")
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written to: {error.strerror}") from None
