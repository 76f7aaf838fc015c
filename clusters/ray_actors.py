"""``ray``: each worker runs in a Ray actor; here, on a Ray of the job's own on this machine.

The launching process never imports Ray. A helper (``ray_driver.py``), guarded as a worker is,
starts Ray and the actors, and passes orders and news on through a socket. Whatever of all that
dies, the workers are ended by their guards, and reported here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from clusters.base import (
    Allocation,
    Cluster,
    ClusterError,
    ClusterSpec,
    Ended,
    Host,
    Slot,
    Worker,
    WorkerPlan,
)
from clusters.guard import PR_SET_CHILD_SUBREAPER, prctl, send_all
from clusters.local import LocalCluster
from clusters.process import GuardedProcess
from clusters.ray_holder import GO_VARIABLE
from clusters.ray_link import LinkedWorker
from clusters.ray_local import all_pids, environment, is_alive

_ROOT = Path(__file__).parent.parent
_FOLDER_BYTES = 36  # a socket's path has at most 107 bytes, and Ray appends 71
_RECEIVE_BYTES = 65536
_JOB = "TROIKA_JOB"  # by this variable, what a helper has started is known after its end


def ray_cluster(spec: ClusterSpec) -> Cluster:
    """The cluster at the address that ``spec`` has, or a Ray of the job's own."""
    if spec.address is None:
        return OwnRay(spec)
    from clusters.ray_existing import ExistingRay

    return ExistingRay(spec)


class OwnRay(LocalCluster):
    """This machine, by way of Ray. ``environ`` is what the workers inherit."""

    def __init__(
        self, spec: ClusterSpec | None = None, environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(spec, environ)
        self._slots: tuple[Slot, ...] = ()
        self._link: _Link | None = None

    def allocate(
        self, hosts: tuple[Host, ...], workers: int, device: str, process_per: str
    ) -> Allocation:
        allocation = super().allocate(hosts, workers, device, process_per)
        return replace(allocation, notes=(*allocation.notes, "each in an actor of a local Ray"))

    def claim(self, allocation: Allocation) -> Allocation:
        """As ``local``, and remembers the slots: Ray is started with just what they need."""
        claimed = super().claim(allocation)
        self._slots = claimed.slots
        return claimed

    def start(self, plan: WorkerPlan) -> Worker:
        """Raises ClusterError if there is no room for Ray's files."""
        if self._link is None:
            self._link = self._start_driver(plan)
        self._link.send(
            rank=plan.rank,
            argv=plan.argv,
            env={**self._environ, **plan.env, _JOB: self._link.job},
            cwd=str(Path.cwd()),
            cpus=plan.slot.cpus,
            log=str(plan.log_path.absolute()),
            early=GO_VARIABLE in plan.env,
        )
        return LinkedWorker(plan, self._link)

    def release(self) -> None:
        super().release()
        if self._link is not None:
            self._link.close()
            self._link = None

    def _orphans(self) -> set[int]:
        """Also what is left of Ray and of the workers, when the helper has gone without them."""
        left = super()._orphans()
        if self._link is not None:
            ours = [pid for pid in all_pids() if is_alive(pid) and self._link.started(pid)]
            send_all(ours, signal.SIGKILL)
            left.update(ours)
        return left

    def _start_driver(self, plan: WorkerPlan) -> _Link:
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # as LocalCluster does
        folder = _folder()
        ours, its = socket.socketpair()
        order = {
            "socket": its.fileno(),
            "folder": str(folder),
            # The CPU is for Ray: it starts as many processes in advance as it has CPUs.
            "bundles": [{"CPU": 1, "GPU": len(slot.devices)} for slot in self._slots],
        }
        inherited = self._environ.get("PYTHONPATH", "")
        helper = replace(
            plan,
            slot=replace(plan.slot, cpus=()),
            argv=(sys.executable, "-m", "clusters.ray_driver", json.dumps(order)),
            env={"PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), inherited)))},
            log_path=plan.log_path.with_name("ray.log"),
        )
        with its:
            process = GuardedProcess(
                helper, environment(self._environ), cwd=folder, descriptors=(its.fileno(),)
            )
        self._processes.append(process)
        return _Link(process, ours, folder)


class _Link:
    """The helper's process and what has come from it."""

    def __init__(self, process: GuardedProcess, connection: socket.socket, folder: Path) -> None:
        self.pids: dict[int, int] = {}
        self._ended: dict[int, Ended] = {}
        self._failed = ""
        self._process = process
        self._connection = connection
        self._folder = folder
        self._text = b""

    def send(self, **fields: object) -> None:
        """Sends an order. If the helper has gone, ``ended`` says so."""
        with suppress(OSError):
            self._connection.sendall((json.dumps(fields) + "\n").encode())

    def signal(self, rank: int, letter: str) -> None:
        """t asks a worker to end, k kills it."""
        self.send(rank=rank, signal=letter)

    def ended(self, rank: int) -> Ended | None:
        """How a worker ended; for all that still ran, when the helper and all below it are gone."""
        helper = self._process.poll()
        self._receive()
        if helper is not None and rank not in self._ended:
            self._ended[rank] = Ended(
                code=-signal.SIGKILL,
                time=helper.time,
                pid=self.pids.get(rank),
                evidence=f"{self._failed or _describe(helper)}; its log: {self.log}",
            )
        return self._ended.get(rank)

    @property
    def log(self) -> Path:
        return self._process.plan.log_path

    @property
    def job(self) -> str:
        return self._process.mark

    def started(self, pid: int) -> bool:
        """Whether a process is Ray's (in the session of the helper's guard) or a worker's."""
        with suppress(OSError):
            if os.getsid(pid) == self._process.guard_pid:
                return True
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            return f"{_JOB}={self.job}".encode() in variables
        return False

    def close(self) -> None:
        """To be called when the helper has ended; it may have been killed, and left its folder."""
        self._connection.close()
        if self._process.guard_killed and self._process.pid is not None:
            with suppress(ChildProcessError):  # Ray's servers are left to this process as zombies
                while os.waitpid(-self._process.pid, os.WNOHANG)[0]:
                    pass
        shutil.rmtree(self._folder, ignore_errors=True)

    def _receive(self) -> None:
        with suppress(OSError):
            while chunk := self._connection.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            news = json.loads(line)
            if "failed" in news:
                self._failed = news["failed"]
            elif "pid" in news:
                self.pids[news["rank"]] = news["pid"]
            else:
                self._ended[news["rank"]] = Ended(**news["ended"])


def _folder() -> Path:
    """A new folder with a path that is short enough. Raises ClusterError."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) + len("/troika-12345678") > _FOLDER_BYTES:
        base = "/tmp"
    try:
        return Path(tempfile.mkdtemp(prefix="troika-", dir=base))
    except OSError as error:
        raise ClusterError(
            f"Ray's files need a folder below {base}, which cannot be made: {error.strerror}; "
            "set TMPDIR to a writable folder with a short path"
        ) from None


def _describe(helper: Ended) -> str:
    how = (
        f"was killed by {signal.Signals(-helper.code).name}"
        if helper.code < 0
        else f"ended with exit code {helper.code}"
    )
    cause = f" ({helper.evidence})" if helper.evidence else ""
    return f"the process that drives Ray (pid {helper.pid}) {how}{cause}, and the workers with it"
