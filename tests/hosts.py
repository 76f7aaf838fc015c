"""Network namespaces as hosts, each with an address of its own, joined by a bridge; for tests."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_NAMESPACES = Path("/run/netns")
_TOOLS = ("ip", "tc")
_INSIDE = "eth0"
_RUN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Host:
    """``address`` reaches it from the other hosts and from this machine; ``name`` is made up."""

    name: str
    address: str
    link: str  # this machine's end of the cable to it

    @property
    def namespace(self) -> Path:
        return _NAMESPACES / self.name

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs ``command`` there to its end; the options are those of ``subprocess.run``."""
        options = {"capture_output": True, "timeout": _RUN_S, **options}
        return subprocess.run([*self._enter, *command], text=True, check=False, **options)

    def popen(self, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """``command`` there, running; the options are those of ``subprocess.Popen``."""
        return subprocess.Popen([*self._enter, *command], text=True, **options)

    def slow(self, rate: str = "25mbit") -> None:
        """Narrows its cable to ``rate`` (as ``tc`` has it) each way, with up to 50 ms of queue.

        By a token bucket: netem, which could add a delay too, is not in every kernel.
        """
        narrow = ("root", "tbf", "rate", rate, "burst", "64kb", "latency", "50ms")
        _call("tc", "qdisc", "replace", "dev", self.link, *narrow)
        _call(*self._enter, "tc", "qdisc", "replace", "dev", _INSIDE, *narrow)

    def cut(self) -> None:
        """Pulls its cable. Nobody is told: packets are lost, connections stay open."""
        _call("ip", "link", "set", self.link, "down")

    @property
    def _enter(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Makes hosts; they go at the end, and what still runs in them is killed."""
    run = secrets.token_hex(3)
    bridge = f"tr{run}b"
    net = _free_net()
    with ExitStack() as stack:
        _call("ip", "link", "add", bridge, "type", "bridge")
        stack.callback(_call, "ip", "link", "delete", bridge)
        _call("ip", "address", "add", f"{net}.254/24", "dev", bridge)
        _call("ip", "link", "set", bridge, "up")
        made = []
        for index in range(count):
            host = Host(
                name=f"tr{run}-{index}", address=f"{net}.{index + 1}", link=f"tr{run}v{index}"
            )
            _call("ip", "netns", "add", host.name)
            stack.callback(_remove, host)
            inside = ("ip", "-n", host.name)
            _call(
                "ip", "link", "add", host.link, "type", "veth", "peer", _INSIDE, "netns", host.name
            )
            _call("ip", "link", "set", host.link, "master", bridge, "up")
            _call(*inside, "address", "add", f"{host.address}/24", "dev", _INSIDE)
            _call(*inside, "link", "set", _INSIDE, "up")
            _call(*inside, "link", "set", "lo", "up")
            _call(*inside, "route", "add", "default", "via", f"{net}.254")
            made.append(host)
        yield made


@cache
def unsupported() -> str | None:
    """Why this machine cannot have such hosts, for a test to be skipped; None if it can."""
    if os.geteuid():
        return "only root may make network namespaces"
    if missing := [tool for tool in _TOOLS if not shutil.which(tool)]:
        return f"there is no {' and no '.join(missing)} (of the package iproute2)"
    try:
        with hosts(1) as (host,):
            host.slow()
    except RuntimeError as error:
        return f"network namespaces are not allowed here: {error}"
    return None


def _free_net() -> str:
    taken = _call("ip", "-4", "address")
    return next(
        net for x in random.sample(range(1, 255), 254) if f" {(net := f'10.77.{x}')}." not in taken
    )


def _remove(host: Host) -> None:
    for pid in _call("ip", "netns", "pids", host.name).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    # The namespace may live on for a moment, with its end of the cable and so with ours.
    _call("ip", "link", "delete", host.link)
    _call("ip", "netns", "delete", host.name)


def _call(*command: str) -> str:
    """What ``command`` prints. Raises RuntimeError with what it complains of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
