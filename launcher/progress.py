"""What a person sees while the workers train."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn

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


@dataclass(frozen=True)
class Progress:
    """A "progress" event: where the training is. ``seconds`` since its first step of this run."""

    epoch: float
    epochs: float
    step: float
    first: float
    steps: float
    seconds: float
    samples_per_s: float
    loss: float

    @classmethod
    def of(cls, event: Event) -> Progress | None:
        """None for another event, or a script's own of the same name without these fields."""
        if event.kind != "progress":
            return None
        return cls(*numbers) if (numbers := _numbers(event, *cls.__annotations__)) else None

    @property
    def title(self) -> str:
        return f"epoch {self.epoch:.0f}/{self.epochs:.0f}"

    @property
    def figures(self) -> str:
        return f"{self.samples_per_s:,.0f} samples/s  loss {self.loss:.4f}"

    @property
    def seconds_left(self) -> float:
        return self.seconds * (self.steps - self.step) / max(self.step - self.first, 1)


def epoch_line(event: Event) -> str | None:
    """One epoch's results; None for another event."""
    numbers = _numbers(event, "epoch", "train_loss", "test_accuracy")
    if event.kind != "epoch" or numbers is None:
        return None
    epoch, loss, accuracy = numbers
    return f"epoch {epoch:.0f}: loss {loss:.4f}, test accuracy {accuracy:.2%}"


class Bar:
    """A progress bar with epoch, step, samples/s, loss and the time that is left."""

    def __init__(self, console: Console) -> None:
        self._bar = rich.progress.Progress(
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
        if progress := Progress.of(event):
            if self._task is None:
                self._bar.start()
                self._task = self._bar.add_task("", total=progress.steps, figures="")
            self._bar.update(
                self._task,
                completed=progress.step,
                description=progress.title,
                figures=progress.figures,
            )
        elif line := epoch_line(event):
            self._bar.console.print(line, highlight=False)
        elif _measures(event) and self._task is not None:
            self._bar.update(self._task, description="measuring the scaling")

    def draw(self) -> None:
        pass  # rich draws by itself

    def close(self) -> None:
        self._bar.stop()


class Lines:
    """One line a second, and one for every epoch."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._latest: Progress | None = None
        self._next = 0.0

    def take(self, event: Event) -> None:
        if progress := Progress.of(event):
            self._latest = progress
        elif line := epoch_line(event):
            self._latest = None
            self._write(line)
        elif _measures(event):
            self._write("measuring the scaling")

    def draw(self) -> None:
        if self._latest is None or self._clock() < self._next:
            return
        latest, self._latest = self._latest, None
        self._next = self._clock() + _LINE_EVERY_S
        step = f"step {latest.step:.0f}/{latest.steps:.0f}"
        left = f"{latest.seconds_left:.0f} s left"
        self._write(f"{latest.title}  {step}  {latest.figures}  {left}")

    def close(self) -> None:
        pass


def _measures(event: Event) -> bool:
    return event.kind == "measuring" and event.rank == 0


def _numbers(event: Event, *names: str) -> list[float] | None:
    """The fields ``names``, None if one of them is missing or no number."""
    values = [event.fields.get(name) for name in names]
    numbers = [float(value) for value in values if isinstance(value, (int, float))]
    return numbers if len(numbers) == len(names) else None
