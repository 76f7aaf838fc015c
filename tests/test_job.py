"""Jobs: every setting comes from the right place, says so, and is refused where it is senseless."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import nan
from typing import Any

import pytest

from launcher.errors import UserError
from launcher.job import Given, JobSpec, resolve

SAMPLES = 60_000
CHECKPOINT = {
    "strategy": "mirrored",
    "model": "mlp",
    "seed": 7,
    "batch_size": 64,
    "lr": 0.2,
    "warmup_lr": 0.05,
    "warmup_steps": 30,
    "momentum": 0.3,
    "validation": 0.1,
    "data_dir": "digits",
    "step": 10,
}
TRAINING_SETTINGS = (
    *("model", "recipe", "epochs", "steps", "batch_size", "batch_size_per_gpu", "lr", "momentum"),
    *("seed", "precision", "exchange", "cuda_graphs", "baseline", "data_dir", "resume"),
    *("accumulate", "scale_lr", "warmup_epochs", "tensorboard"),
)


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def resolved(checkpoint: Mapping[str, Any] | None = None, **given: Any) -> JobSpec:
    flags = {name: Given(value, flag(name)) for name, value in given.items()}
    return resolve(
        flags, default_gpus=2, samples=SAMPLES, checkpoint=checkpoint, exchanges=("auto", "gloo")
    )


def refused(checkpoint: Mapping[str, Any] | None = None, **given: Any) -> str:
    with pytest.raises(UserError) as caught:
        resolved(checkpoint, **given)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "source"),
    [
        ("strategy", "ddp", "default"),
        ("gpus", 2, "what this machine has"),
        ("device", "auto", "default"),
        ("epochs", 5, "recipe 'article' of lenet"),
        ("steps", None, "recipe 'article' of lenet"),
        ("batch_size", 100, "recipe 'article' of lenet"),
        ("lr", 0.001, "recipe 'article' of lenet"),
        ("seed", 0, "default"),
        ("data_dir", None, "the package's MNIST"),
    ],
)
def test_a_setting_that_is_not_given_has_a_default(name: str, value: object, source: str) -> None:
    job = resolved()
    assert (getattr(job, name), job.sources[name]) == (value, source)


def test_every_setting_has_a_source() -> None:
    settings = {field.name for field in fields(JobSpec)} - {"script", "sources"}
    assert resolved().sources.keys() == settings


@pytest.mark.parametrize("name", CHECKPOINT.keys() - {"step"})
def test_the_checkpoint_goes_before_the_recipe(name: str) -> None:
    job = resolved(CHECKPOINT, resume="run")
    assert (getattr(job, name), job.sources[name]) == (CHECKPOINT[name], "the checkpoint")


@pytest.mark.parametrize(
    ("name", "value"), [("seed", 8), ("batch_size", 10), ("lr", 0.5), ("data_dir", "other")]
)
def test_what_is_given_goes_before_the_checkpoint(name: str, value: object) -> None:
    job = resolved(CHECKPOINT, resume="run", **{name: value})
    assert (getattr(job, name), job.sources[name]) == (value, flag(name))


def test_a_value_from_the_environment_names_its_variable() -> None:
    given = {"lr": Given(0.5, "TROIKA_LR")}
    job = resolve(given, default_gpus=1, samples=SAMPLES, checkpoint=None)
    assert job.origin("lr") == "lr 0.5 (TROIKA_LR)"


def test_a_recipe_is_the_one_of_the_model() -> None:
    job = resolved(model="mlp", recipe="tuned")
    assert (job.momentum, job.sources["momentum"]) == (0.5, "recipe 'tuned' of mlp")


@pytest.mark.parametrize(
    ("given", "steps"),
    [({}, 1000), ({"epochs": 3}, None), ({"epochs": 3, "steps": 50}, 50), ({"steps": 50}, 50)],
)
def test_a_recipes_step_limit_gives_way_to_epochs(given: dict[str, Any], steps: int | None) -> None:
    assert resolved(model="softmax", **given).steps == steps


def test_a_batch_per_gpu_is_multiplied_by_the_workers() -> None:
    job = resolved(gpus=3, batch_size_per_gpu=50)
    assert job.origin("batch_size") == "batch_size 150 (--batch-size-per-gpu 50 x 3 workers)"


def test_a_batch_per_gpu_goes_before_the_checkpoint() -> None:
    assert resolved(CHECKPOINT, resume="run", batch_size_per_gpu=50).batch_size == 100


def test_a_batch_per_gpu_is_that_of_a_part() -> None:
    job = resolved(gpus=3, batch_size_per_gpu=50, accumulate=4)
    source = "--batch-size-per-gpu 50 x 3 workers x 4 parts"
    assert job.origin("batch_size") == f"batch_size 600 ({source})"


def test_the_learning_rate_is_not_scaled_or_warmed_up_unasked() -> None:
    job = resolved(batch_size=1000)
    assert (job.lr, job.warmup_lr, job.warmup_steps) == (0.001, 0.0, 0)


def test_a_scaled_learning_rate_is_warmed_up_from_the_recipes() -> None:
    job = resolved(batch_size=400, epochs=10, scale_lr=True)
    assert job.origin("lr") == "lr 0.004 (recipe 'article' of lenet, x 400/100 by --scale-lr)"
    assert (job.warmup_lr, job.warmup_steps) == (0.001, 2 * 150)


def test_the_length_of_a_scaled_rates_warm_up_may_be_given() -> None:
    job = resolved(batch_size=400, lr=0.1, scale_lr=True, warmup_epochs=0.5)
    assert (job.lr, job.warmup_lr, job.warmup_steps) == (0.4, 0.1, 75)
    assert job.sources["warmup_steps"] == "--warmup-epochs 0.5"


def test_a_rate_scaled_down_needs_no_warm_up() -> None:
    job = resolved(batch_size=50, scale_lr=True)
    assert (job.lr, job.warmup_steps) == (0.0005, 0)


def test_a_warm_up_alone_begins_at_zero() -> None:
    job = resolved(warmup_epochs=1.0)
    assert (job.lr, job.warmup_lr, job.warmup_steps) == (0.001, 0.0, 600)


def test_a_checkpoints_rate_is_not_scaled_again() -> None:
    text = refused(CHECKPOINT, resume="run", scale_lr=True)
    assert text.startswith("--scale-lr: the checkpoint to resume has the learning rate 0.2")


def test_both_batch_sizes_cannot_be_given() -> None:
    text = refused(batch_size=100, batch_size_per_gpu=50)
    assert text.startswith("--batch-size and --batch-size-per-gpu are both given")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"strategy": "x"}, "strategy x (--strategy): not known; there are ddp"),
        ({"model": "x"}, "model x (--model): not known; there are lenet, mlp, mlp256, softmax"),
        ({"recipe": "x"}, "recipe x (--recipe): not known; there are article, tuned"),
        ({"gpus": 0}, "gpus 0 (--gpus): must be 1 or more"),
        ({"epochs": 0}, "epochs 0 (--epochs): must be 1 or more"),
        ({"steps": 0}, "steps 0 (--steps): must be 1 or more"),
        ({"accumulate": 0}, "accumulate 0 (--accumulate): must be 1 or more"),
        ({"accumulate": 51}, "accumulate 51 (--accumulate): 2 workers cannot compute the global"),
        ({"warmup_epochs": -1.0}, "--warmup-epochs -1: must be 0 or more"),
        ({"exchange": "nccl"}, "exchange nccl (--exchange): not known; there are auto, gloo"),
        ({"batch_size": 0}, "batch_size 0 (--batch-size): must be 1 or more"),
        ({"batch_size_per_gpu": 0}, "batch_size 0 (--batch-size-per-gpu 0 x 2 workers): must be 1"),
        ({"seed": -1}, "seed -1 (--seed): must be 0 or more"),
        ({"seed": 2**63}, f"seed {2**63} (--seed): must be below 2**63"),
        ({"lr": 0.0}, "lr 0.0 (--lr): must be a number above 0"),
        ({"lr": nan}, "lr nan (--lr): must be a number above 0"),
        ({"momentum": 1.0}, "momentum 1.0 (--momentum): must be 0 or more, below 1"),
        ({"momentum": -0.1}, "momentum -0.1 (--momentum): must be 0 or more, below 1"),
        ({"batch_size": 1}, "batch_size 1 (--batch-size): the global batch must have a sample for"),
        ({"gpus": 101}, "batch_size 100 (recipe 'article' of lenet): the global batch must have"),
        ({"batch_size": 60_001}, "(--batch-size): the training set has 60000 samples"),
        ({"batch_size": 48_001, "model": "mlp"}, "the training set has 48000 samples"),
        ({"max_restarts": -1}, "max_restarts -1 (--max-restarts): must be 0 or more"),
        ({"min_gpus": 0}, "min_gpus 0 (--min-gpus): must be 1 or more"),
        ({"min_gpus": 3, "max_restarts": 1}, "min_gpus 3 (--min-gpus): more than the 2 workers"),
        ({"min_gpus": 1}, "nothing goes on without --max-restarts"),
        ({"wait": -1.0}, "wait -1.0 (--wait): must be 0 or more"),
        ({"script": ["x.py"], "min_gpus": 1}, "nothing goes on without --max-restarts"),
    ],
)
def test_an_error_names_the_value_and_its_origin(given: dict[str, Any], text: str) -> None:
    assert text in refused(**given)


@pytest.mark.parametrize("name", TRAINING_SETTINGS)
def test_a_script_takes_no_training_settings(name: str) -> None:
    settings: dict[str, Any] = {"script": ["train.py", "--fast"], name: 1}
    assert refused(**settings).startswith(f"{flag(name)}: only for the built-in training; train.py")


def test_a_script_may_have_more_workers_than_the_recipes_batch() -> None:
    job = resolved(script=["train.py", "--fast"], gpus=101)
    assert (job.gpus, job.script) == (101, ("train.py", "--fast"))


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ({"epochs": 2}, "ask for more --epochs than 2"),
        ({"epochs": 9, "steps": 1200}, "and more --steps than 1200"),
    ],
)
def test_a_finished_training_is_not_resumed(given: dict[str, Any], advice: str) -> None:
    finished = CHECKPOINT | {"batch_size": 100, "validation": 0.0, "step": 1200}
    text = refused(finished, resume="run", **given)
    assert text.startswith("resume run (--resume): has been trained for 1200 steps already")
    assert text.endswith(advice)


def test_a_resumed_training_may_have_one_step_left() -> None:
    unfinished = CHECKPOINT | {"batch_size": 100, "validation": 0.0, "step": 1199}
    assert resolved(unfinished, resume="run", epochs=2).epochs == 2


def test_another_model_than_the_checkpoints_is_refused() -> None:
    text = refused(CHECKPOINT, resume="run", model="lenet")
    assert text == "--model lenet: the checkpoint to resume holds the model mlp"


def test_the_checkpoints_model_may_be_given_too() -> None:
    assert resolved(CHECKPOINT, resume="run", model="mlp").sources["model"] == "--model"
