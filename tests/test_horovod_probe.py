"""What is there for a build is found, and what is installed is read without being imported."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

from strategies.horovod_build import horovod_ready
from strategies.horovod_probe import Torch, installed_torch, probe

TORCH = "__version__ = '{}'\ndebug = False\ncuda: Optional[str] = {!r}\n"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that come before the installed ones, imported or not."""
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torch", "horovod"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def install(site: Path, package: str, files: dict[str, str]) -> None:
    for name, text in {"__init__.py": "raise AssertionError('imported')", **files}.items():
        path = site / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def extension(suffix: str | None = None) -> str:
    return f"torch/mpi_lib_v2{suffix or sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.mark.parametrize(
    "found", [Torch(version="2.13.0+cpu", cuda=None), Torch(version="2.13.0+cu130", cuda="13.0")]
)
def test_pytorchs_own_file_tells_its_version(site: Path, found: Torch) -> None:
    install(site, "torch", {"version.py": TORCH.format(found.version, found.cuda)})
    assert installed_torch() == found


def test_horovod_built_for_the_installed_pytorch_is_ready(site: Path) -> None:
    install(site, "torch", {"version.py": TORCH.format("2.13.0", None)})
    notes = '{"pytorch": "2.13.0", "dummy": "none"}'
    install(site, "horovod", {"metadata.json": notes, extension(): ""})
    assert horovod_ready() is None


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (
            {"metadata.json": '{"pytorch": "2.12.0"}', extension(): ""},
            "Horovod was built for PyTorch 2.12.0, and 2.13.0 is installed: ",
        ),
        ({extension(): ""}, "Horovod was built for PyTorch an unknown version, and 2.13.0 is "),
        (
            {extension(): "", "metadata.json": "{"},
            "Horovod was built for PyTorch an unknown version, and 2.13.0 is ",
        ),
        ({"metadata.json": "{}"}, "Horovod for PyTorch is not installed: "),
        ({extension(".cpython-27.so"): ""}, "Horovod for PyTorch is not installed: "),
    ],
)
def test_horovod_that_cannot_be_used_says_what_to_do(
    site: Path, files: dict[str, str], text: str
) -> None:
    install(site, "torch", {"version.py": TORCH.format("2.13.0", None)})
    install(site, "horovod", files)
    sentence = str(horovod_ready())
    assert sentence.startswith(text)
    assert sentence.endswith("python -m launcher setup horovod")


def test_what_is_on_the_path_is_found(tmp_path: Path) -> None:
    for name, text in (("cmake", "echo cmake version 3.31.4-dirty"), ("c++", ""), ("gcc", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o700)
    found = probe({"PATH": f"{tmp_path}:/bin", "XDG_CACHE_HOME": "/c", "CUDA_HOME": "/none"})
    assert found.python == sys.executable
    assert (found.cxx_compiler, found.cmake) == (f"{tmp_path}/c++", f"{tmp_path}/cmake")
    assert found.cmake_version == (3, 31)
    assert found.cache == Path("/c/troika/horovod")


def test_on_an_empty_path_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    found = probe({"PATH": str(tmp_path), "HOME": os.environ["HOME"], "CUDA_HOME": "/none"})
    assert (found.c_compiler, found.cxx_compiler, found.make, found.cmake) == (None,) * 4
    assert (found.nvcc, found.cmake_version, found.has_python_headers) == (None, (), False)


@pytest.mark.parametrize("name", ["libnccl.so", "libnccl.so.2"])
def test_nccl_is_found_where_the_user_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include/nccl.h").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / name).touch()
    found = probe({"HOROVOD_NCCL_HOME": str(tmp_path), "PATH": "/bin", "CUDA_HOME": "/none"})
    assert found.nccl_headers == tmp_path / "include"
    assert found.nccl_library == tmp_path / "lib" / name
