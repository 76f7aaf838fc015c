"""What a build of Horovod does is decided by what the machine has; gaps are named with a remedy."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from strategies.horovod_build import (
    HorovodBuild,
    kept_wheel,
    missing,
    plan_build,
    shelf,
)
from strategies.horovod_probe import PACKAGES, Machine, Torch

CUDA = Torch(version="2.13.0+cu130", cuda="13.0")


def machine(**found: Any) -> Machine:
    """A machine with a compiler and without GPUs, but for what ``found`` says."""
    complete = Machine(
        python="/venv/bin/python",
        abi="cpython-311-x86_64-linux-gnu-glibc-2.36",
        python_headers=Path("/include/python3.11"),
        has_python_headers=True,
        c_compiler="/bin/cc",
        cxx_compiler="/bin/c++",
        make="/bin/make",
        cmake="/bin/cmake",
        cmake_version=(3, 25),
        torch=Torch(version="2.13.0+cpu", cuda=None),
        packages=frozenset(PACKAGES),
        nvcc=None,
        nccl_headers=None,
        nccl_library=None,
        cache=Path("/cache"),
    )
    return replace(complete, **found)


def gpu_machine(**found: Any) -> Machine:
    nccl = Path("/venv/nvidia/nccl")
    there = {
        "torch": CUDA,
        "nvcc": "/cuda/bin/nvcc",
        "nccl_headers": nccl / "include",
        "nccl_library": nccl / "lib/libnccl.so.2",
    }
    return machine(**there | found)


def plan(found: Machine) -> HorovodBuild:
    return plan_build(found, Path("/tmp/build"), 3)


def test_a_complete_machine_misses_nothing() -> None:
    assert missing(machine(), cached=False) == []


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            {"torch": None},
            "PyTorch is not installed: pip install 'troika-launcher[ddp]'",
        ),
        (
            {"packages": frozenset(PACKAGES) - {"pip"}},
            "/venv/bin/python has no pip (uv makes environments without): "
            "/venv/bin/python -m ensurepip, or uv pip install pip",
        ),
        (
            {"packages": frozenset(PACKAGES) - {"wheel"}},
            "the package wheel is not installed: pip install wheel",
        ),
        (
            {"packages": frozenset(PACKAGES) - {"setuptools"}},
            "the package setuptools is not installed: pip install setuptools",
        ),
        (
            {"cxx_compiler": None},
            "no C++ compiler (c++, g++ or clang++) is on the PATH: apt install build-essential",
        ),
        (
            {"c_compiler": None},
            "no C compiler (cc, gcc or clang) is on the PATH: apt install build-essential",
        ),
        ({"make": None}, "make is not on the PATH: apt install build-essential"),
        ({"cmake": None}, "CMake is not on the PATH: pip install cmake (3.15 or later)"),
        (
            {"cmake_version": (3, 14)},
            "/bin/cmake is 3.14, 3.15 or later is needed: pip install cmake",
        ),
        (
            {"cmake_version": ()},
            "/bin/cmake is of an unknown version, 3.15 or later is needed: pip install cmake",
        ),
        (
            {"has_python_headers": False},
            "Python's headers are missing, /include/python3.11/Python.h: "
            "apt install python3-dev, or take a Python that brings them",
        ),
    ],
)
def test_what_is_missing_is_named_with_a_remedy(found: dict[str, Any], sentence: str) -> None:
    assert missing(machine(**found), cached=False) == [sentence]


def test_all_that_is_missing_is_named_at_once() -> None:
    bare = machine(cxx_compiler=None, cmake=None, packages=frozenset())
    assert len(missing(bare, cached=False)) == 5


def test_a_wheel_that_is_there_needs_no_compiler_but_pip_and_pytorch() -> None:
    bare = machine(cxx_compiler=None, c_compiler=None, make=None, cmake=None, torch=None)
    gaps = missing(replace(bare, packages=frozenset(), has_python_headers=False), cached=True)
    assert [gap.split(" ")[0] for gap in gaps] == ["PyTorch", "/venv/bin/python"]


def test_a_build_is_for_pytorch_over_gloo() -> None:
    environ = plan(machine()).environ
    assert environ["HOROVOD_WITH_PYTORCH"] == environ["HOROVOD_WITH_GLOO"] == "1"
    assert environ["HOROVOD_WITHOUT_PYTORCH"] == environ["HOROVOD_WITHOUT_GLOO"] == ""
    assert environ["HOROVOD_CPU_OPERATIONS"] == "GLOO"
    assert environ["MAKEFLAGS"] == "-j3"


def test_nothing_is_written_outside_the_folder_of_the_build() -> None:
    build = plan(machine())
    assert build.environ["TMPDIR"] == "/tmp/build"
    assert build.environ["HOROVOD_CMAKE"] == "/tmp/build/cmake"
    assert all(Path(name).name == name for name in {**build.files, **build.links})


def test_with_nccl_gpu_tensors_go_through_it() -> None:
    build = plan(gpu_machine())
    assert build.environ["HOROVOD_GPU_OPERATIONS"] == "NCCL"
    assert build.environ["HOROVOD_CUDA_HOME"] == "/cuda"
    assert build.environ["HOROVOD_NCCL_INCLUDE"] == "/venv/nvidia/nccl/include"
    assert build.environ["HOROVOD_NCCL_LIB"] == "/tmp/build"
    assert build.links == {"libnccl.so": Path("/venv/nvidia/nccl/lib/libnccl.so.2")}
    assert build.gpu == "NCCL"
    assert shelf(gpu_machine()).name.endswith("-nccl")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ({"torch": Torch(version="2.13.0+cpu", cuda=None)}, "this PyTorch has no CUDA"),
        ({"nvcc": None}, "nvcc was not found"),
        ({"nccl_headers": None}, "nccl.h and libnccl.so were not found"),
        ({"nccl_library": None}, "nccl.h and libnccl.so were not found"),
    ],
)
def test_without_nccl_gpu_tensors_are_staged_and_it_says_why(
    found: dict[str, Any], why: str
) -> None:
    without = gpu_machine(**found)
    build = plan(without)
    assert build.gpu.startswith(f"staged through the host: {why}")
    assert build.environ["HOROVOD_GPU_OPERATIONS"] == ""
    assert build.links == {}
    assert shelf(without).name.endswith("-cpu")


def test_a_wheel_is_kept_for_what_it_depends_on() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"torch": Torch(version="2.12.0+cpu", cuda=None)},
        {"torch": CUDA},
        {"abi": "cpython-312-x86_64-linux-gnu-glibc-2.36"},
    ]
    shelves = [shelf(machine(**change)) for change in changes] + [shelf(gpu_machine())]
    assert len(set(shelves)) == 5
    assert shelves[0] == Path(
        "/cache/0.28.1-2-torch2.13.0+cpu-cpython-311-x86_64-linux-gnu-glibc-2.36-cpu"
    )


def test_a_wheel_on_the_shelf_is_found(tmp_path: Path) -> None:
    here = machine(cache=tmp_path)
    assert kept_wheel(here) is None
    shelf(here).mkdir(parents=True)
    (shelf(here) / "horovod.whl.tmp-1").write_text("half")
    assert kept_wheel(here) is None
    (shelf(here) / "horovod.whl").write_text("whole")
    assert kept_wheel(here) == shelf(here) / "horovod.whl"


def test_cmake_gets_the_flags_when_it_configures_and_only_then(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    echo = folder / "echo"
    echo.write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
    echo.chmod(0o700)
    build = plan_build(machine(cmake=str(echo)), folder, 1)
    script = folder / "cmake"
    script.write_text(build.files["cmake"])

    def said(*words: str) -> list[str]:
        done = subprocess.run(["sh", script, *words], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert said("/source dir", "-DX=1") == [
        "-DCMAKE_POLICY_VERSION_MINIMUM=3.5",
        f"-DCMAKE_PROJECT_INCLUDE={folder / 'cxx17.cmake'}",
        "/source dir",
        "-DX=1",
    ]
    assert said("--build", ".") == ["--build", "."]
    assert said("--version") == ["--version"]


@pytest.mark.skipif(shutil.which("cmake") is None, reason="CMake is not installed")
def test_the_default_process_set_keeps_to_the_interface(tmp_path: Path) -> None:
    source = tmp_path / "horovod/common/gloo/gloo_context.cc"
    source.parent.mkdir(parents=True)
    source.write_text("{\n  assert(global_context.IsEnabled());\n  f(a; b);\n}\n")
    include = tmp_path / "cxx17.cmake"
    include.write_text(plan(machine()).files[include.name])
    (tmp_path / "CMakeLists.txt").write_text(
        f"cmake_minimum_required(VERSION 3.15)\nproject(p NONE)\ninclude({include})\n"
    )
    subprocess.run(["cmake", "-S", tmp_path, "-B", tmp_path / "build"], check=True)
    assert source.read_text() == "{\n  gloo_iface_ = global_context.gloo_iface_;\n  f(a; b);\n}\n"


def test_cxx14_becomes_cxx17() -> None:
    text = plan(machine()).files["cxx17.cmake"]
    assert 'set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")' in text
    assert 'include_directories(SYSTEM "/include/python3.11")' in text
