"""``python -m strategies.worker CONFIG``: the entry of the built-in workloads.

An exception leaves its traceback in the worker's log and a non-zero exit code; the launcher
needs nothing else to report it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

from strategies import load_strategy
from strategies.base import RESULT_VARIABLE, Rank, TrainConfig, write_atomically
from strategies.events import emit


def main() -> None:
    """Ends the process without the interpreter's and torch's clean-up.

    It takes a third of a second, and now and then torch aborts in it ("terminate called without an
    active exception"), after everything has been done and written.
    """
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def work() -> None:
    """Trains, and writes what rank 0 measured."""
    emit("started", pid=os.getpid())
    config = TrainConfig.from_json(Path(sys.argv[1]).read_text())
    metrics = load_strategy(config.strategy).train(Rank.from_environ(os.environ), config)
    if metrics is not None:
        write_atomically(Path(os.environ[RESULT_VARIABLE]), json.dumps(asdict(metrics)))
    emit("done")


if __name__ == "__main__":
    main()
