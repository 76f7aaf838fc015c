"""Folders for a while: they go with their process, and never under a living one's feet."""

from __future__ import annotations

from pathlib import Path

from launcher.scratch import scratch


def test_the_folder_of_a_living_process_stays(tmp_path: Path) -> None:
    with scratch(tmp_path, "build-") as mine:
        (mine.path / "file").touch()
        with scratch(tmp_path, "build-") as other:
            assert mine.path != other.path
            assert (mine.path / "file").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_kept_stays_until_the_next(tmp_path: Path) -> None:
    with scratch(tmp_path, "check-") as first:
        (first.path / "log").touch()
        first.keep()
    assert (first.path / "log").exists()
    with scratch(tmp_path, "check-"):
        assert not first.path.exists()
