"""Where workers run, one file a kind. Adding one is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from clusters.base import Cluster

CLUSTERS: dict[str, str] = {
    "local": "clusters.local:LocalCluster",
    "ray": "clusters.ray_actors:RayCluster",
}


REQUIRES: dict[str, tuple[str, ...]] = {"ray": ("ray",)}
"""What a kind of cluster needs to import, in processes of its own."""


def load_cluster(kind: str) -> Cluster:
    """A cluster of ``kind``; its libraries are imported only now. Raises KeyError."""
    module, _, attribute = CLUSTERS[kind].partition(":")
    cluster: Cluster = getattr(import_module(module), attribute)()
    return cluster
