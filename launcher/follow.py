"""Following a job on a cluster to its end: its log, its files, and what Ctrl-C means for it."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import typer

from launcher import signals
from launcher.errors import UserError
from launcher.homecoming import Decoder
from launcher.output import Output
from launcher.remote_jobs import JobServer, RemoteJob, Unreachable

_LOOK_S = 0.5
_LOOK_SHARE = 10  # a look takes a tenth of the time at most: each one fetches the whole log
_SIGNALS_S = 0.05
_PATIENCE_S = 60.0
_MISSING = re.compile(r"ModuleNotFoundError: No module named '(\w+)'")
_PIPS = {"typer", "rich", "pydantic", "numpy", "psutil", "safetensors", "pynvml", "yaml"}
_NO_SUCH_COMMAND = 127


class Follower:
    """Prints a job's log as it grows, and writes the files that it sends home into ``folder``.

    Without a ``folder`` they are left out. A lost connection is taken up again behind the last
    line seen; after a minute without one the job is left alone.
    """

    def __init__(self, server: JobServer, job_id: str, folder: Path | None, output: Output) -> None:
        self._server = server
        self._id = job_id
        self._folder = folder
        self._output = output
        self._decoder = Decoder()
        self._seen = 0
        self._pause_s = _LOOK_S
        self._lost_at: float | None = None
        self._missing: str | None = None

    def follow(self) -> int:
        """Follows the job to its end; returns its exit code, or 128 + n after signal n.

        A signal stops the job, if the person at the terminal says so or nobody is there to ask;
        the next one leaves it. Raises UserError.
        """
        stopping, stopped = 0, False
        with signals.noted() as interrupts:
            while (job := self._look_patiently()) is None or not job.is_over:
                if numbers := self._wait(interrupts):
                    if stopping or not self._is_to_stop(numbers[0]):
                        left = "is left to end by itself" if stopping else "is left running"
                        self._say(f"job {self._id} {left}; back to it: {self._way_back}")
                        return 128 + numbers[0]
                    stopping = numbers[0]
                    self._say(f"stopping job {self._id}")
                if stopping and not stopped:
                    with suppress(Unreachable):  # it is tried again after the next look
                        self._server.stop(self._id)
                        stopped = True
            code = self._end(job)
        return 128 + stopping if stopping else code

    def look(self) -> int:
        """Prints what there is; returns the job's exit code if it is over, else 0.

        Raises UserError.
        """
        job = self._look()
        return self._end(job) if job.is_over else 0

    def _look(self) -> RemoteJob:
        """Prints what is new. The job is asked for first: the log of one that is over is whole."""
        job = self._server.job(self._id)
        begun = time.monotonic()
        log = self._server.log(self._id)
        self._pause_s = max(_LOOK_S, _LOOK_SHARE * (time.monotonic() - begun))
        if job.is_over and not log.endswith("\n"):
            log += "\n"
        whole = log.rfind("\n") + 1
        for line in log[self._seen : whole].split("\n")[:-1]:
            self._take(line)
        self._seen = max(self._seen, whole)
        return job

    def _look_patiently(self) -> RemoteJob | None:
        """None while the connection is lost. Raises UserError when it has been for too long."""
        try:
            job = self._look()
        except Unreachable as error:
            now = time.monotonic()
            if self._lost_at is None:
                self._lost_at = now
                self._say(f"{error}; trying again for {_PATIENCE_S:.0f} s")
            if now - self._lost_at > _PATIENCE_S:
                raise UserError(
                    f"{error}; the job goes on without being watched; back to it: {self._way_back}"
                ) from None
            return None
        if self._lost_at is not None:
            self._lost_at = None
            self._say("the job server answers again")
        return job

    def _wait(self, interrupts: Callable[[], list[int]]) -> list[int]:
        """Waits until the next look, or for signals."""
        until = time.monotonic() + self._pause_s
        while not (numbers := interrupts()) and time.monotonic() < until:
            time.sleep(_SIGNALS_S)
        return numbers

    def _take(self, line: str) -> None:
        text = self._decoder.feed(line)
        if text is None:
            return
        if match := _MISSING.search(text):
            self._missing = match[1]
        print(text, flush=True)

    def _is_to_stop(self, number: int) -> bool:
        """Asks on a terminal; Ctrl-C at the question leaves the job as it is."""
        if number != signal.SIGINT or not (sys.stdin.isatty() and self._output.people.is_terminal):
            return True
        noting = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return typer.confirm(f"\nStop the remote job {self._id}?", err=True)
        except typer.Abort:
            return False
        finally:
            signal.signal(signal.SIGINT, noting)

    def _end(self, job: RemoteJob) -> int:
        """Writes the files that came home, says what is to be said, and gives the exit code."""
        if self._folder is not None:
            self._write(self._folder)
            for problem in self._decoder.problems():
                self._output.say(f"did not come home: {problem}")
        if job.status == "SUCCEEDED":
            return 0
        self._output.say(f"job {self._id} {self._why(job)}")
        if job.exit_code is None:  # never started, or stopped
            return 128 + signal.SIGTERM if job.status == "STOPPED" else 1
        return job.exit_code if job.exit_code >= 0 else 128 - job.exit_code

    def _write(self, folder: Path) -> None:
        files = self._decoder.files()
        try:
            for name, data in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
                try:
                    temporary.write_bytes(data)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"--out {folder}: cannot be written to: {error.strerror}; the job is over, and "
                f"its files can be had again: {self._way_back} --out FOLDER"
            ) from None
        if files:
            self._say(f"came home: {', '.join(files)} in {folder}")

    def _why(self, job: RemoteJob) -> str:
        if job.status == "STOPPED":
            return "was stopped"
        if self._missing in _PIPS:
            return (
                f"failed: the cluster's Python has no {self._missing}, which the launcher needs; "
                "install it on the nodes, or have Ray do so for this job: submit --pip"
            )
        if job.exit_code == _NO_SUCH_COMMAND:
            return "failed with exit code 127: `python` is not on the PATH of the cluster's head"
        if job.exit_code is None:
            return f"was not started: {_shortened(job.message)}"
        return f"failed with exit code {job.exit_code}"

    def _say(self, text: str) -> None:
        if not self._output.quiet:
            self._output.say(text)

    @property
    def _way_back(self) -> str:
        return f"launcher logs {self._id} --follow --address {self._server.url}"


def _shortened(message: str) -> str:
    """The beginning and the end of what Ray says: between them are its own tracebacks."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ... ".join(dict.fromkeys([*lines[:1], *lines[-1:]])) or "Ray gives no reason"
