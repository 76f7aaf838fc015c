"""What a framework does for the training loop: the only part of a training that knows one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from strategies.base import ScalingSamples
from strategies.mnist.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class State:
    """What is trained, in torch's layout: ``weights``, and ``momentum`` by parameter.

    Momentum is torch's: v = momentum * v + g; w = w - lr * v.
    """

    weights: Weights
    momentum: Weights


class Engine(Protocol):
    """One process's part of a training, on its device or devices."""

    @property
    def exchange(self) -> str:
        """What carries the gradients; "none" if nothing has to."""

    @property
    def device_name(self) -> str:
        """For the report."""

    @property
    def threads(self) -> int:
        """Compute threads of a device."""

    def start(self, rows: NDArray[np.int64], batch: int, rates: NDArray[np.float32]) -> None:
        """Takes the next steps: ``rows`` [steps, share] are this process's samples of each.

        ``batch`` is how many samples a step has over all processes; ``rates`` [steps] are the
        learning rates. A share may be empty.
        """

    def run(self, count: int) -> None:
        """Trains on the next ``count`` of the started steps. Devices may still be at work."""

    def synchronize(self) -> None:
        """Waits for the devices of this process."""

    def loss(self) -> float:
        """The mean loss of this process's samples in the last step; it stands for all of them."""

    def losses(self) -> NDArray[np.float64]:
        """The sum of all processes' losses in each started step, [steps]; all have to be run."""

    def evaluate(self, split: str) -> tuple[float, float]:
        """Mean cross-entropy in nats and accuracy over all of "validation" or "test"."""

    def state(self) -> State:
        """A copy of what is trained."""

    def measure_scaling(self) -> list[ScalingSamples]:
        """What a step costs alone, at once and together; changes nothing that is trained."""

    def versions(self) -> dict[str, str]:
        """The versions of the framework and of what else the numbers depend on."""
