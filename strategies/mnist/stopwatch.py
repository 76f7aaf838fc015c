"""Times windows of steps, synchronised at their edges."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from strategies.events import emit

_WINDOWS = 20  # an epoch


class Stopwatch:
    """``first_step``: when the first step was done, seconds since 1970, 0 before.

    ``rates``: samples/s of every window after that step; ``epoch_s``: seconds of training since
    ``start_epoch``. ``synchronize`` waits for the device.
    """

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._started = time.perf_counter()
        self.first_step = 0.0
        self.rates: list[float] = []
        self.epoch_s = 0.0

    @property
    def seconds(self) -> float:
        """Since this watch was made, evaluations included."""
        return time.perf_counter() - self._started

    @property
    def steady(self) -> list[float]:
        """The rates without the first window's, in which caches and clocks warm up."""
        return self.rates[1:] or self.rates

    def start_epoch(self) -> None:
        self.epoch_s = 0.0

    def cut(self, steps: int, epoch_steps: int) -> Iterator[int]:
        """Cuts ``steps`` steps into windows; the very first step, which allocates, is apart."""
        window = max(1, -(-epoch_steps // _WINDOWS))
        if not self.first_step and steps:
            yield 1
            steps -= 1
        while steps > 0:
            yield min(window, steps)
            steps -= window

    def window(self, samples: int, run: Callable[[], None]) -> None:
        """Runs and times a window in which all ranks together train on ``samples`` samples."""
        started = time.perf_counter()
        run()
        self._synchronize()
        elapsed = time.perf_counter() - started
        self.epoch_s += elapsed
        if self.first_step:
            self.rates.append(samples / elapsed)
        else:
            self.first_step = time.time()
            emit("first_step")
