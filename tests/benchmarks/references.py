"""The competitors: with what command each trains."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Reference:
    """``command``: the words before the options; "{python}" and "{workers}" are filled in.

    ``variables`` are those of its environment besides; "{folder}" is the benchmark's own.
    """

    name: str
    command: str
    variables: Mapping[str, str] = field(default_factory=dict)

    def words(self, workers: int, options: Sequence[str]) -> list[str]:
        filled = (
            word.format(python=sys.executable, workers=workers) for word in self.command.split()
        )
        return [*filled, *options]

    def environ(self, folder: Path) -> dict[str, str]:
        return {name: value.format(folder=folder) for name, value in self.variables.items()}


_TENSORFLOW = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": "{folder}", "TF_CPP_MIN_LOG_LEVEL": "2"}

SCRIPT = Reference(name="plain script", command="{python} -m tests.benchmarks.reference_ddp")
TORCHRUN = Reference(
    name="torchrun",
    command="{python} -m torch.distributed.run --standalone --nproc-per-node {workers} "
    "-m tests.benchmarks.reference_ddp",
)
KERAS_FIT = Reference(
    name="Keras fit",
    command="{python} -m tests.benchmarks.reference_keras_fit --workers {workers}",
    variables=_TENSORFLOW,
)
WHOLE_EPOCH = Reference(
    name="tf.function",
    command="{python} -m tests.benchmarks.reference_whole_epoch --workers {workers}",
    variables=_TENSORFLOW,
)
WHOLE_EPOCH_XLA = Reference(
    name="tf.function, XLA",
    command=f"{WHOLE_EPOCH.command} --jit",
    variables=_TENSORFLOW,
)
HOROVODRUN = Reference(
    name="horovodrun",
    command="{python} -m horovod.runner.launch -np {workers} --gloo --disable-cache "
    "{python} -m tests.benchmarks.reference_horovod",
)
# What `pip install 'ray[train]'` would add is in a folder of its own: Keras imports pandas where it
# is, which takes both sides of another comparison longer to start.
_RAY_TRAIN_PACKAGES = Path(sys.prefix) / "ray-train"
RAY_TRAIN = Reference(
    name="Ray Train",
    command="{python} -m tests.benchmarks.reference_ray_train --workers {workers}",
    variables={"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(_RAY_TRAIN_PACKAGES)},
)
