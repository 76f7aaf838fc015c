"""The process that speaks with an existing Ray cluster: the launcher would wait for Ray's import.

``python -m clusters.ray_envoy ORDER``, below a guard. ORDER is JSON: ``socket`` (an inherited
descriptor that leads to the launcher), ``address``, ``runtime_env``. JSON lines come and go:

- in: ``{"id", "do", ...}``, a request: hosts, claim, ask, release; or ``{"do": "start", ...}`` and
  ``{"do": "signal", "rank", "signal"}``. The end of the socket ends this process, and with it, by
  Ray, all its actors.
- out: ``{"id", "answer"}`` or ``{"id", "error"}``, a sentence; ``{"rank", "pid"}``; ``{"rank",
  "ended"}`` with the fields of ``Ended``; ``{"failed"}``: there is no connection to Ray.

Workers' files come home by way of this process: it writes them below the run's folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from typing import Any, NoReturn

from clusters.ray_actor_worker import ActorWorker
from clusters.ray_census import Census
from clusters.ray_claim import Claim, ClaimError
from clusters.ray_driver import first_line

_LINE_BYTES = 2**26
_LOOK_S = 2.0


class Envoy:
    """Carries out the launcher's requests."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._census = Census()
        self._claim: Claim | None = None
        self._workers: dict[int, ActorWorker] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Returns when the launcher has closed the connection."""
        reader, self._writer = await asyncio.open_connection(
            sock=self._connection, limit=_LINE_BYTES
        )
        self._running.add(asyncio.create_task(watch()))
        while line := await reader.readline():
            task = asyncio.create_task(self._obey(json.loads(line)))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _obey(self, order: dict[str, Any]) -> None:
        if order["do"] == "start":
            await self._follow(order)
        elif order["do"] == "signal":
            await self._workers[order["rank"]].signal(order["signal"])
        else:
            try:
                self.tell(id=order["id"], answer=await self._answer(order))
            except ClaimError as error:
                self.tell(id=order["id"], error=str(error), no_room=error.no_room)
            except Exception as error:
                self.tell(id=order["id"], error=f"Ray: {first_line(error)}")

    async def _answer(self, order: dict[str, Any]) -> Any:
        if order["do"] == "hosts":
            return await self._census.hosts()
        if order["do"] == "claim":
            self._claim = Claim(order["bundles"], order["nodes"], order["strategy"])
            return await self._claim.places()
        if order["do"] == "ask" and self._claim is not None:
            return await self._claim.ask(order["module"], order["arguments"])
        if order["do"] == "release" and self._claim is not None:
            self._claim.release()
            self._claim = None
        return None

    async def _follow(self, order: dict[str, Any]) -> None:
        """One worker, from its order to its end."""
        assert self._claim is not None
        rank = order["rank"]
        worker = ActorWorker(self._claim.actors[rank], order, self._census)
        self._workers[rank] = worker
        async for news in worker.news():
            self.tell(rank=rank, **news)

    def tell(self, **fields: object) -> None:
        """Writes a line to the launcher."""
        self._writer.write((json.dumps(fields) + "\n").encode())


async def watch() -> None:
    """Ends this process when Ray has given the connection up, so that the launcher sees it."""
    import ray

    while ray.is_initialized():
        await asyncio.sleep(_LOOK_S)
    print("Ray has closed the connection", file=sys.stderr, flush=True)
    os._exit(1)


def connect(address: str, runtime_env: dict[str, Any]) -> None:
    """Joins the cluster as a driver; a Ray job's own runtime environment stays. Raises Ray's."""
    import ray

    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    os.environ["RAY_OVERRIDE_JOB_RUNTIME_ENV"] = "1"  # this merges the two itself
    ray.init(
        address=address,
        runtime_env=merged(job, runtime_env),
        log_to_driver=False,
        logging_level="ERROR",
    )


def merged(job: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Ours with a Ray job's: its working_dir stays, its modules come behind ours. Pure."""
    modules = [*own.get("py_modules", []), *job.get("py_modules", [])]
    variables = {**job.get("env_vars", {}), **own.get("env_vars", {})}
    return {**own, **job, "py_modules": modules, "env_vars": variables}


def main() -> None:
    """Connects, then serves the launcher; ends with the connection, or by SIGTERM."""
    order = json.loads(sys.argv[1])
    connection = socket.socket(fileno=order["socket"])
    try:
        connect(order["address"], order["runtime_env"])
    except BaseException as error:
        connection.sendall((json.dumps({"failed": str(error) or repr(error)}) + "\n").encode())
        raise
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray's own would wait for its clean-up
    try:
        asyncio.run(Envoy(connection).serve())
    finally:
        leave()


def leave() -> NoReturn:
    """Ends this process; Ray sees that and ends its actors.

    Its own clean-up takes a second. Only a ray:// connection needs it: the cluster would wait half
    a minute for it to come back.
    """
    import ray

    if ray.util.client.ray.is_connected():
        ray.shutdown()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
