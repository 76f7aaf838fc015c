"""Every test runs in a temporary folder of its own, and must leave nothing behind."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

_MARK = "TROIKA_TEST_MARK"
_PATIENCE_S = 5.0
_SHM = Path("/dev/shm")
_TORCH_CACHE = "torchinductor_"  # an empty folder that importing torch's compiler leaves, once


@pytest.fixture(autouse=True, scope="session")
def signals_as_from_a_terminal() -> None:
    """Under nohup, or in the background of a script, tests would pass on ignored signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Fails a test that leaves a process, a thread, a port or a temporary file behind."""
    mark = uuid.uuid4().hex
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setenv(_MARK, mark)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    threads, ports, shared = set(threading.enumerate()), _ports(), _names(_SHM)
    yield
    left = {
        "processes": _what_stays(lambda: _marked(mark)),
        "threads": _what_stays(lambda: {t.name for t in set(threading.enumerate()) - threads}),
        "ports": _what_stays(lambda: _ports() - ports),
        "temporary files": {
            name for name in _names(temporary) if not name.startswith(_TORCH_CACHE)
        },
        "shared memory": _what_stays(lambda: _names(_SHM) - shared),
    }
    assert not any(left.values()), f"left behind: { {k: v for k, v in left.items() if v} }"


def _what_stays(look: Callable[[], set[str]]) -> set[str]:
    """What is still seen after a while: the kernel takes a moment to clear things away."""
    deadline = time.monotonic() + _PATIENCE_S
    while (seen := look()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return seen


def _marked(mark: str) -> set[str]:
    """Processes, of whatever parent, that inherited this test's environment."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_MARK) == mark:
                found.add(f"{process.pid} {' '.join(process.cmdline())}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def _ports() -> set[str]:
    connections = psutil.Process().net_connections(kind="inet")
    return {str(c.laddr) for c in connections if c.status == psutil.CONN_LISTEN}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
