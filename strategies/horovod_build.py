"""How Horovod is built for the PyTorch that is installed: pure decisions. Stdlib only.

Horovod 0.28.1, the last release, asks for C++14 and PyTorch's headers need C++17: CMake includes a
file of ours behind every ``project()``, which maps the one to the other, and HOROVOD_CMAKE names a
script that tells CMake so.

The same file mends one line of the sources. Horovod forgets HOROVOD_GLOO_IFACE when it connects the
default process set (``InitializeForProcessSet``), and listens where the host's own name leads: on
Debian's kind of /etc/hosts to the loopback interface, where other hosts do not reach it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from strategies.horovod_probe import Machine, installed_horovod, installed_torch

VERSION = "0.28.1"
SETUP = "python -m launcher setup horovod"
RUNTIME_NEEDS = ("psutil", "cloudpickle", "cffi", "packaging", "PyYAML")
"""What Horovod imports; some of it already while it is built."""

_REVISION = 2  # of what is done here: a kept wheel of another one is not taken
_CMAKE_LEAST = (3, 15)  # the first with CMAKE_PROJECT_INCLUDE
_COMPILERS = "apt install build-essential"


@dataclass(frozen=True, kw_only=True)
class HorovodBuild:
    """One build. ``folder`` is private to it and is to hold ``files``, text by name, and ``links``.

    ``environ`` is what pip and all below it get besides; ``gpu`` says in words how GPU tensors
    travel.
    """

    torch: str
    jobs: int
    folder: Path
    files: dict[str, str]
    links: dict[str, Path]
    environ: dict[str, str]
    gpu: str


def horovod_ready() -> str | None:
    """None if Horovod can be used with the installed PyTorch; else a sentence with what to do."""
    torch, horovod = installed_torch(), installed_horovod()
    if torch is None:
        return "PyTorch is not installed: pip install 'troika-launcher[ddp]'"
    if horovod is None:
        return f"Horovod for PyTorch is not installed: {SETUP}"
    if horovod.torch != torch.version:
        return (
            f"Horovod was built for PyTorch {horovod.torch}, and {torch.version} is installed: "
            f"{SETUP}"
        )
    return None


def shelf(machine: Machine) -> Path:
    """The folder that keeps the wheel for ``machine``, named after all that it depends on."""
    version = machine.torch.version if machine.torch else "none"
    operations = "cpu" if _no_nccl(machine) else "nccl"
    return machine.cache / f"{VERSION}-{_REVISION}-torch{version}-{machine.abi}-{operations}"


def kept_wheel(machine: Machine) -> Path | None:
    """The wheel that an earlier build for ``machine`` has left; None if there is none."""
    return next(iter(sorted(shelf(machine).glob("*.whl"))), None)


def plan_build(machine: Machine, folder: Path, jobs: int) -> HorovodBuild:
    """The build for ``machine`` in ``folder``, with ``jobs`` compilers at a time.

    ``machine`` is one of which nothing is ``missing``.
    """
    why_not = _no_nccl(machine)
    environ = {
        # Whatever else the user's variables ask Horovod for: with PyTorch, over Gloo.
        "HOROVOD_WITH_PYTORCH": "1",
        "HOROVOD_WITHOUT_PYTORCH": "",
        "HOROVOD_WITHOUT_TENSORFLOW": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        "HOROVOD_WITHOUT_MPI": "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_GLOO": "",
        "HOROVOD_CPU_OPERATIONS": "GLOO",
        "HOROVOD_GPU_OPERATIONS": "",
        "HOROVOD_CMAKE": str(folder / "cmake"),
        "CMAKE_GENERATOR": "Unix Makefiles",  # Horovod gives the build tool make's arguments
        "MAKEFLAGS": f"-j{jobs}",
        "TMPDIR": str(folder),
    }
    links = {}
    if machine.nccl_headers and machine.nccl_library and machine.nvcc and not why_not:
        # PyTorch's NCCL package has no libnccl.so, which the linker looks for.
        links = {"libnccl.so": machine.nccl_library}
        environ |= {
            "HOROVOD_GPU_OPERATIONS": "NCCL",
            "HOROVOD_CUDA_HOME": str(Path(machine.nvcc).parent.parent),
            "HOROVOD_NCCL_INCLUDE": str(machine.nccl_headers),
            "HOROVOD_NCCL_LIB": str(folder),
            "HOROVOD_NCCL_LINK": "SHARED",
        }
    include = folder / "cxx17.cmake"
    return HorovodBuild(
        torch=machine.torch.version if machine.torch else "none",
        jobs=jobs,
        folder=folder,
        files={
            include.name: _include_text(machine.python_headers),
            "cmake": _cmake_text(str(machine.cmake), include),
        },
        links=links,
        environ=environ,
        gpu=f"staged through the host: {why_not}" if why_not else "NCCL",
    )


def missing(machine: Machine, *, cached: bool) -> list[str]:
    """A sentence for each thing that a build would fail without, with how to get it.

    ``cached`` says that the wheel is there: then it only has to be installed.
    """
    gaps = []
    if machine.torch is None:
        gaps.append("PyTorch is not installed: pip install 'troika-launcher[ddp]'")
    if "pip" not in machine.packages:
        gaps.append(
            f"{machine.python} has no pip (uv makes environments without): "
            f"{machine.python} -m ensurepip, or uv pip install pip"
        )
    if cached:
        return gaps
    gaps += [
        f"the package {name} is not installed: pip install {name}"
        for name in ("setuptools", "wheel")
        if name not in machine.packages
    ]
    if machine.cxx_compiler is None:
        gaps.append(f"no C++ compiler (c++, g++ or clang++) is on the PATH: {_COMPILERS}")
    if machine.c_compiler is None:
        gaps.append(f"no C compiler (cc, gcc or clang) is on the PATH: {_COMPILERS}")
    if machine.make is None:
        gaps.append(f"make is not on the PATH: {_COMPILERS}")
    least = ".".join(map(str, _CMAKE_LEAST))
    if machine.cmake is None:
        gaps.append(f"CMake is not on the PATH: pip install cmake ({least} or later)")
    elif machine.cmake_version < _CMAKE_LEAST:
        has = ".".join(map(str, machine.cmake_version)) or "of an unknown version"
        gaps.append(f"{machine.cmake} is {has}, {least} or later is needed: pip install cmake")
    if not machine.has_python_headers:
        gaps.append(
            f"Python's headers are missing, {machine.python_headers}/Python.h: "
            "apt install python3-dev, or take a Python that brings them"
        )
    return gaps


def _no_nccl(machine: Machine) -> str:
    """Why GPU tensors cannot go through NCCL; "" if they can."""
    if machine.torch is None or machine.torch.cuda is None:
        return "this PyTorch has no CUDA"
    if machine.nvcc is None:
        return "nvcc was not found"
    if machine.nccl_headers is None or machine.nccl_library is None:
        return "nccl.h and libnccl.so were not found (HOROVOD_NCCL_HOME names their folder)"
    return ""


def _include_text(python_headers: Path) -> str:
    return (
        'set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")\n'
        'set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++17")\n'
        # Horovod asks distutils, which Python 3.12 no longer has.
        f'include_directories(SYSTEM "{python_headers.as_posix()}")\n'
        'set(connects "${CMAKE_CURRENT_SOURCE_DIR}/horovod/common/gloo/gloo_context.cc")\n'
        'if(EXISTS "${connects}")\n'
        '  file(READ "${connects}" text)\n'
        '  string(REPLACE "assert(global_context.IsEnabled());"'
        ' "gloo_iface_ = global_context.gloo_iface_;" text "${text}")\n'
        '  file(WRITE "${connects}" "${text}")\n'
        "endif()\n"
    )


def _cmake_text(cmake: str, include: Path) -> str:
    """A script: configuring gets more flags, all else goes on to CMake as it is."""
    command = shlex.quote(cmake)
    return (
        "#!/bin/sh\n"
        'case "$1" in\n'
        f'    --build | --version) exec {command} "$@" ;;\n'
        "esac\n"
        # CMake 4 has forgotten how to be 3.4, which the gloo inside asks for.
        f"exec {command} -DCMAKE_POLICY_VERSION_MINIMUM=3.5 "
        f'-DCMAKE_PROJECT_INCLUDE={shlex.quote(str(include))} "$@"\n'
    )
