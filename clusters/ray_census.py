"""The nodes of a Ray cluster: what they have, what is free, whether they answer."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

_ANSWER_S = 2.0


class Census:
    """Knows the nodes that it has once seen."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[str, Any]] = {}

    async def hosts(self) -> list[dict[str, Any]]:
        """The fields of ``Host`` of every node that Ray holds for alive."""
        nodes, free = await asyncio.to_thread(look)
        self._nodes.update({node["NodeID"]: node for node in nodes})
        return hosts(nodes, free)

    async def answers(self, node: str) -> bool:
        """Whether a node's raylet takes a connection; Ray may take half a minute to miss it.

        Through ray:// only Ray can tell: nodes need not be within reach from outside.
        """
        import ray

        if ray.util.client.ray.is_connected():
            nodes = await asyncio.to_thread(ray.nodes)
            return any(one["NodeID"] == node and one["Alive"] for one in nodes)
        seen = self._nodes[node]
        opening = asyncio.open_connection(seen["NodeManagerAddress"], seen["NodeManagerPort"])
        with suppress(OSError, asyncio.TimeoutError):
            _, writer = await asyncio.wait_for(opening, _ANSWER_S)
            writer.close()
            return True
        return False

    def name(self, node: str) -> str:
        seen = self._nodes[node]
        return f"{_name(seen)} ({seen['NodeManagerAddress']})"


def look() -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    """Ray's table of nodes, and what is free on each by its id."""
    import ray

    if ray.util.client.ray.is_connected():  # through ray://, only a task sees what is free
        found: Any = ray.get(ray.remote(num_cpus=0)(_tables).remote())
        return found  # type: ignore[no-any-return]
    return _tables()


def _tables() -> tuple[list[dict[str, Any]], dict[str, dict[str, float]]]:
    import ray
    from ray._private.state import available_resources_per_node

    return ray.nodes(), available_resources_per_node()


def hosts(nodes: list[dict[str, Any]], free: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The fields of ``Host`` of the nodes that are alive, by address, no two of a name. Pure."""
    alive = sorted((node for node in nodes if node["Alive"]), key=_order)
    names = Counter(map(_name, alive))
    return [
        {
            "name": _name(node)
            if names[_name(node)] == 1
            else f"{_name(node)}-{node['NodeID'][:6]}",
            "cores": int(node["Resources"].get("CPU", 0)),
            "address": node["NodeManagerAddress"],
            "node": node["NodeID"],
            "total": _plain(node["Resources"]),
            "free": _plain(free.get(node["NodeID"], {})),
            "labels": dict(node.get("Labels") or {}),
        }
        for node in alive
    ]


def _order(node: dict[str, Any]) -> tuple[int, str]:
    """Ray's own order changes from one look to the next."""
    return int(ip_address(node["NodeManagerAddress"])), node["NodeID"]


def _name(node: dict[str, Any]) -> str:
    """The name that the node was given, else its host's: Ray's default is the address."""
    given = node.get("NodeName") or ""
    named = given and given != node["NodeManagerAddress"]
    return str(given if named else node["NodeManagerHostname"])


def _plain(resources: dict[str, float]) -> dict[str, float]:
    """Without the resources that Ray makes for itself."""
    hidden = ("node:", "bundle_group", "accelerator_type:")
    return {
        name: float(amount)
        for name, amount in resources.items()
        if not name.startswith(hidden) and "_group_" not in name
    }
