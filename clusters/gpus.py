"""The GPUs of this host, through NVML: torch takes two seconds to import and binds the process."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from clusters.base import ClusterError, Gpu

_PCI = Path("/sys/bus/pci/devices")


def probe_gpus() -> tuple[tuple[Gpu, ...], str]:
    """All GPUs of the host in NVML's order (that of the PCI bus), and why there are none, if so.

    A machine without NVIDIA's driver is not a problem: no GPUs, no reason.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        missing = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return (), "" if error.value in missing else f"NVML does not start: {error}"
    try:
        count = pynvml.nvmlDeviceGetCount()
        return tuple(_gpu(pynvml, index, count) for index in range(count)), ""
    except pynvml.NVMLError as error:
        return (), f"NVML fails: {error}"
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES (``setting``, None if unset) leaves, in its order.

    As CUDA reads it: indices or beginnings of UUIDs, up to the first one that names no GPU, or
    names one twice ("CUDA C++ Programming Guide", environment variables).
    """
    if setting is None:
        return gpus
    chosen: list[Gpu] = []
    for word in (part.strip() for part in setting.split(",")):
        matches = [
            gpu
            for gpu in gpus
            if (word.isdigit() and gpu.index == int(word))
            or (word.startswith("GPU-") and gpu.uuid.startswith(word))
        ]
        if len(matches) != 1 or matches[0] in chosen:
            break
        chosen += matches
    return tuple(chosen)


def chosen(gpus: tuple[Gpu, ...], devices: tuple[str, ...]) -> tuple[Gpu, ...]:
    """The GPUs that a cluster file lists by index or UUID, in its order; all if it lists none.

    Raises ClusterError for one that is not there, and for one that is listed twice.
    """
    if not devices:
        return gpus
    found = [visible(gpus, device) for device in devices]
    lacking = [device for device, match in zip(devices, found, strict=True) if not match]
    if lacking:
        there = ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none"
        raise ClusterError(
            f"devices: GPU {', '.join(lacking)} is not there or hidden by CUDA_VISIBLE_DEVICES; "
            f"there are: {there}"
        )
    twice = [device for device, match in zip(devices, found, strict=True) if found.count(match) > 1]
    if twice:
        raise ClusterError(f"devices: {', '.join(twice)} are the same GPU; list it once")
    return tuple(gpu for match in found for gpu in match)


def _gpu(pynvml: Any, index: int, count: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
    bus = pynvml.nvmlDeviceGetPciInfo(handle).busId
    return Gpu(
        index=index,
        uuid=_text(uuid),
        name=_text(name),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        numa_node=numa_node(_text(bus)),
        nvlinked=tuple(i for i in range(count) if i != index and _linked(pynvml, handle, i)),
    )


def _linked(pynvml: Any, handle: Any, other: int) -> bool:
    """Whether two GPUs reach each other through NVLink, by way of a switch or not."""
    try:
        status = pynvml.nvmlDeviceGetP2PStatus(
            handle, pynvml.nvmlDeviceGetHandleByIndex(other), pynvml.NVML_P2P_CAPS_INDEX_NVLINK
        )
    except pynvml.NVMLError:  # virtual GPUs and old drivers cannot say
        return False
    return bool(status == pynvml.NVML_P2P_STATUS_OK)


def numa_node(bus_id: str, devices: Path = _PCI) -> int | None:
    """The NUMA node of a PCI device such as "00000000:3B:00.0"; None if the kernel has none."""
    domain, _, rest = bus_id.lower().partition(":")
    with suppress(OSError, ValueError):
        node = int((devices / f"{domain[-4:]}:{rest}" / "numa_node").read_text())
        return node if node >= 0 else None
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
