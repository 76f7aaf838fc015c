"""What the kernel says about processes that it killed for want of memory."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_KERNEL_LOG_BYTES = 8192


def kills() -> int:
    """How many processes of this cgroup the OOM killer has killed so far; 0 if it isn't told."""
    total = 0
    for path in _counters():
        with suppress(OSError, ValueError):
            for line in path.read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    total += int(value)
    return total


def evidence(pid: int | None, kills_before: int) -> str:
    """A sentence about who sent SIGKILL to ``pid``: certain where the kernel says so.

    ``kills_before`` is what ``kills`` returned when the worker started.
    """
    line = _kernel_line(pid) if pid is not None else ""
    if line:
        return f"the kernel's OOM killer killed it: {line}"
    if kills() > kills_before:
        return "the cgroup's memory limit was reached: its OOM killer has struck since the start"
    return (
        "the kernel's OOM killer is a likely cause (neither the cgroup nor the kernel's log that "
        "can be read here tells of it); somebody's kill -9 is the other"
    )


def _counters() -> list[Path]:
    """The files that count OOM kills: cgroup v2's memory.events, v1's memory.oom_control."""
    found = [_CGROUP / "memory.events", _CGROUP / "memory/memory.oom_control"]
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if controllers == "":
                found.append(_CGROUP / place.lstrip("/") / "memory.events")
            elif "memory" in controllers.split(","):
                found.append(_CGROUP / "memory" / place.lstrip("/") / "memory.oom_control")
    return list(dict.fromkeys(path for path in found if path.is_file()))


def _kernel_line(pid: int) -> str:
    """The kernel log's line about killing ``pid``, "" if there is none or it can't be read."""
    with suppress(OSError):
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        try:
            while record := os.read(descriptor, _KERNEL_LOG_BYTES):
                text = record.decode(errors="replace").partition(";")[2].split("\n")[0]
                if f"Killed process {pid} " in text:
                    return text
        finally:
            os.close(descriptor)
    return ""
