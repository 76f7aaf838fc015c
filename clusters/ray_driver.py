"""The process that drives a job's Ray: the launcher would die with Ray, and wait for its import.

``python -m clusters.ray_driver ORDER``, below a guard. ORDER is JSON: ``socket`` (an inherited
descriptor that leads to the launcher), ``folder`` (for Ray's files), ``bundles`` (what each worker
holds, by rank). JSON lines come and go:

- in: a start order (see ``ray_holder.py``), or ``{"rank", "signal"}``: t asks the worker to end, k
  kills it. The end of the socket ends this process, and with it Ray.
- out: ``{"rank", "pid"}``, ``{"rank", "ended"}`` with the fields of ``Ended``, or ``{"failed"}``, a
  sentence: Ray is lost, and all workers with it.

Importing and starting Ray takes two seconds and more, and so does importing a framework. Workers
that can wait (their order says ``early``) are started by this process at once; they import their
framework, and wait for a line on the descriptor that TROIKA_GO names. When a worker's actor is up,
it takes over this process's ends of two pipes, that to the guard and that to the worker, and writes
the line. From then on the worker ends with its actor, as one does that the actor has started.

Ray is started and ended by the main thread, all else happens in an event loop in a second one.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from clusters.base import Ended
from clusters.process import GuardedProcess
from clusters.ray_holder import GO_VARIABLE, POLL_S, started
from clusters.ray_local import end_ray, holder, print_logs, servers, start_ray

_LINE_BYTES = 2**24


class Driver:
    """Carries out the launcher's orders; ``ray_up`` gets Ray's placement group, or its error."""

    def __init__(self, connection: socket.socket, folder: Path) -> None:
        self.ray_up: Future[Any] = Future()
        self._connection = connection
        self._folder = folder
        self._workers: dict[int, _Worker] = {}

    def serve(self) -> None:
        """Returns when the launcher has closed the connection, or Ray is lost."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reader, self._writer = await asyncio.open_connection(
            sock=self._connection, limit=_LINE_BYTES
        )
        listening = asyncio.create_task(self._listen(reader))
        watching = asyncio.create_task(self._watch())
        await asyncio.wait({listening, watching}, return_when=asyncio.FIRST_COMPLETED)
        if self._lost.done():
            print_logs(self._folder)
            self.tell(failed=self._lost.result())

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        running = set()
        while line := await reader.readline():
            order = json.loads(line)
            if "signal" in order:
                self._workers[order["rank"]].signal(order["signal"])
            else:
                worker = self._workers[order["rank"]] = _Worker(self, order)
                running.add(asyncio.create_task(worker.follow()))

    async def _watch(self) -> None:
        """Notes the death of one of Ray's servers: Ray itself takes up to a minute to see it."""
        try:
            await asyncio.shield(asyncio.wrap_future(self.ray_up))
        except Exception as error:
            self._lost.set_result(f"Ray could not be started: {first_line(error)}")
            return
        loop = asyncio.get_running_loop()
        for name, pid in servers().items():
            loop.add_reader(os.pidfd_open(pid), self._server_died, name, pid)
        await self._lost

    def _server_died(self, name: str, pid: int) -> None:
        if not self._lost.done():
            self._lost.set_result(f"Ray's {name} (pid {pid}) has died, and the workers with it")

    def tell(self, **fields: object) -> None:
        """Writes a line to the launcher."""
        self._writer.write((json.dumps(fields) + "\n").encode())


class _Worker:
    """One worker, from its order to its end."""

    def __init__(self, driver: Driver, order: dict[str, Any]) -> None:
        self._driver = driver
        self._order = order
        self._pid: int | None = None
        self._process: GuardedProcess | None = None
        self._actor: Any = None
        self._actor_pid: int | None = None
        self._held = False
        self._stopped = ""

    async def follow(self) -> None:
        """Starts the worker and tells the launcher how it ended."""
        try:
            ended = await (self._early() if self._order["early"] else self._late())
        except Exception as error:
            if self._driver.ray_up.done() and self._driver.ray_up.exception():
                return  # all workers are lost, and the launcher hears that from the driver
            ended = Ended(
                code=-signal.SIGKILL,
                time=time.time(),
                pid=self._pid,
                evidence=self._evidence(error),
            )
        self._driver.tell(rank=self._order["rank"], ended=asdict(ended))
        if self._actor is not None:
            import ray

            ray.kill(self._actor)  # its resources are free for another worker

    def signal(self, letter: str) -> None:
        """An order of the launcher, passed on to whoever holds the worker at the time."""
        self._stopped = letter
        if self._process is not None and not self._held:
            if letter == "k":
                self._process.kill()
            else:
                self._process.terminate()
        elif self._actor_pid is not None:
            self._actor.order.remote(letter)

    async def _late(self) -> Ended:
        await self._place()
        if self._stopped:
            return Ended(code=-signal.SIGTERM, time=time.time(), pid=None)
        self._note(await self._actor.start.remote(self._order))
        if self._stopped:
            self._actor.order.remote(self._stopped)
        return Ended(**await self._actor.ended.remote())

    async def _early(self) -> Ended:
        waiting, go = os.pipe()
        self._order["env"][GO_VARIABLE] = str(waiting)
        self._process = process = started(self._order, (waiting,))
        os.close(waiting)
        handing_over = asyncio.create_task(self._hand_over(process, go))
        while (ended := process.poll()) is None:
            if self._pid is None and process.pid is not None:
                self._note(process.pid)
            await asyncio.sleep(POLL_S)
        if self._actor is None and handing_over.cancel():
            return ended
        try:
            await handing_over
            await self._actor.pid.remote()
        except Exception as error:
            return replace(ended, evidence=self._evidence(error))
        return ended

    async def _hand_over(self, process: GuardedProcess, go: int) -> None:
        """Has the actor hold the worker. The ends of the pipes stay open until it has its own."""
        control = os.dup(process.control)
        try:
            await self._place()
            await self._actor.hold.remote(os.getpid(), control, go)
            process.let_go()
            self._held = True
        finally:
            os.close(control)
            os.close(go)

    async def _place(self) -> None:
        """Gets the worker its actor. Raises whatever Ray raises."""
        group = await asyncio.shield(asyncio.wrap_future(self._driver.ray_up))
        self._actor = holder(group, self._order["rank"])
        self._actor_pid = await self._actor.pid.remote()

    def _note(self, pid: int | None) -> None:
        self._pid = pid
        if pid is not None:
            self._driver.tell(rank=self._order["rank"], pid=pid)

    def _evidence(self, error: Exception) -> str:
        if self._actor is None:
            return f"it could not be started: {first_line(error)}"
        if self._actor_pid is None:
            return f"its Ray actor could not be started: {first_line(error)}"
        from ray.exceptions import RayActorError

        if isinstance(error, RayActorError):
            return f"its Ray actor (pid {self._actor_pid}) has died, and the worker with it"
        return f"its Ray actor (pid {self._actor_pid}) failed: {first_line(error)}"


def first_line(error: Exception) -> str:
    """The first line of an error's text that says anything; Ray's texts are long."""
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Starts Ray while a second thread serves the launcher; clears away, however it ends."""
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    driver = Driver(socket.socket(fileno=order["socket"]), folder)
    serving = threading.Thread(target=driver.serve, daemon=True)
    signal.signal(signal.SIGTERM, _leave)
    try:
        serving.start()
        try:
            driver.ray_up.set_result(start_ray(folder, order["bundles"]))
        except Exception as error:
            traceback.print_exc()
            driver.ray_up.set_exception(error)
        signal.signal(signal.SIGTERM, _leave)  # Ray has put its own in its place
        serving.join()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_ray(folder)
        sys.stderr.flush()
        os._exit(0)  # nor does Ray's own clean-up have anything left to do


if __name__ == "__main__":
    main()
