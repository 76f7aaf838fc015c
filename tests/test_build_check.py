"""The build hook's check: the packaged files pass, a changed or missing one is named."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from strategies.mnist.build_check import FOLDER, check_sums
from strategies.mnist.data import FILES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files and their sums."""
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    sums = [f"{hashlib.sha256(name.encode()).hexdigest()}  {name}" for name in ("first", "second")]
    (tmp_path / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    return tmp_path


def test_the_packaged_files_are_the_listed_ones() -> None:
    check_sums(FOLDER)


def test_every_packaged_file_is_listed() -> None:
    listed = {line.split()[1] for line in (FOLDER / "SHA256SUMS").read_text().splitlines()}
    assert listed == {f"{name}.gz" for name in FILES.values()}


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_changed_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("changed")
    with pytest.raises(ValueError, match=f"{folder / name} has SHA-256 .*, expected "):
        check_sums(folder)


@pytest.mark.parametrize("name", ["first", "second"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{folder / name} is missing"):
        check_sums(folder)
