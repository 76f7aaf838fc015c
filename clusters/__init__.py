"""Where workers run, one file a kind. Adding one is one file and one line here."""

from __future__ import annotations

from importlib import import_module

from clusters.base import Cluster, ClusterSpec

CLUSTERS: dict[str, str] = {
    "local": "clusters.local:LocalCluster",
    "ray": "clusters.ray_actors:ray_cluster",
}


REQUIRES: dict[str, tuple[str, ...]] = {"ray": ("ray",)}
"""What a kind of cluster needs to import, in processes of its own."""


def load_cluster(spec: ClusterSpec) -> Cluster:
    """The cluster of ``spec``; its libraries are imported only now. Raises KeyError."""
    module, _, attribute = CLUSTERS[spec.kind].partition(":")
    cluster: Cluster = getattr(import_module(module), attribute)(spec)
    return cluster
