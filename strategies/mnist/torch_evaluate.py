"""Loss and accuracy on a held-out set, split over the ranks; no image counts twice."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from strategies.mnist.order import share
from strategies.mnist.torch_step import Alone, Step

_BATCH = 1000


def evaluate(
    step: Step,
    rank: int,
    world_size: int,
    all_sum: Callable[[torch.Tensor], None],
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy over all images of ``step``, the same on all ranks.

    ``step`` holds the held-out set and a module alone; ``all_sum`` adds a tensor up over the ranks
    in place.
    """
    count = len(step.labels)
    low, high = share(count, rank, world_size)
    totals = torch.zeros(2, dtype=torch.float64, device=step.images.device)
    with torch.inference_mode():
        for start in range(low, high, _BATCH):
            samples = torch.arange(start, min(start + _BATCH, high), device=step.images.device)
            logits, labels = step.logits(samples), step.labels[samples]
            totals[0] += F.cross_entropy(logits, labels, reduction="sum")
            totals[1] += (logits.argmax(1) == labels).sum()
    totals = totals.clone()
    all_sum(totals)
    loss, correct = totals.tolist()
    return loss / count, correct / count


def evaluation_step(
    step: Step, images: torch.Tensor, labels: torch.Tensor, module: torch.nn.Module
) -> Step:
    """``step``'s model and precision on another set, through ``module``."""
    own = Alone(module)
    return Step(step.model, own, step.optimizer, images, labels, _BATCH, bf16=step.bf16)
