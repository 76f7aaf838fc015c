"""The launcher's end of the socket to a helper that speaks with Ray."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from clusters.base import ClusterError, Ended, NoRoom, Slot, WorkerPlan
from clusters.process import GuardedProcess
from clusters.swept import SweptFolder

_ROOT = Path(__file__).parent.parent
_RECEIVE_BYTES = 65536
_ANSWER_S = 900.0  # nodes may have to install what a Ray job asks for
_END_S = 5.0
_TAIL_BYTES = 2000


class Link:
    """Starts ``python -m module ORDER``, guarded, with a socket to it; its log is in ``folder``.

    ``explain`` makes plain words of Ray's when the helper could not join the cluster.
    """

    def __init__(
        self,
        module: str,
        order: dict[str, Any],
        environ: Mapping[str, str],
        folder: SweptFolder,
        explain: Callable[[str], str],
    ) -> None:
        self.pids: dict[int, int] = {}
        self._ended: dict[int, Ended] = {}
        self._answers: dict[int, dict[str, Any]] = {}
        self._failed = ""
        self._explain = explain
        self._text = b""
        self._asked = 0
        self._connection, its = socket.socketpair()
        path = os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH", ""))))
        self._log = folder.path / "ray.log"
        helper = WorkerPlan(
            rank=0,
            slot=Slot(host="", host_index=0, local_rank=0),
            argv=(sys.executable, "-m", module, json.dumps({**order, "socket": its.fileno()})),
            env={"PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            log_path=self._log,
            events_path=self._log,
            result_path=self._log,
        )
        with its:
            self._process = GuardedProcess(
                helper, environ, descriptors=(its.fileno(), folder.descriptor)
            )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and not self._failed

    def request(self, do: str, *, patience_s: float = _ANSWER_S, **fields: object) -> Any:
        """Waits for the helper's answer.

        Raises ClusterError with its words, or Ray's explained; NoRoom if others have the room.
        """
        self._asked += 1
        number = self._asked
        self.send(id=number, do=do, **fields)
        deadline = time.monotonic() + patience_s
        while number not in self._answers:
            ended = self._process.poll()
            self._receive(0.05)
            if self._failed:
                raise ClusterError(self._explain(self._failed))
            if ended is not None and number not in self._answers:
                raise ClusterError(self._gone())
            if time.monotonic() > deadline:
                raise ClusterError(f"Ray has not answered within {patience_s:.0f} s")
        answer = self._answers.pop(number)
        if "error" in answer:
            raise (NoRoom if answer.get("no_room") else ClusterError)(answer["error"])
        return answer["answer"]

    def send(self, **fields: object) -> None:
        """Sends an order. If the helper has gone, ``ended`` says so."""
        with suppress(OSError):
            self._connection.sendall((json.dumps(fields) + "\n").encode())

    def ended(self, rank: int) -> Ended | None:
        """How a worker ended; for all that still ran, when the helper is gone."""
        helper = self._process.poll()
        self._receive(0)
        if helper is not None and rank not in self._ended:
            self._ended[rank] = Ended(
                code=-signal.SIGKILL,
                time=helper.time,
                pid=self.pids.get(rank),
                evidence=self._gone(),
            )
        return self._ended.get(rank)

    def signal(self, rank: int, letter: str) -> None:
        """t asks a worker to end, k kills it."""
        self.send(do="signal", rank=rank, signal=letter)

    def forget(self) -> None:
        """Other workers follow, of the same ranks."""
        self.pids.clear()
        self._ended.clear()

    def close(self) -> None:
        """Ends the helper, and with it whatever it holds of the cluster."""
        self._connection.close()
        deadline = time.monotonic() + _END_S
        while self._process.poll() is None:
            if time.monotonic() > deadline:
                self._process.kill()
            time.sleep(0.02)

    def _receive(self, wait_s: float) -> None:
        if not select.select([self._connection], [], [], wait_s)[0]:
            return
        with suppress(OSError):
            while chunk := self._connection.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT):
                self._text += chunk
        *lines, self._text = self._text.split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, news: dict[str, Any]) -> None:
        if "failed" in news:
            self._failed = news["failed"]
        elif "id" in news:
            self._answers[news["id"]] = news
        elif "pid" in news:
            self.pids[news["rank"]] = news["pid"]
        else:
            self._ended[news["rank"]] = Ended(**news["ended"])

    def _gone(self) -> str:
        """What is known when the helper has ended: its log's end says why."""
        text = ""
        with suppress(OSError):
            text = self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        last = text.splitlines()[-1] if text else "its log is empty"
        return (
            "the connection to the Ray cluster is lost, and the workers with it: the process that "
            f"held it has ended ({last})"
        )


class WorkersLink(Protocol):
    """A socket to a helper, by way of which workers are told to end and are heard of."""

    pids: dict[int, int]

    def ended(self, rank: int) -> Ended | None: ...

    def signal(self, rank: int, letter: str) -> None: ...


class LinkedWorker:
    """A worker that a helper knows. No call blocks."""

    def __init__(self, plan: WorkerPlan, link: WorkersLink) -> None:
        self.plan = plan
        self._link = link

    @property
    def pid(self) -> int | None:
        return self._link.pids.get(self.plan.rank)

    def poll(self) -> Ended | None:
        return self._link.ended(self.plan.rank)

    def terminate(self) -> None:
        self._link.signal(self.plan.rank, "t")

    def kill(self) -> None:
        self._link.signal(self.plan.rank, "k")
