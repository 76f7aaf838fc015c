"""The built-in training under ddp, run as a user runs it, on real processes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from strategies.mnist.checkpoint import latest
from strategies.mnist.models import MODELS
from tests.command import Finished, train
from tests.small_mnist import write_small_mnist

# 4 workers divide neither the batch nor the data set; the last batch (1001 = 33 * 30 + 11) leaves
# some ranks with fewer samples than others.
SAMPLES, TEST_SAMPLES, BATCH = 1001, 203, 30
STEPS = math.ceil(SAMPLES / BATCH)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_mnist(tmp_path_factory.mktemp("data") / "mnist", SAMPLES, TEST_SAMPLES)


def train_small(folder: Path, data: Path, *arguments: str, workers: int = 2) -> Finished:
    """Two epochs at full learning rate, so that a wrong sample or gradient shows."""
    small = ("--data-dir", str(data), "--batch-size", str(BATCH), "--gpus", str(workers))
    epochs = () if "--epochs" in arguments else ("--epochs", "2")
    baseline = () if "--baseline" in arguments else ("--no-baseline",)
    return train(folder, *small, *epochs, *baseline, "--device", "cpu", *arguments)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Finished]:
    """One worker's training, by model."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        model: train_small(folder / model, data, "--model", model, "--recipe", "tuned", workers=1)
        for model in MODELS
    }


@pytest.mark.parametrize(
    ("model", "workers"),
    [("lenet", 2), ("lenet", 3), ("lenet", 4), ("mlp", 3), ("mlp256", 2), ("softmax", 4)],
)
def test_the_loss_curve_does_not_depend_on_the_number_of_workers(
    tmp_path: Path, data: Path, alone: dict[str, Finished], model: str, workers: int
) -> None:
    together = train_small(tmp_path, data, "--model", model, "--recipe", "tuned", workers=workers)
    assert len(together.losses) == 2 * STEPS
    np.testing.assert_allclose(together.losses, alone[model].losses, rtol=2e-4)


def test_the_curve_falls(alone: dict[str, Finished]) -> None:
    for model, finished in alone.items():
        assert np.mean(finished.losses[-5:]) < 0.8 * np.mean(finished.losses[:5]), model


def test_gloo_and_shared_memory_give_the_same_curve(
    tmp_path: Path, data: Path, alone: dict[str, Finished]
) -> None:
    finished = train_small(
        tmp_path, data, "--model", "mlp", "--recipe", "tuned", "--exchange", "gloo"
    )
    assert finished.report["exchange"] == "gloo"
    np.testing.assert_allclose(finished.losses, alone["mlp"].losses, rtol=2e-4)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Finished:
    """Three epochs of lenet on two workers, the scaling measured behind them."""
    folder = tmp_path_factory.mktemp("unbroken")
    return train_small(folder, data, "--model", "lenet", "--epochs", "3", "--baseline")


def same_weights(one: Finished, other: Finished) -> bool:
    pairs = [(one.checkpoint.weights, other.checkpoint.weights)]
    pairs += [(one.checkpoint.momentum, other.checkpoint.momentum)]
    return all(a[name].tobytes() == b[name].tobytes() for a, b in pairs for name in a | b)


def test_measuring_the_scaling_does_not_change_the_weights(
    tmp_path: Path, data: Path, unbroken: Finished
) -> None:
    plain = train_small(tmp_path, data, "--model", "lenet", "--epochs", "3")
    assert same_weights(plain, unbroken)


@pytest.mark.parametrize(
    "stop",
    [("--epochs", "2"), ("--epochs", "3", "--steps", str(STEPS + 7))],
    ids=["at an epoch's end", "in the middle of an epoch"],
)
def test_a_resumed_training_gives_the_same_bits_as_an_unbroken_one(
    tmp_path: Path, data: Path, unbroken: Finished, stop: tuple[str, ...]
) -> None:
    first = train_small(tmp_path / "first", data, "--model", "lenet", *stop)
    resumed = train(
        tmp_path / "second",
        *("--resume", str(first.folder), "--gpus", "2", "--epochs", "3"),
        *("--device", "cpu", "--no-baseline"),
    )
    assert resumed.report["sources"]["batch_size"] == "the checkpoint"
    assert first.losses + resumed.losses == unbroken.losses
    assert same_weights(resumed, unbroken)


def test_a_checkpoint_resumes_at_another_worker_count(
    tmp_path: Path, data: Path, unbroken: Finished
) -> None:
    first = train_small(tmp_path / "first", data, "--model", "lenet", "--epochs", "2")
    resumed = train(
        tmp_path / "second",
        *("--resume", str(first.folder), "--gpus", "1", "--epochs", "3", "--device", "cpu"),
    )
    np.testing.assert_allclose(resumed.losses, unbroken.losses[2 * STEPS :], rtol=2e-4)


def test_a_checkpoint_is_written_after_every_epoch(unbroken: Finished) -> None:
    names = sorted(path.name for path in (unbroken.folder / "checkpoints").iterdir())
    assert names == [f"step-{STEPS * epoch:08d}.safetensors" for epoch in (1, 2, 3)]
    with safe_open(latest(unbroken.folder), framework="numpy") as file:
        header = json.loads(file.metadata()["header"])
    assert (header["model"], header["seed"], header["epoch"]) == ("lenet", 0, 3)
    assert {"python", "torch", "numpy"} <= set(header["versions"])


def test_the_report_says_what_the_job_was_and_how_it_went(unbroken: Finished) -> None:
    report = unbroken.report
    assert (report["schema"], report["status"], report["workers"]) == (1, "completed", 2)
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2, 3]
    assert report["conditions"] == "2 CPU workers" or "oversubscribed" in report["conditions"]
    assert report["time_to_first_step_s"] > 0
    speed = report["throughput"]
    assert 0 < speed["min"] <= speed["median"] <= speed["max"]
    assert report["sources"]["epochs"] == "--epochs"


def test_the_report_explains_the_scaling(unbroken: Finished) -> None:
    job, larger = unbroken.report["scaling"]
    assert (job["batch_per_worker"], larger["batch_per_worker"]) == (BATCH // 2, BATCH * 2)
    assert job["rounds"] >= 3
    factors = job["contention"] * job["skew"] * job["communication"]
    assert factors == pytest.approx(job["efficiency"])
    assert unbroken.report["verdict"].startswith(f"2 workers are {job['speedup']:.1f}x one worker")
    assert unbroken.report["verdict"] in " ".join(unbroken.stdout.split())


def test_every_test_image_counts_once(tmp_path: Path) -> None:
    finished = train(
        tmp_path,
        *("--model", "softmax", "--steps", "60", "--gpus", "3", "--device", "cpu", "--no-baseline"),
    )
    correct = finished.report["epochs"][-1]["test_accuracy"] * 10_000
    assert correct == pytest.approx(round(correct), abs=1e-6)
    assert correct > 8_000


def test_the_validation_split_of_a_recipe_is_held_out(tmp_path: Path, data: Path) -> None:
    finished = train_small(tmp_path, data, "--model", "mlp", "--epochs", "1", workers=1)
    kept = SAMPLES - round(SAMPLES * 0.2)
    assert len(finished.losses) == math.ceil(kept / BATCH)
    held_out = finished.report["epochs"][0]["validation_accuracy"] * (SAMPLES - kept)
    assert held_out == pytest.approx(round(held_out), abs=1e-6)


def test_bf16_trains_on_cpus_too(tmp_path: Path, data: Path, alone: dict[str, Finished]) -> None:
    finished = train_small(
        tmp_path,
        data,
        *("--model", "mlp", "--recipe", "tuned", "--precision", "bf16"),
        workers=1,
    )
    assert finished.losses != alone["mlp"].losses
    np.testing.assert_allclose(finished.losses, alone["mlp"].losses, rtol=0.2, atol=0.02)


def test_four_workers_on_fewer_cores_say_so_beside_every_figure(tmp_path: Path, data: Path) -> None:
    finished = train_small(
        tmp_path, data, "--model", "softmax", "--epochs", "1", "--baseline", workers=4
    )
    lines = [line for line in finished.stdout.splitlines() if "samples/s; " in line]
    assert lines
    assert all("4 CPU workers" in line for line in lines)
