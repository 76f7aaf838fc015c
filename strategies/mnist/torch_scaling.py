"""What a step costs alone, at once without exchange, and with it; measured after the training.

The three are interleaved and repeated, so that a machine whose speed drifts does so for all.
Learning rate 0: the weights stay what they are, and the work is the same.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from strategies.base import Rank, ScalingSamples
from strategies.mnist import philox
from strategies.mnist.torch_runner import EagerRunner, GraphRunner, Runner
from strategies.mnist.torch_step import Alone, Joined, Sgd, Step

if TYPE_CHECKING:
    from strategies.mnist.torch_engine import Peers

ROUNDS = 7
LARGER = 4  # the second measurement's batch, in batches of the job
_BLOCK_S = 0.1
_MOST_STEPS = 200
_FEWEST_STEPS = 3
_WARM_UP = 5


def measure_scaling(
    step: Step, module: nn.Module, rank: Rank, peers: Peers, graphs: bool
) -> list[ScalingSamples]:
    """Scaling at the job's batch a rank and at LARGER times as many samples, if there are enough.

    ``step`` is the job's own, exchanging gradients; ``module`` is what it trains.
    """
    batch = step.batch
    batches = [batch]
    if LARGER * batch * _FEWEST_STEPS <= len(step.labels):
        batches.append(LARGER * batch)
    alone = copy.deepcopy(module)
    blocks = []
    for size in batches:
        rows = _rows(step, rank, size)
        without = _block(step, Alone(alone), list(alone.parameters()), rows, graphs)
        joined = _block(step, step.joined, step.optimizer.parameters, rows, graphs)
        count = _calibrate(without, peers)
        joined.seconds_per_step(_WARM_UP)
        blocks.append((size, count, without, joined))
    results = [ScalingSamples(batch=size, alone=[], apart=[], together=[]) for size, *_ in blocks]
    for turn in range(ROUNDS):
        for result, (_, count, without, joined) in zip(results, blocks, strict=True):
            own = turn % rank.world_size == rank.rank
            peers.barrier()
            mine = without.seconds_per_step(count) if own else 0.0
            result.alone.append(sum(v[0] for v in peers.gather([mine])))
            peers.barrier()
            mine = without.seconds_per_step(count)
            result.apart.append([v[0] for v in peers.gather([mine])])
            peers.barrier()
            mine = joined.seconds_per_step(count)
            result.together.append(max(v[0] for v in peers.gather([mine])))
    return results


class _Block:
    """Steps over the same rows again and again."""

    def __init__(self, runner: Runner, rows: torch.Tensor) -> None:
        self._runner, self._rows = runner, rows
        self._still = torch.zeros(len(rows))

    def seconds_per_step(self, count: int) -> float:
        self._runner.load(self._rows[:count], self._still[:count])
        _synchronize(self._rows.device)
        started = time.perf_counter()
        self._runner.run(count)
        _synchronize(self._rows.device)
        return (time.perf_counter() - started) / count


def _rows(step: Step, rank: Rank, batch: int) -> torch.Tensor:
    """int64 [rows, batch]: shuffled samples, other ones for every rank."""
    total = len(step.labels)
    order = torch.from_numpy(philox.permutation(0, philox.ORDER, 0, total))
    order = order.roll(rank.rank * total // rank.world_size)
    rows = min(total // batch, _MOST_STEPS)
    return order[: rows * batch].view(rows, batch).to(step.images.device)


def _block(
    step: Step,
    joined: Joined,
    parameters: Sequence[torch.Tensor],
    rows: torch.Tensor,
    graphs: bool,
) -> _Block:
    batch = rows.shape[1]
    own = Step(
        step.model,
        joined,
        Sgd(parameters, step.optimizer.momentum),
        step.images,
        step.labels,
        batch,
        accumulate=step.accumulate,
        bf16=step.bf16,
    )
    scale = torch.tensor(1 / batch, device=rows.device)
    if graphs:
        return _Block(GraphRunner(own, scale, len(rows), batch), rows)
    return _Block(EagerRunner(own, scale), rows)


def _calibrate(block: _Block, peers: Peers) -> int:
    """Steps that take about _BLOCK_S, the same number on every rank."""
    block.seconds_per_step(_FEWEST_STEPS)
    slowest = max(v[0] for v in peers.gather([block.seconds_per_step(_WARM_UP)]))
    return max(_FEWEST_STEPS, min(_MOST_STEPS, round(_BLOCK_S / slowest)))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
