"""TensorFlow's devices, and the strategies over them."""

from __future__ import annotations

import tensorflow as tf

from strategies.base import TrainConfig


def prepare(config: TrainConfig, processes: int) -> None:
    """Cuts the process's hardware into ``config.devices`` devices, before their first use.

    On CPUs of several processes it stays one device with as many threads as those would have:
    MultiWorkerMirroredStrategy takes no second CPU device of a process. Again in the same process,
    it has to be the same. Raises ValueError where there are fewer GPUs.
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
    devices = config.devices if processes == 1 else 1
    tf.config.threading.set_intra_op_parallelism_threads(threads_of_device(config, processes))
    # One thread a device: it runs that device's part of a step from operation to operation.
    tf.config.threading.set_inter_op_parallelism_threads(devices)
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    logical = tf.config.LogicalDeviceConfiguration()
    tf.config.set_logical_device_configuration(cpu, [logical] * devices)


def threads_of_device(config: TrainConfig, processes: int) -> int:
    """Compute threads of each device that ``prepare`` makes."""
    one = config.device == "cpu" and processes > 1
    return config.threads * config.devices if one else config.threads


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


def join_hosts(config: TrainConfig) -> tf.distribute.MultiWorkerMirroredStrategy:
    """A strategy over the devices of all processes in TF_CONFIG; waits until all have come.

    Before any other use of TensorFlow. From here on this process listens on TF_CONFIG's port, on
    all of the host's interfaces (TensorFlow's server knows no other way) and without asking who
    calls: the network between the hosts has to be a trusted one.
    """
    ways = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation={"nccl": ways.NCCL, "ring": ways.RING}[config.exchange]
    )
    return tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
