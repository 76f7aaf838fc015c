"""``python -m strategies.mnist.export ORDER``: exports in processes of their own.

ORDER is an ``Order`` as JSON. One process writes the file; another one, in which nothing of the
first is left, loads it again and compares. So a format may be written by one framework and read
by another, and the two never meet. This process only waits for them.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from strategies.mnist.export.base import Order


def main() -> int:
    """Runs one step, or all of them in turn; returns the exit code."""
    order = Order.from_json(sys.argv[1])
    if len(sys.argv) > 2:
        _STEPS[sys.argv[2]](order)
        return 0
    # The launcher asks for the end, or it has gone and can clear nothing away any more.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        return _all_steps()
    except SystemExit:
        shutil.rmtree(order.folder, ignore_errors=True)
        raise


def _all_steps() -> int:
    for step in _STEPS:
        command = [sys.executable, "-m", "strategies.mnist.export", sys.argv[1], step]
        code = subprocess.run(command, check=False).returncode
        if code < 0:
            name = signal.Signals(-code).name
            print(f"the process to {step} the file was killed by {name}", file=sys.stderr)
            return 128 - code
        if code:
            return code
    return 0


def _write(order: Order) -> None:
    from strategies.mnist.checkpoint import load
    from strategies.mnist.export import load_exporter

    load_exporter(order.target).write(load(Path(order.checkpoint)), order.file)


def _verify(order: Order) -> None:
    from strategies.mnist.export.verify import verify

    order.result.write_text(verify(order).to_json())


_STEPS: dict[str, Callable[[Order], None]] = {"write": _write, "verify": _verify}

if __name__ == "__main__":
    sys.exit(main())
