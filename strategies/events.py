"""Events from a worker to the launcher: JSON lines appended to the file named by TROIKA_EVENTS.

Every event has ``event`` (its kind) and ``time`` (seconds since 1970). The built-in workloads
send "started", "first_step", "progress", "epoch", "measuring" and "done"; any script can send
the same ones and gets the same display. Without the variable nothing is sent.
"""

from __future__ import annotations

import json
import os
import time

from strategies.base import EVENTS_VARIABLE


def emit(event: str, **fields: str | int | float | None) -> None:
    """Appends one event; a single write, so that lines of several writers do not mix."""
    path = os.environ.get(EVENTS_VARIABLE)
    if not path:
        return
    line = json.dumps({"event": event, "time": time.time(), **fields}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
