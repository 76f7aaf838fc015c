"""The actor that holds a worker's place on a node of an existing Ray cluster.

It runs the worker as its guarded child, as on a local machine: exit codes, logs and kills mean the
same. The worker's files lie in a folder of the node's own; what is new in it goes to the launcher
(``mirror.py``). Whatever ends the actor ends the worker, by its guard, and then the folder goes.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from clusters.base import Slot, WorkerPlan
from clusters.gpus import probe_gpus, visible
from clusters.mirror import Source
from clusters.process import GuardedProcess
from clusters.swept import SweptFolder

_PORTS = range(20_000, 32_768)  # as on a local machine: above Ray's own, below the kernel's choice
_POLL_S = 0.05
_NEWS_S = 1.0  # the longest silence; the launcher's side takes more for a lost host
_ASK_S = 60.0
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_STDERR_BYTES = 2000


class Outpost:
    """Its methods run one at a time, in one thread, as it has asynchronous ones."""

    def __init__(self) -> None:
        self._folder = Path()
        self._process: GuardedProcess | None = None
        self._beside: GuardedProcess | None = None
        self._source: Source | None = None
        self._told_pid = False

    async def about(self) -> dict[str, Any]:
        """Its place: address, interface, a free port, GPUs; ``declared`` are those Ray gave it."""
        import ray

        address = ray.util.get_node_ip_address()
        gpus, problem = probe_gpus()
        ids = [str(gpu) for gpu in ray.get_gpu_ids()]
        return {
            "pid": os.getpid(),
            "address": address,
            "interface": interface_of(address),
            "port": free_port(address),
            "gpus": [asdict(gpu) for gpu in visible(gpus, ",".join(ids))] if ids else [],
            "declared": ids,  # parts of GPUs (MIG-...) are no GPUs to NVML, and still there
            "gpu_problem": problem,
            "ray": ray.__version__,
        }

    async def ask(self, module: str, arguments: list[str]) -> dict[str, Any]:
        """What ``python -m module`` prints here: ``out``, or ``error``."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(process.communicate(), _ASK_S)
        except asyncio.TimeoutError:
            process.kill()
            return {"error": f"no answer from {module} within {_ASK_S:.0f} s"}
        if process.returncode:
            return {"error": err[-_STDERR_BYTES:].decode(errors="replace").strip()}
        return {"out": out.decode()}

    async def start(self, order: Mapping[str, Any]) -> None:
        """Starts the worker. Paths below the launcher's run folder become paths of this one's."""
        swept = SweptFolder()
        self._folder, holding = swept.path, swept.descriptor
        for name, content in order["inputs"].items():
            (self._folder / name).write_bytes(content)
        for name in ("log", "events", "result"):
            self._local(order["run"], order[name]).parent.mkdir(exist_ok=True)
        self._source = Source(self._folder)
        if order["beside"]:
            log = self._local(order["run"], order["log"]).with_name("beside.log")
            self._beside = self._guarded(order, order["beside"], log, holding)
        log = self._local(order["run"], order["log"])
        self._process = self._guarded(order, order["argv"], log, holding)

    async def news(self) -> dict[str, Any]:
        """What has come: ``pieces`` of files, the ``pid``, the ``ended`` when all else is told.

        Waits up to a second for any of it.
        """
        assert self._process is not None
        assert self._source is not None
        deadline = time.monotonic() + _NEWS_S
        while True:
            ended = self._process.poll()
            pieces = self._source.news()
            pid = None if self._told_pid else self._process.pid
            if pieces or pid or ended or time.monotonic() > deadline:
                self._told_pid = self._told_pid or pid is not None
                over = ended if not pieces else None
                if over:
                    await self._end_beside()
                return {"pieces": pieces, "pid": pid, "ended": asdict(over) if over else None}
            await asyncio.sleep(_POLL_S)

    async def order(self, letter: str) -> None:
        """t asks the worker to end, k kills it and all below it."""
        if self._process is not None:
            (self._process.kill if letter == "k" else self._process.terminate)()

    async def _end_beside(self) -> None:
        if self._beside is not None:
            self._beside.kill()
            while self._beside.poll() is None:
                await asyncio.sleep(_POLL_S)

    def _guarded(
        self, order: Mapping[str, Any], argv: list[str], log: Path, holding: int
    ) -> GuardedProcess:
        words = [sys.executable if word == order["python"] else word for word in argv]
        env = {name: str(self._local(order["run"], v)) for name, v in order["env"].items()}
        if own := os.environ.get("PYTHONPATH"):  # where Ray has put what was sent
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (env.get("PYTHONPATH"), own)))
        if argv == order["beside"]:
            env["PYTHONSAFEPATH"] = "1"  # the script's folder may have a "strategies" of its own
        plan = WorkerPlan(
            rank=order["rank"],
            slot=Slot(host="", host_index=0, local_rank=0),
            argv=tuple(str(self._local(order["run"], word)) for word in words),
            env=env,
            log_path=log,
            events_path=log,
            result_path=log,
        )
        return GuardedProcess(plan, os.environ, descriptors=(holding,))

    def _local(self, run: str, word: str) -> Any:
        """A path below the launcher's run folder as one of this folder; any other word as it is."""
        if word == run or word.startswith(f"{run}/"):
            return Path(f"{self._folder}{word[len(run) :]}")
        return word


def free_port(address: str) -> int:
    """A port of ``address`` that is free now. Raises OSError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for port in random.sample(_PORTS, 100):
        with socket.socket(family) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found at {address}")


def interface_of(address: str) -> str:
    """The network interface that has an IPv4 address, or its network; "" if none is found."""
    if ":" in address:
        return ""  # the frameworks find it by themselves, if the host's name leads there
    wanted = IPv4Address(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # of one that has no address
                first, mask = (
                    IPv4Address(fcntl.ioctl(any_socket, question, _request(name))[20:24])
                    for question in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                )
                if wanted in IPv4Network(f"{first}/{mask}", strict=False):
                    return name
    return ""


def _request(interface: str) -> bytes:
    """A struct ifreq (netdevice(7))."""
    return struct.pack("256s", interface.encode()[:15])
