"""How a worker ended, who failed first, and the text that says so."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from clusters.base import Ended, WorkerPlan

_TAIL_LINES = 10
_TAIL_BYTES = 64 * 1024
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_IGNORED = "Exception ignored in"
# What the interpreter and torch print at a process's end, behind the exception's message.
_NOISE = re.compile(rf"{_IGNORED}|\[[A-Z]\d{{4}} |\S+:\d+: \w*Warning: ")
_RANK_PREFIX = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)
# What gloo, NCCL, c10d's store, Horovod, sockets and our TensorFlow engine say when another rank
# has gone: a consequence.
_LOST_PEER = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Connection reset|Broken pipe|recvValue failed|"
    r"remote process exited|NCCL communicator was aborted|ncclRemoteError|"
    r"DistStoreError|Socket closed|heartbeat timeout|Failed to recv|Connection was likely closed|"
    r"Horovod has been shut down|lost another process of the job",
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
    tail = log_tail(result.plan.log_path)
    lines = traceback_of(tail).splitlines()
    if _TRACEBACK not in lines:  # NCCL's watchdog, gloo's threads and TensorFlow abort without one
        return result.ended.code == -signal.SIGABRT and bool(_LOST_PEER.search(tail))
    last = len(lines) - 1 - lines[::-1].index(_TRACEBACK)
    return bool(_LOST_PEER.search("\n".join(lines[_message(lines, last) :])))


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
    last = _last_lines(tail.replace(traceback, "") if traceback else tail)
    if last:
        beside = ", but for the traceback" if traceback else ""
        lines += [f"the end of its log{beside}:", *(f"  {line}" for line in last)]
    elif not traceback:
        lines.append("its log is empty")
    if traceback:
        lines += ["", traceback]
    return "\n".join(lines)


def _last_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()][-_TAIL_LINES:]


def describe_end(ended: Ended) -> str:
    """An exit code or a signal in words."""
    if ended.lost_host:
        return "lost with its host"
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
    """The last Python traceback in a log, chained ones included; "" if there is none.

    Those that the interpreter ignored do not count, and what it printed behind is left out. A
    message of several lines is kept up to an empty one.
    """
    lines = log.splitlines()
    found: list[str] = []
    number = end_before = 0
    while number < len(lines):
        if lines[number] != _TRACEBACK:
            number += 1
            continue
        end = _end(lines, number)
        if not (number and lines[number - 1].startswith(_IGNORED)):
            between = lines[end_before:number] if found else []
            chained = any(line.startswith(_CHAINED) for line in between)
            found = [*(found + between if chained else []), *lines[number:end]]
            end_before = end
        number = end
    return "\n".join(found)


def _end(lines: list[str], start: int) -> int:
    """The line behind the traceback that starts at ``start``: its frames, then its message."""
    end = _message(lines, start) + 1
    while end < len(lines) and lines[end].strip() and not _NOISE.match(lines[end]):
        if lines[end] == _TRACEBACK:
            break
        end += 1
    return min(end, len(lines))


def _message(lines: list[str], start: int) -> int:
    """The line on which the exception's message begins: the first that is not indented."""
    number = start + 1
    while number < len(lines) and lines[number].startswith(" "):
        number += 1
    return number
