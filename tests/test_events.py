"""Events: each is read once and whole, whatever else is in the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.events import Event, EventReader


def line(kind: str, **fields: object) -> str:
    return json.dumps({"event": kind, "time": 1.5, **fields}) + "\n"


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def kinds(reader: EventReader) -> list[str]:
    return [event.kind for event in reader.read()]


def test_an_event_has_its_rank_kind_time_and_fields(tmp_path: Path) -> None:
    paths = [tmp_path / "0", tmp_path / "1"]
    append(paths[1], line("progress", step=3))
    assert list(EventReader(paths).read()) == [Event(1, "progress", 1.5, {"step": 3})]


def test_only_what_is_new_is_read(tmp_path: Path) -> None:
    reader = EventReader([tmp_path / "0"])
    append(tmp_path / "0", line("a") + line("b"))
    assert kinds(reader) == ["a", "b"]
    append(tmp_path / "0", line("c"))
    assert kinds(reader) == ["c"]
    assert kinds(reader) == []


@pytest.mark.parametrize("cut", [1, 10, -1])
def test_a_half_written_line_waits_for_its_end(tmp_path: Path, cut: int) -> None:
    reader = EventReader([tmp_path / "0"])
    append(tmp_path / "0", line("a") + line("b")[:cut])
    assert kinds(reader) == ["a"]
    append(tmp_path / "0", line("b")[cut:])
    assert kinds(reader) == ["b"]


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "words",
        "[1]",
        "3",
        "null",
        '{"event": "x"}',
        '{"time": 1}',
        '{"event": "x", "time": "now"}',
        '{"event": "x", "time": null}',
    ],
)
def test_a_line_that_is_no_event_is_passed_over(tmp_path: Path, junk: str) -> None:
    append(tmp_path / "0", line("a") + junk + "\n" + line("b"))
    assert kinds(EventReader([tmp_path / "0"])) == ["a", "b"]


def test_bytes_that_are_no_text_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "0").write_bytes(b"\xff\xfe\n" + line("a").encode())
    assert kinds(EventReader([tmp_path / "0"])) == ["a"]


def test_a_file_may_come_later(tmp_path: Path) -> None:
    reader = EventReader([tmp_path / "0"])
    assert kinds(reader) == []
    append(tmp_path / "0", line("a"))
    assert kinds(reader) == ["a"]
