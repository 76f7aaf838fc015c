"""Progress: a bar on a terminal, at most a line a second elsewhere, and every epoch."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from launcher.events import Event
from launcher.progress import Bar, Display, Lines, Silent, epoch_line, make_display

PROGRESS: dict[str, Any] = {
    "epoch": 1,
    "epochs": 5,
    "step": 30,
    "first": 10,
    "steps": 100,
    "seconds": 4.0,
    "samples_per_s": 12_345.6,
    "loss": 0.25,
}
EPOCH = {"epoch": 2, "train_loss": 0.5, "test_loss": 0.4, "test_accuracy": 0.9312}
EPOCH_LINE = "epoch 2: loss 0.5000, test accuracy 93.12%"


def progress(**changes: object) -> Event:
    return Event(0, "progress", 0.0, PROGRESS | changes)


class Screen:
    """Lines that were written, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.written: list[str] = []
        self.lines = Lines(self.written.append, clock=lambda: self.now)

    def show(self, event: Event, after_s: float = 0.0) -> None:
        self.now += after_s
        self.lines.take(event)
        self.lines.draw()


def test_a_line_tells_epoch_step_speed_loss_and_the_time_left() -> None:
    screen = Screen()
    screen.show(progress())
    assert screen.written == ["epoch 1/5  step 30/100  12,346 samples/s  loss 0.2500  14 s left"]


def test_the_time_left_is_known_to_be_nothing_at_the_end() -> None:
    screen = Screen()
    screen.show(progress(step=100))
    assert screen.written[0].endswith("  0 s left")


def test_there_is_a_line_a_second_at_most() -> None:
    screen = Screen()
    for step in range(11, 61):
        screen.show(progress(step=step), after_s=0.1)
    assert len(screen.written) == 5


def test_a_line_tells_the_latest_step() -> None:
    screen = Screen()
    for step in (11, 12, 13):
        screen.lines.take(progress(step=step))
    screen.lines.draw()
    assert ["step 13/100" in line for line in screen.written] == [True]


def test_without_news_there_is_no_line() -> None:
    screen = Screen()
    screen.show(progress())
    screen.now += 10
    screen.lines.draw()
    assert len(screen.written) == 1


def test_every_epoch_has_a_line_however_soon() -> None:
    screen = Screen()
    for _ in range(3):
        screen.show(Event(0, "epoch", 0.0, dict(EPOCH)))
    assert screen.written == [EPOCH_LINE] * 3


def test_measuring_is_told_once_for_all_ranks() -> None:
    screen = Screen()
    for rank in range(3):
        screen.show(Event(rank, "measuring", 0.0, {}))
    assert screen.written == ["measuring the scaling"]


def test_an_epoch_line_has_loss_and_accuracy() -> None:
    assert epoch_line(Event(0, "epoch", 0.0, dict(EPOCH))) == EPOCH_LINE


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [(True, False, Bar), (False, False, Lines), (True, True, Silent), (False, True, Silent)],
)
def test_the_display_suits_the_console(terminal: bool, quiet: bool, kind: type) -> None:
    console = Console(file=StringIO(), force_terminal=terminal)
    assert isinstance(make_display(console, quiet), kind)


def shown(display: Display, *events: Event) -> None:
    try:
        for event in events:
            display.take(event)
            display.draw()
    finally:
        display.close()


def test_a_bar_leaves_the_epochs_on_the_terminal() -> None:
    text = StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    measuring = Event(0, "measuring", 0.0, {})
    shown(Bar(console), progress(), Event(0, "epoch", 0.0, dict(EPOCH)), progress(), measuring)
    assert EPOCH_LINE in text.getvalue()


def test_a_silent_display_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    shown(Silent(), progress(), Event(0, "epoch", 0.0, dict(EPOCH)))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["started", "first_step", "done", "my own"])
@pytest.mark.parametrize("terminal", [True, False])
def test_other_events_are_not_shown(kind: str, terminal: bool) -> None:
    text = StringIO()
    display = make_display(Console(file=text, force_terminal=terminal), quiet=False)
    shown(display, Event(0, kind, 0.0, {}))
    assert text.getvalue().strip() == ""


@pytest.mark.parametrize("kind", ["progress", "epoch"])
@pytest.mark.parametrize("fields", [{}, {"epoch": 1, "loss": "low"}])
@pytest.mark.parametrize("terminal", [True, False])
def test_a_scripts_event_without_the_fields_is_passed_over(
    terminal: bool, kind: str, fields: dict[str, Any]
) -> None:
    text = StringIO()
    display = make_display(Console(file=text, force_terminal=terminal), quiet=False)
    shown(display, Event(0, kind, 0.0, dict(fields)), Event(0, "epoch", 0.0, dict(EPOCH)))
    assert "test accuracy 93.12%" in text.getvalue()
