"""``mirrored``: tf.distribute's mirrored variables, one process with all devices of a host.

On one host that is MirroredStrategy, on several MultiWorkerMirroredStrategy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal

from strategies.base import Peer, Rank, TrainConfig

if TYPE_CHECKING:
    from strategies.mnist.engine import Engine
    from strategies.mnist.inputs import Inputs


class Mirrored:
    name = "mirrored"
    requires = ("tensorflow",)
    install = "mirrored"
    process_per: Literal["device", "host"] = "host"
    cluster = "local"
    exchanges = ("auto", "nccl", "hierarchical", "one-device", "ring")

    def missing(self) -> str | None:
        return None

    def environ(self, rank: Rank, peers: tuple[Peer, ...], device: str) -> dict[str, str]:
        return {
            # A user's keras.json may name another backend, which must not come in here.
            "KERAS_BACKEND": "tensorflow",
            # Without a GPU, the search for one would end in an error in every log.
            "TF_CPP_MIN_LOG_LEVEL": "3" if device == "cpu" else "2",
            # Three times the speed for lenet; TensorFlow itself turns it on for some CPUs only.
            "TF_ENABLE_ONEDNN_OPTS": "1",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            **(multi_worker_environ(rank, peers) if len(peers) > 1 else {}),
        }

    def serve(self, address: str, port: int) -> AbstractContextManager[None]:
        return nullcontext()  # the first process has all that the others ask for

    def beside(self, address: str, port: int) -> tuple[str, ...]:
        return ()

    def choose_exchange(
        self, asked: str, *, device: str, devices: int, linked: bool, hosts: int
    ) -> str:
        if hosts > 1:
            return resolve_exchange_of_hosts(asked, device, hosts)
        return resolve_exchange(asked, device, devices, linked)

    def warm_up(self, config: TrainConfig) -> None:
        from strategies.mnist.tf_startup import defer_lite

        defer_lite()
        from strategies.mnist import tf_engine  # noqa: F401

    @contextmanager
    def engine(self, rank: Rank, config: TrainConfig, inputs: Inputs) -> Iterator[Engine]:
        from strategies.mnist.tf_devices import prepare
        from strategies.mnist.tf_engine import TfEngine
        from strategies.mnist.tf_group import join

        prepare(config, rank.world_size)
        with join(rank, config) as group:
            yield TfEngine(config, inputs, group)


def multi_worker_environ(rank: Rank, peers: tuple[Peer, ...]) -> dict[str, str]:
    """What makes MultiWorkerMirroredStrategy of this process meet the others."""
    workers = [_authority(peer.address, peer.port) for peer in peers]
    task = {"type": "worker", "index": rank.rank}
    return {
        "TF_CONFIG": json.dumps({"cluster": {"worker": workers}, "task": task}),
        # gRPC would send even what is for this very host through a proxy in http_proxy, and wait.
        "no_grpc_proxy": ",".join(dict.fromkeys(peer.address for peer in peers)),
    }


def _authority(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


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
    if asked == "ring":
        raise ValueError("joins several hosts, this job has one; use auto")
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


def resolve_exchange_of_hosts(asked: str, device: str, hosts: int) -> str:
    """What carries the gradients of several hosts: "nccl", or TensorFlow's own "ring" over gRPC.

    Raises ValueError for what is for the devices of one host, and for NCCL without GPUs.
    """
    if asked == "auto":
        return "nccl" if device == "cuda" else "ring"
    if asked == "nccl" and device != "cuda":
        raise ValueError(f"needs GPUs, this job has the CPUs of {hosts} hosts; use auto or ring")
    if asked not in ("nccl", "ring"):
        raise ValueError(
            f"joins the devices of one host, this job has {hosts}; use auto or ring"
            + (" or nccl" if device == "cuda" else "")
        )
    return asked
