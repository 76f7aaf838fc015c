"""A real Ray cluster of several raylets on this machine, for tests.

``python tests/raylets.py NODE...`` starts the nodes with what ``ray start`` runs, but imports Ray
once for all of them, and leaves out servers that no test asks anything. Each NODE is JSON:
``arguments`` of ``ray start``, ``variables`` to add, ``namespace`` (the path of a network
namespace, or null), ``asides`` (servers that are wanted). Each node has an address of its own in
127.0.0.0/8 unless it gets a host. They end with the process that has started this one.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.hosts import Host

_MARK = "TROIKA_RAYLET"  # in the environment of all processes of a node
_CLONE_NEWNET = 0x40000000
_OBJECT_STORE_BYTES = 80 * 2**20
_START_S = 90
_END_S = 10.0
_ASIDES = ("start_monitor", "start_api_server", "start_log_monitor", "start_ray_client_server")


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node declares. ``name`` is ``node-0``, ``node-1``, ... where it is empty."""

    cpus: int = 1
    gpus: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Raylet:
    """A node that runs. ``address`` is its IP address, ``node_id`` what Ray calls it."""

    name: str
    address: str
    node_id: str
    mark: str

    def processes(self) -> list[psutil.Process]:
        """The node's, those of its workers too."""
        return _marked(self.mark)

    def kill(self) -> None:
        """SIGKILL to all of the node's processes, those of its workers too: a lost node."""
        _kill_marked(self.mark)

    def kill_raylet(self) -> None:
        """SIGKILL to its raylet alone."""
        _raylet(self.mark).kill()


@dataclass(frozen=True, kw_only=True)
class Raylets:
    """A cluster. The first of ``nodes`` is its head.

    ``address`` is the cluster's, HOST:PORT; ``environ`` the variables that a driver needs to be let
    in; ``job_server`` and ``client`` the addresses http://... and ray://..., if asked for.
    """

    nodes: tuple[Raylet, ...]
    address: str
    environ: Mapping[str, str]
    job_server: str | None
    client: str | None


@contextmanager
def raylets(
    *nodes: Node, hosts: Sequence[Host] = (), job_server: bool = False, client: bool = False
) -> Iterator[Raylets]:
    """Starts a cluster with a token of its own; ends with all its processes and files gone.

    ``hosts`` are where the nodes run, one each. Ray notes the loss of a node sooner than it does by
    default: some 3 s after its raylet is killed, and some 12 s after its cable is cut.
    """
    mark = secrets.token_hex(8)
    folder = Path(tempfile.mkdtemp(prefix="tr-", dir="/tmp"))
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    net = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}"
    loopback = [f"{net}.{index + 1}" for index in range(len(nodes))]
    addresses = [host.address for host in hosts] or loopback
    port, client_port, dashboard_port, *agent_ports = _free_ports(3 + len(nodes))
    names = [node.name or f"node-{index}" for index, node in enumerate(nodes)]
    marks = [f"{mark}-{index}." for index in range(len(nodes))]
    head = ["--head", f"--port={port}", f"--include-dashboard={job_server}"]
    head += [f"--dashboard-host={addresses[0]}", f"--dashboard-port={dashboard_port}"]
    head += [f"--ray-client-server-port={client_port}", "--disable-usage-stats"]
    asides = ["start_api_server"] * job_server + ["start_ray_client_server"] * client
    orders = [
        {
            "arguments": [
                *(head if index == 0 else [f"--address={addresses[0]}:{port}"]),
                *_declared(node),
                f"--node-name={names[index]}",
                f"--node-ip-address={addresses[index]}",
                f"--dashboard-agent-listen-port={agent_ports[index]}",
                f"--temp-dir={folder / str(index)}",
                f"--plasma-directory={folder}",
                f"--object-store-memory={_OBJECT_STORE_BYTES}",
                "--min-worker-port=0",  # any free port: the nodes share this machine's
                "--max-worker-port=0",
            ],
            "variables": {_MARK: marks[index]},
            "namespace": str(hosts[index].namespace) if hosts else None,
            "asides": asides if index == 0 else [],
        }
        for index, node in enumerate(nodes)
    ]
    with _started(orders, _environment(environ, folder, mark), folder):
        yield Raylets(
            nodes=tuple(
                Raylet(name=name, address=address, node_id=_node_id(mark), mark=mark)
                for name, address, mark in zip(names, addresses, marks, strict=True)
            ),
            address=f"{addresses[0]}:{port}",
            environ=environ,
            job_server=f"http://{addresses[0]}:{dashboard_port}" if job_server else None,
            client=f"ray://{addresses[0]}:{client_port}" if client else None,
        )


def _declared(node: Node) -> list[str]:
    arguments = [f"--num-cpus={node.cpus}", f"--num-gpus={node.gpus}"]
    if node.labels:
        arguments.append("--labels=" + ",".join(f"{k}={v}" for k, v in node.labels.items()))
    if node.resources:
        arguments.append("--resources=" + json.dumps(dict(node.resources)))
    return arguments


def _environment(token: Mapping[str, str], folder: Path, mark: str) -> dict[str, str]:
    """This process's variables with the cluster's own instead of Ray's and a test's.

    A cluster may outlive a test, and so must not carry the mark by which its leaks are found.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "TROIKA_"))
    }
    return kept | {
        **token,
        _MARK: mark,
        "TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "3000",
        "RAY_health_check_failure_threshold": "3",
    }


@contextmanager
def _started(orders: Sequence[object], environ: Mapping[str, str], folder: Path) -> Iterator[None]:
    """All nodes belong to the cluster. Raises RuntimeError with what was printed."""
    try:
        with (
            (folder / "start.log").open("w") as log,
            subprocess.Popen(
                [sys.executable, __file__, *map(json.dumps, orders)],
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            ) as starter,
        ):
            try:
                if not (starter.stdout and starter.stdout.readline()):
                    raise RuntimeError(f"no Ray cluster: {Path(log.name).read_text()}")
                yield
            finally:
                _kill_marked(environ[_MARK])
    finally:
        shutil.rmtree(folder)


def _free_ports(count: int) -> list[int]:
    """Ports from 20000 on, which Ray itself does not give out, below those of the kernel."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("", random.randint(20_000, 32_000)))
                found.append(one.getsockname()[1])
    return found


def _marked(mark: str) -> list[psutil.Process]:
    """The processes whose mark begins with ``mark``, and all below them."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.pid != os.getpid() and process.environ().get(_MARK, "").startswith(mark):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return list(found.values())


def _kill_marked(mark: str) -> None:
    """Kills until none is left, and waits for their end."""
    deadline = time.monotonic() + _END_S
    while (left := _marked(mark)) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=0.05)
    assert not left, f"they cannot be killed: {left}"


def _raylet(mark: str) -> psutil.Process:
    return next(process for process in _marked(mark) if process.name() == "raylet")


def _node_id(mark: str) -> str:
    argument = next(word for word in _raylet(mark).cmdline() if word.startswith("--node_id="))
    return argument.partition("=")[2]


def _main() -> None:
    """Starts the nodes, all others once the head is up; says so; ends them with its input."""
    import ray.scripts.scripts  # noqa: F401 - once, before the processes part

    signal.alarm(_START_S)
    head, *others = [json.loads(argument) for argument in sys.argv[1:]]
    if _all_up([head]) and _all_up(others):
        signal.alarm(0)
        print("up", flush=True)
        sys.stdin.read()
        _kill_marked(os.environ[_MARK])
        shutil.rmtree(os.environ["TMPDIR"])


def _all_up(orders: Sequence[dict[str, object]]) -> bool:
    pids = []
    for order in orders:
        if (pid := os.fork()) == 0:
            _start_node(**order)  # type: ignore[arg-type]
        pids.append(pid)
    codes = [os.waitpid(pid, 0)[1] for pid in pids]
    return not any(codes)


def _start_node(
    arguments: list[str], variables: dict[str, str], namespace: str | None, asides: list[str]
) -> None:
    from ray._private.node import Node as RaysNode
    from ray.scripts.scripts import start

    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        os.environ.update(variables)
        if namespace:
            _enter(namespace)
        for name in set(_ASIDES) - set(asides):
            setattr(RaysNode, name, lambda _node, **_options: None)
        start.main(arguments, standalone_mode=False)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns comes with Python 3.12
    with Path(namespace).open() as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "cannot enter", namespace)


if __name__ == "__main__":
    _main()
