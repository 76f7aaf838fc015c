"""Which nodes of a Ray cluster take how many workers. Pure.

Decided here and not by Ray, so that it can be printed before anything starts, and said in a second
why there is no room; Ray's placement group then gets each bundle's node by its label.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

from clusters.base import Allocation, ClusterError, ClusterSpec, Device, Host, NoRoom, Slot

NODE_LABEL = "ray.io/node-id"
_IN = re.compile(r"^in\((.*)\)$")
_ROUNDING = 1e-6  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class _Room:
    """How many workers a node can take, and could if nothing else ran on it."""

    host: Host
    free: int
    total: int


def allocate(
    hosts: Sequence[Host], spec: ClusterSpec, workers: int, device: str, process_per: str
) -> Allocation:
    """The slots of ``workers`` devices on the nodes, by host. Raises NoRoom, ClusterError."""
    eligible = [host for host in hosts if not host.problem and selected(host.labels, spec.labels)]
    if not eligible:
        raise NoRoom(_no_node(hosts, spec))
    chosen = _device(eligible, device)
    need = needs(spec, chosen)
    rooms = [_Room(h, _times(h.free, need), _times(h.total, need)) for h in eligible]
    counts = _counts(rooms, spec, workers, equal=process_per == "host")
    if counts is None:
        raise NoRoom(_no_room(rooms, spec, workers, chosen, need, process_per))
    taken = [(room.host, count) for room, count in zip(rooms, counts, strict=True) if count]
    apart = process_per == "device" or len(taken) > 1
    noun = "CPU worker" if apart else "logical CPU device"
    return Allocation(
        slots=tuple(
            Slot(
                host=host.name,
                host_index=index,
                local_rank=local_rank,
                count=count if process_per == "host" else 1,
                address=host.address,
                interface="",
                node=host.node,
            )
            for index, (host, count) in enumerate(taken)
            for local_rank in range(1 if process_per == "host" else count)
        ),
        device=chosen,
        cores_per_worker=spec.cpus_per_worker,
        noun=noun,
        notes=tuple(_notes(workers, noun, chosen, device, len(taken), len(hosts), process_per)),
        chosen_for_us=device == "auto",
    )


def needs(spec: ClusterSpec, device: Device) -> dict[str, float]:
    """What one worker holds of its node."""
    gpu = {"GPU": 1.0} if device == "cuda" else {}
    return {"CPU": spec.cpus_per_worker, **gpu, **spec.resources_per_worker}


def selected(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether a node's labels fit Ray's selector: value, !value, in(a,b) or !in(a,b)."""
    return all(_fits(labels.get(key), wanted) for key, wanted in selector.items())


def _fits(value: str | None, wanted: str) -> bool:
    plain = wanted.removeprefix("!")
    listed = _IN.match(plain)
    values = [part.strip() for part in listed.group(1).split(",")] if listed else [plain]
    return (value in values) != wanted.startswith("!")


def _device(hosts: Sequence[Host], device: str) -> Device:
    has_gpus = any(host.total.get("GPU") for host in hosts)
    if device == "cuda" and not has_gpus:
        raise ClusterError("the cluster has no GPU; ask for --device cpu to train on CPU workers")
    return "cuda" if device == "cuda" or (device == "auto" and has_gpus) else "cpu"


def _times(resources: Mapping[str, float], need: Mapping[str, float]) -> int:
    """How often ``need`` goes into ``resources``."""
    return min(floor(resources.get(name, 0) / each + _ROUNDING) for name, each in need.items())


def _counts(
    rooms: Sequence[_Room], spec: ClusterSpec, workers: int, *, equal: bool
) -> list[int] | None:
    """Workers on each node, None if there is no room for them now.

    ``equal``: all nodes that are used have to get as many (TensorFlow's strategy wants that).
    """
    each = 1 if spec.placement == "strict-spread" else spec.gpus_per_node
    if spec.placement == "strict-pack":
        each = workers
    if each is not None:
        if workers % each:
            raise ClusterError(f"{workers} workers cannot be cut into nodes of {each}")
        return _by_equal(rooms, workers // each, each)
    if equal:
        nodes = [n for n in range(1, workers + 1) if workers % n == 0]
        for count in reversed(nodes) if spec.placement == "spread" else nodes:
            if found := _by_equal(rooms, count, workers // count):
                return found
        return None
    if sum(room.free for room in rooms) < workers:
        return None
    return (_spread if spec.placement == "spread" else _pack)([r.free for r in rooms], workers)


def _by_equal(rooms: Sequence[_Room], nodes: int, each: int) -> list[int] | None:
    """``each`` workers on ``nodes`` nodes: those that have the least room to spare."""
    fitting = sorted(
        (index for index, room in enumerate(rooms) if room.free >= each),
        key=lambda index: rooms[index].free,
    )
    if len(fitting) < nodes:
        return None
    return [each if index in fitting[:nodes] else 0 for index in range(len(rooms))]


def _pack(free: list[int], workers: int) -> list[int]:
    """On as few nodes as possible, and the last of them the smallest that has room."""
    counts, left = [0] * len(free), workers
    while left:
        open_nodes = [index for index in range(len(free)) if not counts[index]]
        fitting = [index for index in open_nodes if free[index] >= left]
        index = (
            min(fitting, key=free.__getitem__) if fitting else max(open_nodes, key=free.__getitem__)
        )
        counts[index] = min(left, free[index])
        left -= counts[index]
    return counts


def _spread(free: list[int], workers: int) -> list[int]:
    """On as many nodes as possible, evenly."""
    counts = [0] * len(free)
    for _ in range(workers):
        open_nodes = [index for index in range(len(free)) if counts[index] < free[index]]
        counts[min(open_nodes, key=counts.__getitem__)] += 1
    return counts


def _no_node(hosts: Sequence[Host], spec: ClusterSpec) -> str:
    there = "; ".join(f"{_name(host)} {host.problem or dict(host.labels)}" for host in hosts)
    wanted = ", ".join(f"{key}: {value}" for key, value in spec.labels.items())
    what = f"no node with the labels {wanted}" if wanted else "no node that works"
    return f"the cluster has {what}; there are: {there or 'none at all'}"


def _no_room(
    rooms: Sequence[_Room],
    spec: ClusterSpec,
    workers: int,
    device: Device,
    need: Mapping[str, float],
    process_per: str,
) -> str:
    noun = "GPU" if device == "cuda" else "CPU worker"
    asked = f"{workers} {noun}{'' if workers == 1 else 's'} asked for"
    if spec.placement in ("strict-pack", "strict-spread"):
        asked += f", {spec.placement}"
    elif spec.gpus_per_node:
        asked += f", {spec.gpus_per_node} on each node"
    elif process_per == "host":
        asked += ", as many on each node"
    each = [f"{amount:g} {name}" for name, amount in need.items()]
    more = "" if list(need) in (["CPU"], ["CPU", "GPU"]) else f" (each with {', '.join(each)})"
    fit = [room for room in rooms if room.total] or rooms
    nodes = "; ".join(f"{_name(room.host)} {room.free} of {room.total} free" for room in fit)
    total, free = sum(room.total for room in rooms), sum(room.free for room in rooms)
    return f"{asked}{more}; the cluster has room for {total}, {free} of them free: {nodes}"


def _name(host: Host) -> str:
    return f"{host.name} ({host.address})"


def _notes(
    workers: int, noun: str, chosen: Device, asked: str, taken: int, nodes: int, process_per: str
) -> list[str]:
    notes = []
    if chosen == "cpu" and asked == "auto":
        notes.append(f"no GPU in the cluster: {workers} {noun}{'' if workers == 1 else 's'}")
    notes.append(f"{taken} of its {nodes} nodes")
    if chosen == "cpu" and process_per == "host" and 1 < taken < workers:
        notes.append("the CPU workers of a node are one device")  # TensorFlow makes no more
    return notes
