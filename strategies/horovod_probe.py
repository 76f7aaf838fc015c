"""What this machine has for a build of Horovod. Looks; decides nothing. Stdlib only."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("pip", "setuptools", "wheel")
_CACHE = "troika/horovod"
_NCCL_LIBRARIES = ("libnccl.so", "libnccl.so.2")


@dataclass(frozen=True, kw_only=True)
class Torch:
    """The installed PyTorch: its version with the local part ("2.13.0+cpu"), and its CUDA's."""

    version: str
    cuda: str | None


@dataclass(frozen=True, kw_only=True)
class Installed:
    """Horovod as it is installed; ``torch``: the version of PyTorch that it was built for."""

    torch: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a build finds; None for what is not there.

    ``abi``: of this Python and the C library, as wheels depend on it; ``python_headers``: where
    Python.h should be, ``has_python_headers``: whether it is; ``cmake_version``: () if it does not
    say; ``packages``: those of ``PACKAGES`` that can be imported; ``nccl_headers``: the folder of
    nccl.h; ``nccl_library``: the file; ``cache``: the folder to keep wheels in.
    """

    python: str
    abi: str
    python_headers: Path
    has_python_headers: bool
    c_compiler: str | None
    cxx_compiler: str | None
    make: str | None
    cmake: str | None
    cmake_version: tuple[int, ...]
    torch: Torch | None
    packages: frozenset[str]
    nvcc: str | None
    nccl_headers: Path | None
    nccl_library: Path | None
    cache: Path


def probe(environ: Mapping[str, str]) -> Machine:
    """Looks around, as a process with the variables ``environ`` would. Imports no framework."""
    scripts = sysconfig.get_path("scripts")  # CMake may have come from pip
    path = os.pathsep.join((scripts, environ.get("PATH", os.defpath)))

    def find(*names: str | None) -> str | None:
        return next((found for n in names if n and (found := shutil.which(n, path=path))), None)

    cuda = environ.get("HOROVOD_CUDA_HOME") or environ.get("CUDA_HOME") or "/usr/local/cuda"
    cmake, nvcc = find("cmake"), find(f"{cuda}/bin/nvcc", "nvcc")
    headers = Path(sysconfig.get_path("include"))
    nccl_headers, nccl_library = _nccl(environ, Path(cuda))
    return Machine(
        python=sys.executable,
        abi="-".join((str(sysconfig.get_config_var("SOABI")), *platform.libc_ver())),
        python_headers=headers,
        has_python_headers=(headers / "Python.h").is_file(),
        c_compiler=find(environ.get("CC"), "cc", "gcc", "clang"),
        cxx_compiler=find(environ.get("CXX"), "c++", "g++", "clang++"),
        make=find("make", "gmake"),
        cmake=cmake,
        cmake_version=_version_of(cmake) if cmake else (),
        torch=installed_torch(),
        packages=frozenset(name for name in PACKAGES if importlib.util.find_spec(name)),
        nvcc=str(Path(nvcc).resolve()) if nvcc else None,  # its toolkit is around it
        nccl_headers=nccl_headers,
        nccl_library=nccl_library,
        cache=Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _CACHE,
    )


def installed_torch() -> Torch | None:
    """PyTorch as its version.py tells: a wheel's metadata leaves out the "+cu130"."""
    folder = _package("torch")
    if folder is None or not (folder / "version.py").is_file():
        return None
    values: dict[str, object] = {}
    for node in ast.parse((folder / "version.py").read_text()).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(getattr(node, "value", None), ast.Constant):
            values[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    cuda = values.get("cuda")
    return Torch(version=str(values["__version__"]), cuda=str(cuda) if cuda else None)


def installed_horovod() -> Installed | None:
    """Horovod, if its extension for PyTorch and this Python is there; its build noted the rest."""
    folder = _package("horovod")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if folder is None or not (folder / "torch" / f"mpi_lib_v2{suffix}").is_file():
        return None
    with suppress(OSError, ValueError):
        notes = json.loads((folder / "metadata.json").read_text())
        return Installed(torch=str(notes.get("pytorch", "an unknown version")))
    return Installed(torch="an unknown version")


def _package(name: str) -> Path | None:
    """The folder of an importable package, which is not imported."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def _version_of(cmake: str) -> tuple[int, ...]:
    try:
        said = subprocess.run(
            [cmake, "--version"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ()
    found = re.search(r"version (\d+)\.(\d+)", said)
    return tuple(map(int, found.groups())) if found else ()


def _nccl(environ: Mapping[str, str], cuda: Path) -> tuple[Path | None, Path | None]:
    """NCCL's headers and library: where the user says, else PyTorch's, else the system's.

    When Horovod runs, PyTorch has loaded its own already, whatever Horovod was linked with.
    """
    machine = platform.machine()
    homes = [Path(environ["HOROVOD_NCCL_HOME"])] if environ.get("HOROVOD_NCCL_HOME") else []
    homes += [Path(sysconfig.get_path("purelib")) / "nvidia/nccl", Path("/usr"), cuda]
    for home in homes:
        header = home / "include/nccl.h"
        folders = (home / "lib", home / "lib64", home / f"lib/{machine}-linux-gnu")
        libraries = [folder / name for folder in folders for name in _NCCL_LIBRARIES]
        library = next((path for path in libraries if path.is_file()), None)
        if header.is_file() and library:
            return header.parent, library
    return None, None
