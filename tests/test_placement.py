"""Workers on the nodes of a Ray cluster: how they are spread, and what a refusal names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from clusters.base import Allocation, ClusterError, ClusterSpec, Host, NoRoom
from clusters.placement import allocate, needs, selected

RANDOM_CLUSTERS = 300


def node(
    number: int,
    *,
    cpus: float = 64,
    gpus: float = 0,
    busy: float = 0,
    labels: Mapping[str, str] | None = None,
    **more: float,
) -> Host:
    """A node with ``busy`` of its GPUs, or of its CPUs if it has none, in use."""
    total = {"CPU": cpus, **({"GPU": gpus} if gpus else {}), **more}
    scarce = "GPU" if gpus else "CPU"
    return Host(
        name=f"n{number}",
        cores=int(cpus),
        address=f"10.0.0.{number}",
        node=f"id{number}",
        total=total,
        free={**total, scarce: total[scarce] - busy},
        labels=labels or {},
    )


def gpu_nodes(*free: int, of: int = 8) -> list[Host]:
    return [node(n, gpus=of, busy=of - each) for n, each in enumerate(free)]


def given(
    hosts: Sequence[Host],
    workers: int,
    *,
    device: str = "auto",
    process_per: str = "device",
    **spec: Any,
) -> Allocation:
    return allocate(hosts, ClusterSpec(kind="ray", **spec), workers, device, process_per)


def counts(hosts: Sequence[Host], workers: int, **how: Any) -> list[int]:
    """How many devices each of ``hosts`` gives."""
    got: Counter[str] = Counter()
    for slot in given(hosts, workers, **how).slots:
        got[slot.node] += slot.count
    return [got[host.node] for host in hosts]


def refused(hosts: Sequence[Host], workers: int, **how: Any) -> str:
    with pytest.raises(ClusterError) as caught:
        given(hosts, workers, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("free", "workers", "taken"),
    [
        ([8, 2, 4], 4, [0, 0, 4]),
        ([8, 3, 4], 2, [0, 2, 0]),
        ([2, 8, 4, 5], 12, [0, 8, 4, 0]),
        ([1, 1, 1, 1], 3, [1, 1, 1, 0]),
        ([8, 8], 16, [8, 8]),
    ],
)
def test_pack_takes_few_nodes_and_the_best_fitting_one_last(
    free: list[int], workers: int, taken: list[int]
) -> None:
    assert counts(gpu_nodes(*free), workers) == taken


@pytest.mark.parametrize(
    ("free", "workers", "taken"),
    [
        ([8, 8, 8], 6, [2, 2, 2]),
        ([8, 1, 8], 6, [3, 1, 2]),
        ([8, 8, 8], 2, [1, 1, 0]),
        ([0, 4, 4], 4, [0, 2, 2]),
    ],
)
def test_spread_takes_all_nodes_evenly(free: list[int], workers: int, taken: list[int]) -> None:
    assert counts(gpu_nodes(*free), workers, placement="spread") == taken


def test_strict_pack_takes_one_node_or_none() -> None:
    hosts = gpu_nodes(3, 8, 5)
    assert counts(hosts, 4, placement="strict-pack") == [0, 0, 4]
    assert "9 GPUs asked for, strict-pack;" in refused(hosts, 9, placement="strict-pack")


def test_strict_spread_takes_a_node_for_each_worker() -> None:
    hosts = gpu_nodes(3, 8, 0)
    assert counts(hosts, 2, placement="strict-spread") == [1, 1, 0]
    text = refused(hosts, 3, placement="strict-spread")
    assert "3 GPUs asked for, strict-spread; the cluster has room for 24, 11 of them free" in text


def test_a_number_of_workers_for_each_node_is_kept() -> None:
    hosts = gpu_nodes(8, 3, 4)
    assert counts(hosts, 8, gpus_per_node=4) == [4, 0, 4]
    assert "8 GPUs asked for, 8 on each node" in refused(gpu_nodes(7, 7), 8, gpus_per_node=8)


def test_workers_that_do_not_fill_their_nodes_are_refused_for_good() -> None:
    text = refused(gpu_nodes(8, 8), 6, gpus_per_node=4)
    assert text == "6 workers cannot be cut into nodes of 4"
    with pytest.raises(ClusterError) as caught:
        given(gpu_nodes(8, 8), 6, gpus_per_node=4)
    assert not isinstance(caught.value, NoRoom)  # no wait would help


@pytest.mark.parametrize(
    ("free", "workers", "placement", "taken"),
    [
        ([8, 8], 8, "pack", [8, 0]),
        ([6, 5], 8, "pack", [4, 4]),
        ([3, 2, 2], 6, "pack", [2, 2, 2]),
        ([8, 8], 8, "spread", [4, 4]),
        ([8, 1, 8], 6, "spread", [3, 0, 3]),
    ],
)
def test_one_process_a_node_gets_as_many_devices_on_each(
    free: list[int], workers: int, placement: str, taken: list[int]
) -> None:
    hosts = gpu_nodes(*free)
    assert counts(hosts, workers, placement=placement, process_per="host") == taken
    slots = given(hosts, workers, placement=placement, process_per="host").slots
    assert [slot.count for slot in slots] == [each for each in taken if each]


def test_a_prime_number_of_devices_that_no_node_has_is_refused_to_one_process_a_node() -> None:
    text = refused(gpu_nodes(4, 4), 7, process_per="host")
    assert "7 GPUs asked for, as many on each node; the cluster has room for 16, 8 of them" in text


@pytest.mark.parametrize(
    ("selector", "fits"),
    [
        ({}, True),
        ({"type": "a"}, True),
        ({"type": "b"}, False),
        ({"type": "!a"}, False),
        ({"type": "!b"}, True),
        ({"type": "in(a, b)"}, True),
        ({"type": "in(b,c)"}, False),
        ({"type": "!in(b,c)"}, True),
        ({"type": "!in(a,b)"}, False),
        ({"zone": "a"}, False),
        ({"zone": "!a"}, True),
        ({"zone": "!in(a,b)"}, True),
        ({"type": "a", "zone": "x"}, False),
    ],
)
def test_a_selector_means_what_it_means_to_ray(selector: dict[str, str], fits: bool) -> None:
    assert selected({"type": "a"}, selector) is fits


def test_only_nodes_with_the_labels_are_taken() -> None:
    hosts = [node(n, gpus=8, labels={"type": kind}) for n, kind in enumerate("aba")]
    assert counts(hosts, 8, labels={"type": "b"}) == [0, 8, 0]
    assert refused(hosts, 1, labels={"type": "c"}) == (
        "the cluster has no node with the labels type: c; there are: n0 (10.0.0.0) {'type': 'a'}; "
        "n1 (10.0.0.1) {'type': 'b'}; n2 (10.0.0.2) {'type': 'a'}"
    )


@pytest.mark.parametrize(
    ("spec", "room"),
    [
        ({}, 4),
        ({"cpus_per_worker": 8}, 2),
        ({"cpus_per_worker": 16}, 1),
        ({"resources_per_worker": {"lake": 0.3}}, 3),
        ({"cpus_per_worker": 5, "resources_per_worker": {"lake": 0.1}}, 3),
    ],
)
def test_what_a_worker_holds_beside_its_gpu_limits_a_node(spec: dict[str, Any], room: int) -> None:
    hosts = [node(0, cpus=16, gpus=4, lake=1)]
    assert counts(hosts, room, **spec) == [room]
    assert f"the cluster has room for {room}, {room} of them free" in refused(
        hosts, room + 1, **spec
    )


def test_a_refusal_names_what_each_worker_needs() -> None:
    text = refused(gpu_nodes(2), 2, resources_per_worker={"lake": 0.5})
    assert "2 GPUs asked for (each with 1 CPU, 1 GPU, 0.5 lake); the cluster has room for 0" in text


def test_tenths_of_a_resource_add_up() -> None:
    assert counts([node(0, cpus=1)], 10, cpus_per_worker=0.1) == [10]


def test_nodes_with_a_problem_are_left_out_and_named() -> None:
    hosts = gpu_nodes(8, 8)
    lost = [replace(host, problem="is draining") for host in hosts]
    assert counts([lost[0], hosts[1]], 8) == [0, 8]
    assert refused(lost, 1) == (
        "the cluster has no node that works; there are: n0 (10.0.0.0) is draining; "
        "n1 (10.0.0.1) is draining"
    )


def test_a_cluster_without_nodes_says_so() -> None:
    assert refused([], 1).endswith("there are: none at all")


def test_a_refusal_names_what_there_is_what_is_free_and_where() -> None:
    assert refused(gpu_nodes(2, 0, of=2), 8) == (
        "8 GPUs asked for; the cluster has room for 4, 2 of them free: "
        "n0 (10.0.0.0) 2 of 2 free; n1 (10.0.0.1) 0 of 2 free"
    )


def test_nodes_that_could_never_take_a_worker_are_not_listed() -> None:
    assert refused([node(0), node(1, gpus=2, busy=2)], 1) == (
        "1 GPU asked for; the cluster has room for 2, 0 of them free: n1 (10.0.0.1) 0 of 2 free"
    )
    text = refused([node(0, cpus=2), node(1, cpus=4)], 1, cpus_per_worker=8)
    assert text.endswith("n0 (10.0.0.0) 0 of 0 free; n1 (10.0.0.1) 0 of 0 free")


def test_what_is_full_now_may_be_free_later() -> None:
    with pytest.raises(NoRoom):
        given(gpu_nodes(0), 1)


@pytest.mark.parametrize(
    ("gpus", "device", "chosen"),
    [(2, "auto", "cuda"), (2, "cuda", "cuda"), (2, "cpu", "cpu"), (0, "auto", "cpu")],
)
def test_auto_takes_gpus_where_the_cluster_has_one(gpus: int, device: str, chosen: str) -> None:
    got = given([node(0), node(1, gpus=gpus)], 2, device=device)
    assert (got.device, got.chosen_for_us) == (chosen, device == "auto")
    assert needs(ClusterSpec(), got.device) == {
        "CPU": 1,
        **({"GPU": 1} if gpus and chosen == "cuda" else {}),
    }


def test_busy_gpus_are_waited_for_and_not_replaced_by_cpus() -> None:
    assert "2 GPUs asked for" in refused(gpu_nodes(0), 2)


def test_no_gpu_is_said_where_one_was_hoped_for_or_asked_for() -> None:
    assert given([node(0)], 2).notes[0] == "no GPU in the cluster: 2 CPU workers"
    assert given([node(0)], 2, device="cpu").notes == ("1 of its 1 nodes",)
    assert refused([node(0)], 2, device="cuda").startswith("the cluster has no GPU; ask for")


def test_ranks_are_numbered_through_by_node() -> None:
    slots = given(gpu_nodes(0, 2, 2), 4).slots
    assert [(s.host, s.host_index, s.local_rank, s.address, s.node) for s in slots] == [
        ("n1", 0, 0, "10.0.0.1", "id1"),
        ("n1", 0, 1, "10.0.0.1", "id1"),
        ("n2", 1, 0, "10.0.0.2", "id2"),
        ("n2", 1, 1, "10.0.0.2", "id2"),
    ]


def random_cluster(chance: random.Random) -> list[Host]:
    free = [chance.randint(0, 8) for _ in range(chance.randint(1, 5))]
    return gpu_nodes(*free)


def fewest_nodes(free: list[int], workers: int) -> int:
    """By trying all sets of nodes."""
    sets = product((0, 1), repeat=len(free))
    return min(
        sum(chosen)
        for chosen in sets
        if sum(f for f, c in zip(free, chosen, strict=True) if c) >= workers
    )


def free_of(hosts: Sequence[Host]) -> list[int]:
    return [int(host.free["GPU"]) for host in hosts]


@pytest.mark.parametrize("process_per", ["device", "host"])
@pytest.mark.parametrize("placement", ["pack", "spread", "strict-pack", "strict-spread"])
def test_no_node_gives_more_than_it_has_and_all_workers_are_placed(
    placement: str, process_per: str
) -> None:
    chance = random.Random(f"{placement} {process_per}")
    placed = 0
    for _ in range(RANDOM_CLUSTERS):
        hosts, workers = random_cluster(chance), chance.randint(1, 16)
        try:
            taken = counts(hosts, workers, placement=placement, process_per=process_per)
        except NoRoom:
            continue
        placed += 1
        assert sum(taken) == workers
        assert all(t <= f for t, f in zip(taken, free_of(hosts), strict=True)), (hosts, taken)
        if process_per == "host":
            assert len({each for each in taken if each}) == 1
    assert placed > RANDOM_CLUSTERS / 10


def test_pack_finds_room_wherever_there_is_and_on_the_fewest_nodes() -> None:
    chance = random.Random(1)
    for _ in range(RANDOM_CLUSTERS):
        hosts, workers = random_cluster(chance), chance.randint(1, 16)
        free = free_of(hosts)
        if sum(free) < workers:
            assert f"{sum(free)} of them free" in refused(hosts, workers)
            continue
        taken = counts(hosts, workers)
        assert len([each for each in taken if each]) == fewest_nodes(free, workers), (free, workers)


def test_spread_is_as_even_as_the_nodes_allow() -> None:
    chance = random.Random(2)
    for _ in range(RANDOM_CLUSTERS):
        hosts = random_cluster(chance)
        free = free_of(hosts)
        if not sum(free):
            continue
        workers = chance.randint(1, sum(free))
        taken = counts(hosts, workers, placement="spread")
        unfilled = [t for t, f in zip(taken, free, strict=True) if t < f]
        assert max(taken) - min(unfilled, default=max(taken)) <= 1, (free, taken)


def test_equal_counts_are_found_wherever_there_are_some_and_on_the_fewest_nodes() -> None:
    chance = random.Random(3)
    for _ in range(RANDOM_CLUSTERS):
        hosts, workers = random_cluster(chance), chance.randint(1, 16)
        free = free_of(hosts)
        fitting = [
            n
            for n in range(1, len(free) + 1)
            if workers % n == 0 and sum(f >= workers // n for f in free) >= n
        ]
        if not fitting:
            assert "as many on each node" in refused(hosts, workers, process_per="host")
            continue
        taken = counts(hosts, workers, process_per="host")
        assert len([each for each in taken if each]) == fitting[0]
