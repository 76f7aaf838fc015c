"""A real Ray cluster of a test's own: ``ray start``, with declared devices and a token."""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PATIENCE_S = 60.0
HOST = "127.0.0.1"
_GUARD = Path(__file__).parent.parent / "clusters/guard.py"
_LOWEST_PORT, _HIGHEST_PORT = 20000, 32000  # above Ray's own choices, below the kernel's
_OBJECT_STORE_BYTES = 80 * 2**20


@dataclass(frozen=True, kw_only=True)
class Head:
    """A running head. ``environ``: the variables with which a command here reaches it.

    ``address`` is for ``ray.init``, ``url`` the job server's; ``folder`` has Ray's files, and is
    what RAY_TMPDIR names; ``token`` is "" for a cluster that asks for none.
    """

    address: str
    url: str
    client_port: int
    folder: Path
    token: str
    environ: Mapping[str, str] = field(repr=False)


@contextmanager
def ray_head(
    *,
    cpus: int = 4,
    gpus: int = 0,
    token: str | None = None,
    jobs: bool = True,
    client: bool = False,
) -> Iterator[Head]:
    """A head with so many declared devices, once it can be reached. Kills all of it at the end.

    ``token``: a new one by default, "" for a cluster without; ``jobs``: with a job server;
    ``client``: waits for the server of ray:// addresses too, a few seconds more.
    """
    token = secrets.token_hex(32) if token is None else token
    with _folder() as folder:
        port, jobs_port, client_port, agent_port = free_ports(4)
        environ = environment(folder, token)
        words = [
            *("--head", f"--port={port}", f"--ray-client-server-port={client_port}"),
            *(f"--include-dashboard={str(jobs).lower()}", f"--dashboard-port={jobs_port}"),
            f"--dashboard-agent-listen-port={agent_port}",
        ]
        with _started(words, environ, folder, cpus=cpus, gpus=gpus) as process:
            for awaited in (*([jobs_port] if jobs else []), *([client_port] if client else [])):
                _wait_until_it_listens(awaited, process, folder)
            yield Head(
                address=f"{HOST}:{port}",
                url=f"http://{HOST}:{jobs_port}",
                client_port=client_port,
                folder=folder,
                token=token,
                environ=environ,
            )


def environment(folder: Path, token: str) -> dict[str, str]:
    """Ours instead of any RAY_ variable; no token of this machine's user is found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return kept | {
        **(access if token else {"RAY_AUTH_MODE": "disabled"}),
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")]),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_memory_monitor_refresh_ms": "0",
    }


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens at."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randint(_LOWEST_PORT, _HIGHEST_PORT)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            found.add(port)
    return list(found)


@contextmanager
def _folder() -> Iterator[Path]:
    """Ray's sockets want a short path: below /tmp, whatever TMPDIR says."""
    folder = Path(tempfile.mkdtemp(prefix="test-ray-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _started(
    words: list[str], environ: Mapping[str, str], folder: Path, *, cpus: int, gpus: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ``ray start`` below a guard: Ray's processes and its jobs' end with it, or with us."""
    command = [
        *(str(Path(sys.executable).with_name("ray")), "start", "--block", *words),
        *(f"--node-ip-address={HOST}", f"--num-cpus={cpus}", f"--num-gpus={gpus}"),
        f"--object-store-memory={_OBJECT_STORE_BYTES}",
        *(f"--plasma-directory={folder}", "--disable-usage-stats"),
    ]
    control_read, control = os.pipe()
    log = folder / "start.log"
    with log.open("wb") as output:
        order = {"argv": command, "cpus": [], "grace_s": 0}
        order |= {"control": control_read, "status": output.fileno()}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(control_read, output.fileno()),
            start_new_session=True,
        )
    os.close(control_read)
    try:
        _wait_until_it_runs(process, log)
        yield process
    finally:
        os.write(control, b"k")
        process.wait()
        os.close(control)


def _wait_until_it_runs(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while b"Ray runtime started" not in (text := log.read_bytes()):
        ended = process.poll() is not None or time.monotonic() > deadline
        assert not ended, f"Ray does not start: {text.decode(errors='replace')}"
        time.sleep(0.05)


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        ended = process.poll() is not None or time.monotonic() > deadline
        assert not ended, f"nobody listens at {port}: {(folder / 'start.log').read_text()}"
        time.sleep(0.05)
