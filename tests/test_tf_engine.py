"""The engine in TensorFlow: the numbers of PyTorch, on 1, 2 and 3 devices, with every option."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from strategies.base import ScalingSamples, TrainConfig, TrainMetrics
from strategies.mnist import checkpoint
from strategies.mnist.checkpoint import Checkpoint, Header
from strategies.mnist.data import load
from strategies.mnist.models import MODELS
from strategies.mnist.order import epoch_order
from strategies.mnist.schedule import Schedule
from strategies.mnist.torch_model import build
from strategies.mnist.weights import Weights, initial_weights
from tests.small_mnist import write_small_mnist
from tests.test_models import forward, random_weights

ROOT = Path(__file__).parents[1]
TRAIN, TEST, BATCH = 150, 103, 32  # 4 whole batches and one of 22
DEVICES = [1, 2, 3]

every_model = pytest.mark.parametrize("name", MODELS)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """``kept``: the engine's state at the end, behind the scaling, is what was saved last."""

    config: TrainConfig
    metrics: TrainMetrics
    kept: bool

    @property
    def saved(self) -> Checkpoint:
        return checkpoint.load(Path(self.config.checkpoints, self.metrics.checkpoint))


def jobs(base: TrainConfig, folder: Path) -> dict[str, TrainConfig]:
    """By name, in the order in which they run."""
    lenet = replace(base, model="lenet")
    found = {f"1-{name}": replace(base, model=name) for name in MODELS}
    found |= {
        "1-again": lenet,
        "1-accumulated": replace(lenet, accumulate=3),
        "1-tiny": replace(base, model="softmax", batch_size=2, epochs=1, steps=9),
        "1-bf16": replace(lenet, precision="bf16"),
        "1-scaling": replace(base, model="mlp", epochs=1, baseline=True, batch_size=9),
        "1-still": replace(base, model="mlp", momentum=0.0),
        "1-half": replace(lenet, steps=3),
        "2-resumed": replace(lenet, resume=str(folder / "1-half" / "step-00000003.safetensors")),
        "2-unchanged": replace(lenet, epochs=0, resume=str(folder / "step-00000000.safetensors")),
    }
    if base.devices % 2 == 0:
        found["1-hierarchical"] = replace(lenet, exchange="hierarchical")
    return {name: replace(config, checkpoints=str(folder / name)) for name, config in found.items()}


@pytest.fixture(scope="module", params=DEVICES)
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Outcome]:
    """What came of all the jobs on so many devices, in one process."""
    folder = tmp_path_factory.mktemp("jobs")
    data = write_small_mnist(tmp_path_factory.mktemp("data") / "mnist", TRAIN, TEST)
    configs = jobs(config(request.param, data), folder)
    save_random(configs["2-unchanged"], folder)
    for name, job in configs.items():
        (folder / f"{name}.json").write_text(job.to_json())
    command = [sys.executable, "-m", "tests.engine_worker", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    found = {}
    for name, job in configs.items():
        values = json.loads((folder / f"{name}.out").read_text())
        metrics = TrainMetrics.from_dict(values["metrics"])
        found[name] = Outcome(config=job, metrics=metrics, kept=values["kept"])
    return found


def config(devices: int, data: Path) -> TrainConfig:
    return TrainConfig(
        strategy="mirrored",
        model="lenet",
        epochs=2,
        steps=None,
        batch_size=BATCH,
        accumulate=1,
        lr=0.05,
        warmup_lr=0.01,
        warmup_steps=6,
        momentum=0.9,
        validation=0.0,
        seed=3,
        device="cpu",
        devices=devices,
        precision="fp32",
        exchange="one-device",
        cuda_graphs=False,
        threads=1,
        oversubscribed=True,
        baseline=False,
        data=str(data),
        resume=None,
        checkpoints="",
        tensorboard=None,
    )


def save_random(config: TrainConfig, folder: Path) -> None:
    """A checkpoint of which no number is zero."""
    weights = random_weights(MODELS[config.model])
    header = Header(
        model=config.model,
        seed=config.seed,
        epoch=0,
        step=0,
        batch_size=config.batch_size,
        lr=config.lr,
        warmup_lr=config.warmup_lr,
        warmup_steps=config.warmup_steps,
        momentum=config.momentum,
        validation=config.validation,
        data=config.data,
        strategy=config.strategy,
        world_size=config.devices,
        versions={},
    )
    momentum = {name: -2 * value for name, value in weights.items()}
    checkpoint.save(Checkpoint(header=header, weights=weights, momentum=momentum), folder)


def torch_losses(config: TrainConfig) -> list[float]:
    """The mean loss of every step, by PyTorch with a plain loop."""
    model = MODELS[config.model]
    module = build(model, initial_weights(model, config.seed), torch.device("cpu"))
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0, momentum=config.momentum)
    train = load(Path(str(config.data))).train
    pixels = torch.tensor(train.images.reshape(-1, 784)) * model.scale + model.shift
    labels = torch.tensor(train.labels.astype(np.int64))
    losses: list[float] = []
    for epoch in range(config.epochs):
        order = epoch_order(
            seed=config.seed,
            epoch=epoch,
            samples=TRAIN,
            batch=config.batch_size,
            rank=0,
            world_size=1,
        )
        rest = [] if order.rest is None else [order.rest]
        schedule = Schedule(
            lr=config.lr, warmup_lr=config.warmup_lr, warmup_steps=config.warmup_steps
        )
        rates = schedule.rates(len(losses), order.steps)
        for row, rate in zip([*order.full, *rest], rates, strict=True):
            loss = F.cross_entropy(module(pixels[row]), labels[row])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.param_groups[0]["lr"] = float(rate)
            optimizer.step()
            losses.append(loss.item())
    return losses[: config.steps]


def bits(weights: Weights) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in weights.items()}


@pytest.mark.parametrize(
    "name", [*(f"1-{name}" for name in MODELS), "1-accumulated", "1-tiny", "1-still"]
)
def test_every_step_has_the_loss_that_pytorch_has(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[name]
    np.testing.assert_allclose(outcome.metrics.losses, torch_losses(outcome.config), rtol=1e-5)


def test_the_same_job_has_the_same_bits_again(outcomes: dict[str, Outcome]) -> None:
    first, again = outcomes["1-lenet"], outcomes["1-again"]
    assert first.metrics.losses == again.metrics.losses
    assert bits(first.saved.weights) == bits(again.saved.weights)


def test_a_resumed_job_ends_with_the_bits_of_an_unbroken_one(outcomes: dict[str, Outcome]) -> None:
    whole, half, resumed = (outcomes[name] for name in ("1-lenet", "1-half", "2-resumed"))
    assert half.metrics.losses + resumed.metrics.losses == whole.metrics.losses
    assert bits(resumed.saved.weights) == bits(whole.saved.weights)
    assert bits(resumed.saved.momentum) == bits(whole.saved.momentum)


def test_a_checkpoint_goes_through_the_engine_unchanged(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["2-unchanged"].kept


def test_without_momentum_none_is_kept(outcomes: dict[str, Outcome]) -> None:
    assert not any(value.any() for value in outcomes["1-still"].saved.momentum.values())


@every_model
def test_every_test_image_counts_once(outcomes: dict[str, Outcome], name: str) -> None:
    outcome = outcomes[f"1-{name}"]
    model, test = MODELS[name], load(Path(str(outcome.config.data))).test
    pixels = test.images.reshape(-1, 784).astype(np.float32) * model.scale + model.shift
    logits = forward(model, outcome.saved.weights, pixels).astype(np.float64)
    right = logits[np.arange(TEST), test.labels]
    expected = np.mean(np.log(np.exp(logits).sum(1)) - right)
    last = outcome.metrics.epochs[-1]
    assert last.test_loss == pytest.approx(expected, rel=1e-5)
    assert last.test_accuracy == (logits.argmax(1) == test.labels).sum() / TEST


def test_bf16_is_near_but_not_the_same(outcomes: dict[str, Outcome]) -> None:
    exact, rough = outcomes["1-lenet"].metrics.losses, outcomes["1-bf16"].metrics.losses
    assert exact != rough
    np.testing.assert_allclose(rough, exact, rtol=0.05)


def test_scaling_is_measured_for_every_device_and_two_batches(
    outcomes: dict[str, Outcome],
) -> None:
    outcome = outcomes["1-scaling"]
    devices = outcome.config.devices
    if devices == 1:
        assert outcome.metrics.scaling == []
        return
    share = -(-outcome.config.batch_size // devices)
    assert [samples.batch for samples in outcome.metrics.scaling] == [share, 4 * share]
    for samples in outcome.metrics.scaling:
        assert rounds(samples) == {7}
        assert {len(values) for values in samples.apart} == {devices}
        assert min(*samples.alone, *samples.together, *map(min, samples.apart)) > 0


def rounds(samples: ScalingSamples) -> set[int]:
    return {len(samples.alone), len(samples.apart), len(samples.together)}


def test_measuring_the_scaling_changes_nothing(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["1-scaling"].kept


def test_the_report_names_what_carried_the_gradients(outcomes: dict[str, Outcome]) -> None:
    metrics = outcomes["1-lenet"].metrics
    devices = outcomes["1-lenet"].config.devices
    assert metrics.exchange == ("one-device" if devices > 1 else "none")
    assert (metrics.device_name, metrics.threads) == ("cpu", 1)
    assert {"tensorflow", "keras"} <= metrics.versions.keys()


def test_hierarchical_copies_give_the_same_losses(outcomes: dict[str, Outcome]) -> None:
    if "1-hierarchical" not in outcomes:
        pytest.skip("an odd number of devices has no halves")
    copied = outcomes["1-hierarchical"].metrics
    assert copied.exchange == "hierarchical"
    np.testing.assert_allclose(copied.losses, outcomes["1-lenet"].metrics.losses, rtol=1e-5)
