"""The learning rate of every step: a linear warm-up, then constant.

Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017: section
2.1 (linear scaling rule), 2.2 (gradual warm-up). The momentum of this project does not contain
the learning rate, so no momentum correction (section 3, remark 2) is needed when it changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WARMUP_EPOCHS = 5
_WARMUP_SHARE = 5


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The rate rises from ``warmup_lr`` by equal amounts to ``lr`` in step ``warmup_steps``."""

    lr: float
    warmup_lr: float
    warmup_steps: int

    def rates(self, first: int, count: int) -> NDArray[np.float32]:
        """The rates of ``count`` steps behind ``first`` done ones: float32 [count]."""
        import numpy as np

        if not self.warmup_steps:
            return np.full(count, self.lr, dtype=np.float32)
        part = np.minimum((np.arange(first, first + count) + 1) / self.warmup_steps, 1)
        return (self.warmup_lr + (self.lr - self.warmup_lr) * part).astype(np.float32)


def scaled_lr(lr: float, batch: int, reference: int) -> float:
    """The linear scaling rule: k times the rate for k times the ``reference`` batch."""
    return lr * batch / reference


def default_warmup_epochs(epochs: int) -> float:
    """What a scaled rate is warmed up for: the paper's 5 epochs, at most a fifth of all."""
    return min(_WARMUP_EPOCHS, epochs / _WARMUP_SHARE)
