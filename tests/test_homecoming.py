"""A run's files as lines of its log, and out of it again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launcher.homecoming import VARIABLE, Decoder, bring_home, encode
from strategies.mnist.checkpoint import load
from tests.command import train

LARGE = os.urandom(20_000)
WANTED = {VARIABLE: "1"}


def decoded(lines: list[str]) -> tuple[Decoder, list[str]]:
    decoder = Decoder()
    shown = [text for line in lines if (text := decoder.feed(line)) is not None]
    return decoder, shown


@pytest.mark.parametrize("data", [b"", b"{}", LARGE], ids=["empty", "small", "large"])
def test_a_file_comes_through_as_it_was(data: bytes) -> None:
    lines = list(encode("a/b.bin", data))
    assert all(len(line) <= 8000 for line in lines)
    decoder, shown = decoded(lines)
    assert (decoder.files(), decoder.problems(), shown) == ({"a/b.bin": data}, [], [])


def test_text_between_the_parts_is_for_people() -> None:
    first, *others = encode("x", LARGE)
    lines = ["before", f"no end of line{first}", "", *reversed(others), "behind"]
    decoder, shown = decoded(lines)
    assert decoder.files() == {"x": LARGE}
    assert shown == ["before", "no end of line", "", "behind"]


def test_a_missing_part_is_told() -> None:
    lines = list(encode("x", LARGE))
    decoder, _ = decoded(lines[:1] + lines[2:])
    assert decoder.files() == {}
    assert decoder.problems() == [f"x: 1 of {len(lines)} parts are missing"]


@pytest.mark.parametrize(("old", "new"), [("A", "B"), ("A", "!"), ("A", "")])
def test_a_damaged_part_is_told(old: str, new: str) -> None:
    lines = list(encode("x", LARGE))
    head, _, text = lines[1].rpartition(" ")
    decoder, _ = decoded([lines[0], f"{head} {text.replace(old, new, 1)}", *lines[2:]])
    assert decoder.files() == {}
    assert decoder.problems() == ["x: it was damaged on the way"]


def test_a_line_that_was_cut_off_is_neither_shown_nor_taken() -> None:
    (line,) = encode("x", b"text")
    decoder, shown = decoded([line[:30]])
    assert (decoder.files(), decoder.problems(), shown) == ({}, [], [])


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x"])
def test_no_file_gets_out_of_the_folder(name: str) -> None:
    decoder, shown = decoded(list(encode(name, b"text")))
    assert (decoder.files(), shown) == ({}, [])


def test_a_run_sends_report_losses_and_the_last_checkpoint(tmp_path: Path) -> None:
    options = ("--model", "softmax", "--steps", "3", "--device", "cpu", "--no-baseline")
    finished = train(tmp_path, *options, **WANTED)
    decoder, shown = decoded(finished.stdout.splitlines())
    files = decoder.files()
    (checkpoint,) = (name for name in files if name.startswith("checkpoints/"))
    assert set(files) == {"report.json", "losses.csv", checkpoint}
    assert all((finished.folder / name).read_bytes() == data for name, data in files.items())
    assert load(finished.folder / checkpoint).header.step == 3
    assert shown[-1] == f"report: {finished.folder}/report.json"


def test_nothing_is_sent_unasked(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{}")
    lines: list[str] = []
    bring_home(tmp_path, {}, lines.append)
    assert not lines
    bring_home(tmp_path, WANTED, lines.append)
    assert decoded(lines)[0].files() == {"report.json": b"{}"}


def test_what_is_too_large_stays_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.homecoming.MOST_BYTES", 1000)
    (tmp_path / "report.json").write_bytes(LARGE)
    lines: list[str] = []
    bring_home(tmp_path, WANTED, lines.append)
    (line,) = lines
    assert line.startswith("report.json (0.0 MB compressed) is too large to be sent home")
    assert f"{tmp_path}/report.json" in line
