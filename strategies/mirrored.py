"""``mirrored``: tf.distribute's MirroredStrategy, one process with all devices of a host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

from strategies.base import Rank, TrainConfig

if TYPE_CHECKING:
    from strategies.mnist.engine import Engine
    from strategies.mnist.inputs import Inputs


class Mirrored:
    name = "mirrored"
    requires = ("tensorflow",)
    install = "mirrored"
    process_per: Literal["device", "host"] = "host"
    cluster = "local"
    exchanges = ("auto", "nccl", "hierarchical", "one-device")

    def missing(self) -> str | None:
        return None

    def environ(self, rank: Rank, device: str) -> dict[str, str]:
        return {
            # A user's keras.json may name another backend, which must not come in here.
            "KERAS_BACKEND": "tensorflow",
            # Without a GPU, the search for one would end in an error in every log.
            "TF_CPP_MIN_LOG_LEVEL": "3" if device == "cpu" else "2",
            # Three times the speed for lenet; TensorFlow itself turns it on for some CPUs only.
            "TF_ENABLE_ONEDNN_OPTS": "1",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }

    def serve(self, address: str, port: int) -> AbstractContextManager[None]:
        return nullcontext()  # one process has all the devices

    def choose_exchange(self, asked: str, *, device: str, devices: int, linked: bool) -> str:
        return resolve_exchange(asked, device, devices, linked)

    def warm_up(self, config: TrainConfig) -> None:
        from strategies.mnist.tf_startup import defer_lite

        defer_lite()
        from strategies.mnist.tf_devices import prepare

        prepare(config)

    @contextmanager
    def engine(self, rank: Rank, config: TrainConfig, inputs: Inputs) -> Iterator[Engine]:
        from strategies.mnist.tf_engine import TfEngine

        yield TfEngine(config, inputs)


def resolve_exchange(asked: str, device: str, replicas: int, linked: bool) -> str:
    """What carries the gradients of ``replicas`` devices of one process: never "auto".

    ``linked``: whether each GPU reaches all others through NVLink. "auto" takes NCCL there; for
    an even number of other GPUs hierarchical copies, which cross between the two halves of them
    only once; and everything through one device otherwise, on CPUs too, where all is one memory.

    Raises ValueError for an exchange that the devices cannot do. TensorFlow's hierarchical copy
    cuts the devices into halves and, of an odd number, leaves the last one out without a word
    (``aggregate_gradients_using_hierarchical_copy`` in its cross_device_utils.py).
    """
    even = replicas % 2 == 0
    if asked == "auto":
        if device != "cuda":
            return "one-device"
        if linked or replicas == 1:
            return "nccl"
        return "hierarchical" if even else "one-device"
    if asked == "nccl" and device != "cuda":
        raise ValueError(
            "needs GPUs, this job has logical CPU devices; use auto, hierarchical or one-device"
        )
    if asked == "hierarchical" and not even and replicas > 1:
        raise ValueError(
            f"needs an even number of devices, this job has {replicas}; use auto or one-device"
            + (" or nccl" if device == "cuda" else "")
        )
    return asked
