"""Signals as data: noted when they come, acted upon by the supervisor's next look."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def name(number: int) -> str:
    """SIGTERM for 15."""
    return signal.Signals(number).name


@contextmanager
def noted() -> Iterator[Callable[[], list[int]]]:
    """While inside, SIGINT, SIGTERM and SIGHUP are noted; gives the function that takes the notes.

    A signal that was ignored when we started stays so: under ``nohup`` a hangup ends nothing.
    """
    pending: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        pending.append(number)

    def take() -> list[int]:
        taken = pending[:]
        del pending[: len(taken)]
        return taken

    caught = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield take
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
