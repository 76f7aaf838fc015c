"""What a person sees while the workers train."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from launcher.events import Event

_LINE_EVERY_S = 1.0


class Display(Protocol):
    """Is told of every event, and told to draw at every look."""

    def take(self, event: Event) -> None: ...

    def draw(self) -> None: ...

    def close(self) -> None: ...


def make_display(console: Console, quiet: bool) -> Display:
    """A bar on a terminal, a line a second elsewhere, nothing if ``quiet``."""
    if quiet:
        return Silent()
    return Bar(console) if console.is_terminal else Lines(console.print)


class Silent:
    """Shows nothing."""

    def take(self, event: Event) -> None:
        pass

    def draw(self) -> None:
        pass

    def close(self) -> None:
        pass


class Bar:
    """A progress bar with epoch, step, samples/s, loss and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def take(self, event: Event) -> None:
        if event.kind == "progress":
            if self._task is None:
                self._progress.start()
                self._task = self._progress.add_task("", total=event.fields["steps"], figures="")
            self._progress.update(
                self._task,
                completed=event.fields["step"],
                description=_epoch(event.fields),
                figures=_figures(event.fields),
            )
        elif event.kind == "epoch":
            self._progress.console.print(epoch_line(event.fields))
        elif event.kind == "measuring" and self._task is not None and event.rank == 0:
            self._progress.update(self._task, description="measuring the scaling")

    def draw(self) -> None:
        pass  # rich draws by itself

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """One line a second, and one for every epoch."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._latest: Event | None = None
        self._next = 0.0

    def take(self, event: Event) -> None:
        if event.kind == "progress":
            self._latest = event
        elif event.kind == "epoch":
            self._latest = None
            self._write(epoch_line(event.fields))
        elif event.kind == "measuring" and event.rank == 0:
            self._write("measuring the scaling")

    def draw(self) -> None:
        if self._latest is None or self._clock() < self._next:
            return
        fields = self._latest.fields
        self._latest, self._next = None, self._clock() + _LINE_EVERY_S
        step = f"step {fields['step']}/{fields['steps']}"
        left = f"{_seconds_left(fields):.0f} s left"
        self._write(f"{_epoch(fields)}  {step}  {_figures(fields)}  {left}")

    def close(self) -> None:
        pass


def epoch_line(fields: dict[str, Any]) -> str:
    """One epoch's results."""
    return (
        f"epoch {fields['epoch']}: loss {fields['train_loss']:.4f}, "
        f"test accuracy {fields['test_accuracy']:.2%}"
    )


def _seconds_left(fields: dict[str, Any]) -> float:
    done, to_do = fields["step"] - fields["first"], fields["steps"] - fields["step"]
    return float(fields["seconds"] * to_do / max(done, 1))


def _epoch(fields: dict[str, Any]) -> str:
    return f"epoch {fields['epoch']}/{fields['epochs']}"


def _figures(fields: dict[str, Any]) -> str:
    return f"{fields['samples_per_s']:,.0f} samples/s  loss {fields['loss']:.4f}"
