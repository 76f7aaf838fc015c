"""How a worker ended, who failed first, and the text that says so."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from clusters.base import Ended, WorkerPlan

_TAIL_LINES = 20
_TAIL_BYTES = 64 * 1024
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = re.compile(r"^(During handling of the above|The above exception)", re.MULTILINE)
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
# What gloo, NCCL, c10d's store and sockets say when another rank has gone: a consequence.
_LOST_PEER = re.compile(
    r"Connection (closed|reset) by peer|Connection reset|Broken pipe|recvValue failed|"
    r"remote process exited|NCCL communicator was aborted|DistStoreError|"
    r"Failed to recv|Connection was likely closed",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """How one worker ended. ``stopped_by_us`` says that the supervisor had asked it to."""

    plan: WorkerPlan
    ended: Ended
    stopped_by_us: bool

    @property
    def failed(self) -> bool:
        return self.ended.code != 0 and not self.stopped_by_us


def first_failure(results: list[WorkerResult]) -> WorkerResult | None:
    """The failure that began it: the earliest that does not complain of a lost peer, if any.

    When a rank dies, the others fail within milliseconds because they have lost it; now and then
    one of them is even faster to leave.
    """
    failures = sorted((r for r in results if r.failed), key=lambda result: result.ended.time)
    causes = [result for result in failures if not lost_a_peer(result)]
    return next(iter(causes or failures), None)


def lost_a_peer(result: WorkerResult) -> bool:
    """Whether this failure looks like the consequence of another worker's."""
    error = traceback_of(log_tail(result.plan.log_path))
    return bool(_LOST_PEER.search(error.splitlines()[-1] if error else ""))


def describe_failure(result: WorkerResult) -> str:
    """The failing rank's own traceback, and all that is known about its end."""
    plan, ended = result.plan, result.ended
    place = f"host {plan.slot.host}, pid {ended.pid or 'unknown'}"
    lines = [f"rank {plan.rank} failed first: {describe_end(ended)} ({place})"]
    if ended.evidence:
        lines.append(ended.evidence)
    tail = log_tail(plan.log_path)
    traceback = traceback_of(tail)
    lines.append(f"its log: {plan.log_path}")
    if traceback:
        lines += ["", traceback]
    elif tail.strip():
        last = tail.rstrip().splitlines()[-_TAIL_LINES:]
        lines += [f"the last {len(last)} lines of its log:", *(f"  {line}" for line in last)]
    else:
        lines.append("its log is empty")
    return "\n".join(lines)


def describe_end(ended: Ended) -> str:
    """An exit code or a signal in words."""
    if ended.code >= 0:
        return f"exit code {ended.code}"
    try:
        return f"killed by {signal.Signals(-ended.code).name}"
    except ValueError:
        return f"killed by signal {-ended.code}"


def log_tail(path: Path) -> str:
    """The end of a worker's log, torch's "[rank0]: " taken off each line."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    return _RANK_PREFIX.sub("", text)


def traceback_of(log: str) -> str:
    """The last Python traceback in a log, chained ones included; "" if there is none."""
    starts = [match.start() for match in re.finditer(re.escape(_TRACEBACK), log)]
    if not starts:
        return ""
    start = starts[-1]
    for earlier in reversed(starts[:-1]):
        if not _CHAINED.search(log[earlier:start]):
            break
        start = earlier
    return "\n".join(_cut(log[start:].splitlines()))


def _cut(lines: list[str]) -> list[str]:
    """Leaves out what the interpreter's exit printed behind a traceback.

    A traceback ends with the exception's line and what follows it up to an empty line: a message
    of several lines is kept, one with an empty line in it is cut there.
    """
    frames = [number for number, line in enumerate(lines) if line.startswith(("  ", "Traceback"))]
    end = frames[-1] + 1
    while end < len(lines) and lines[end].strip():
        end += 1
    return lines[:end]
