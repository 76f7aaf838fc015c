"""The parent of one worker: sees that nothing of it outlives the launcher.

Run as a plain script, ``python -I -S guard.py ORDER``: stdlib only, about 20 ms. ORDER is JSON:
``argv``, ``cpus`` (to bind to, may be empty), ``control`` and ``status`` (inherited descriptors),
``grace_s``. On ``control``, a byte t sends SIGTERM to the worker's process group and k kills
everything; its end (the launcher is gone, however) does both, ``grace_s`` apart. On ``status`` it
writes JSON lines: ``{"pid"}`` at the start, ``{"code", "time"}`` or ``{"error"}`` at the end.

The guard is the subreaper of all that the worker starts: children that leave its process group or
lose their parent stay below the guard, and it ends them when the worker has ended. If the guard
itself is killed, the kernel kills the worker, and the launcher, a subreaper too, gets the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_LEFTOVER_GRACE_S = 1.0
_SWEEP_S = 0.02


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2) with one argument. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, parents before children; zombies are left out.

    What is below a zombie counts: while threads of it still end, it has its children.
    """
    children: dict[int, list[int]] = {}
    zombies = set()
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib doubles this script's start
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                state, parent = file.read().rpartition(b")")[2].split()[:2]
                children.setdefault(int(parent), []).append(int(name))
                if state in (b"Z", b"X"):
                    zombies.add(int(name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(0), [])
        found += below
        queue += below
    return [found_pid for found_pid in found if found_pid not in zombies]


def send_all(pids: list[int], number: int) -> None:
    """Sends a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Guard:
    """Starts the worker, waits for its end or for orders, leaves nothing behind."""

    def __init__(self, order: dict[str, object]) -> None:
        self.order = order
        self.control, self.status = int(str(order["control"])), int(str(order["status"]))
        for descriptor in (self.control, self.status):
            os.set_inheritable(descriptor, False)
        self.code: int | None = None
        self.deadline: float | None = None

    def run(self) -> None:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.worker = self.start()
        self.tell(pid=self.worker)
        watched = [self.control, wake]
        while self.code is None:
            left = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            ready = select.select(watched, [], [], left)[0]
            if wake in ready:
                os.read(wake, 512)
            if self.control in ready and not self.obey():
                watched.remove(self.control)
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.deadline = None
                send_all([self.worker, *descendants(os.getpid())], signal.SIGKILL)
            self.reap()
        ended = time.time()
        self.clear()
        self.tell(code=self.code, time=ended)

    def start(self) -> int:
        """Forks and executes the worker, the leader of a process group of its own.

        Returns once it executes: from then on a signal finds the group, and nobody ignores it.
        """
        guard = os.getpid()
        executed, executing = os.pipe()
        pid = os.fork()
        if pid:
            os.close(executing)
            with open(executed) as problem:  # noqa: PTH123 - a descriptor; ends with the exec
                if text := problem.read():
                    self.tell(error=text)
            return pid
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != guard:
                os._exit(1)
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            cpus = [int(str(cpu)) for cpu in _items(self.order["cpus"])]
            if cpus:
                os.sched_setaffinity(0, cpus)
            argv = [str(word) for word in _items(self.order["argv"])]
            os.execvp(argv[0], argv)
        except OSError as error:
            os.write(executing, str(error.strerror).encode())
        finally:
            os._exit(127)

    def obey(self) -> bool:
        """Carries out the orders that came; False when no more can come."""
        orders = os.read(self.control, 16)
        if b"k" in orders:
            self.deadline = time.monotonic()
        elif self.deadline is None and (b"t" in orders or not orders):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.worker, signal.SIGTERM)
            if not orders:
                self.deadline = time.monotonic() + float(str(self.order["grace_s"]))
        return bool(orders)

    def reap(self) -> None:
        """Collects everything that has ended below the guard."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.worker:
                    self.code = os.waitstatus_to_exitcode(status)

    def clear(self) -> None:
        """Ends what the worker left: SIGTERM, a second, SIGKILL until nothing is there."""
        left = descendants(os.getpid())
        send_all(left, signal.SIGTERM)
        kill_at = time.monotonic() + _LEFTOVER_GRACE_S
        while left:
            if time.monotonic() > kill_at or select.select([self.control], [], [], 0)[0]:
                send_all(left, signal.SIGKILL)
            time.sleep(_SWEEP_S)
            self.reap()
            left = descendants(os.getpid())

    def tell(self, **fields: object) -> None:
        """Writes a line to the launcher, if it is still there."""
        with contextlib.suppress(OSError):
            os.write(self.status, (json.dumps(fields) + "\n").encode())


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Guard(json.loads(sys.argv[1])).run()
