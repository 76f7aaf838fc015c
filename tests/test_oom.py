"""OOM: what the kernel tells is quoted, and nothing is claimed that it does not tell."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clusters.oom import evidence, kills

RECORD = "4,812,99,-;Memory cgroup out of memory: Killed process 4242 (python) total-vm:9kB\n"


def fake_kernel_log(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Makes /dev/kmsg ``path``; a missing file stands for one that may not be read."""
    real = os.open

    def opened(name: str, flags: int) -> int:
        return real(path if name == "/dev/kmsg" else name, flags)

    monkeypatch.setattr(os, "open", opened)


def test_kills_are_counted() -> None:
    assert isinstance(kills(), int)
    assert kills() >= 0


def test_without_any_trace_the_oom_killer_is_called_likely() -> None:
    assert evidence(None, kills()).startswith("the kernel's OOM killer is a likely cause")


def test_a_kill_counted_since_the_start_is_evidence() -> None:
    assert evidence(None, kills() - 1).startswith("the cgroup's memory limit was reached")


def test_the_kernels_line_about_the_process_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "kmsg").write_text(RECORD)
    fake_kernel_log(monkeypatch, tmp_path / "kmsg")
    text = evidence(4242, kills())
    assert text.startswith("the kernel's OOM killer killed it: Memory cgroup out of memory: Killed")


@pytest.mark.parametrize(("record", "pid"), [(RECORD, 42), (RECORD, 242), ("", 4242), (None, 4242)])
def test_nothing_is_claimed_from_other_lines_or_an_unreadable_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record: str | None, pid: int
) -> None:
    if record is not None:
        (tmp_path / "kmsg").write_text(record)
    fake_kernel_log(monkeypatch, tmp_path / "kmsg")
    assert evidence(pid, kills()).startswith("the kernel's OOM killer is a likely cause")
