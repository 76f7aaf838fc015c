"""What a Ray actor does: it holds a worker's resources, and the worker ends with it.

Runs in Ray's worker processes, on whatever host; only the standard library and ``clusters``. An
actor either starts the worker itself (``start``), or takes over one that has been started on this
host while Ray was starting (``hold``). Either way it holds the only open end of the guard's control
pipe (see ``guard.py``), so that the guard ends the worker when the actor has gone.

A start order is what the launcher sends for a worker: ``rank``, ``argv``, ``env`` (all variables),
``cwd``, ``cpus``, ``log``, ``gpus``, and ``early``, whether to start it before its actor is up.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clusters.base import Ended, Slot, WorkerPlan
from clusters.process import GuardedProcess

POLL_S = 0.02
GO_VARIABLE = "TROIKA_GO"
"""Names the descriptor from which a worker reads a line before it goes on; "" says: do not wait."""
_GO = b"go\n"


def started(order: dict[str, Any], descriptors: tuple[int, ...] = ()) -> GuardedProcess:
    """The worker of a start order, started by this process. Raises OSError."""
    log = Path(order["log"])
    plan = WorkerPlan(
        rank=order["rank"],
        slot=Slot(host="", host_index=0, local_rank=0, cpus=tuple(order["cpus"])),
        argv=tuple(order["argv"]),
        env=order["env"],
        log_path=log,
        events_path=log,
        result_path=log,
    )
    return GuardedProcess(plan, {}, cwd=Path(order["cwd"]), descriptors=descriptors)


class Holder:
    """The actor. Its methods run one at a time, in one thread, as it has asynchronous ones."""

    def __init__(self) -> None:
        self._process: GuardedProcess | None = None
        self._control: int | None = None

    async def pid(self) -> int:
        """The actor's own process; by it, others see that it is there."""
        return os.getpid()

    async def hold(self, driver: int, control: int, go: int) -> None:
        """Opens descriptors of process ``driver`` on this host, and lets the worker go on.

        ``control`` leads to the guard, ``go`` to the worker, which waits for a line from it. The
        kernel lets processes of one user open each other's pipes; it takes no socket to pass them.
        """
        self._control = os.open(f"/proc/{driver}/fd/{control}", os.O_WRONLY)
        worker = os.open(f"/proc/{driver}/fd/{go}", os.O_WRONLY)
        os.write(worker, _GO)
        os.close(worker)

    async def start(self, order: dict[str, Any]) -> int | None:
        """Starts the worker; gives its process number, None if it could not be started."""
        self._process = process = started(order)
        while process.pid is None and process.poll() is None:
            await asyncio.sleep(POLL_S)
        return process.pid

    async def ended(self) -> dict[str, Any]:
        """Waits for the end of the worker that ``start`` has started: the fields of ``Ended``."""
        assert self._process is not None
        while True:
            ended: Ended | None = self._process.poll()
            if ended is not None:
                return asdict(ended)
            await asyncio.sleep(POLL_S)

    async def order(self, letter: str) -> None:
        """Passes an order on to the guard: t ends the worker, k kills it and all below it."""
        control = self._control if self._process is None else self._process.control
        if control is not None:
            os.write(control, letter.encode())
