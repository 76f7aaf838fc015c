"""``python -m strategies.worker CONFIG``: the entry of the built-in workloads.

An exception leaves its traceback in the worker's log and a non-zero exit code; the launcher
needs nothing else to report it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

from strategies import load_strategy
from strategies.base import (
    GO_VARIABLE,
    RESULT_VARIABLE,
    Rank,
    TrainConfig,
    TrainMetrics,
    write_atomically,
)
from strategies.events import emit
from strategies.mnist.inputs import read_inputs
from strategies.mnist.training import Training


def main() -> None:
    try:
        work()
    except BaseException:
        traceback.print_exc()
        leave(1)


def leave(code: int) -> NoReturn:
    """Ends the process without the interpreter's and torch's clean-up.

    It takes a third of a second, and now and then torch aborts in it ("terminate called without an
    active exception") or, freeing DistributedDataParallel while gloo's thread frees tensors, waits
    for ever. Called while everything is still referred to, after all has been done and written.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def work() -> NoReturn:
    """Trains, writes what the first rank measured, and leaves."""
    emit("started", pid=os.getpid())
    config = TrainConfig.read(Path(sys.argv[1]))
    strategy = load_strategy(config.strategy)
    rank = Rank.from_environ(os.environ)
    with no_garbage_collection(), ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_inputs, config)
        strategy.warm_up(config)
        inputs = reading.result()
    wait_for_go()
    with strategy.engine(rank, config, inputs) as engine:
        Training(rank, config, engine, inputs).run(keep)
    emit("done")
    leave(0)


def keep(metrics: TrainMetrics) -> None:
    """Writes what was measured so far: nothing of it is lost if the training should fail."""
    write_atomically(Path(os.environ[RESULT_VARIABLE]), json.dumps(asdict(metrics)))


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """For imports: TensorFlow's makes 440,000 objects, all to stay, and hardly any garbage.

    Looking through them again and again takes a sixth of that import. Afterwards they are out of
    the collector's sight.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def wait_for_go() -> None:
    """Waits, if this process was started early, for a line on the descriptor that it was given."""
    if descriptor := os.environ.get(GO_VARIABLE):
        with open(int(descriptor)) as word:  # noqa: PTH123 - a descriptor
            if not word.readline():
                leave(1)  # whoever started this process is gone


if __name__ == "__main__":
    main()
