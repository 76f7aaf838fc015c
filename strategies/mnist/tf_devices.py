"""TensorFlow's devices, and the MirroredStrategy over them."""

from __future__ import annotations

import tensorflow as tf

from strategies.base import TrainConfig


def prepare(config: TrainConfig) -> None:
    """Cuts the process's hardware into ``config.devices`` devices. Once a process, before use.

    Raises ValueError where there are fewer GPUs than that.
    """
    tf.config.experimental.enable_op_determinism()
    tf.config.experimental.enable_tensor_float_32_execution(config.precision == "tf32")
    if config.device == "cuda":
        gpus = tf.config.list_physical_devices("GPU")
        if len(gpus) < config.devices:
            raise ValueError(
                f"TensorFlow sees {len(gpus)} GPUs, this job needs {config.devices}: is "
                "tensorflow[and-cuda] installed?"
            )
        tf.config.set_visible_devices(gpus[: config.devices], "GPU")
        return
    tf.config.threading.set_intra_op_parallelism_threads(config.threads)
    # One thread a device: it runs that device's part of a step from operation to operation.
    tf.config.threading.set_inter_op_parallelism_threads(config.devices)
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [logical] * config.devices)


def device_names(config: TrainConfig) -> list[str]:
    kind = "gpu" if config.device == "cuda" else "cpu"
    return [f"/{kind}:{index}" for index in range(config.devices)]


def hardware_name(config: TrainConfig) -> str:
    """The GPU's name, or "cpu"."""
    if config.device == "cpu":
        return "cpu"
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return str(details.get("device_name", "GPU"))


def make_strategy(config: TrainConfig) -> tf.distribute.MirroredStrategy:
    """A MirroredStrategy over all devices, whose all-reduce is ``config.exchange``."""
    # None is MirroredStrategy's own default: between physical GPUs, NCCL's collectives.
    carriers = {
        "nccl": None,
        "hierarchical": tf.distribute.HierarchicalCopyAllReduce(),
        "one-device": tf.distribute.ReductionToOneDevice(),
    }
    return tf.distribute.MirroredStrategy(device_names(config), carriers[config.exchange])
