"""GPUs: what NVML tells is understood, and CUDA_VISIBLE_DEVICES is read as CUDA reads it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from clusters.base import ClusterError, Gpu
from clusters.gpus import chosen, numa_node, probe_gpus, visible

NO_LIBRARY, NO_DRIVER, NO_PERMISSION, LOST, NOT_SUPPORTED = 12, 9, 4, 15, 3


class FakeError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML says {value}")
        self.value = value


class FakeNvml(ModuleType):
    """The part of pynvml that is used; ``fails`` maps a function's name to its error's number."""

    NVMLError = FakeError
    NVML_ERROR_LIBRARY_NOT_FOUND = NO_LIBRARY
    NVML_ERROR_DRIVER_NOT_LOADED = NO_DRIVER
    NVML_P2P_CAPS_INDEX_NVLINK = 2
    NVML_P2P_STATUS_OK = 0

    def __init__(self, count: int, fails: dict[str, int], as_bytes: bool) -> None:
        super().__init__("pynvml")
        self.count, self.fails, self.as_bytes = count, fails, as_bytes
        self.started = 0

    def _call(self, name: str) -> None:
        if name in self.fails:
            raise FakeError(self.fails[name])

    def _text(self, text: str) -> str | bytes:
        return text.encode() if self.as_bytes else text

    def nvmlInit(self) -> None:
        self._call("nvmlInit")
        self.started += 1

    def nvmlShutdown(self) -> None:
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._call("nvmlDeviceGetCount")
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        self._call("nvmlDeviceGetName")
        return self._text("NVIDIA H200")

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return self._text(f"GPU-{handle}abc")

    def nvmlDeviceGetPciInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(busId=self._text(f"0000FFFF:{handle:02X}:00.0"))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=1 << 37)

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, capability: int) -> int:
        """Only neighbours with an even and an odd index are linked: 0 and 1, 2 and 3."""
        self._call("nvmlDeviceGetP2PStatus")
        linked = capability == self.NVML_P2P_CAPS_INDEX_NVLINK and one // 2 == other // 2
        return self.NVML_P2P_STATUS_OK if linked else 5


def fake_nvml(
    monkeypatch: pytest.MonkeyPatch,
    fails: dict[str, int],
    count: int = 2,
    as_bytes: bool = False,
) -> FakeNvml:
    fake = FakeNvml(count, fails, as_bytes)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def gpus(count: int) -> tuple[Gpu, ...]:
    return tuple(
        Gpu(index=index, uuid=f"GPU-{index}abc", name="NVIDIA H200", memory_bytes=1 << 37)
        for index in range(count)
    )


@pytest.mark.parametrize("count", [0, 2, 3, 8])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_gpu_is_found(monkeypatch: pytest.MonkeyPatch, count: int, as_bytes: bool) -> None:
    fake_nvml(monkeypatch, {}, count, as_bytes)
    found, problem = probe_gpus()
    assert ([replace(gpu, nvlinked=()) for gpu in found], problem) == ([*gpus(count)], "")


def test_gpus_that_reach_each_other_through_nvlink_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {}, 4)
    assert [gpu.nvlinked for gpu in probe_gpus()[0]] == [(1,), (0,), (3,), (2,)]


def test_gpus_that_cannot_say_are_not_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_nvml(monkeypatch, {"nvmlDeviceGetP2PStatus": NOT_SUPPORTED}, 2)
    assert [gpu.nvlinked for gpu in probe_gpus()[0]] == [(), ()]


@pytest.mark.parametrize("value", [NO_LIBRARY, NO_DRIVER])
def test_a_machine_without_a_driver_has_no_gpus_and_no_problem(
    monkeypatch: pytest.MonkeyPatch, value: int
) -> None:
    fake_nvml(monkeypatch, {"nvmlInit": value})
    assert probe_gpus() == ((), "")


@pytest.mark.parametrize(
    ("function", "value", "problem"),
    [
        ("nvmlInit", NO_PERMISSION, "NVML does not start: NVML says 4"),
        ("nvmlDeviceGetCount", LOST, "NVML fails: NVML says 15"),
        ("nvmlDeviceGetName", LOST, "NVML fails: NVML says 15"),
    ],
)
def test_a_failing_nvml_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, function: str, value: int, problem: str
) -> None:
    fake_nvml(monkeypatch, {function: value})
    assert probe_gpus() == ((), problem)


@pytest.mark.parametrize("fails", [{}, {"nvmlDeviceGetName": LOST}])
def test_nvml_is_shut_down_after_the_probe(
    monkeypatch: pytest.MonkeyPatch, fails: dict[str, int]
) -> None:
    fake = fake_nvml(monkeypatch, fails)
    probe_gpus()
    assert fake.started == 0


@pytest.mark.parametrize(
    ("setting", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("2", [2]),
        ("3,1", [3, 1]),
        (" 1 , 2 ", [1, 2]),
        ("GPU-2", [2]),
        ("GPU-3abc,GPU-0abc", [3, 0]),
        ("GPU-1,0", [1, 0]),
        ("0,2,-1,1", [0, 2]),
        ("0,9,1", [0]),
        ("none", []),
        ("1,1,2", [1]),
        ("1,GPU-1,2", [1]),
        ("0,,1", [0]),
        ("GPU-", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_sees(setting: str | None, indices: list[int]) -> None:
    assert [gpu.index for gpu in visible(gpus(4), setting)] == indices


@pytest.mark.parametrize(
    ("devices", "indices"),
    [
        ((), [0, 1, 2, 3]),
        (("2",), [2]),
        (("3", "0"), [3, 0]),
        (("GPU-1", "GPU-3abc"), [1, 3]),
        (("1", "GPU-0"), [1, 0]),
    ],
)
def test_chosen_gpus_are_those_of_the_list_in_its_order(
    devices: tuple[str, ...], indices: list[int]
) -> None:
    assert [gpu.index for gpu in chosen(gpus(4), devices)] == indices


def test_a_chosen_gpu_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ClusterError) as caught:
        chosen(gpus(2), ("0", "7", "GPU-9"))
    assert str(caught.value) == (
        "devices: GPU 7, GPU-9 is not there or hidden by CUDA_VISIBLE_DEVICES; there are: "
        "0 (GPU-0abc), 1 (GPU-1abc)"
    )


@pytest.mark.parametrize("devices", [("0", "0"), ("0", "GPU-0abc")])
def test_a_gpu_that_is_listed_twice_is_refused(devices: tuple[str, ...]) -> None:
    with pytest.raises(ClusterError, match="the same GPU"):
        chosen(gpus(2), devices)


def test_of_no_gpus_none_can_be_chosen() -> None:
    with pytest.raises(ClusterError, match="there are: none"):
        chosen((), ("0",))


def sysfs(folder: Path, device: str, node: str) -> Path:
    (folder / device).mkdir()
    (folder / device / "numa_node").write_text(f"{node}\n")
    return folder


@pytest.mark.parametrize(("written", "node"), [("0", 0), ("1", 1), ("-1", None), ("?", None)])
def test_the_numa_node_of_a_gpu_is_the_kernels(
    tmp_path: Path, written: str, node: int | None
) -> None:
    assert numa_node("00000000:3B:00.0", sysfs(tmp_path, "0000:3b:00.0", written)) == node


def test_a_gpu_that_the_kernel_does_not_list_has_no_numa_node(tmp_path: Path) -> None:
    assert numa_node("00000000:3B:00.0", tmp_path) is None
