"""Tries the installed Horovod: two supervised workers, one all-reduce after the other."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import strategies
from clusters.base import Slot, WorkerPlan
from clusters.local import LOOPBACK, LocalCluster
from launcher import signals
from launcher.output import Output
from launcher.results import describe_failure
from launcher.scratch import Scratch, scratch
from launcher.supervise import Outcome, supervise
from strategies.base import RESULT_VARIABLE, Peer, Rank
from strategies.gloo_store import horovod_environ, serve
from strategies.horovod_check import Checked

Interrupts = Callable[[], list[int]]

_WORKERS = 2
_PATIENCE_S = 120.0  # of which PyTorch's import takes the most, on a slow disk


def check(python: str, cache: Path, output: Output, interrupts: Interrupts) -> int:
    """Runs the workers with ``python``, says what works and how fast, returns the exit code.

    Their logs are kept below ``cache`` if they fail. Raises UserError where that cannot be
    written to.
    """
    with scratch(cache, "check-") as folder:
        return _check(python, folder, output, interrupts)


def _check(python: str, folder: Scratch, output: Output, interrupts: Interrupts) -> int:
    try:
        outcome = _run(python, folder.path, interrupts)
    except TimeoutError as error:
        folder.keep()
        output.say(f"{error}; their logs: {folder.path}")
        return 1
    if outcome.failure:
        folder.keep()
        output.say("Horovod is installed, but it does not work:")
        output.say(describe_failure(outcome.failure))
    elif outcome.signal:
        output.say(f"stopped by {signals.name(outcome.signal)}")
    elif outcome.exit_code == 0 and not output.quiet:
        output.say(describe(Checked(**json.loads((folder.path / "result").read_text()))))
    return outcome.exit_code


def describe(checked: Checked) -> str:
    """What was found to work."""
    carriers = [name for name, there in (("Gloo", checked.gloo), ("NCCL", checked.nccl)) if there]
    device = "a CPU" if checked.device == "cpu" else "a GPU"
    return (
        f"Horovod {checked.horovod} works with PyTorch {checked.torch} over "
        f"{' and '.join(carriers)}: {_WORKERS} workers, {device} each, sum {checked.floats:,} "
        f"floats in {checked.seconds * 1e3:.2f} ms"
    )


def _run(python: str, folder: Path, interrupts: Interrupts) -> Outcome:
    deadline = time.monotonic() + _PATIENCE_S

    def watch() -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Horovod's workers have not finished in {_PATIENCE_S:g} s")

    with serve(LOOPBACK) as port:
        plans = [_plan(python, folder, rank, port) for rank in range(_WORKERS)]
        return supervise(LocalCluster(), plans, interrupts=interrupts, watch=watch)


def _plan(python: str, folder: Path, number: int, port: int) -> WorkerPlan:
    rank = Rank(
        rank=number,
        local_rank=number,
        world_size=_WORKERS,
        local_world_size=_WORKERS,
        master_addr=LOOPBACK,
        master_port=port,
    )
    peers = (Peer(host=0, address=LOOPBACK, port=port, interface="lo"),) * _WORKERS
    return WorkerPlan(
        rank=number,
        slot=Slot(host=socket.gethostname(), host_index=0, local_rank=number),
        argv=(python, "-m", "strategies.horovod_check"),
        env={
            "RANK": str(number),
            "LOCAL_RANK": str(number),
            "WORLD_SIZE": str(_WORKERS),
            "LOCAL_WORLD_SIZE": str(_WORKERS),
            "MASTER_ADDR": LOOPBACK,
            "MASTER_PORT": str(port),
            "PYTHONPATH": str(Path(strategies.__file__).parent.parent),
            "PYTHONSAFEPATH": "1",
            RESULT_VARIABLE: str(folder / "result"),
            **horovod_environ(rank, peers),
        },
        log_path=folder / f"rank-{number}.log",
        events_path=folder / f"rank-{number}.jsonl",
        result_path=folder / "result",
    )
