"""``launcher cluster show``: what a cluster has, and what of it is free."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict

from rich import box
from rich.table import Table

from clusters import load_cluster
from clusters.base import ClusterError, Host
from launcher.errors import UserError
from launcher.job import Given
from launcher.output import Output
from launcher.place import choose_place, read_file


def show_cluster(given: Mapping[str, Given], output: Output) -> int:
    """Prints the hosts of the cluster that a training with these settings would run on.

    Raises UserError.
    """
    place = choose_place(given, os.environ, "local", read_file(given))
    try:
        with closing(load_cluster(place.spec)) as cluster:
            hosts = cluster.probe()
    except ClusterError as error:
        raise UserError(f"{place.title}: {error}") from None
    if output.as_json:
        print(json.dumps([asdict(host) for host in hosts], indent=2))
    else:
        output.say(f"{place.title} ({place.sources['kind']})")
        output.people.print(table(hosts))
    return 0


def table(hosts: tuple[Host, ...]) -> Table:
    """A row a host."""
    rows = Table("host", "address", "CPUs", "GPUs", "", "labels", box=box.SIMPLE_HEAD)
    for host in hosts:
        labels = ", ".join(f"{key}={value}" for key, value in host.labels.items())
        gpus = f"{len(host.gpus)}"
        if host.total:
            gpus = _free(host, "GPU")
        names = ", ".join(dict.fromkeys(gpu.name for gpu in host.gpus)) or host.gpu_problem
        cpus = _free(host, "CPU") if host.total else f"{host.cores}"
        rows.add_row(host.name, host.address, cpus, gpus, names, labels)
    return rows


def _free(host: Host, name: str) -> str:
    total = host.total.get(name, 0)
    return f"{host.free.get(name, 0):g} of {total:g} free" if total else "0"
