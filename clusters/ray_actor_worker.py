"""A worker below an actor on some node: its news, and what its silence means."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clusters.base import Ended
from clusters.mirror import Copy
from clusters.ray_census import Census
from clusters.ray_driver import first_line

_SILENT_S = 10.0  # then its node is asked: an actor answers every second
_LOST_S = 60.0  # then it counts as lost, though its node answers


class ActorWorker:
    """``order``: what the launcher has sent to start it (see ``ray_existing.py``)."""

    def __init__(self, actor: Any, order: dict[str, Any], census: Census) -> None:
        self._actor, self._order, self._census = actor, order, census
        self._pid: int | None = None

    async def news(self) -> AsyncIterator[dict[str, Any]]:
        """Starts it; gives its ``pid`` and, last, how it ``ended``. Its files are written down."""
        copy = Copy(Path(self._order["run"]))
        try:
            await self._call(self._actor.start, self._start_order())
            while True:
                told = await self._call(self._actor.news)
                for piece in told["pieces"]:
                    copy.write(piece)
                if told["pid"]:
                    self._pid = told["pid"]
                    yield {"pid": told["pid"]}
                if told["ended"]:
                    yield {"ended": told["ended"]}
                    return
        except Exception as error:
            yield {"ended": asdict(await self._lost(error))}

    async def signal(self, letter: str) -> None:
        """t asks it to end, k kills it."""
        self._actor.order.remote(letter)

    async def _call(self, method: Any, *arguments: Any) -> Any:
        """An actor's answer. Raises TimeoutError when it is lost, and whatever Ray raises."""
        answer = asyncio.wrap_future(method.remote(*arguments).future())
        begun = time.monotonic()
        while True:
            done, _ = await asyncio.wait({answer}, timeout=_SILENT_S)
            if done:
                return answer.result()
            silent = time.monotonic() - begun
            if silent > _LOST_S or not await self._census.answers(self._order["node"]):
                answer.cancel()
                raise TimeoutError(f"its actor has not answered for {silent:.0f} s")

    async def _lost(self, error: Exception) -> Ended:
        """The end of a worker that nobody can tell of any more."""
        node = self._census.name(self._order["node"])
        answers = await self._census.answers(self._order["node"])
        if isinstance(error, OSError) and error.filename:
            evidence = f"its files cannot be written here, {error.filename}: {error.strerror}"
        elif answers:
            evidence = f"its Ray actor on {node} is lost, and the worker with it: {_why(error)}"
        else:
            evidence = f"its node {node} is lost: the raylet there does not answer any more"
        return Ended(
            code=-signal.SIGKILL,
            time=time.time(),
            pid=self._pid,
            evidence=evidence,
            lost_host=not answers,
        )

    def _start_order(self) -> dict[str, Any]:
        inputs = self._order["inputs"].items()
        return {**self._order, "inputs": {name: Path(path).read_bytes() for name, path in inputs}}


def _why(error: Exception) -> str:
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError):
        reason = str(getattr(error, "error_msg", "")).strip().splitlines()
        return f"the actor's process has died ({reason[-1]})" if reason else "it has died"
    return first_line(error)
