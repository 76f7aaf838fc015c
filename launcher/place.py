"""Where to run: from flags, variables and the cluster file to one ``ClusterSpec``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusters import CLUSTERS
from clusters.base import ClusterSpec
from launcher.errors import UserError
from launcher.job import Given

if TYPE_CHECKING:
    from clusters.spec import FileSpec

RAY_ADDRESS = "RAY_ADDRESS"
_OF_NODES = ("placement", "gpus_per_node", "cpus_per_worker", "resources_per_worker", "labels")
_JOB_SERVER = ("http://", "https://")
_PLACES = ("cluster", "address")
"""Settings that say where to run, not what."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """``sources`` says for each setting of ``spec`` where its value came from."""

    spec: ClusterSpec
    sources: Mapping[str, str]

    @property
    def title(self) -> str:
        """The cluster, to begin an error with."""
        named = self.spec.name or self.spec.kind
        where = f" at {self.spec.address} ({self.sources['address']})" if self.spec.address else ""
        return f"cluster {named}{where}"


def choose_place(
    given: Mapping[str, Given], environ: Mapping[str, str], kind: str, file: FileSpec | None
) -> Place:
    """Flag over environment over the cluster ``file`` over ``kind``, the strategy's own. Pure.

    Whoever names neither a kind nor a file, but a Ray cluster's address, means that cluster.
    Raises UserError.
    """
    values: dict[str, Given] = {}
    if file is not None:
        values = {key: Given(value, file.origin(key)) for key, value in file.values.items()}
    elif "cluster" in given:
        values["kind"] = given["cluster"]
    address = _address(given, environ)
    if address is not None and "kind" not in values:
        values["kind"] = Given("ray", address.source)
    chosen = values.setdefault("kind", Given(kind, "the strategy's own"))
    if address is not None and chosen.value != "ray":
        if address.source == RAY_ADDRESS:
            address = None  # of another kind of cluster than the one that was asked for
        else:
            raise UserError(
                f"{address.source} {address.value}: only a cluster of kind ray has an address, "
                f"and {chosen.source} says {chosen.value}"
            )
    if address is not None:
        _check(address)
        values["address"] = address
    useless = [name for name in _OF_NODES if name in values and "address" not in values]
    if useless:
        raise UserError(
            f"{', '.join(f'{name} ({values[name].source})' for name in useless)}: only for an "
            "existing Ray cluster; give its address"
        )
    names = [field.name for field in fields(ClusterSpec) if field.name != "ships_folder"]
    known = {name: values[name] for name in names if name in values}
    plain = {name: _plain(name, one.value) for name, one in known.items()}
    return Place(
        spec=ClusterSpec(**plain, ships_folder="script" in given),
        sources={name: known[name].source if name in known else "default" for name in names},
    )


def read_file(given: Mapping[str, Given]) -> FileSpec | None:
    """The file that --cluster names; None where it names a kind, or is missing. Raises UserError.

    Its schema's library is imported only now: it takes a tenth of a second.
    """
    if "cluster" not in given or given["cluster"].value in CLUSTERS:
        return None
    from launcher.cluster_file import read_cluster

    return read_cluster(given["cluster"].value, tuple(CLUSTERS))


def script_there(words: tuple[str, ...], source: str, folder: Path) -> tuple[str, ...]:
    """A script's command as nodes understand it, which get what is below ``folder``. Pure.

    Raises UserError for a script that lies elsewhere.
    """
    path = Path(os.path.normpath(folder / words[0]))
    if not (words[0].endswith(".py") or "/" in words[0]):
        return words  # a program of the node's own
    if not path.is_relative_to(folder):
        raise UserError(
            f"{source} {words[0]}: nodes are sent what is below {folder}; start the launcher in a "
            "folder that has the script"
        )
    return (str(path.relative_to(folder)), *words[1:])


def with_file(given: Mapping[str, Given], file: FileSpec | None) -> dict[str, Given]:
    """The job's settings, filled up from the cluster file; without those of the place."""
    merged = dict(given)
    if file is not None:
        from launcher.cluster_file import clusters_given

        merged = {**clusters_given(file), **given}
    return {name: value for name, value in merged.items() if name not in _PLACES}


def _address(given: Mapping[str, Given], environ: Mapping[str, str]) -> Given | None:
    if "address" in given:
        return given["address"]
    value = environ.get(RAY_ADDRESS, "")
    if not value or value.startswith(_JOB_SERVER):  # that one is for `submit`
        return None
    return Given(value, RAY_ADDRESS)


def _check(address: Given) -> None:
    if address.value.startswith(_JOB_SERVER):
        raise UserError(
            f"{address.source} {address.value}: is a job server's; send the job there with "
            f"`launcher submit --address {address.value} -- ...`, or give the cluster's own address"
        )


def _plain(name: str, value: Any) -> Any:
    if name == "devices":
        return tuple(str(device) for device in value)
    return tuple(value) if isinstance(value, list) else value
