"""The installation of Horovod: what it says, what it leaves, how it ends. pip is played."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from launcher.errors import UserError
from launcher.output import Output
from launcher.setup import setup_horovod
from strategies.horovod_build import horovod_ready, shelf
from strategies.horovod_probe import probe
from tests.command import wait_until

ROOT = Path(__file__).parents[1]
NO_HOROVOD = horovod_ready()
needs_horovod = pytest.mark.skipif(NO_HOROVOD is not None, reason=str(NO_HOROVOD))
BUILD = """\
  -- Configuring done
  [  9%] Building CXX object third_party/gloo/gloo/CMakeFiles/gloo.dir/transport/tcp/pair.cc.o
  cd /build && /usr/bin/c++ -o CMakeFiles/gloo.dir/common/error.cc.o -c error.cc
  /build/operations.h:3:10: fatal error: absent.h: No such file or directory
  make[1]: *** [CMakeFiles/Makefile2:1: all] Error 2
  done with that
  ERROR: Failed building wheel for horovod
"""
COMMAND = """\
import sys
from rich.console import Console
from launcher.run import Output
from launcher.setup import setup_horovod
sys.exit(setup_horovod(Output(people=Console(), as_json=False, quiet=False), force=True))
"""


@dataclass(frozen=True)
class Pip:
    """The played pip, and where the wheels are kept."""

    folder: Path
    cache: Path

    def plays(self, end: str) -> None:
        (self.folder / "end").write_text(end)
        (self.folder / "output").write_text(BUILD)

    @property
    def calls(self) -> list[list[str]]:
        noted = self.folder / "calls"
        return (
            [json.loads(line) for line in noted.read_text().splitlines()] if noted.exists() else []
        )

    @property
    def left(self) -> list[str]:
        """What is in the cache, logs left out."""
        return [
            path.name for path in self.cache.rglob("*") if path.is_file() and path.suffix != ".log"
        ]


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pip:
    package = tmp_path / "site" / "pip"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(Path(__file__).with_name("fake_pip.py"), package / "__main__.py")
    with (package / "__main__.py").open("a") as file:
        file.write("\n\nmain()\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("FAKE_PIP", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Pip(tmp_path, tmp_path / "cache/troika/horovod")


def setup(*, force: bool = True, quiet: bool = False) -> tuple[int, str]:
    """The exit code, and all that was said."""
    said = io.StringIO()
    output = Output(people=Console(file=said), as_json=False, quiet=quiet)
    return setup_horovod(output, force=force), said.getvalue()


def test_what_is_missing_is_named_before_anything_is_done(
    pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^Horovod cannot be installed here:\n") as caught:
        setup()
    assert "no C++ compiler (c++, g++ or clang++) is on the PATH: apt install" in str(caught.value)
    assert not pip.calls
    assert not pip.cache.exists()


def test_a_build_that_fails_names_its_log_and_the_errors_in_it(pip: Pip) -> None:
    pip.plays("fail")
    code, said = setup()
    log = next(pip.cache.rglob("*.log"))
    assert code == 1
    assert said.splitlines()[0] == f"log: {log}"
    assert said.splitlines()[-5:] == [
        "Horovod was not installed:",
        "/build/operations.h:3:10: fatal error: absent.h: No such file or directory",
        "make[1]: *** [CMakeFiles/Makefile2:1: all] Error 2",
        "ERROR: Failed building wheel for horovod",
        f"log: {log}",
    ]
    assert BUILD in log.read_text()
    assert pip.left == []


def test_a_cache_that_cannot_be_written_to_is_named(
    pip: Pip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"/file/.* cannot be written to: .*XDG_CACHE_HOME"):
        setup()
    assert not pip.calls


@needs_horovod
def test_a_wheel_is_built_kept_installed_and_tried(pip: Pip) -> None:
    pip.plays("succeed")
    code, said = setup()
    assert code == 0, said
    wheel = next(pip.cache.rglob("*.whl"))
    needs, build, installation = pip.calls
    assert needs == ["install", "psutil", "cloudpickle", "cffi", "packaging", "PyYAML"]
    assert {"--no-deps", "--no-build-isolation", "--no-cache-dir", "horovod==0.28.1"} < {*build}
    assert installation == ["install", "--no-deps", "--force-reinstall", str(wheel)]
    assert wheel.read_text().startswith("-j")
    assert pip.left == [wheel.name]
    assert "over Gloo: 2 workers, a CPU each, sum 101,770 floats in " in said


@needs_horovod
def test_a_kept_wheel_is_not_built_again(pip: Pip, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = shelf(probe(os.environ)) / "horovod-0.28.1-fake.whl"
    kept.parent.mkdir(parents=True)
    kept.touch()
    # This process sees a Horovod without its extension; the workers see the real one.
    (pip.folder / "absent/horovod").mkdir(parents=True)
    (pip.folder / "absent/horovod/__init__.py").touch()
    monkeypatch.syspath_prepend(pip.folder / "absent")
    code, said = setup(force=False)
    assert code == 0, said
    assert [call[-1] for call in pip.calls] == ["PyYAML", str(kept)]
    assert said.startswith(f"installing the Horovod that was built earlier: {kept}\n")


@needs_horovod
def test_horovod_that_is_there_is_only_tried(pip: Pip) -> None:
    code, said = setup(force=False)
    assert code == 0, said
    assert said.startswith("Horovod is installed and built for this PyTorch; trying it\nHorovod 0.")
    assert not pip.calls
    assert list(pip.cache.iterdir()) == []


@needs_horovod
def test_quiet_says_nothing(pip: Pip) -> None:
    assert setup(force=False, quiet=True) == (0, "")


@needs_horovod
def test_horovod_that_does_not_work_is_reported_with_what_it_says(
    pip: Pip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOROVOD_GLOO_TIMEOUT_SECONDS", "0")
    code, said = setup(force=False)
    kept = next(pip.cache.glob("check-*"))
    assert code == 1
    assert "Horovod is installed, but it does not work:\nrank " in said
    assert f"its log: {kept}/rank-" in said
    assert "Timed out waiting 0ms" in said


def hanging(pip: Pip) -> subprocess.Popen[str]:
    """``setup`` in a process of its own, with a compiler that does not come to an end."""
    pip.plays("hang")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND],
        env={**os.environ, "PYTHONPATH": f"{os.environ['PYTHONPATH']}:{ROOT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_until((pip.folder / "hanging").exists, "the build")
    return process


def compilers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if child.name() == "sleep"]


def gone(processes: list[psutil.Process]) -> Callable[[], bool]:
    def is_over(process: psutil.Process) -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    return lambda: all(is_over(process) for process in processes)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_compilers_and_leaves_nothing(pip: Pip, number: signal.Signals) -> None:
    process = hanging(pip)
    running = compilers(process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"stopped by {number.name} before Horovod was installed"
    assert len(running) == 1
    wait_until(gone(running), "the compiler's end")
    assert pip.left == []


def test_compilers_do_not_outlive_a_killed_setup_nor_its_folder_the_next(pip: Pip) -> None:
    process = hanging(pip)
    running = compilers(process)
    process.kill()
    process.communicate(timeout=30)
    assert len(running) == 1
    wait_until(gone(running), "the compiler's end")
    assert "cmake" in pip.left
    pip.plays("fail")
    setup()
    assert pip.left == []
