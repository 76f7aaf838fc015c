"""Processes that a benchmark starts: their output, their failures, and that none outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_NOT_INHERITED = (  # would change the figures
    "HOROVOD_",
    "KERAS_",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "RAY_",
    "TF_",
    "TROIKA_",
)
_LIMIT_S = 900
_GRACE_S = 5
_TAIL_LINES = 40


class ChildFailed(Exception):
    """A command that failed; the text says which and how, and ends with its output's tail."""


def run(command: Sequence[str], folder: Path, **variables: str) -> tuple[float, str]:
    """Runs ``command``; returns when it was started, in seconds since 1970, and its output.

    ``folder`` takes the output on its way. Raises ChildFailed.
    """
    log = folder / "output.txt"
    started = time.time()
    with child(command, log, **variables) as process:
        return started, finish(process, log)


@contextmanager
def child(command: Sequence[str], log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in ``log``; at the end it and its descendants are stopped.

    Its temporary files go beside ``log``: torchrun and Ray leave some behind.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=inherited | {"TMPDIR": str(log.parent)} | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def finish(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits for ``process`` and returns its output. Raises ChildFailed."""
    try:
        code = process.wait(_LIMIT_S)
        end = f"ended with code {code}"
    except subprocess.TimeoutExpired:
        code, end = None, f"was still running after {_LIMIT_S} s"
    output = log.read_text(errors="replace")
    if code != 0:
        tail = "\n".join(output.splitlines()[-_TAIL_LINES:])
        raise ChildFailed(f"{process.args!r} {end}. Its last output:\n{tail}")
    return output


def guarded(program: Callable[[], None]) -> None:
    """Runs a benchmark: 1 is the exit code if a child failed, 130 after Ctrl-C, 143 on SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        program()
    except ChildFailed as failure:
        sys.exit(str(failure))
    except KeyboardInterrupt:
        sys.exit(130)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stops a process that still runs, and its workers, which may lead sessions of their own."""
    if process.poll() is not None:
        return
    family = [psutil.Process(process.pid)]
    family += family[0].children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()
