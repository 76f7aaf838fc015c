"""Clusters of several raylets on one machine, on loopback and over network namespaces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from tests.command import wait_until
from tests.hosts import Host, hosts, unsupported
from tests.raylets import Node, Raylet, Raylets, raylets

needs_hosts = pytest.mark.skipif(unsupported() is not None, reason=str(unsupported()))
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

ROOT = Path(__file__).parent.parent
PORT = 5000
SERVE = (
    "import socket, sys\n"
    "server = socket.create_server((sys.argv[1], int(sys.argv[2])))\n"
    "print('up', flush=True)\n"
    "while True: server.accept()[0].sendall(bytes(400_000))\n"
)
CONNECT = (
    "import socket, sys\n"
    "with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=2) as link:\n"
    "    while link.recv(2**16): pass\n"
)
# Prints, as JSON, what an actor on each node says of itself, by the node's name.
DRIVER = """
import json, os, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_cpus=1)
class Actor:
    def about(self):
        address = ray.util.get_node_ip_address()
        return [address, ray.get_runtime_context().get_node_id(), os.getpid()]

nodes = {node["NodeName"]: node for node in ray.nodes() if node["Alive"]}
actors = {
    name: Actor.options(scheduling_strategy=On(node["NodeID"], soft=False)).remote()
    for name, node in nodes.items()
}
about = {name: ray.get(actor.about.remote()) for name, actor in actors.items()}
declared = {name: [node["Resources"], node["Labels"]] for name, node in nodes.items()}
print(json.dumps([about, declared]), flush=True)
sys.stdin.read()
"""
WAIT = """
import sys, time
import ray

ray.init(address=sys.argv[1], log_to_driver=False)
while {node["NodeName"] for node in ray.nodes() if node["Alive"]} != set(sys.argv[2:]):
    time.sleep(0.1)
"""


def is_running(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_for_nodes(cluster: Raylets, *names: str) -> None:
    """Returns once these nodes alone are alive."""
    subprocess.run(
        [sys.executable, "-c", WAIT, cluster.address, *names],
        env={**os.environ, **cluster.environ},
        timeout=60,
        check=True,
    )


@pytest.fixture
def two() -> Iterator[list[Host]]:
    with hosts(2) as made:
        yield made


@needs_hosts
def test_two_hosts_reach_each_other_until_a_cable_is_cut(two: list[Host]) -> None:
    one, other = two
    connect = [sys.executable, "-c", CONNECT, other.address, str(PORT)]
    serve = [sys.executable, "-c", SERVE, other.address, str(PORT)]
    with other.popen(serve, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "up\n"
        assert one.run(connect).returncode == 0
        other.cut()
        assert "TimeoutError" in one.run(connect).stderr
        server.kill()


@needs_hosts
def test_hosts_go_with_what_still_runs_in_them() -> None:
    with hosts(1) as (host,):
        sleeper = host.popen(["sleep", "600"])
        wait_until(
            lambda: psutil.Process(sleeper.pid).name() == "sleep", "the program inside the host"
        )
        assert host.namespace.exists()
    assert sleeper.wait() == -9
    assert not host.namespace.exists()
    assert not Path("/sys/class/net", host.link).exists()


@needs_hosts
def test_a_slow_host_sends_through_a_token_bucket_each_way(two: list[Host]) -> None:
    two[0].slow("10mbit")
    listing = ["tc", "qdisc", "show"]
    here = subprocess.run(listing, capture_output=True, text=True, check=True).stdout
    assert any("tbf" in line and two[0].link in line for line in here.splitlines())
    assert "rate 10Mbit" in two[0].run(listing).stdout
    assert "tbf" not in two[1].run(listing).stdout


@needs_ray
def test_nodes_of_one_machine_are_what_they_declare_and_can_be_killed_alone() -> None:
    declared = (
        Node(gpus=4, labels={"kind": "fast"}),
        Node(cpus=2, resources={"rack": 1}),
        Node(name="third"),
    )
    with raylets(*declared) as cluster:
        driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, cluster.address],
            env={**os.environ, **cluster.environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with driver:
            assert driver.stdout is not None
            about, declared_to = json.loads(driver.stdout.readline())
            assert {node.name: [node.address, node.node_id] for node in cluster.nodes} == {
                name: words[:2] for name, words in about.items()
            }
            assert declared_to["node-0"][0]["GPU"] == 4
            assert declared_to["node-0"][1]["kind"] == "fast"
            assert declared_to["node-1"][0]["rack"] == 1
            cluster.nodes[1].kill()
            assert not is_running(about["node-1"][2])
            assert is_running(about["third"][2])
            cluster.nodes[2].kill_raylet()
            wait_for_nodes(cluster, "node-0")
    assert not is_running(about["node-0"][2])


@needs_hosts
@needs_ray
def test_a_driver_on_a_host_has_actors_on_hosts_of_other_addresses() -> None:
    with hosts(3) as three, raylets(Node(), Node(), Node(), hosts=three) as cluster:
        done = three[0].run(
            [sys.executable, "-c", DRIVER, cluster.address],
            env={**os.environ, **cluster.environ},
            stdin=subprocess.DEVNULL,
        )
        about, _ = json.loads(done.stdout)
        assert [about[node.name][0] for node in cluster.nodes] == [h.address for h in three]
        assert len({host.address for host in three}) == 3
        three[2].cut()
        wait_for_nodes(cluster, "node-0", "node-1")


@needs_ray
def test_a_cluster_that_cannot_start_says_what_ray_says() -> None:
    with pytest.raises(RuntimeError, match="Invalid label key"), raylets(Node(labels={"-": "x"})):
        pass


@needs_ray
def test_a_cluster_ends_with_a_process_that_is_killed() -> None:
    code = (
        "import json, time\n"
        "from dataclasses import asdict\n"
        "from tests.raylets import Node, raylets\n"
        "with raylets(Node()) as cluster:\n"
        "    print(json.dumps(asdict(cluster.nodes[0])), flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        started = Raylet(**json.loads(owner.stdout.readline())).processes()
        assert "raylet" in {process.name() for process in started}
        owner.kill()
    wait_until(lambda: not any(is_running(p.pid) for p in started), "the end of the cluster")
