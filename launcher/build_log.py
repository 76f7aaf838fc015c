"""The log of a build while it grows: how far it is, and what went wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

_LINE_EVERY_S = 5.0
_SHOWN = 10
_LONGEST = 300
# What make prints for CMake: "[ 42%] Building CXX object a/CMakeFiles/b.dir/c/d.cc.o".
_STEP = re.compile(r"\[ *(\d+)%\] (Building|Linking) .*?(\S+)$")
_PROBLEM = re.compile(
    r"\b(error|ERROR|Error): |^\s*CMake Error|No space left on device|Killed signal|"
    r"\*\*\* .* (Error|Stop)|MemoryError|command not found"
)


@dataclass(frozen=True)
class Step:
    """The latest step of a build: ``percent`` of all are begun; ``file`` is what it makes."""

    percent: int
    file: str


def step_of(line: str) -> Step | None:
    """The step that a line of make's output tells of; None for any other line."""
    found = _STEP.search(line.rstrip())
    if found is None:
        return None
    return Step(int(found.group(1)), Path(found.group(3)).name.removesuffix(".o"))


def problems(text: str) -> list[str]:
    """The last lines of a log that speak of an error; its last lines if none does."""
    lines = [line.strip()[:_LONGEST] for line in text.splitlines() if line.strip()]
    found = list(dict.fromkeys(line for line in lines if _PROBLEM.search(line)))
    return (found or lines)[-_SHOWN:]


class Display(Protocol):
    def show(self, step: Step) -> None: ...

    def close(self) -> None: ...


class LogFollower:
    """Reads what a log has got since it was last asked, and shows the latest step."""

    def __init__(self, path: Path, display: Display) -> None:
        self._path, self._display = path, display
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""
        self._step = Step(0, "configuring")

    def look(self) -> None:
        """To be called again and again; never waits."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            steps = [step_of(line.decode(errors="replace")) for line in lines]
            self._step = next((step for step in reversed(steps) if step), self._step)
        self._display.show(self._step)


class Bar:
    """A bar with the file that is being compiled, on a terminal."""

    def __init__(self, console: Console) -> None:
        self._bar = rich.progress.Progress(
            TextColumn("{task.percentage:>3.0f}%"),
            BarColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("", total=100)
        self._bar.start()

    def show(self, step: Step) -> None:
        self._bar.update(self._task, completed=step.percent, description=step.file)

    def close(self) -> None:
        self._bar.stop()


class Lines:
    """A line every few seconds, elsewhere."""

    def __init__(
        self, write: Callable[[str], object], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write, clock
        self._begin = clock()
        self._next = self._begin + _LINE_EVERY_S

    def show(self, step: Step) -> None:
        now = self._clock()
        if now >= self._next:
            self._next = now + _LINE_EVERY_S
            self._write(f"{step.percent:3d}%  {now - self._begin:4.0f} s  {step.file}")

    def close(self) -> None:
        pass


class Silent:
    """Shows nothing."""

    def show(self, step: Step) -> None:
        pass

    def close(self) -> None:
        pass
