"""How well the job scaled and what the rest was lost to. Pure.

Weak scaling: the batch per worker stays, so ideally n workers take as long for a step as one.
With A a step's seconds of one worker alone, B_r of rank r while all step at once without
exchange, and C with it: efficiency = A / C = (A / mean B) * (mean B / max B) * (max B / C), the
factors of contention, skew and communication; speedup = n * efficiency. Each of A, B_r and C is
the median over the rounds; the spread of the efficiency is that of the rounds' own ratios.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean, median

from strategies.base import ScalingSamples

_LITTLE_LOST = 0.9


@dataclass(frozen=True, kw_only=True)
class ScalingPoint:
    """One batch size's scaling; seconds are of an optimizer step, factors 1 if nothing is lost.

    ``*_share``: the part of a step's time (``together_s``) that was lost to it; the three shares
    and the efficiency add up to 1. A share below 0 is noise.
    """

    workers: int
    batch_per_worker: int
    rounds: int
    alone_s: float
    apart_mean_s: float
    apart_max_s: float
    together_s: float
    slowest_rank: int
    speedup: float
    efficiency: float
    efficiency_min: float
    efficiency_max: float
    contention: float
    skew: float
    communication: float
    contention_share: float
    skew_share: float
    communication_share: float

    @property
    def batch(self) -> int:
        """The global batch."""
        return self.workers * self.batch_per_worker


def scaling_point(samples: ScalingSamples) -> ScalingPoint:
    """The point that a worker's measurements give."""
    workers = len(samples.apart[0])
    alone, together = median(samples.alone), median(samples.together)
    ranks = [median(values) for values in zip(*samples.apart, strict=True)]
    mean_apart, max_apart = mean(ranks), max(ranks)
    rounds = [a / c for a, c in zip(samples.alone, samples.together, strict=True)]
    return ScalingPoint(
        workers=workers,
        batch_per_worker=samples.batch,
        rounds=len(rounds),
        alone_s=alone,
        apart_mean_s=mean_apart,
        apart_max_s=max_apart,
        together_s=together,
        slowest_rank=ranks.index(max_apart),
        speedup=workers * alone / together,
        efficiency=alone / together,
        efficiency_min=min(rounds),
        efficiency_max=max(rounds),
        contention=alone / mean_apart,
        skew=mean_apart / max_apart,
        communication=max_apart / together,
        contention_share=(mean_apart - alone) / together,
        skew_share=(max_apart - mean_apart) / together,
        communication_share=(together - max_apart) / together,
    )


def verdict(points: list[ScalingPoint]) -> str:
    """One sentence: the speedup, what most of the rest was lost to, what a larger batch gives."""
    point = points[0]
    text = f"{point.workers} workers are {point.speedup:.1f}x one worker"
    if point.efficiency >= _LITTLE_LOST:
        return f"{text}; little is lost"
    text += f"; {_largest_loss(point)}"
    for larger in points[1:]:
        text += f"; with batch {larger.batch} they are {larger.speedup:.1f}x"
    return text


def _largest_loss(point: ScalingPoint) -> str:
    losses = {
        point.communication_share: "is the exchange of gradients",
        point.contention_share: (
            "is lost to contention: the workers slow each other down (cores, memory, clocks)"
        ),
        point.skew_share: f"is waiting for the slowest, rank {point.slowest_rank}",
    }
    share = max(losses)
    return f"{share:.0%} of the time {losses[share]}"
