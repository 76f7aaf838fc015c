"""A worker as a guarded process of this host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from clusters import oom
from clusters.base import Ended, WorkerPlan

_GUARD = Path(__file__).with_name("guard.py")
LAUNCHER_GONE_GRACE_S = 2.0
MARK = "TROIKA_WORKER"
"""The variable by which what a worker started is known, should its guard be killed."""


class GuardedProcess:
    """Starts a worker below a guard (see ``guard.py``) and follows it; no call blocks.

    ``cwd``: the worker's directory, this process's if None; ``descriptors``: what it inherits.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        environ: Mapping[str, str],
        *,
        cwd: Path | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.plan = plan
        self.pid: int | None = None
        self.guard_killed = False
        self.mark = os.urandom(8).hex()
        self._ended: Ended | None = None
        self._text = b""
        self._oom_kills = oom.kills()
        plan.log_path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            control_read, self._control = os.pipe()
            self._status, status_write = os.pipe()
            for descriptor in (control_read, status_write):
                stack.callback(os.close, descriptor)
            on_failure = stack.enter_context(ExitStack())
            on_failure.callback(self._close)
            order = {
                "argv": plan.argv,
                "cpus": plan.slot.cpus,
                "control": control_read,
                "status": status_write,
                "grace_s": LAUNCHER_GONE_GRACE_S,
            }
            log = stack.enter_context(plan.log_path.open("ab"))
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), json.dumps(order)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ, **plan.env, MARK: self.mark},
                pass_fds=(control_read, status_write, *descriptors),
                start_new_session=True,
                cwd=cwd,
            )
            on_failure.pop_all()
        os.set_blocking(self._status, False)

    def poll(self) -> Ended | None:
        """None until the guard is gone too: it stays until the worker's children are."""
        if self._guard.returncode is None and self._guard.poll() is not None:
            self._read()
            if self._ended is None:
                self.guard_killed = True
                self._ended = Ended(
                    code=-signal.SIGKILL,
                    time=time.time(),
                    pid=self.pid,
                    evidence="its guard process was killed, and the kernel killed it with that",
                )
            self._close()
        elif self._guard.returncode is None:
            self._read()
        return self._ended if self._guard.returncode is not None else None

    def terminate(self) -> None:
        self._order(b"t")

    def kill(self) -> None:
        self._order(b"k")

    @property
    def guard_pid(self) -> int:
        return self._guard.pid

    @property
    def control(self) -> int:
        """The guard's control pipe: the worker is ended when its last holder is gone."""
        return self._control

    def let_go(self) -> None:
        """Closes this process's end of ``control``; whoever has taken another gives the orders."""
        os.close(self._control)
        self._control = -1

    def _order(self, order: bytes) -> None:
        if self._guard.returncode is None:
            with suppress(OSError):
                os.write(self._control, order)

    def _read(self) -> None:
        with suppress(BlockingIOError, OSError):
            while chunk := os.read(self._status, 4096):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, object]) -> None:
        if "pid" in message:
            self.pid = int(str(message["pid"]))
        elif "error" in message:
            self._ended = Ended(
                code=127,
                time=time.time(),
                pid=self.pid,
                evidence=f"{self.plan.argv[0]} could not be started: {message['error']}",
            )
        elif self._ended is None:
            code = int(str(message["code"]))
            killed = code == -signal.SIGKILL
            self._ended = Ended(
                code=code,
                time=float(str(message["time"])),
                pid=self.pid,
                evidence=oom.evidence(self.pid, self._oom_kills) if killed else "",
            )

    def _close(self) -> None:
        for descriptor in (self._control, self._status):
            with suppress(OSError):
                os.close(descriptor)
